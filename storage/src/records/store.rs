//! The store record: the id of the store and the state of its blob tier, in the meta table.
//!
//! ```text
//! key "store"  value: version=1, postcard: id (16 bytes), tier (0 = Pending, 1 = Claimed)
//!                     version=2, postcard: id, current tier, older tiers, next tier and its place
//!                                a tier is its number and its id, which the first one does not have
//! ```
//!
//! Version 2 is written as soon as the store is moved from its first tier, so that earlier builds
//! refuse a store whose blobs they can't find.
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
use crate::types::{Result, StoreId, TierId, TierMark, TierNumber};

const FORMAT: u8 = 1;
/// Format of the record of a store that has had more than one blob tier.
const SEVERAL: u8 = 2;

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

/// A blob tier of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumberedTier {
    /// Number of the tier, which the ids of its revisions contain.
    pub number: TierNumber,
    /// Id of the tier, which its marker contains; `None` for the first tier.
    pub id: Option<TierId>,
}

impl NumberedTier {
    /// The first tier of a store.
    pub const FIRST: Self = Self {
        number: TierNumber::FIRST,
        id: None,
    };
}

/// Record of the store that an index holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreRecord {
    /// Id of the store.
    pub id: StoreId,
    /// State of the current blob tier.
    pub tier: TierState,
    /// Current blob tier.
    pub current: NumberedTier,
    /// Tiers that were current before, and may still hold revisions.
    pub older: Vec<NumberedTier>,
    /// Tier that is being added. Its marker may or may not be in its place.
    pub next: Option<NextTier>,
}

/// A tier that is being added to a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextTier {
    /// The tier.
    pub tier: NumberedTier,
    /// Location of the tier, as in messages.
    pub place: String,
}

/// Stored form of a record with one tier.
#[derive(Serialize, Deserialize)]
struct StoredFirst {
    id: StoreId,
    tier: TierState,
}

/// Stored form of a record with several tiers. Such a store has claimed its current tier.
#[derive(Serialize, Deserialize)]
struct StoredSeveral {
    id: StoreId,
    current: NumberedTier,
    older: Vec<NumberedTier>,
    next: Option<NextTier>,
}

impl StoreRecord {
    /// Creates the record of a store with its first blob tier in this state.
    pub fn new(id: StoreId, tier: TierState) -> Self {
        Self {
            id,
            tier,
            current: NumberedTier::FIRST,
            older: Vec::new(),
            next: None,
        }
    }

    /// Returns the mark of a tier of the store.
    pub fn mark(&self, tier: NumberedTier) -> TierMark {
        TierMark {
            store: self.id,
            tier: tier.id,
        }
    }

    /// Encodes the record for storage.
    pub fn encode(&self) -> Bytes {
        let (id, tier, current) = (self.id, self.tier, self.current);
        if current == NumberedTier::FIRST && self.next.is_none() {
            return codec::encode(FORMAT, &StoredFirst { id, tier }).into();
        }
        let several = StoredSeveral {
            id,
            current,
            older: self.older.clone(),
            next: self.next.clone(),
        };
        codec::encode(SEVERAL, &several).into()
    }

    /// Decodes a stored record.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) or
    /// [`UnknownFormat`](crate::ErrorKind::UnknownFormat).
    pub fn decode(value: &Bytes) -> Result<Self> {
        if value.first() == Some(&FORMAT) {
            let StoredFirst { id, tier } = codec::decode("store record", FORMAT, value)?;
            return Ok(Self::new(id, tier));
        }
        let StoredSeveral {
            id,
            current,
            older,
            next,
        } = codec::decode("store record", SEVERAL, value)?;
        let next_tier = next.as_ref().map(|next| next.tier);
        // The numbers select the tier of a revision, and the ids tell the tiers apart.
        let is_sound = |tier: &NumberedTier| {
            tier.number <= TierNumber::LAST
                && (tier.number == TierNumber::FIRST) == tier.id.is_none()
        };
        if !older
            .iter()
            .chain([&current])
            .chain(&next_tier)
            .all(is_sound)
            || older.iter().any(|tier| tier.number >= current.number)
            || next_tier.is_some_and(|next| next.number <= current.number)
        {
            return Err(codec::corrupt("store record", "inconsistent tiers"));
        }
        Ok(Self {
            id,
            tier: TierState::Claimed,
            current,
            older,
            next,
        })
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

    /// Returns the batch that stores the record.
    pub fn batch(&self) -> Batch {
        let mut batch = Batch::new();
        batch.put(Table::Meta, STORE_KEY, self.encode());
        batch
    }

    /// Commits the record durably, if the index still has the record `before`. Another member of a
    /// shared index may have written one.
    pub(crate) async fn write(&self, index: &Arc<dyn Index>, before: Option<&Self>) -> Result<()> {
        let mut batch = self.batch();
        batch.require(Table::Meta, STORE_KEY, before.map(Self::encode));
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
            let record = StoreRecord::new(id, tier);
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

    #[test]
    fn the_stored_form_of_a_record_with_several_tiers_is_stable() {
        let tier = |number, id| NumberedTier {
            number: TierNumber::new(number).unwrap(),
            id: (number > 0).then(|| TierId::from_uuid(Uuid::from_u128(id))),
        };
        let record = StoreRecord {
            current: tier(300, 0xa),
            older: vec![NumberedTier::FIRST, tier(2, 0xb)],
            ..StoreRecord::new(StoreId::from_uuid(Uuid::from_u128(7)), TierState::Claimed)
        };
        let encoded = record.encode();
        assert_golden(
            &encoded,
            "02 10 00000000000000000000000000000007 ac02 01 10 0000000000000000000000000000000a \
             02 00 00 02 01 10 0000000000000000000000000000000b 00",
        );
        assert_eq!(StoreRecord::decode(&encoded).unwrap(), record);
        let moving = StoreRecord {
            next: Some(NextTier {
                tier: tier(301, 0xc),
                place: "x".to_owned(),
            }),
            ..record.clone()
        };
        assert_golden(
            &moving.encode(),
            "02 10 00000000000000000000000000000007 ac02 01 10 0000000000000000000000000000000a \
             02 00 00 02 01 10 0000000000000000000000000000000b \
             01 ad02 01 10 0000000000000000000000000000000c 01 78",
        );
        assert_eq!(StoreRecord::decode(&moving.encode()).unwrap(), moving);
        assert_robust(&encoded, StoreRecord::decode);
        let inconsistent = [
            StoreRecord {
                current: tier(302, 1),
                ..moving
            },
            StoreRecord {
                older: vec![tier(300, 1)],
                ..record.clone()
            },
            StoreRecord {
                older: vec![NumberedTier {
                    id: None,
                    ..tier(2, 1)
                }],
                ..record
            },
        ];
        for record in inconsistent {
            let error = StoreRecord::decode(&record.encode()).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Corrupt);
        }
    }
}
