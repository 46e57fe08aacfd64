//! Payloads and trailers of blobs, read a second time: a trailer names an object with a long name.
//! Written from the drawing in `storage/src/blobs/trailer.rs`, not from its code.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::format;
use super::monitor::Revision;
use crate::blobs::Blobs;

/// The payload of a blob. None if it is not there, or should tell whose it is and does not.
pub(super) fn payload_in(revision: &Revision, blobs: &Blobs) -> Option<Bytes> {
    let blob = blobs.bytes(&revision.path)?;
    if !has_trailer(revision) {
        return Some(blob);
    }
    let trailer = trailer_of(&revision.path, &revision.object)?;
    blob.ends_with(&trailer)
        .then(|| blob.slice(..blob.len() - trailer.len()))
}

/// Returns whether the path of a blob holds the beginning of a name only.
pub(super) fn has_trailer(revision: &Revision) -> bool {
    revision
        .path
        .rsplit_once('@')
        .is_some_and(|(name, _)| name.ends_with('~'))
}

fn trailer_of(path: &str, object: &[u8]) -> Option<Vec<u8>> {
    let revision = format::revision_of_path(path)?;
    let sum = xxh3_64(&[revision.as_bytes(), object].concat());
    let key_at = object.iter().position(|&byte| byte == 0)?;
    let lines = [&object[..key_at], b"\n", &object[key_at + 1..]].concat();
    let foot = format!("\n{:04} {sum:016x} cenotaph-1\n", object.len());
    Some([b"\ncenotaph-object\n", &lines[..], foot.as_bytes()].concat())
}
