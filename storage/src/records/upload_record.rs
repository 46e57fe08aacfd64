//! The upload record: the durable state of a multipart upload. Parts are separate entries
//! (`part.rs`), so that storing a part does not write the upload record again.
//!
//! ```text
//! key:   +------+----------------------------+------+-----------+
//!        | 0x00 | encoded object id, escaped | 0x00 | upload id | ordered by object, then by start
//!        +------+----------------------------+------+-----------+
//!          escaped: 0x00 becomes 0x00 0xff, so that no id is a prefix of another
//! value: +-----------+-----------------------------------------------------------+
//!        | version=1 | postcard: initiated, expires_at, attributes, precondition, phase |
//!        +-----------+-----------------------------------------------------------+
//!
//! life:  Open --complete--> Completed --its lifetime passes--> removed
//!          |`---abort-----> Aborted   --its lifetime passes--> removed
//!          `---its lifetime passes---------------------------> removed
//! ```
//!
//! Every upload record has an entry in the expiry index, as a row with a deadline does
//! (`expiry.rs`). The rules of the transitions are in `decide/upload_step.rs`.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::codec::{self, corrupt};
use super::expiration;
use super::metadata::Attributes;
use crate::types::{
    Error, ErrorKind, ObjectId, Precondition, PutResult, Reason, Result, Timestamp,
    UPLOAD_ID_BYTES, UploadId,
};

const FORMAT: u8 = 1;
/// First byte of the key of an upload record. The key of a part has another first byte.
pub(super) const TAG: u8 = 0;
const NUL: u8 = 0;
const ESCAPED: u8 = 0xff;

/// Durable state of a multipart upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadRecord {
    /// Time at which the upload was started.
    pub initiated: Timestamp,
    /// Deadline of the record. Afterwards, the upload is treated as unknown.
    pub expires_at: Timestamp,
    /// Attributes of the object to be created. Empty after the upload has ended.
    pub attributes: Attributes,
    /// Precondition of the completion.
    pub precondition: Precondition,
    /// Phase of the upload.
    pub phase: UploadPhase,
}

/// Phase of a multipart upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UploadPhase {
    /// The upload accepts parts.
    Open,
    /// The upload was completed. The record is kept until its deadline, so that a repeated
    /// completion receives the same result.
    Completed {
        /// Digest of the listed parts.
        parts: PartsDigest,
        /// Result of the completion.
        written: PutResult,
    },
    /// The upload was aborted. The record is kept until its deadline, so that a repeated abort can
    /// be distinguished from an abort of an unknown upload.
    Aborted,
}

/// SHA-256 over the numbers and etags of a list of parts, to compare two lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartsDigest(pub [u8; 32]);

impl UploadRecord {
    /// Returns `true` if the record has not expired at `now`.
    pub fn is_live(&self, now: Timestamp) -> bool {
        expiration::is_live(Some(self.expires_at), now)
    }

    /// Checks that the upload accepts parts.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the upload has ended.
    pub fn check_open(&self) -> Result<()> {
        let (ended, reason) = match self.phase {
            UploadPhase::Open => return Ok(()),
            UploadPhase::Completed { .. } => ("completed", Reason::UploadCompleted),
            UploadPhase::Aborted => ("aborted", Reason::UploadAborted),
        };
        let message = format!("the upload has been {ended}");
        Err(Error::new(ErrorKind::Invalid, "multipart", message).with_reason(reason))
    }

    /// Encodes the record for storage.
    pub fn encode(&self) -> Bytes {
        codec::encode(FORMAT, self).into()
    }

    /// Decodes a stored record.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) or
    /// [`UnknownFormat`](crate::ErrorKind::UnknownFormat).
    pub fn decode(value: &Bytes) -> Result<Self> {
        codec::decode("upload record", FORMAT, value)
    }
}

/// Returns the key of the record of an upload.
pub fn upload_record_key(id: &ObjectId, upload: &UploadId) -> Bytes {
    let mut key = session_prefix(id.encoded());
    // A zero byte that is not followed by 0xff ends the object id.
    key.push(NUL);
    key.extend_from_slice(upload.as_bytes());
    key.into()
}

/// Returns the prefix of the keys of all upload records of objects whose encoded ids begin with
/// `encoded`.
pub fn session_prefix(encoded: &[u8]) -> Vec<u8> {
    // Capacity for a whole key: tag, terminator and two escaped bytes.
    let mut key = Vec::with_capacity(encoded.len() + UPLOAD_ID_BYTES + 4);
    key.push(TAG);
    for &byte in encoded {
        key.push(byte);
        if byte == NUL {
            key.push(ESCAPED);
        }
    }
    key
}

/// Returns the prefix that the keys of all upload records share, and no other key has.
pub fn all_sessions_prefix() -> [u8; 1] {
    [TAG]
}

