//! The change: the durable intent of a write that is about to touch the blob tier.
//!
//! ```text
//! key:   operation id, 16 bytes (time-ordered)
//! value: +-----------+--------------------------------------------+
//!        | version=1 | postcard: epoch, started, object, revisions |
//!        +-----------+--------------------------------------------+
//! ```
//!
//! Guards I1: it is durable before the first byte goes out. It has no phase: it is *live* while it
//! exists, and both ends of its life, commit and fence, are the one batch that removes it (I3, I6;
//! docs/adr/0001).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::codec;
use crate::error::Result;
use crate::id::ObjectId;
use crate::word::{Epoch, RevisionId, Timestamp};

const FORMAT: u8 = 1;

/// A write that may have left something in the blob tier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The incarnation of the engine whose write it is.
    pub epoch: Epoch,
    /// When it was recorded.
    pub started: Timestamp,
    /// The object it writes.
    pub object: ObjectId,
    /// The revisions it may leave in the blob tier.
    pub revisions: Vec<RevisionId>,
}

impl Change {
    /// As stored.
    pub fn encode(&self) -> Bytes {
        codec::encode(FORMAT, self).into()
    }

    /// From what is stored.
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
    use crate::rows::codec::fixture::{assert_golden, assert_later_format_refused, assert_robust};
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
        fn a_change_survives_its_encoding(epoch in any::<u64>(), key in ".{1,30}", revisions in proptest::collection::vec(any::<u128>(), 0..5)) {
            let original = change(epoch, &key, &revisions);
            prop_assert_eq!(Change::decode(&original.encode()).unwrap(), original);
        }
    }
}
