//! The expiry entry: what is due when. One for each row that has a deadline and one for each
//! session, put and removed in the batches that put, change and remove the row or session (I3).
//!
//! ```text
//! key:   +-------------------------+----------------------+
//!        | expires_at in ms, u64   | encoded object id,   |   in the order of their deadlines: what is due
//!        | 8 bytes, big endian     | or a session's key   |   is found without looking at anything else
//!        +-------------------------+----------------------+
//!                                    which begins with 0x00, as no id does
//! value: version=1
//! ```
//!
//! It is an index and no authority: whether something has expired, its row or session alone says.
//! Deliberately not here: who removes what is due (the expirer).

use bytes::Bytes;

use super::codec::corrupt;
use super::session::{self, read_session_key, session_key};
use crate::error::{Error, ErrorKind, Result};
use crate::id::ObjectId;
use crate::multipart::UploadId;
use crate::word::Timestamp;

const FORMAT: u8 = 1;
const DEADLINE_BYTES: usize = 8;

/// What may be due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// An object.
    Object(ObjectId),
    /// The session of an upload to an object.
    Session(ObjectId, UploadId),
}

/// Where the entry of an object that is due then lies.
pub fn expiry_key(expires_at: Timestamp, id: &ObjectId) -> Bytes {
    key(expires_at, id.encoded())
}

/// Where the entry of a session that is due then lies.
pub fn session_expiry_key(expires_at: Timestamp, id: &ObjectId, upload: &UploadId) -> Bytes {
    key(expires_at, &session_key(id, upload))
}

fn key(expires_at: Timestamp, of: &[u8]) -> Bytes {
    [&expires_at.as_millis().to_be_bytes()[..], of]
        .concat()
        .into()
}

/// The key above those of all objects that are due at `now`.
pub fn expiry_end(now: Timestamp) -> Bytes {
    Bytes::copy_from_slice(&now.as_millis().saturating_add(1).to_be_bytes())
}

/// What such a key says.
///
/// # Errors
/// [`ErrorKind::Corrupt`] if it is none.
pub fn read_expiry_key(key: &[u8]) -> Result<(Timestamp, Due)> {
    let malformed = || corrupt("expiry entry", "its key is malformed");
    let (deadline, of) = key.split_at_checked(DEADLINE_BYTES).ok_or_else(malformed)?;
    let millis = u64::from_be_bytes(deadline.try_into().map_err(|_| malformed())?);
    let due = if of.first() == Some(&session::TAG) {
        read_session_key(of).map(|(id, upload)| Due::Session(id, upload))
    } else {
        ObjectId::decode(of).map(Due::Object)
    };
    Ok((
        Timestamp::from_millis(millis),
        due.map_err(|error| malformed().with_source(error))?,
    ))
}

/// The value of every entry.
pub fn expiry_value() -> Bytes {
    Bytes::from_static(&[FORMAT])
}

/// Checks a value.
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
    use crate::rows::codec::fixture::{assert_golden, assert_later_format_refused};
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
        fn entries_order_by_deadline_and_survive_their_encoding(a in any::<u64>(), b in any::<u64>(), key in ".{1,30}") {
            let id = ObjectId::try_from(key.as_str()).unwrap();
            let (at, other) = (Timestamp::from_millis(a), Timestamp::from_millis(b));
            prop_assert_eq!(read_expiry_key(&expiry_key(at, &id)).unwrap(), (at, Due::Object(id.clone())));
            let upload = UploadId::new(other, [a, b]);
            let of_session = session_expiry_key(at, &id, &upload);
            prop_assert_eq!(read_expiry_key(&of_session).unwrap(), (at, Due::Session(id.clone(), upload)));
            prop_assert_eq!(of_session < expiry_end(other), a <= b && b < u64::MAX);
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
