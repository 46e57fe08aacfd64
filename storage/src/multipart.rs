//! The words of multipart uploads: [`UploadId`], [`PartNumber`], [`PartEtag`].
//!
//! Newtypes that are checked at the border. Deliberately not here: what is stored of an upload
//! (`rows/session.rs`, `rows/part.rs`) and what may become of it (`swap/session.rs`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Reason, Result};
use crate::word::Timestamp;

/// Highest number of a part, and with it most parts of one upload: those of S3.
pub const PARTS_MAX: u16 = 10_000;

/// Bytes of an upload id.
pub(crate) const UPLOAD_ID_BYTES: usize = 22;
const TIME_BYTES: usize = 6;
/// The latest time in an upload id: about the year 10,889. Its first byte is never 0xff, which in
/// the key of a session would be taken for a piece of the object's id (`rows/session.rs`).
const TIME_MAX_MILLIS: u64 = (0xff << 40) - 1;

/// Names one multipart upload. It is known to nobody but whom it is told, and good for nothing but
/// the object that the upload is for.
///
/// It is written and read as text, 44 hexadecimal digits today, which may stand in a path or a URL
/// as they are; do not take it apart. The uploads of one object order by it as they were begun.
///
/// ```text
/// +-----------------------+--------------------------+
/// | ms since 1970, 6 bytes | 128 random bits          |
/// | big endian             | (guesses never hit)      |
/// +-----------------------+--------------------------+
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct UploadId([u8; UPLOAD_ID_BYTES]);

impl UploadId {
    /// The id of an upload that begins now, or in the year 10,889 if that is later, with these 128
    /// random bits.
    pub fn new(now: Timestamp, random: [u64; 2]) -> Self {
        let mut bytes = [0; UPLOAD_ID_BYTES];
        let millis = now.as_millis().min(TIME_MAX_MILLIS);
        bytes[..TIME_BYTES].copy_from_slice(&millis.to_be_bytes()[8 - TIME_BYTES..]);
        bytes[TIME_BYTES..TIME_BYTES + 8].copy_from_slice(&random[0].to_be_bytes());
        bytes[TIME_BYTES + 8..].copy_from_slice(&random[1].to_be_bytes());
        Self(bytes)
    }

    /// When the upload began. It tells the uploads of one object apart where the id must not be
    /// told.
    pub fn begun(&self) -> Timestamp {
        let mut millis = [0; 8];
        millis[8 - TIME_BYTES..].copy_from_slice(&self.0[..TIME_BYTES]);
        Timestamp::from_millis(u64::from_be_bytes(millis))
    }

    /// Its bytes, as the index files it.
    pub fn as_bytes(&self) -> &[u8; UPLOAD_ID_BYTES] {
        &self.0
    }

    /// From such bytes; none if there are not as many.
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
    /// Without its random bits, which nobody should find in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UploadId(begun={})", self.begun().as_millis())
    }
}

impl FromStr for UploadId {
    type Err = Error;

    /// # Errors
    /// [`ErrorKind::Invalid`] if no upload id is spelled so: the same as for one that names no
    /// upload.
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

/// What everybody hears whose upload id is not that of an open upload of this object: forged, of
/// another object, or ended long ago. It does not tell which.
pub fn no_such_upload() -> Error {
    Error::new(
        ErrorKind::Invalid,
        "multipart",
        "the object has no such upload",
    )
    .with_reason(Reason::NoSuchUpload)
}

/// The number of a part: 1 to [`PARTS_MAX`]. The parts of an object follow each other in the order
/// of their numbers, which may have gaps.
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
    /// The lowest.
    pub const FIRST: Self = Self(1);

    /// The part with this number.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if it is out of bounds.
    pub fn new(number: u32) -> Result<Self> {
        match u16::try_from(number) {
            Ok(number) if (1..=PARTS_MAX).contains(&number) => Ok(Self(number)),
            Ok(_) | Err(_) => {
                let message =
                    format!("no part has such a number: number={number} min=1 max={PARTS_MAX}");
                Err(Error::new(ErrorKind::Invalid, "multipart", message))
            }
        }
    }

    /// The number.
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

/// The hash of a part's bytes: the same bytes have the same one, whoever uploads them and when.
/// xxh3, 128 bit (Collet, <https://xxhash.com>): other bytes have another one, short of somebody
/// who seeks two that have not.
///
/// Written and read as 32 hexadecimal digits.
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
    /// The etag of a part with these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(xxhash_rust::xxh3::xxh3_128(bytes))
    }

    /// The etag with this value.
    pub const fn new(value: u128) -> Self {
        Self(value)
    }

    /// Its value.
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
    /// [`ErrorKind::Invalid`] if no part's etag is spelled so.
    fn from_str(text: &str) -> Result<Self> {
        let bytes = bytes_of_hex::<16>(text).ok_or_else(|| {
            Error::new(
                ErrorKind::Invalid,
                "multipart",
                format!("no part's etag is spelled so: text={text:?}"),
            )
        })?;
        Ok(Self(u128::from_be_bytes(bytes)))
    }
}

/// The bytes that are spelled in lower-case hexadecimal digits; none if they are not, or not as
/// many.
pub(crate) fn bytes_of_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
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
    fn what_is_no_upload_id_is_refused_like_an_unknown_one() {
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
            "it may stand in a path"
        );
    }

    #[test]
    fn a_time_beyond_the_last_one_is_the_last_one() {
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
        fn an_upload_id_is_spelled_and_read_and_orders_by_time(a in 0..=TIME_MAX_MILLIS, b in 0..=TIME_MAX_MILLIS, random in any::<[u64; 2]>()) {
            let (first, second) = (Timestamp::from_millis(a), Timestamp::from_millis(b));
            let id = UploadId::new(first, random);
            prop_assert_eq!(id.to_string().parse::<UploadId>().unwrap(), id);
            prop_assert_eq!(UploadId::from_slice(id.as_bytes()), Some(id));
            prop_assert_eq!(id.begun(), first);
            if a != b {
                prop_assert_eq!(id < UploadId::new(second, random), a < b);
            }
        }

        #[test]
        fn a_part_etag_survives_its_spelling(value in any::<u128>()) {
            prop_assert_eq!(PartEtag::new(value).to_string().parse::<PartEtag>().unwrap(), PartEtag::new(value));
        }

        #[test]
        fn reading_anything_never_panics(text in ".{0,50}") {
            drop((text.parse::<UploadId>(), text.parse::<PartEtag>(), text.parse::<crate::Digest>()));
        }
    }
}
