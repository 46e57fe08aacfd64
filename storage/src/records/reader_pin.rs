//! The pin of a reader of a shared index, in the meta table: a member reads a revision that may have
//! become an orphan.
//!
//! ```text
//! key "pin" 0x00 revision (16 bytes) epoch of the member (u64, big endian)
//! value: version=1
//! ```
//!
//! Guards I8 between members: the sweeper of any member keeps the revision as long as the member of
//! the epoch lives. A member writes and removes the pins of its own epoch; any member removes those of
//! a member that is gone.

use bytes::Bytes;

use super::codec::corrupt;
use crate::types::{Epoch, Result, RevisionId};

const FORMAT: u8 = 1;
const PREFIX: &[u8] = b"pin\0";
const REVISION_BYTES: usize = 16;

/// Returns the key of the pin of a member.
pub fn reader_pin_key(revision: RevisionId, epoch: Epoch) -> Bytes {
    [PREFIX, revision.as_bytes(), &epoch.get().to_be_bytes()[..]]
        .concat()
        .into()
}

/// Returns the prefix that the keys of all pins share, and no other key has.
pub fn reader_pins_prefix() -> Bytes {
    Bytes::from_static(PREFIX)
}

/// Returns the prefix that the keys of all pins of a revision share.
pub fn reader_pins_of(revision: RevisionId) -> Bytes {
    [PREFIX, &revision.as_bytes()[..]].concat().into()
}

/// Decodes the key of a pin.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if the key is not that of a pin.
pub fn read_reader_pin_key(key: &[u8]) -> Result<(RevisionId, Epoch)> {
    let malformed = || corrupt("reader pin", "malformed key");
    let rest = key.strip_prefix(PREFIX).ok_or_else(malformed)?;
    let (revision, epoch) = rest
        .split_at_checked(REVISION_BYTES)
        .ok_or_else(malformed)?;
    let revision = RevisionId::from_slice(revision).ok_or_else(malformed)?;
    let epoch = epoch.try_into().map_err(|_| malformed())?;
    Ok((revision, Epoch::new(u64::from_be_bytes(epoch))))
}

/// Returns the value of every pin.
pub fn reader_pin_value() -> Bytes {
    Bytes::from_static(&[FORMAT])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ErrorKind;
    use cenotaph_fuzz::Target;
    use uuid::Uuid;

    #[test]
    fn golden_key() {
        let revision = RevisionId::from_uuid(Uuid::from_u128(7));
        let key = reader_pin_key(revision, Epoch::new(258));
        let expected = [
            b"pin\0" as &[u8],
            &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7],
            &[0, 0, 0, 0, 0, 0, 1, 2],
        ];
        assert_eq!(key, expected.concat());
        assert!(key.starts_with(&reader_pins_of(revision)));
        assert!(key.starts_with(&reader_pins_prefix()));
    }

    #[test]
    fn mutated_key_is_refused_or_encodes_again() {
        let key = reader_pin_key(RevisionId::from_uuid(Uuid::from_u128(7)), Epoch::new(3));
        Target::new("reader pin", [key]).run(|input| match read_reader_pin_key(input) {
            Ok((revision, epoch)) => {
                assert_eq!(reader_pin_key(revision, epoch), input);
                true
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                false
            }
        });
    }
}
