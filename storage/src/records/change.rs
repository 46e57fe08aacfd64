//! The change: the durable record of the intent of a write that is about to touch the blob tier.
//!
//! ```text
//! key:   operation id, 16 bytes (time-ordered)
//! value: +-----------+--------------------------------------------+
//!        | version=1 | postcard: epoch, started, object, revisions |
//!        +-----------+--------------------------------------------+
//! ```
//!
//! Guards I1: a change is durable before the first byte is sent to the blob tier. A change has no
//! phase: it is *live* while its entry exists. Commit and fence both end it by removing the entry
//! in their own batch (I3, I6; docs/adr/0001).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::codec;
use crate::types::ObjectId;
use crate::types::Result;
use crate::types::{Epoch, RevisionId, Timestamp};

const FORMAT: u8 = 1;

/// Record of a write that may have created blobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Epoch of the engine that started the write.
    pub epoch: Epoch,
    /// Time of recording.
    pub started: Timestamp,
    /// Object that the write targets.
    pub object: ObjectId,
    /// Revisions that the write may have created in the blob tier.
    pub revisions: Vec<RevisionId>,
}

impl Change {
    /// Encodes the change for storage.
    pub fn encode(&self) -> Bytes {
        codec::encode(FORMAT, self).into()
    }

    /// Decodes a stored change.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) or
    /// [`UnknownFormat`](crate::ErrorKind::UnknownFormat).
    pub fn decode(value: &Bytes) -> Result<Self> {
        codec::decode("change", FORMAT, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::codec::fixture::{
        assert_golden, assert_later_format_refused, assert_robust,
    };
    use proptest::prelude::*;
    use uuid::Uuid;

    fn change(epoch: u64, key: &str, revisions: &[u128]) -> Change {
        Change {
            epoch: Epoch::new(epoch),
            started: Timestamp::from_millis(1000),
            object: ObjectId::try_from(key).unwrap(),
            revisions: revisions
                .iter()
                .map(|&n| RevisionId::from_uuid(Uuid::from_u128(n)))
                .collect(),
        }
    }

    #[test]
    fn the_stored_form_is_stable() {
        let encoded = change(3, "a/b", &[7]).encode();
        assert_golden(
            &encoded,
            "01 03 e807 0b 64656661756c7400612f62 01 10 00000000000000000000000000000007",
        );
        assert_later_format_refused(&encoded, Change::decode);
        assert_robust(&encoded, Change::decode);
    }

    proptest! {
        #[test]
        fn a_change_survives_its_encoding(
            epoch in any::<u64>(),
            key in ".{1,30}",
            revisions in proptest::collection::vec(any::<u128>(), 0..5),
        ) {
            let original = change(epoch, &key, &revisions);
            prop_assert_eq!(Change::decode(&original.encode()).unwrap(), original);
        }
    }
}
