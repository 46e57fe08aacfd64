//! The row: the index entry of an object, and the only thing that makes it exist.
//!
//! ```text
//! +-----------+--------------------------------------------------------+------------------+
//! | version=1 | postcard: version, operation, metadata, body kind      | embedded payload |
//! | 1 byte    |   body kind 0 = embedded, 1 = separate, 2 = tombstone  | (kind 0 only)    |
//! |           |   followed by the manifest (kind 2 only)               |                  |
//! +-----------+--------------------------------------------------------+------------------+
//! ```
//!
//! Guards I2 together with `swap.rs`: nothing else makes a tombstone. The last committing operation is in the row,
//! which makes a repeated swap recognisable and is the source of the etag.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::codec;
use super::manifest::Manifest;
use super::metadata::Metadata;
use crate::error::Result;
use crate::word::{Etag, OperationId, RevisionId, Version};

/// Longest payload that stays in the row itself, in bytes. Longer inline payloads lie in the payload table.
pub const EMBEDDED_BYTES_MAX: usize = 4 * 1024;

const FORMAT: u8 = 1;

/// The index entry of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Which committed write of the object this is.
    pub version: Version,
    /// The operation that committed it.
    pub operation: OperationId,
    /// Everything known about the object without its bytes.
    pub metadata: Metadata,
    /// Where the bytes are.
    pub body: Body,
}

/// Where the bytes of an object are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// In the row.
    Embedded(Bytes),
    /// In the payload table, under the row's operation.
    Separate,
    /// In the blob tier: this row is a tombstone.
    Tombstone(Manifest),
}

#[derive(Serialize, Deserialize)]
struct Head {
    version: Version,
    operation: OperationId,
    metadata: Metadata,
    body: BodyKind,
}

#[derive(Serialize, Deserialize)]
enum BodyKind {
    Embedded,
    Separate,
    Tombstone(Manifest),
}

impl Row {
    /// The public spelling of this committed write.
    pub fn etag(&self) -> Etag {
        Etag::of(&self.operation)
    }

    /// The revisions it names: none unless it is a tombstone.
    pub fn revisions(&self) -> Vec<RevisionId> {
        match &self.body {
            Body::Embedded(_) | Body::Separate => Vec::new(),
            Body::Tombstone(manifest) => manifest.revisions().collect(),
        }
    }

    /// Whether it is a tombstone that names this revision.
    pub fn names(&self, revision: RevisionId) -> bool {
        match &self.body {
            Body::Embedded(_) | Body::Separate => false,
            Body::Tombstone(manifest) => manifest.names(revision),
        }
    }

    /// As stored.
    pub fn encode(&self) -> Bytes {
        let (body, tail) = match &self.body {
            Body::Embedded(payload) => (BodyKind::Embedded, Some(payload)),
            Body::Separate => (BodyKind::Separate, None),
            Body::Tombstone(manifest) => (BodyKind::Tombstone(manifest.clone()), None),
        };
        let head = Head { version: self.version, operation: self.operation, metadata: self.metadata.clone(), body };
        let mut value = codec::encode(FORMAT, &head);
        if let Some(payload) = tail {
            value.extend_from_slice(payload);
        }
        value.into()
    }

    /// From what is stored.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) or [`UnknownFormat`](crate::ErrorKind::UnknownFormat).
    pub fn decode(value: &Bytes) -> Result<Self> {
        let (head, tail) = codec::decode_with_tail::<Head>("row", FORMAT, value)?;
        let size = head.metadata.size;
        let body = match head.body {
            BodyKind::Embedded if tail.len() as u64 == size => Body::Embedded(tail),
            BodyKind::Separate if tail.is_empty() => Body::Separate,
            BodyKind::Tombstone(manifest)
                if tail.is_empty()
                    && manifest.extents.iter().try_fold(0u64, |sum, e| sum.checked_add(e.bytes)) == Some(size) =>
            {
                Body::Tombstone(manifest)
            }
            BodyKind::Embedded | BodyKind::Separate | BodyKind::Tombstone(_) => {
                return Err(codec::corrupt("row", "its size and its body disagree"));
            }
        };
        Ok(Self { version: head.version, operation: head.operation, metadata: head.metadata, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::Checksum;
    use crate::rows::codec::fixture::{assert_golden, assert_later_format_refused, assert_robust};
    use crate::rows::{Attributes, Extent};
    use crate::word::Timestamp;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn row(size: u64, body: Body) -> Row {
        Row {
            version: Version::new(300),
            operation: OperationId::from_uuid(Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff)),
            metadata: Metadata {
                size,
                checksum: Some(Checksum::new(0x0102_0304)),
                created: Timestamp::from_millis(1000),
                modified: Timestamp::from_millis(2000),
                attributes: Attributes {
                    content_type: Some("text/plain".into()),
                    custom: [("k".to_owned(), "v".to_owned())].into(),
                    ..Attributes::default()
                },
            },
            body,
        }
    }

    fn tombstone() -> Row {
        let extent =
            Extent { revision: RevisionId::from_uuid(Uuid::from_u128(9)), bytes: 77, checksum: Checksum::new(5) };
        row(77, Body::Tombstone(Manifest::of(extent)))
    }

    #[test]
    fn the_stored_form_of_an_embedded_row_is_stable() {
        let encoded = row(5, Body::Embedded(Bytes::from_static(b"hello"))).encode();
        assert_golden(
            &encoded,
            "01 ac02 10 00112233445566778899aabbccddeeff 05 01 84868808 e807 d00f 01 0a 746578742f706c61696e 00 00 00 01 016b 0176 00 68656c6c6f",
        );
        assert_later_format_refused(&encoded, Row::decode);
        assert_robust(&encoded, Row::decode);
    }

    #[test]
    fn the_stored_form_of_a_tombstone_is_stable() {
        let encoded = tombstone().encode();
        assert_golden(
            &encoded,
            "01 ac02 10 00112233445566778899aabbccddeeff 4d 01 84868808 e807 d00f 01 0a 746578742f706c61696e 00 00 00 01 016b 0176 02 01 10 00000000000000000000000000000009 4d 05",
        );
        assert_robust(&encoded, Row::decode);
    }

    #[test]
    fn a_row_whose_size_and_body_disagree_is_corrupt() {
        let mut lying = tombstone();
        lying.metadata.size += 1;
        assert_eq!(Row::decode(&lying.encode()).unwrap_err().kind(), crate::ErrorKind::Corrupt);
    }

    proptest! {
        #[test]
        fn a_row_survives_its_encoding(payload in proptest::collection::vec(any::<u8>(), 0..100), version in 1u64.., separate in any::<bool>()) {
            let mut original = if separate {
                row(payload.len() as u64, Body::Separate)
            } else {
                row(payload.len() as u64, Body::Embedded(payload.into()))
            };
            original.version = Version::new(version);
            prop_assert_eq!(Row::decode(&original.encode()).unwrap(), original);
        }

        #[test]
        fn decoding_anything_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop(Row::decode(&bytes.into()));
        }
    }
}
