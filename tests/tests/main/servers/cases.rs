//! The cases that run on every server.
//!
//! A case is `async fn case(engine: &Engine)` in a module below and a line in [`ALL`]. It receives
//! an empty engine with short delays, whose blobs are sent in parts of 5 MiB, and whose longest
//! puts are split into several blobs. `suite.rs` checks the objects that the case leaves behind, so
//! it should leave some. A case uses the default namespace or deletes its objects in others.

use bytes::Bytes;
use cenotaph::{Body, Engine, Env, PutResult, ScrubDepth};
use cenotaph_storage::BLOCK_BYTES;
use cenotaph_tests::store::{self, INLINE, payload};
use futures::future::BoxFuture;
use futures::stream;

use super::suite::PART_BYTES;

mod ends;
mod moves;
mod multipart;
mod names;
mod reads;
mod split;
mod writes;

/// A case.
pub(super) struct Case {
    /// Name, which states the claim.
    pub(super) name: &'static str,
    /// Function that runs the case.
    pub(super) run: fn(&Engine) -> BoxFuture<'_, ()>,
}

macro_rules! cases {
    ($($room:ident::$case:ident),* $(,)?) => {
        &[$(Case { name: stringify!($case), run: |engine| Box::pin($room::$case(engine)) }),*]
    };
}

/// All cases, simple ones first.
pub(super) const ALL: &[Case] = cases![
    writes::small_object_stays_in_the_index,
    writes::large_object_round_trips,
    writes::any_size_replaces_any_other,
    writes::failed_precondition_changes_nothing,
    writes::one_of_many_creators_wins,
    writes::highest_version_of_many_replacements_wins,
    writes::failed_stream_stores_nothing,
    writes::dropped_caller_stores_nothing,
    reads::ranges_cross_blocks_and_parts,
    reads::reader_sees_one_version,
    moves::copy_is_independent_of_its_source,
    moves::renamed_object_keeps_its_content,
    names::awkward_names_are_distinct_blobs,
    names::namespaces_separate_objects,
    ends::versions_continue_after_a_delete,
    ends::prefix_deletion_spares_neighbours,
    ends::expired_objects_are_removed,
    multipart::parts_become_the_object_in_number_order,
    multipart::aborted_upload_leaves_nothing,
    multipart::upload_resumes_by_its_id,
    multipart::part_copies_a_range_of_an_object,
    multipart::part_that_differs_from_its_declaration_is_dropped,
    multipart::completed_upload_behaves_like_any_object,
    split::long_put_is_split_and_reads_as_one_object,
    split::failed_long_put_leaves_nothing,
    split::dropped_long_put_stores_nothing,
];

/// Payload of more than two parts that ends neither with a part nor with a block. It has a whole
/// block after the second part: OpenDAL begins a multipart upload once it has more than one part,
/// so an upload is open when a stream of these bytes fails. It is also the largest payload that is
/// stored as a single blob.
pub(super) const LARGE: usize = 2 * PART_BYTES + BLOCK_BYTES + BLOCK_BYTES / 2 + 1;
/// Size of each blob of a longer payload, which is sent in parts, too.
pub(super) const SPLIT_BYTES: usize = PART_BYTES + BLOCK_BYTES / 2;
/// Payload for the blob tier that is sent in a single request.
const MEDIUM: usize = 20 * INLINE;
/// Payload that stays in the index.
const SMALL: usize = 10;

async fn put(engine: &Engine, key: &str, seed: u64, bytes: usize) -> PutResult {
    engine.put(key, payload(seed, bytes)).await.unwrap()
}

async fn bytes(engine: &Engine, key: &str) -> Option<Bytes> {
    match engine.get(key).await.unwrap() {
        Some(object) => Some(object.bytes().await.unwrap()),
        None => None,
    }
}

/// Asserts that an object has this payload. A wrong payload is not printed because of its length.
async fn assert_holds(engine: &Engine, key: &str, seed: u64, expected: usize) {
    let found = bytes(engine, key)
        .await
        .unwrap_or_else(|| panic!("absent: {key:?}"));
    assert!(
        found == payload(seed, expected),
        "{key:?} does not hold {expected} bytes of seed {seed}: bytes={}",
        found.len()
    );
}

/// Asserts that ranges around these borders, and between them, have the right bytes.
async fn assert_ranges(
    engine: &Engine,
    key: &str,
    whole: &[u8],
    borders: impl Iterator<Item = usize>,
) {
    let mut last = 0;
    for border in borders {
        let before = border.saturating_sub(1);
        let after = (border + 1).min(whole.len());
        for range in [
            before..border,
            before..after,
            border..after,
            last..border,
            last.saturating_sub(1)..after,
        ] {
            let object = engine
                .get(key)
                .range(range.start as u64..range.end as u64)
                .await;
            // A range that begins at the very end is an error.
            let Ok(object) = object else {
                assert_eq!(range.start, whole.len(), "{range:?} of {key:?}: {object:?}");
                continue;
            };
            assert!(
                object.unwrap().bytes().await.unwrap() == whole[range.clone()],
                "{range:?} of {key:?}"
            );
        }
        last = border;
    }
}

/// Waits until everything is settled and returns the number of blobs.
async fn blobs(engine: &Engine) -> u64 {
    store::settle(engine, &Env::real().unwrap()).await;
    engine
        .scrub()
        .depth(ScrubDepth::Presence)
        .await
        .unwrap()
        .looked
        .blobs
}

/// Returns a payload as a stream of chunks.
fn streamed(whole: &Bytes, chunk_bytes: usize) -> Body {
    let chunks: Vec<_> = whole
        .chunks(chunk_bytes)
        .map(|chunk| Ok::<_, std::io::Error>(whole.slice_ref(chunk)))
        .collect();
    Body::stream(stream::iter(chunks))
}
