//! Newtypes of multipart uploads, validated by their constructors: [`UploadId`], [`PartNumber`] and
//! [`PartEtag`].
//!
//! The stored records are in `rows/session.rs` and `rows/part.rs`, the transitions of an upload in
//! `decide/session.rs`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::types::Timestamp;
use crate::types::{Error, ErrorKind, Reason, Result};

/// Maximum number of a part, and therefore maximum count of parts of an upload. The limit is that
/// of S3.
pub const PARTS_MAX: u16 = 10_000;

/// Length of an upload id in bytes.
pub(crate) const UPLOAD_ID_BYTES: usize = 22;
const TIME_BYTES: usize = 6;
/// Latest time in an upload id: about the year 10,889.
///
/// The first byte of an upload id is never 0xff. In the key of an upload record, it follows a zero
/// byte, and 0x00 0xff is an escaped byte of the object id (`rows/session.rs`).
const TIME_MAX_MILLIS: u64 = (0xff << 40) - 1;

/// Id of a multipart upload. It cannot be guessed, and is valid only for the object of the upload.
///
/// The text form has 44 hexadecimal digits at present and needs no escaping in a path or URL. Do
/// not parse it. The ids of the uploads of an object are ordered by start time.
///
/// ```text
/// +------------------------+-----------------+
/// | ms since 1970, 6 bytes | 128 random bits |
/// | big endian             |                 |
/// +------------------------+-----------------+
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct UploadId([u8; UPLOAD_ID_BYTES]);

impl UploadId {
    /// Creates the id of an upload that starts at `now`, with these 128 random bits. Times after
    /// the year 10,889 are clamped.
    pub fn new(now: Timestamp, random: [u64; 2]) -> Self {
        let mut bytes = [0; UPLOAD_ID_BYTES];
        let millis = now.as_millis().min(TIME_MAX_MILLIS);
        // The clamped time has no bits in its upper two bytes.
        bytes[..TIME_BYTES].copy_from_slice(&millis.to_be_bytes()[8 - TIME_BYTES..]);
        bytes[TIME_BYTES..TIME_BYTES + 8].copy_from_slice(&random[0].to_be_bytes());
        bytes[TIME_BYTES + 8..].copy_from_slice(&random[1].to_be_bytes());
        Self(bytes)
    }

    /// Returns the start time of the upload. It distinguishes the uploads of an object in places
    /// where the id must stay secret.
    pub fn begun(&self) -> Timestamp {
        let mut millis = [0; 8];
        millis[8 - TIME_BYTES..].copy_from_slice(&self.0[..TIME_BYTES]);
        Timestamp::from_millis(u64::from_be_bytes(millis))
    }

    /// Returns the bytes of the id, which the index uses in keys.
    pub fn as_bytes(&self) -> &[u8; UPLOAD_ID_BYTES] {
        &self.0
    }

    /// Creates the id from its bytes. Returns `None` if their number is wrong.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for UploadId {
    /// Writes the start time only: the random bits are secret and must not appear in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UploadId(begun={})", self.begun().as_millis())
    }
}

impl FromStr for UploadId {
    type Err = Error;

    /// # Errors
    /// [`ErrorKind::Invalid`] if the text is not an upload id. The error is the same as for an
    /// unknown upload.
    fn from_str(text: &str) -> Result<Self> {
        bytes_of_hex(text).map(Self).ok_or_else(no_such_upload)
    }
}

