//! Durable records of the payload log, in a keyspace of their own.
//!
//! ```text
//! key "log"                       value  format u8 = 1 | next u64
//! key "segment" | number u64 BE   value  format u8 = 1 | end u64 | live bytes u64 | live entries u64
//!                                        numbers in values are little-endian
//! ```
//!
//! A record is written in the batch that writes or removes pointers to its segment, so that it
//! always agrees with them.

use super::segment::SegmentId;
use crate::types::{Error, ErrorKind, Result};

const FORMAT: u8 = 1;
/// Key of [`LogRecord`].
pub(crate) const LOG_KEY: &[u8] = b"log";
const SEGMENT_PREFIX: &[u8] = b"segment";

/// State of a payload log that does not belong to a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogRecord {
    /// Lowest number that no segment has had.
    pub(crate) next: u64,
}

impl LogRecord {
    /// Encodes the record for storage.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut value = vec![FORMAT];
        value.extend_from_slice(&self.next.to_le_bytes());
        value
    }

    /// Decodes a stored record.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] or [`ErrorKind::UnknownFormat`].
    pub(crate) fn decode(value: &[u8]) -> Result<Self> {
        let next: &[u8; 8] = body(value)?;
        Ok(Self {
            next: u64::from_le_bytes(*next),
        })
    }
}

/// Durable state of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SegmentRecord {
    /// Position behind the last entry that a pointer has named, in bytes.
    pub(crate) end: u64,
    /// Size of the entries that a pointer names, including their padding, in bytes.
    pub(crate) live_bytes: u64,
    /// Number of entries that a pointer names.
    pub(crate) live_entries: u64,
}

impl SegmentRecord {
    /// Encodes the record for storage.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut value = vec![FORMAT];
        for number in [self.end, self.live_bytes, self.live_entries] {
            value.extend_from_slice(&number.to_le_bytes());
        }
        value
    }

    /// Decodes a stored record.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] or [`ErrorKind::UnknownFormat`].
    pub(crate) fn decode(value: &[u8]) -> Result<Self> {
        let body: &[u8; 24] = body(value)?;
        let number = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().expect("8 bytes"));
        Ok(Self {
            end: number(0),
            live_bytes: number(8),
            live_entries: number(16),
        })
    }
}

/// Returns the bytes of a record behind its format.
fn body<const N: usize>(value: &[u8]) -> Result<&[u8; N]> {
    match value.split_first() {
        Some((&FORMAT, body)) => body
            .try_into()
            .map_err(|_| corrupt("a record of the payload log has a wrong length")),
        Some((found, _)) => {
            let message = format!(
                "record of the payload log of an unknown format: found={found} known={FORMAT}"
            );
            Err(Error::new(ErrorKind::UnknownFormat, "open", message))
        }
        None => Err(corrupt("a record of the payload log is empty")),
    }
}

/// Returns the key of the record of a segment.
pub(crate) fn segment_key(id: SegmentId) -> Vec<u8> {
    [SEGMENT_PREFIX, &id.0.to_be_bytes()].concat()
}

/// Returns the segment with this key, or `None` for another key.
pub(crate) fn segment_of(key: &[u8]) -> Option<SegmentId> {
    let number = key.strip_prefix(SEGMENT_PREFIX)?.try_into().ok()?;
    Some(SegmentId(u64::from_be_bytes(number)))
}

fn corrupt(message: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "open", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_forms_are_stable() {
        let log = LogRecord { next: 0x0203 };
        let expected = b"\x01\x03\x02\0\0\0\0\0\0";
        assert_eq!(log.encode(), expected);
        assert_eq!(LogRecord::decode(expected).unwrap(), log);

        let segment = SegmentRecord {
            end: 0x0201,
            live_bytes: 3,
            live_entries: 4,
        };
        let expected = b"\x01\x01\x02\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0";
        assert_eq!(segment.encode(), expected);
        assert_eq!(SegmentRecord::decode(expected).unwrap(), segment);
        assert_eq!(
            segment_key(SegmentId(0x0102)),
            b"segment\0\0\0\0\0\0\x01\x02"
        );
        assert_eq!(
            segment_of(&segment_key(SegmentId(0x0102))),
            Some(SegmentId(0x0102))
        );
        assert_eq!(segment_of(LOG_KEY), None);
    }

    #[test]
    fn later_formats_and_wrong_lengths_are_refused() {
        let value = SegmentRecord::default().encode();
        let mut later = value.clone();
        later[0] = 2;
        let kind = |value: &[u8]| SegmentRecord::decode(value).unwrap_err().kind();
        assert_eq!(kind(&later), ErrorKind::UnknownFormat);
        assert_eq!(kind(&value[1..]), ErrorKind::UnknownFormat);
        assert_eq!(kind(&value[..9]), ErrorKind::Corrupt);
        assert_eq!(kind(&[]), ErrorKind::Corrupt);
        assert!(LogRecord::decode(&value[..8]).is_err());
    }
}
