//! The block checksums of a revision. They are stored outside the row, so that `head` and `list` do
//! not read them.
//!
//! ```text
//! +-----------+-------------------------------+
//! | version=1 | block checksums               |
//! | 1 byte    | 8 bytes each, little endian   |
//! +-----------+-------------------------------+
//! ```
//!
//! The key in the payload table is the id of the revision. The same table holds inline payloads
//! without an envelope, under the id of the operation that wrote them. Both kinds of entries are
//! written once, and removed in the batch that removes the last reference from the row (I3).

use bytes::Bytes;

use super::codec::corrupt;
use crate::types::Checksum;
use crate::types::{Error, ErrorKind, Result};

const FORMAT: u8 = 1;

/// Checksums of the blocks of a revision, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockChecksums(pub Vec<Checksum>);

impl BlockChecksums {
    /// Encodes the checksums for storage.
    pub fn encode(&self) -> Bytes {
        let mut value = Vec::with_capacity(1 + 8 * self.0.len());
        value.push(FORMAT);
        value.extend(
            self.0
                .iter()
                .flat_map(|checksum| checksum.get().to_le_bytes()),
        );
        value.into()
    }

    /// Decodes stored checksums.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] or [`ErrorKind::UnknownFormat`].
    pub fn decode(value: &Bytes) -> Result<Self> {
        match value.split_first() {
            Some((&FORMAT, body)) if body.len().is_multiple_of(8) => Ok(Self(
                body.chunks_exact(8)
                    .map(|word| {
                        Checksum::new(u64::from_le_bytes(word.try_into().expect("a chunk of 8")))
                    })
                    .collect(),
            )),
            None | Some((&FORMAT, _)) => Err(corrupt("block checksums", "wrong length")),
            Some((found, _)) => {
                let message =
                    format!("block checksums of an unknown format: found={found} known={FORMAT}");
                Err(Error::new(ErrorKind::UnknownFormat, "decode", message))
            }
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
        let encoded = BlockChecksums(vec![Checksum::new(1), Checksum::new(0xfeed)]).encode();
        assert_golden(&encoded, "01 0100000000000000 edfe000000000000");
        assert_later_format_refused(&encoded, BlockChecksums::decode);
    }

    proptest! {
        #[test]
        fn checksums_survive_their_encoding(
            values in proptest::collection::vec(any::<u64>(), 0..50),
        ) {
            let checksums = BlockChecksums(values.into_iter().map(Checksum::new).collect());
            prop_assert_eq!(BlockChecksums::decode(&checksums.encode()).unwrap(), checksums);
        }
    }
}