/// Decodes the key of an upload record into its object and upload.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if the key is not that of an upload record.
pub fn decode_upload_record_key(key: &[u8]) -> Result<(ObjectId, UploadId)> {
    let malformed = || corrupt("upload record", "malformed key");
    let (&tag, rest) = key.split_first().ok_or_else(malformed)?;
    // The upload id has a fixed length and may contain zero bytes, so that the key is split from
    // its end.
    let split = rest
        .len()
        .checked_sub(UPLOAD_ID_BYTES + 1)
        .ok_or_else(malformed)?;
    let (escaped, rest) = rest.split_at(split);
    let upload = UploadId::from_slice(&rest[1..]).ok_or_else(malformed)?;
    let encoded = unescaped(escaped)
        .filter(|_| tag == TAG && rest[0] == NUL)
        .ok_or_else(malformed)?;
    let id = ObjectId::decode(&encoded).map_err(|error: Error| malformed().with_source(error))?;
    Ok((id, upload))
}

/// Returns the bytes before escaping, or `None` if they are not properly escaped.
fn unescaped(escaped: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.iter();
    while let Some(&byte) = rest.next() {
        if byte == NUL && rest.next() != Some(&ESCAPED) {
            return None;
        }
        bytes.push(byte);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::codec::fixture::{
        assert_golden, assert_later_format_refused, assert_robust,
    };
    use crate::types::{Etag, OperationId, Version, WriteOutcome};
    use proptest::prelude::*;
    use uuid::Uuid;

    fn session(phase: UploadPhase) -> UploadRecord {
        UploadRecord {
            initiated: Timestamp::from_millis(1000),
            expires_at: Timestamp::from_millis(2000),
            attributes: Attributes {
                content_type: Some("a/b".into()),
                ..Attributes::default()
            },
            precondition: Precondition::Version(Version::new(7)),
            phase,
        }
    }

    fn completed() -> UploadPhase {
        let etag = Etag::of(&OperationId::from_uuid(Uuid::from_u128(9)));
        let written = PutResult {
            outcome: WriteOutcome::Applied,
            version: Some(Version::new(8)),
            etag: Some(etag),
            created: true,
        };
        UploadPhase::Completed {
            parts: PartsDigest([5; 32]),
            written,
        }
    }

    fn key_of(key: &str, upload: u64) -> Bytes {
        upload_record_key(
            &ObjectId::try_from(key).unwrap(),
            &UploadId::new(Timestamp::from_millis(upload), [1, 2]),
        )
    }

    #[test]
    fn the_stored_form_is_stable() {
        let open = session(UploadPhase::Open).encode();
        assert_golden(&open, "01 e807 d00f 01 03 612f62 00 00 00 00 00 02 07 00");
        let done = session(completed()).encode();
        let digest = "05".repeat(32);
        let etag = "3030303030303030303030303030303030303030303030303030303030303039";
        let golden = format!(
            "01 e807 d00f 01 03 612f62 00 00 00 00 00 02 07 01 {digest} 00 01 08 01 20 {etag} 01"
        );
        assert_golden(&done, &golden);
        for encoded in [open, done] {
            assert_later_format_refused(&encoded, UploadRecord::decode);
            assert_robust(&encoded, UploadRecord::decode);
        }
        let upload = "000000000001 0000000000000001 0000000000000002";
        assert_golden(
            &key_of("k", 1),
            &format!("00 64656661756c74 00ff 6b 00 {upload}"),
        );
    }

    proptest! {
        #[test]
        fn keys_order_by_object_then_by_upload(
            a in "[\\x00-\\x02a]{1,4}",
            b in "[\\x00-\\x02a]{1,4}",
            m in 0..1u64 << 48,
            n in 0..1u64 << 48,
        ) {
            let begun = |millis| UploadId::new(Timestamp::from_millis(millis), [1, 2]).begun();
            let by_upload = begun(m).cmp(&begun(n));
            let expected = a.as_bytes().cmp(b.as_bytes()).then(by_upload);
            prop_assert_eq!(key_of(&a, m).cmp(&key_of(&b, n)), expected);
        }

        #[test]
        fn a_key_is_read_and_found_by_its_prefix(
            key in ".{1,20}",
            other in ".{1,20}",
            cut in any::<prop::sample::Index>(),
        ) {
            let id = ObjectId::try_from(key.as_str()).unwrap();
            let upload = UploadId::new(Timestamp::from_millis(3), [4, 5]);
            let filed = upload_record_key(&id, &upload);
            prop_assert_eq!(decode_upload_record_key(&filed).unwrap(), (id.clone(), upload));
            let prefix = &id.encoded()[..cut.index(id.encoded().len() + 1)];
            prop_assert!(filed.starts_with(&session_prefix(prefix)));
            let of_other = ObjectId::try_from(other.as_str()).unwrap();
            let fits = upload_record_key(&of_other, &upload).starts_with(&session_prefix(prefix));
            prop_assert_eq!(fits, of_other.encoded().starts_with(prefix));
        }

        #[test]
        fn reading_anything_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            drop(decode_upload_record_key(&bytes));
        }
    }
}
