//! Encodes the trailer of a blob: the whole id of an object with a long name, behind the payload.
//!
//! ```text
//! | payload | "\ncenotaph-object\n" | namespace "\n" key | "\n" | "0123" | " " | checksum | END |
//!           |      17 bytes         |     n bytes        |      |  = n   |     | 16 hex   |
//!
//! checksum   xxh3 of revision id, namespace, 0x00, key; 16 hexadecimal digits
//! END        " cenotaph-1\n"
//! ```
//!
//! A trailer is text, so `tail` shows the object of a blob. The part behind the id has a fixed
//! length, so the trailer is found from the end of the blob. Rows contain the length of the
//! payload: reads of an object never fetch the trailer, and checksums of the payload do not cover
//! it.
//!
//! Guards the promise that a blob identifies its object without the index. The checksum covers the
//! revision id. So a payload that ends with the trailer of another blob is not decoded as the
//! trailer of its own blob.

use bytes::Bytes;

use super::path;
use crate::types::Hasher;
use crate::types::{ID_BYTES_MAX, Namespace, ObjectId};
use crate::types::{RevisionId, RevisionKey};

const HEAD: &str = "\ncenotaph-object\n";
/// Format number, and the end of every blob with a trailer.
const END: &str = " cenotaph-1\n";
const LENGTH_DIGITS: usize = 4;
const SUM_DIGITS: usize = 16;
/// Number of bytes behind the id.
const FOOT_BYTES: usize = "\n".len() + LENGTH_DIGITS + " ".len() + SUM_DIGITS + END.len();

/// Longest trailer, in bytes.
pub const TRAILER_BYTES_MAX: usize = HEAD.len() + ID_BYTES_MAX + FOOT_BYTES;

/// Returns the trailer of a revision's blob, or `None` if the name of the object is not long.
pub fn encode(key: &RevisionKey) -> Option<Bytes> {
    let RevisionKey { object, revision } = key;
    if !path::is_long(object) {
        return None;
    }
    let namespace = object.namespace_str();
    let id = object.key();
    let length = object.encoded().len();
    let sum = checksum(*revision, object);
    Some(
        format!("{HEAD}{namespace}\n{id}\n{length:0LENGTH_DIGITS$} {sum:0SUM_DIGITS$x}{END}")
            .into(),
    )
}

/// Returns the length of the trailer of this object's blobs, in bytes; 0 if the name is not long.
pub fn length(object: &ObjectId) -> u64 {
    let is_long = path::is_long(object);
    if is_long {
        (HEAD.len() + object.encoded().len() + FOOT_BYTES) as u64
    } else {
        0
    }
}

/// Returns the object that a trailer names. `tail` is the end of the blob of `revision`: its last
/// [`TRAILER_BYTES_MAX`] bytes, or the whole blob if it is shorter. Returns `None` if `tail` does
/// not end with an intact trailer of this revision.
pub fn decode(tail: &[u8], revision: RevisionId) -> Option<ObjectId> {
    // Decoded from the end: the foot has a fixed length and contains the length of the id.
    let (rest, foot) = tail.split_at_checked(tail.len().checked_sub(FOOT_BYTES)?)?;
    let foot = std::str::from_utf8(foot)
        .ok()?
        .strip_prefix('\n')?
        .strip_suffix(END)?;
    let (length, sum) = foot.split_once(' ')?;
    let (head, id) = rest.split_at_checked(rest.len().checked_sub(length.parse().ok()?)?)?;
    let (namespace, key) = std::str::from_utf8(id).ok()?.split_once('\n')?;
    let object = ObjectId::new(&namespace.parse::<Namespace>().ok()?, key).ok()?;
    // `tail` may begin with a part of the payload, so only the end of `head` is compared.
    let is_whole = head.ends_with(HEAD.as_bytes())
        && u64::from_str_radix(sum, 16) == Ok(checksum(revision, &object));
    is_whole.then_some(object)
}

fn checksum(revision: RevisionId, object: &ObjectId) -> u64 {
    let mut hasher = Hasher::default();
    hasher.update(revision.as_bytes());
    hasher.update(object.encoded());
    hasher.finish().get()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn revision(key: &str) -> RevisionKey {
        let object = ObjectId::try_from(key).unwrap();
        RevisionKey {
            object,
            revision: RevisionId::from_uuid(Uuid::from_u128(7)),
        }
    }

    proptest! {
        #[test]
        fn trailer_names_its_object(key in "\\PC{180,250}|[\n\0a]{180,1024}", payload: Vec<u8>) {
            let key = revision(&key);
            let trailer = encode(&key).unwrap();
            prop_assert_eq!(trailer.len() as u64, length(&key.object));
            prop_assert!(trailer.len() <= TRAILER_BYTES_MAX);
            let blob = [&payload[..], &trailer[..]].concat();
            let tail = &blob[blob.len().saturating_sub(TRAILER_BYTES_MAX)..];
            prop_assert_eq!(decode(tail, key.revision), Some(key.object));
            prop_assert_eq!(decode(tail, RevisionId::from_uuid(Uuid::from_u128(8))), None);
        }

        #[test]
        fn decoding_of_any_bytes_never_panics(
            tail: Vec<u8>,
            foot in "\n[0-9 ]{4} [0-9a-f]{16} cenotaph-1\n",
        ) {
            let revision = revision("k").revision;
            prop_assert_eq!(decode(&tail, revision), None);
            prop_assert_eq!(decode(&[&tail[..], foot.as_bytes()].concat(), revision), None);
        }
    }

    #[test]
    fn damaged_trailer_names_no_object() {
        let key = revision(&"k".repeat(200));
        let trailer = encode(&key).unwrap();
        for at in 0..trailer.len() {
            let mut damaged = trailer.to_vec();
            damaged[at] ^= 1;
            assert_eq!(decode(&damaged, key.revision), None, "byte {at}");
            assert_eq!(decode(&trailer[..at], key.revision), None, "cut at {at}");
            assert_eq!(decode(&trailer[at + 1..], key.revision), None, "from {at}");
        }
    }

    #[test]
    fn stored_form_of_a_trailer_is_stable() {
        let key = revision(&format!("{}é", "k".repeat(180)));
        let expected = format!(
            "\ncenotaph-object\ndefault\n{}é\n0190 1a6518899e5eb566 cenotaph-1\n",
            "k".repeat(180)
        );
        assert_eq!(encode(&key).unwrap(), expected);
        assert_eq!(encode(&revision("a name that is not long")), None);
    }
}
