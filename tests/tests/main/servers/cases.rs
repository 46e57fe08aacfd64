//! The cases: what an engine is asked on every server, and what it must answer.
//!
//! A case is `async fn case(engine: &Engine)` in one of the rooms below, and a line in [`ALL`]. It
//! is given an empty engine with short delays, whose blobs are sent in parts of 5 MiB, and whose
//! longest puts are several blobs. What it leaves behind is looked at by `suite.rs`, and is best
//! not nothing. It keeps to the default namespace, or tidies up in the others.

use bytes::Bytes;
use cenotaph::{Body, Engine, Env, ScrubDepth, Written};
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

/// Something that is asked of an engine.
pub(super) struct Case {
    /// Its claim.
    pub(super) name: &'static str,
    /// Asks, and asserts.
    pub(super) run: fn(&Engine) -> BoxFuture<'_, ()>,
}

macro_rules! cases {
    ($($room:ident::$case:ident),* $(,)?) => {
        &[$(Case { name: stringify!($case), run: |engine| Box::pin($room::$case(engine)) }),*]
    };
}

/// All of them, the simple ones first.
pub(super) const ALL: &[Case] = cases![
    writes::a_small_object_stays_in_the_index,
    writes::a_large_object_comes_back_whole,
    writes::any_size_replaces_any_other,
    writes::a_precondition_that_does_not_hold_changes_nothing,
    writes::of_many_that_create_an_object_one_does,
    writes::of_many_that_replace_an_object_the_last_one_stands,
    writes::a_stream_that_fails_stores_nothing,
    writes::a_caller_that_leaves_stores_nothing,
    reads::ranges_reach_across_blocks_and_parts,
    reads::a_reader_sees_to_its_end_what_it_began_with,
    moves::a_copy_is_an_object_of_its_own,
    moves::a_renamed_object_is_the_same,
    names::awkward_names_are_all_different_blobs,
    names::namespaces_keep_their_objects_apart,
    ends::a_deleted_object_is_gone_and_its_versions_go_on,
    ends::a_prefix_is_deleted_and_nothing_beside_it,
    ends::what_has_expired_is_removed,
    multipart::parts_of_any_order_are_the_object_in_the_order_of_their_numbers,
    multipart::an_upload_that_is_aborted_leaves_nothing,
    multipart::an_upload_goes_on_by_its_id,
    multipart::a_part_may_be_made_of_a_range_of_an_object,
    multipart::part_that_differs_from_its_declaration_is_dropped,
    multipart::what_was_completed_is_copied_renamed_and_deleted_as_any_object,
    split::a_long_put_is_several_blobs_and_reads_as_one,
    split::a_long_put_that_fails_leaves_nothing,
    split::a_caller_that_leaves_a_long_put_stores_nothing,
];

/// More than two parts, and neither whole parts nor whole blocks. A whole block follows the second
/// part: OpenDAL begins an upload in parts when it sees that there is more than one, and so it has
/// when a stream of these bytes fails. It is also the longest payload that is one blob.
pub(super) const LARGE: usize = 2 * PART_BYTES + BLOCK_BYTES + BLOCK_BYTES / 2 + 1;
/// Bytes of each blob of a longer one: it is sent in parts, too.
pub(super) const SPLIT_BYTES: usize = PART_BYTES + BLOCK_BYTES / 2;
/// Enough for the blob tier, in one request.
const MEDIUM: usize = 20 * INLINE;
/// Little enough for the index.
const SMALL: usize = 10;

async fn put(engine: &Engine, key: &str, seed: u64, bytes: usize) -> Written {
    engine.put(key, payload(seed, bytes)).await.unwrap()
}

async fn bytes(engine: &Engine, key: &str) -> Option<Bytes> {
    match engine.get(key).await.unwrap() {
        Some(object) => Some(object.bytes().await.unwrap()),
        None => None,
    }
}

/// Asserts that an object has this payload. What it has instead may be too long to be shown.
async fn assert_holds(engine: &Engine, key: &str, seed: u64, expected: usize) {
    let found = bytes(engine, key)
        .await
        .unwrap_or_else(|| panic!("absent: {key:?}"));
    assert!(
        found == payload(seed, expected),
        "{key:?} holds other bytes than {expected} of {seed}: {}",
        found.len()
    );
}

/// Asserts that ranges around these borders, and from one to the next, hold what they should.
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
            // From the very end there is nothing to be read, and that is said.
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

/// How many blobs there are once all is settled.
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

/// A payload that comes in chunks.
fn streamed(whole: &Bytes, chunk_bytes: usize) -> Body {
    let chunks: Vec<_> = whole
        .chunks(chunk_bytes)
        .map(|chunk| Ok::<_, std::io::Error>(whole.slice_ref(chunk)))
        .collect();
    Body::stream(stream::iter(chunks))
}
