//! The block checksums of a revision, kept beside the row so that head and list never read them.
//!
//! ```text
//! +-----------+-------------------------------+
//! | version=1 | block checksums               |
//! | 1 byte    | 8 bytes each, little endian   |
//! +-----------+-------------------------------+
//! ```
//!
//! Filed in the payload table under the revision's id. Inline payloads lie in the same table, raw,
//! under the id of the operation that wrote them. Both are written once and removed in the batch
//! that makes the row stop naming them (I3).

use bytes::Bytes;

use super::codec::corrupt;
use crate::checksum::Checksum;
use crate::error::{Error, ErrorKind, Result};

const FORMAT: u8 = 1;

/// The checksums of a revision's blocks, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockChecksums(pub Vec<Checksum>);

impl BlockChecksums {
    /// As stored.
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

    /// From what is stored.
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
    use crate::rows::codec::fixture::{assert_golden, assert_later_format_refused};
    use proptest::prelude::*;

    #[test]
    fn the_stored_form_is_stable() {
        let encoded = BlockChecksums(vec![Checksum::new(1), Checksum::new(0xfeed)]).encode();
        assert_golden(&encoded, "01 0100000000000000 edfe000000000000");
        assert_later_format_refused(&encoded, BlockChecksums::decode);
    }

    proptest! {
        #[test]
        fn checksums_survive_their_encoding(values in proptest::collection::vec(any::<u64>(), 0..50)) {
            let checksums = BlockChecksums(values.into_iter().map(Checksum::new).collect());
            prop_assert_eq!(BlockChecksums::decode(&checksums.encode()).unwrap(), checksums);
        }
    }
}