impl From<UploadId> for String {
    fn from(id: UploadId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for UploadId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

/// Returns the error for an upload id that is not that of an upload of this object.
///
/// The error is the same for a forged id, an id of another object and an expired upload, so that it
/// reveals nothing about other uploads.
pub fn no_such_upload() -> Error {
    Error::new(
        ErrorKind::Invalid,
        "multipart",
        "the object has no such upload",
    )
    .with_reason(Reason::NoSuchUpload)
}

/// Number of a part: 1 to [`PARTS_MAX`]. The parts of an object are concatenated in the order of
/// their numbers, which may have gaps.
///
/// ```
/// use cenotaph_storage::PartNumber;
///
/// assert_eq!(PartNumber::new(7).unwrap().get(), 7);
/// assert!(PartNumber::new(0).is_err() && PartNumber::new(10_001).is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u32", try_from = "u32")]
pub struct PartNumber(u16);

impl PartNumber {
    /// Lowest number.
    pub const FIRST: Self = Self(1);

    /// Creates a part number.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the number is out of range.
    pub fn new(number: u32) -> Result<Self> {
        match u16::try_from(number) {
            Ok(number) if (1..=PARTS_MAX).contains(&number) => Ok(Self(number)),
            Ok(_) | Err(_) => {
                let message =
                    format!("part number out of range: number={number} min=1 max={PARTS_MAX}");
                Err(Error::new(ErrorKind::Invalid, "multipart", message))
            }
        }
    }

    /// Returns the number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl From<PartNumber> for u32 {
    fn from(number: PartNumber) -> Self {
        Self::from(number.0)
    }
}

impl TryFrom<u32> for PartNumber {
    type Error = Error;

    fn try_from(number: u32) -> Result<Self> {
        Self::new(number)
    }
}

impl fmt::Display for PartNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Hash of the bytes of a part: xxh3, 128 bit (Collet, <https://xxhash.com>).
///
/// Equal bytes have equal etags. Different bytes have different etags unless they were constructed
/// to collide. The text form has 32 hexadecimal digits.
///
/// ```
/// use cenotaph_storage::PartEtag;
///
/// let etag = PartEtag::of(b"some bytes");
/// assert_eq!(etag.to_string().parse::<PartEtag>().unwrap(), etag);
/// assert_ne!(etag, PartEtag::of(b"other bytes"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartEtag(u128);

impl PartEtag {
    /// Computes the etag of a part with these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(xxhash_rust::xxh3::xxh3_128(bytes))
    }

    /// Creates an etag from its value.
    pub const fn new(value: u128) -> Self {
        Self(value)
    }

    /// Returns the value.
    pub const fn get(self) -> u128 {
        self.0
    }
}

impl fmt::Display for PartEtag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for PartEtag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for PartEtag {
    type Err = Error;

    /// # Errors
    /// [`ErrorKind::Invalid`] if the text is not the text form of a part etag.
    fn from_str(text: &str) -> Result<Self> {
        let bytes = bytes_of_hex::<16>(text).ok_or_else(|| {
            Error::new(
                ErrorKind::Invalid,
                "multipart",
                format!("invalid part etag: text={text:?}"),
            )
        })?;
        Ok(Self(u128::from_be_bytes(bytes)))
    }
}

/// Decodes lower-case hexadecimal digits. Returns `None` if the text has other characters or
/// another length.
pub(crate) fn bytes_of_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    // Lower case only, so that every value has a single text form.
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    let pairs = text.as_bytes().chunks_exact(2);
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_malformed_upload_id_is_refused_like_an_unknown_upload() {
        let id = UploadId::new(Timestamp::from_millis(1 << 40), [1, 2]).to_string();
        for text in [
            "",
            "x",
            &id[1..],
            &id.to_uppercase(),
            &format!("{id}0"),
            "../../../etc/passwd",
        ] {
            if text != id {
                assert_eq!(
                    text.parse::<UploadId>().unwrap_err().to_string(),
                    no_such_upload().to_string(),
                    "{text}"
                );
            }
        }
        assert!(
            id.bytes().all(|byte| byte.is_ascii_alphanumeric()),
            "the text form needs no escaping in a path"
        );
    }

    #[test]
    fn a_time_beyond_the_latest_is_clamped() {
        for millis in [TIME_MAX_MILLIS + 1, 1 << 48, u64::MAX] {
            assert_eq!(
                UploadId::new(Timestamp::from_millis(millis), [1, 2])
                    .begun()
                    .as_millis(),
                TIME_MAX_MILLIS
            );
        }
    }

    proptest! {
        #[test]
        fn an_upload_id_survives_its_encodings_and_orders_by_time(
            a in 0..=TIME_MAX_MILLIS,
            b in 0..=TIME_MAX_MILLIS,
            random in any::<[u64; 2]>(),
        ) {
            let first = Timestamp::from_millis(a);
            let second = Timestamp::from_millis(b);
            let id = UploadId::new(first, random);
            prop_assert_eq!(id.to_string().parse::<UploadId>().unwrap(), id);
            prop_assert_eq!(UploadId::from_slice(id.as_bytes()), Some(id));
            prop_assert_eq!(id.begun(), first);
            if a != b {
                prop_assert_eq!(id < UploadId::new(second, random), a < b);
            }
        }

        #[test]
        fn a_part_etag_survives_its_text_form(value in any::<u128>()) {
            let etag = PartEtag::new(value);
            prop_assert_eq!(etag.to_string().parse::<PartEtag>().unwrap(), etag);
        }

        #[test]
        fn reading_anything_never_panics(text in ".{0,50}") {
            drop(text.parse::<UploadId>());
            drop(text.parse::<PartEtag>());
            drop(text.parse::<crate::Digest>());
        }
    }
}
