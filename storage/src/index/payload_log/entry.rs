//! Entries of a segment.
//!
//! ```text
//! offset 0   "CNPE"                                   every number is little-endian
//!        4   key length u16
//!        6   format u8 = 1, zero u8
//!        8   value length u32
//!       12   zero u32
//!       16   xxh3 of bytes 0..16, key and value, u64
//!       24   key, value, zeros up to a multiple of 8
//! ```
//!
//! Guards "never wrong bytes": [`value_of`] returns a value only if its entry has the expected key
//! and length, and matches its checksum.

use bytes::Bytes;

use crate::types::{Checksum, Hasher};

/// Size of an entry without its key, its value and its padding, in bytes.
pub(crate) const HEADER_BYTES: usize = 24;
/// Each entry begins at a multiple of this number of bytes.
pub(crate) const ALIGNMENT: usize = 8;

const MAGIC: &[u8; 4] = b"CNPE";
const FORMAT: u8 = 1;
/// Length of the part of the header that the checksum covers, in bytes.
const CHECKED_BYTES: usize = 16;

/// Decoded header of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryHeader {
    pub(crate) key_bytes: usize,
    pub(crate) value_bytes: usize,
    checksum: u64,
}

impl EntryHeader {
    /// Decodes a header, or returns `None` if these bytes are no header.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (header, _) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let is_entry = header.starts_with(MAGIC)
            && header[6..8] == [FORMAT, 0]
            && header[12..CHECKED_BYTES] == [0; 4];
        is_entry.then(|| Self {
            key_bytes: usize::from(u16::from_le_bytes([header[4], header[5]])),
            value_bytes: u32::from_le_bytes([header[8], header[9], header[10], header[11]])
                as usize,
            checksum: u64::from_le_bytes(
                header[CHECKED_BYTES..]
                    .try_into()
                    .expect("the header ends with 8 bytes"),
            ),
        })
    }

    /// Returns the length of the entry without its padding, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        HEADER_BYTES + self.key_bytes + self.value_bytes
    }
}

/// Returns the length of an entry including its padding, in bytes.
pub(crate) fn padded_bytes(key_bytes: usize, value_bytes: usize) -> u64 {
    (HEADER_BYTES + key_bytes + value_bytes).next_multiple_of(ALIGNMENT) as u64
}

/// Returns whether an entry can hold a key and a value of these lengths.
pub(crate) fn fits(key_bytes: usize, value_bytes: usize) -> bool {
    u16::try_from(key_bytes).is_ok() && u32::try_from(value_bytes).is_ok()
}

/// Appends the header and the key of an entry to `buffer`. The value and the padding follow them.
///
/// The lengths must [fit](fits).
pub(crate) fn encode_head(buffer: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let key_bytes = u16::try_from(key.len()).expect("the caller has checked the length");
    let value_bytes = u32::try_from(value.len()).expect("the caller has checked the length");
    let start = buffer.len();
    buffer.extend_from_slice(MAGIC);
    buffer.extend_from_slice(&key_bytes.to_le_bytes());
    buffer.extend_from_slice(&[FORMAT, 0]);
    buffer.extend_from_slice(&value_bytes.to_le_bytes());
    buffer.extend_from_slice(&[0; 4]);
    let checksum = checksum(&buffer[start..], key, value);
    buffer.extend_from_slice(&checksum.to_le_bytes());
    buffer.extend_from_slice(key);
}

/// Returns the checksum of an entry with these parts.
fn checksum(checked: &[u8], key: &[u8], value: &[u8]) -> u64 {
    let mut hasher = Hasher::default();
    hasher.update(checked);
    hasher.update(key);
    hasher.update(value);
    hasher.finish().get()
}

/// Returns whether `entry`, header and key and value, matches the checksum in its header.
pub(crate) fn is_intact(header: &EntryHeader, entry: &[u8]) -> bool {
    let Some(entry) = entry.get(..header.bytes()) else {
        return false;
    };
    // The value is hashed in place. Only the start of the entry is copied, because the checksum
    // itself is in its middle.
    let head = HEADER_BYTES + header.key_bytes;
    let checked = &entry[..CHECKED_BYTES];
    checksum(checked, &entry[HEADER_BYTES..head], &entry[head..]) == header.checksum
}

/// Returns the value of `entry`, or a description of its defect. `entry` contains the whole entry
/// without its padding. `expected` is the checksum of the value, if the caller knows it.
pub(crate) fn value_of(
    entry: &Bytes,
    key: &[u8],
    expected: Option<Checksum>,
) -> Result<Bytes, &'static str> {
    let Some(header) = EntryHeader::decode(entry) else {
        return Err("the header of the entry is damaged");
    };
    if header.bytes() != entry.len() {
        return Err("the entry has a different length");
    }
    let head = HEADER_BYTES + header.key_bytes;
    if entry[HEADER_BYTES..head] != *key {
        return Err("the entry has a different key");
    }
    // The value is hashed once: its own checksum covers every byte that is returned.
    if expected.is_some_and(|expected| Checksum::of(&entry[head..]) == expected) {
        return Ok(entry.slice(head..));
    }
    if !is_intact(&header, entry) {
        return Err("the entry does not match its checksum");
    }
    if expected.is_some() {
        return Err("the entry is intact, but its value does not match the checksum in the row");
    }
    Ok(entry.slice(head..))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(key: &[u8], value: &[u8]) -> Vec<u8> {
        let mut entry = Vec::new();
        encode_head(&mut entry, key, value);
        entry.extend_from_slice(value);
        entry
    }

    #[test]
    fn stored_form_is_stable() {
        let entry = entry(b"key", b"value");
        let checksum = checksum(&entry[..16], b"key", b"value");
        let mut expected = b"CNPE\x03\x00\x01\x00\x05\x00\x00\x00\x00\x00\x00\x00".to_vec();
        assert_eq!(checksum, 11_224_471_966_525_939_001);
        expected.extend_from_slice(&checksum.to_le_bytes());
        expected.extend_from_slice(b"keyvalue");
        assert_eq!(entry, expected);
    }

    #[test]
    fn every_changed_byte_is_detected() {
        let whole = entry(b"key", b"a value");
        assert_eq!(
            value_of(&whole.clone().into(), b"key", None).unwrap(),
            &b"a value"[..]
        );
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            let changed = changed.into();
            assert!(value_of(&changed, b"key", None).is_err(), "at={at}");
            // The checksum of the value does not cover the checksum in the header.
            let known = value_of(&changed, b"key", Some(Checksum::of(b"a value")));
            assert!(
                known.is_err() || (16..24).contains(&at) && known.unwrap() == "a value",
                "at={at}"
            );
        }
        let whole = whole.into();
        assert!(value_of(&whole, b"kez", None).is_err(), "other key");
        let other = Some(Checksum::of(b"other"));
        assert!(value_of(&whole, b"key", other).is_err(), "other value");
    }

    proptest! {
        #[test]
        fn an_entry_survives_its_encoding(
            key in proptest::collection::vec(any::<u8>(), 1..40),
            value in proptest::collection::vec(any::<u8>(), 0..400),
        ) {
            let entry = entry(&key, &value);
            let header = EntryHeader::decode(&entry).unwrap();
            prop_assert_eq!(header.bytes(), entry.len());
            prop_assert_eq!(value_of(&entry.into(), &key, None).unwrap(), value);
        }
    }
}
