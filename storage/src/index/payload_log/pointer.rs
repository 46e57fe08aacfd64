//! Pointer: the value that a key has in fjall if its own value is in the payload log.
//!
//! ```text
//! offset 0   "CNPP"                                   every number is little-endian
//!        4   value length u32
//!        8   segment u64
//!       16   offset of the entry in the segment u64
//! ```
//!
//! A value of this length with this start is always a pointer: a value of a caller that looks like
//! a pointer is stored in the payload log, whatever its length ([`is_logged`]). Stores of earlier
//! builds contain no such value: their inline payloads in this table are longer, and block
//! checksums begin with another byte.

use super::entry;
use super::segment::SegmentId;

/// Length of an encoded pointer, in bytes.
pub(crate) const POINTER_BYTES: usize = 24;
/// Minimal length of a value that is stored in the payload log, in bytes.
///
/// A shorter value costs less within fjall than a second sync.
pub(crate) const LOGGED_BYTES_MIN: usize = 4096;

const MAGIC: &[u8; 4] = b"CNPP";

/// Location of a value in the payload log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pointer {
    pub(crate) segment: SegmentId,
    /// Position of the entry in its segment, in bytes.
    pub(crate) offset: u64,
    /// Length of the value, in bytes.
    pub(crate) value_bytes: u32,
}

impl Pointer {
    /// Encodes the pointer for storage.
    pub(crate) fn encode(&self) -> [u8; POINTER_BYTES] {
        let mut value = [0; POINTER_BYTES];
        value[..4].copy_from_slice(MAGIC);
        value[4..8].copy_from_slice(&self.value_bytes.to_le_bytes());
        value[8..16].copy_from_slice(&self.segment.0.to_le_bytes());
        value[16..].copy_from_slice(&self.offset.to_le_bytes());
        value
    }

    /// Decodes a stored value, or returns `None` if it is not a pointer.
    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let value: &[u8; POINTER_BYTES] = value.try_into().ok()?;
        if !value.starts_with(MAGIC) {
            return None;
        }
        let number = |at: usize| {
            u64::from_le_bytes(value[at..at + 8].try_into().expect("8 bytes of an array"))
        };
        Some(Self {
            segment: SegmentId(number(8)),
            offset: number(16),
            value_bytes: u32::from_le_bytes([value[4], value[5], value[6], value[7]]),
        })
    }

    /// Returns the size of the entry with a key of this length, including its padding, in bytes.
    pub(crate) fn entry_bytes(&self, key_bytes: usize) -> u64 {
        entry::padded_bytes(key_bytes, self.value_bytes as usize)
    }
}

/// Returns whether a value is stored in the payload log rather than in fjall.
pub(crate) fn is_logged(key: &[u8], value: &[u8]) -> bool {
    (value.len() >= LOGGED_BYTES_MIN || Pointer::decode(value).is_some())
        && entry::fits(key.len(), value.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stored_form_is_stable() {
        let pointer = Pointer {
            segment: SegmentId(0x0102),
            offset: 0x0304,
            value_bytes: 0x0506,
        };
        let expected = b"CNPP\x06\x05\0\0\x02\x01\0\0\0\0\0\0\x04\x03\0\0\0\0\0\0";
        assert_eq!(pointer.encode(), *expected);
    }

    #[test]
    fn value_that_looks_like_a_pointer_is_logged() {
        let pointer = Pointer {
            segment: SegmentId(1),
            offset: 2,
            value_bytes: 3,
        };
        assert!(is_logged(b"key", &pointer.encode()));
        assert!(!is_logged(b"key", &[1; POINTER_BYTES]));
        assert!(!is_logged(b"key", &[0; LOGGED_BYTES_MIN - 1]));
        assert!(is_logged(b"key", &[0; LOGGED_BYTES_MIN]));
    }

    proptest! {
        #[test]
        fn a_pointer_survives_its_encoding(
            segment in any::<u64>(), offset in any::<u64>(), value_bytes in any::<u32>(),
        ) {
            let pointer = Pointer { segment: SegmentId(segment), offset, value_bytes };
            prop_assert_eq!(Pointer::decode(&pointer.encode()), Some(pointer));
        }
    }
}
