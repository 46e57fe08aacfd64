//! The part entry: a durable part of a multipart upload.
//!
//! ```text
//! key:   +------+-----------+------------------------+
//!        | 0x01 | upload id | number, u16 big endian |    ordered by upload, then by number
//!        +------+-----------+------------------------+
//! value: +-----------+--------------------------------------+
//!        | version=1 | postcard: extent, etag, uploaded     |    a part
//!        +-----------+--------------------------------------+
//!        | version=1 | 0x00                                 |    a part that was lost
//!        +-----------+--------------------------------------+
//! ```
//!
//! A part names a revision, as a row does. The blob of a part exists from the commit of the part,
//! with its block checksums in the payload table, until a part with the same number replaces it or
//! the upload ends. Guards I2 by its type, like the manifest that takes over the extent.
//!
//! If a scrub gives up a part whose bytes are lost, it marks the part as lost instead of removing
//! the entry. Without the mark, a completion that lists all present parts would silently make an
//! object without these bytes. The mark is replaced when the part is uploaded again.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::codec::{self, corrupt};
use super::manifest::Extent;
use crate::types::Result;
use crate::types::Timestamp;
use crate::types::{PartEtag, PartNumber, UPLOAD_ID_BYTES, UploadId};

const FORMAT: u8 = 1;
const TAG: u8 = 1;
/// Value of the mark of a lost part. The value of a part never has 0 here, because the length of
/// the revision id (16) is encoded first.
const LOST: [u8; 2] = [FORMAT, 0];

/// A part of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Revision that holds all bytes of the part.
    pub extent: Extent,
    /// Hash of the bytes.
    pub etag: PartEtag,
    /// Time at which the part became durable.
    pub uploaded: Timestamp,
}

/// Entry under the number of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filed {
    /// The part.
    Part(Part),
    /// Mark of a part that a scrub has given up.
    Lost,
}

/// Stored form of a part.
#[derive(Serialize, Deserialize)]
struct Stored {
    extent: Extent,
    etag: u128,
    uploaded: Timestamp,
}

impl Part {
    /// Encodes the part for storage.
    pub fn encode(&self) -> Bytes {
        let Self {
            extent,
            etag,
            uploaded,
        } = *self;
        codec::encode(
            FORMAT,
            &Stored {
                extent,
                etag: etag.get(),
                uploaded,
            },
        )
        .into()
    }
}

impl Filed {
    /// Encodes the entry for storage.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Part(part) => part.encode(),
            Self::Lost => Bytes::from_static(&LOST),
        }
    }

    /// Decodes a stored entry.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) or
    /// [`UnknownFormat`](crate::ErrorKind::UnknownFormat).
    pub fn decode(value: &Bytes) -> Result<Self> {
        // The mark is no encoding of a part, and is compared before decoding.
        if value[..] == LOST {
            return Ok(Self::Lost);
        }
        let Stored {
            extent,
            etag,
            uploaded,
        } = codec::decode("part", FORMAT, value)?;
        Ok(Self::Part(Part {
            extent,
            etag: PartEtag::new(etag),
            uploaded,
        }))
    }

    /// Returns the part, or `None` if it is lost.
    pub fn part(self) -> Option<Part> {
        match self {
            Self::Part(part) => Some(part),
            Self::Lost => None,
        }
    }
}

/// Returns the key of a part of an upload.
pub fn part_key(upload: &UploadId, number: PartNumber) -> Bytes {
    [&parts_prefix(upload)[..], &number.get().to_be_bytes()]
        .concat()
        .into()
}

/// Returns the prefix that the keys of the parts of an upload share, and no other key has.
pub fn parts_prefix(upload: &UploadId) -> Vec<u8> {
    [&[TAG][..], upload.as_bytes()].concat()
}

/// Returns the prefix that the keys of all parts share, and no other key has.
pub fn all_parts_prefix() -> [u8; 1] {
    [TAG]
}

/// Returns `true` if a key of the session table is that of a part, and `false` if it is that of an
/// upload record.
pub fn is_part_key(key: &[u8]) -> bool {
    key.first() == Some(&TAG)
}

/// Decodes the key of a part into its upload and number.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if the key is not that of a part.
pub fn read_part_key(key: &[u8]) -> Result<(UploadId, PartNumber)> {
    let malformed = || corrupt("part", "malformed key");
    let (tag, rest) = key.split_first().ok_or_else(malformed)?;
    let (upload, number) = rest
        .split_at_checked(UPLOAD_ID_BYTES)
        .filter(|_| *tag == TAG)
        .ok_or_else(malformed)?;
    let upload = UploadId::from_slice(upload).ok_or_else(malformed)?;
    let number = u16::from_be_bytes(number.try_into().map_err(|_| malformed())?);
    Ok((
        upload,
        PartNumber::new(u32::from(number)).map_err(|error| malformed().with_source(error))?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::codec::fixture::{
        assert_golden, assert_later_format_refused, assert_robust,
    };
    use crate::types::Checksum;
    use crate::types::RevisionId;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn part(revision: u128, bytes: u64, checksum: u64, etag: u128) -> Part {
        let revision = RevisionId::from_uuid(Uuid::from_u128(revision));
        let extent = Extent {
            revision,
            bytes,
            checksum: Checksum::new(checksum),
        };
        Part {
            extent,
            etag: PartEtag::new(etag),
            uploaded: Timestamp::from_millis(1000),
        }
    }

    #[test]
    fn the_stored_form_is_stable() {
        let encoded = part(7, 300, 1, 5).encode();
        assert_golden(
            &encoded,
            "01 10 00000000000000000000000000000007 ac02 01 05 e807",
        );
        assert_later_format_refused(&encoded, Filed::decode);
        assert_robust(&encoded, Filed::decode);
        let lost = Filed::Lost.encode();
        assert_golden(&lost, "01 00");
        assert_later_format_refused(&lost, Filed::decode);
        assert_robust(&lost, Filed::decode);
        assert_eq!(Filed::decode(&lost).unwrap(), Filed::Lost);
        let upload = UploadId::new(Timestamp::from_millis(1), [1, 2]);
        let key = part_key(&upload, PartNumber::new(258).unwrap());
        assert_golden(
            &key,
            "01 000000000001 0000000000000001 0000000000000002 0102",
        );
    }

    proptest! {
        #[test]
        fn a_part_survives_its_encoding(
            revision in any::<u128>(),
            bytes in any::<u64>(),
            checksum in any::<u64>(),
            etag in any::<u128>(),
        ) {
            let original = part(revision, bytes, checksum, etag);
            prop_assert_eq!(Filed::decode(&original.encode()).unwrap(), Filed::Part(original));
        }

        #[test]
        fn keys_order_by_number_and_are_read(
            a in 1u32..=10_000,
            b in 1u32..=10_000,
            random in any::<[u64; 2]>(),
        ) {
            let upload = UploadId::new(Timestamp::from_millis(1), random);
            let [first, second] = [a, b].map(|number| PartNumber::new(number).unwrap());
            prop_assert_eq!(part_key(&upload, first).cmp(&part_key(&upload, second)), a.cmp(&b));
            prop_assert_eq!(read_part_key(&part_key(&upload, first)).unwrap(), (upload, first));
            prop_assert!(is_part_key(&part_key(&upload, first)));
        }

        #[test]
        fn reading_anything_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            drop(read_part_key(&bytes));
        }
    }
}
