//! The cases: what an engine is asked on every server, and what it must answer.
//!
//! A case is `async fn case(engine: &Engine)` in one of the rooms below, and a line in [`ALL`]. It is given an empty
//! engine with short delays, whose blobs are cut into parts of 5 MiB. What it leaves behind is looked at by `suite.rs`, and
//! is best not nothing. It keeps to the default namespace, or tidies up in the others.

use bytes::Bytes;
use cenotaph::{Body, Engine, Written};
use cenotaph_storage::BLOCK_BYTES;
use cenotaph_tests::store::{INLINE, payload};
use futures::future::BoxFuture;
use futures::stream;

use super::suite::PART_BYTES;

mod ends;
mod moves;
mod names;
mod reads;
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
];

/// More than two parts, and neither whole parts nor whole blocks. A whole block follows the second part: OpenDAL begins an
/// upload in parts when it sees that there is more than one, and so it has when a stream of these bytes fails.
pub(super) const LARGE: usize = 2 * PART_BYTES + BLOCK_BYTES + BLOCK_BYTES / 2 + 1;
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
    let found = bytes(engine, key).await.unwrap_or_else(|| panic!("absent: {key:?}"));
    assert!(found == payload(seed, expected), "{key:?} holds other bytes than {expected} of {seed}: {}", found.len());
}

/// A payload that comes in chunks.
fn streamed(whole: &Bytes, chunk_bytes: usize) -> Body {
    let chunks: Vec<_> =
        whole.chunks(chunk_bytes).map(|chunk| Ok::<_, std::io::Error>(whole.slice_ref(chunk))).collect();
    Body::stream(stream::iter(chunks))
}
