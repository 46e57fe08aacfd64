//! The expiry entry: an index of deadlines, with an entry for each row that has a deadline and for
//! each upload record.
//!
//! ```text
//! key:   +-------------------------+-------------------------+
//!        | expires_at in ms, u64   | encoded object id,      |  ordered by deadline: a scan
//!        | 8 bytes, big endian     | or upload record's key  |  reads due entries only
//!        +-------------------------+-------------------------+
//!                                    begins with 0x00, no object id does
//! value: version=1
//! ```
//!
//! Entries are put and removed in the batch that puts, changes or removes the row or upload record
//! (I3). The deadline in the row or upload record alone decides expiry; the entry only leads to it.

use bytes::Bytes;

use super::codec::corrupt;
use super::upload_record::{self, decode_upload_record_key, upload_record_key};
use crate::types::ObjectId;
use crate::types::Timestamp;
use crate::types::UploadId;
use crate::types::{Error, ErrorKind, Result};

const FORMAT: u8 = 1;
const DEADLINE_BYTES: usize = 8;

/// Owner of an expiry entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// An object.
    Object(ObjectId),
    /// The upload record of a multipart upload to an object.
    Upload(ObjectId, UploadId),
}

/// Returns the key of the expiry entry of an object.
pub fn expiry_key(expires_at: Timestamp, id: &ObjectId) -> Bytes {
    key(expires_at, id.encoded())
}

/// Returns the key of the expiry entry of an upload record.
pub fn upload_expiry_key(expires_at: Timestamp, id: &ObjectId, upload: &UploadId) -> Bytes {
    key(expires_at, &upload_record_key(id, upload))
}

fn key(expires_at: Timestamp, of: &[u8]) -> Bytes {
    [&expires_at.as_millis().to_be_bytes()[..], of]
        .concat()
        .into()
}

/// Returns the exclusive upper bound of the keys of all entries that are due at `now`.
pub fn expiry_end(now: Timestamp) -> Bytes {
    // Entries at `now` itself are due, so that the bound is the next millisecond.
    Bytes::copy_from_slice(&now.as_millis().saturating_add(1).to_be_bytes())
}

/// Decodes the key of an expiry entry into its deadline and owner.
///
/// # Errors
/// [`ErrorKind::Corrupt`] if the key is not that of an expiry entry.
pub fn read_expiry_key(key: &[u8]) -> Result<(Timestamp, Due)> {
    let malformed = || corrupt("expiry entry", "malformed key");
    let (deadline, of) = key.split_at_checked(DEADLINE_BYTES).ok_or_else(malformed)?;
    let millis = u64::from_be_bytes(deadline.try_into().map_err(|_| malformed())?);
    // No object id begins with this zero byte, because its namespace is not empty.
    let due = if of.first() == Some(&upload_record::TAG) {
        decode_upload_record_key(of).map(|(id, upload)| Due::Upload(id, upload))
    } else {
        ObjectId::decode(of).map(Due::Object)
    };
    Ok((
        Timestamp::from_millis(millis),
        due.map_err(|error| malformed().with_source(error))?,
    ))
}

/// Returns the value of every expiry entry.
pub fn expiry_value() -> Bytes {
    Bytes::from_static(&[FORMAT])
}

/// Checks the value of an expiry entry.
///
/// # Errors
/// [`ErrorKind::Corrupt`] or [`ErrorKind::UnknownFormat`].
pub fn check_expiry_value(value: &[u8]) -> Result<()> {
    match value {
        [FORMAT] => Ok(()),
        [] | [FORMAT, ..] => Err(corrupt("expiry entry", "wrong length")),
        [found, ..] => {
            let message =
                format!("expiry entry of an unknown format: found={found} known={FORMAT}");
            Err(Error::new(ErrorKind::UnknownFormat, "decode", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::codec::fixture::{assert_golden, assert_later_format_refused};
    use proptest::prelude::*;

    #[test]
    fn the_stored_form_is_stable() {
        let key = expiry_key(
            Timestamp::from_millis(0x1234),
            &ObjectId::try_from("k").unwrap(),
        );
        assert_golden(&key, "0000000000001234 64656661756c7400 6b");
        assert_golden(&expiry_value(), "01");
        assert_later_format_refused(&expiry_value(), |value| check_expiry_value(value));
    }

    proptest! {
        #[test]
        fn entries_order_by_deadline_and_survive_their_encoding(
            a in any::<u64>(),
            b in any::<u64>(),
            key in ".{1,30}",
        ) {
            let id = ObjectId::try_from(key.as_str()).unwrap();
            let at = Timestamp::from_millis(a);
            let other = Timestamp::from_millis(b);
            let of_object = expiry_key(at, &id);
            prop_assert_eq!(read_expiry_key(&of_object).unwrap(), (at, Due::Object(id.clone())));
            let upload = UploadId::new(other, [a, b]);
            let of_upload = upload_expiry_key(at, &id, &upload);
            let due = Due::Upload(id.clone(), upload);
            prop_assert_eq!(read_expiry_key(&of_upload).unwrap(), (at, due));
            prop_assert_eq!(of_upload < expiry_end(other), a <= b && b < u64::MAX);
            prop_assert_eq!(expiry_key(at, &id).cmp(&expiry_key(other, &id)), a.cmp(&b));
            let is_due = expiry_key(at, &id) < expiry_end(other);
            prop_assert_eq!(is_due, a <= b && b < u64::MAX);
        }

        #[test]
        fn decoding_anything_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            drop(read_expiry_key(&bytes));
        }
    }
}
