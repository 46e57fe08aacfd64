//! Which store an index holds, and whether its blob tier carries the marker: [`StoreRecord`], in
//! the meta table.
//!
//! ```text
//! key "store"  value: version=1, postcard: id (16 bytes), tier (0 = Pending, 1 = Claimed)
//! ```
//!
//! Guards I11 together with the marker in the blob tier. `Pending` is durable before the marker is
//! written, `Claimed` only after it is durable: a tier without a marker is an interrupted creation
//! in the first case, and the wrong tier in the second.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::codec;
use super::meta::commit;
use crate::error::Result;
use crate::index::{Batch, Index, Table};
use crate::word::StoreId;

const FORMAT: u8 = 1;

/// Key of the record in the meta table.
pub const STORE_KEY: &[u8] = b"store";

/// State of the blob tier of a store, as its index knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TierState {
    /// The marker may or may not be in the blob tier: taking it was begun.
    Pending,
    /// The marker is durable in the blob tier.
    Claimed,
}

/// The store that an index holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreRecord {
    /// Its id.
    pub id: StoreId,
    /// State of its blob tier.
    pub tier: TierState,
}

impl StoreRecord {
    /// The stored form.
    pub fn encode(&self) -> Bytes {
        codec::encode(FORMAT, self).into()
    }

    /// The record from its stored form.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) or
    /// [`UnknownFormat`](crate::ErrorKind::UnknownFormat).
    pub fn decode(value: &Bytes) -> Result<Self> {
        codec::decode("store record", FORMAT, value)
    }

    /// Reads the record of an index; none if the index is new or was last opened by a build without
    /// store ids.
    ///
    /// # Errors
    /// As [`decode`](Self::decode) and as reading the index.
    pub async fn read(index: &dyn Index) -> Result<Option<Self>> {
        index
            .get(Table::Meta, STORE_KEY)
            .await?
            .as_ref()
            .map(Self::decode)
            .transpose()
    }

    /// Makes the record durable.
    pub(crate) async fn write(self, index: &Arc<dyn Index>) -> Result<()> {
        let mut batch = Batch::new();
        batch.put(Table::Meta, STORE_KEY, self.encode());
        commit(index, batch).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::codec::fixture::{assert_golden, assert_later_format_refused, assert_robust};
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
