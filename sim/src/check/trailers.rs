//! Second decoder of blob payloads and trailers. A trailer contains the whole name of an object
//! whose name is too long for a path.
//!
//! Written from the drawing in `storage/src/blobs/trailer.rs`, independent of its code.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::format;
use super::model::Revision;
use crate::disks::blobs::StoredBlobs;

/// Returns the payload of a blob. Returns `None` if the blob is absent, or lacks a trailer that it
/// should have.
pub(super) fn payload_in(revision: &Revision, blobs: &StoredBlobs) -> Option<Bytes> {
    let blob = blobs.bytes(&revision.path)?;
    if !has_trailer(revision) {
        return Some(blob);
    }
    let trailer = trailer_of(&revision.path, &revision.object)?;
    blob.ends_with(&trailer)
        .then(|| blob.slice(..blob.len() - trailer.len()))
}

/// Returns true if the path of a blob contains only the beginning of the object's name.
pub(super) fn has_trailer(revision: &Revision) -> bool {
    revision
        .path
        .rsplit_once('@')
        .is_some_and(|(name, _)| name.ends_with('~'))
}

/// Returns the expected trailer of a blob.
fn trailer_of(path: &str, object: &[u8]) -> Option<Vec<u8>> {
    let revision = format::revision_of_path(path)?;
    let sum = xxh3_64(&[revision.as_bytes(), object].concat());
    // A row key is `namespace 0x00 key`.
    let key_at = object.iter().position(|&byte| byte == 0)?;
    let lines = [&object[..key_at], b"\n", &object[key_at + 1..]].concat();
    let foot = format!("\n{:04} {sum:016x} cenotaph-1\n", object.len());
    Some([b"\ncenotaph-object\n", &lines[..], foot.as_bytes()].concat())
}
