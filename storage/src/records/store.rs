//! The store record: the id of the store and the state of its blob tier, in the meta table.
//!
//! ```text
//! key "store"  value: version=1, postcard: id (16 bytes), tier (0 = Pending, 1 = Claimed)
//! ```
//!
//! Guards I11 together with the marker in the blob tier. `Pending` is durable before the marker is
//! written, and `Claimed` is written only after the marker is durable. A tier without a marker is
//! therefore an interrupted creation if the record is `Pending`, and the wrong tier if it is
//! `Claimed`.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::codec;
use super::meta::commit;
use crate::index::{Batch, Index, Table};
use crate::types::Result;
use crate::types::StoreId;

const FORMAT: u8 = 1;

/// Key of the record in the meta table.
pub const STORE_KEY: &[u8] = b"store";

/// State of the blob tier of a store, as recorded in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TierState {
    /// Claiming the tier has started. The marker may or may not be in the blob tier.
    Pending,
    /// The marker is durable in the blob tier.
    Claimed,
}

/// Record of the store that an index holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreRecord {
    /// Id of the store.
    pub id: StoreId,
    /// State of the blob tier.
    pub tier: TierState,
}

impl StoreRecord {
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
        codec::decode("store record", FORMAT, value)
    }

    /// Reads the record of an index. Returns `None` if the index is new or was last opened by a
    /// build without store ids.
    ///
    /// # Errors
    /// Those of [`decode`](Self::decode) and of reading the index.
    pub async fn read(index: &dyn Index) -> Result<Option<Self>> {
        index
            .get(Table::Meta, STORE_KEY)
            .await?
            .as_ref()
            .map(Self::decode)
            .transpose()
    }

    /// Commits the record durably.
    pub(crate) async fn write(self, index: &Arc<dyn Index>) -> Result<()> {
        let mut batch = Batch::new();
        batch.put(Table::Meta, STORE_KEY, self.encode());
        commit(index, batch).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::codec::fixture::{
        assert_golden, assert_later_format_refused, assert_robust,
    };
    use uuid::Uuid;

    #[test]
    fn the_stored_form_of_a_store_record_is_stable() {
        let id = StoreId::from_uuid(Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10));
        for (tier, last) in [(TierState::Pending, "00"), (TierState::Claimed, "01")] {
            let record = StoreRecord { id, tier };
            let encoded = record.encode();
            assert_golden(
                &encoded,
                &format!("01 10 0102030405060708090a0b0c0d0e0f10 {last}"),
            );
            assert_eq!(StoreRecord::decode(&encoded).unwrap(), record);
            assert_later_format_refused(&encoded, StoreRecord::decode);
            assert_robust(&encoded, StoreRecord::decode);
        }
    }
}
