//! The fallback record: the source over which a store is opened, and the state of its adoption, in
//! the meta table.
//!
//! ```text
//! key "fallback"
//! value: version=1, postcard: description, state (0 = Open, 1 = Sealed, 2 = Lost),
//!        migration (passes, cursor, moved, found, failed, bytes)
//!
//! Open ──> Sealed    everything is in this store
//!   └────> Lost      the source was declared lost
//! ```
//!
//! Guards "an object that only the fallback has never seems absent": a store whose record is `Open`
//! is not opened without its fallback. `Sealed` and `Lost` are final: the fallback is never read
//! again, because masks may have been dropped (docs/adr/0029).

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::codec;
use super::meta::commit;
use crate::index::{Batch, Index, Table};
use crate::types::{ObjectId, Result};

const FORMAT: u8 = 1;

/// Key of the record in the meta table.
pub const FALLBACK_KEY: &[u8] = b"fallback";

/// State of the adoption of a fallback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FallbackState {
    /// Objects may be in the fallback only.
    Open,
    /// Every object has been moved. The fallback is never read again.
    Sealed,
    /// The fallback was declared lost. It is never read again.
    Lost,
}

/// Progress of the migration, which moves all objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationProgress {
    /// Number of passes that have begun.
    pub passes: u64,
    /// Last object that the present pass has handled; `None` at the beginning of a pass.
    pub cursor: Option<ObjectId>,
    /// Objects moved by all passes.
    pub moved: u64,
    /// Objects of the present pass that were moved or needed no move.
    pub found: u64,
    /// Objects of the present pass that could not be moved.
    pub failed: u64,
    /// Payload bytes moved by all passes.
    pub bytes: u64,
}

/// Record of the fallback of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FallbackRecord {
    /// Description of the source, without secrets.
    pub description: String,
    /// State of the adoption.
    pub state: FallbackState,
    /// Progress of the migration.
    pub migration: MigrationProgress,
}

impl FallbackRecord {
    /// Creates the record of a source that is attached for the first time.
    pub fn open(description: String) -> Self {
        Self {
            description,
            state: FallbackState::Open,
            migration: MigrationProgress::default(),
        }
    }

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
        codec::decode("fallback record", FORMAT, value)
    }

    /// Reads the record of an index. Returns `None` if the store was never opened over a fallback.
    ///
    /// # Errors
    /// Those of [`decode`](Self::decode) and of reading the index.
    pub async fn read(index: &dyn Index) -> Result<Option<Self>> {
        index
            .get(Table::Meta, FALLBACK_KEY)
            .await?
            .as_ref()
            .map(Self::decode)
            .transpose()
    }

    /// Returns the batch that stores the record.
    pub fn batch(&self) -> Batch {
        let mut batch = Batch::new();
        batch.put(Table::Meta, FALLBACK_KEY, self.encode());
        batch
    }

    /// Commits the record durably. For use while an index is opened, before the actors run.
    ///
    /// # Errors
    /// Those of a commit.
    pub async fn write(&self, index: &Arc<dyn Index>) -> Result<()> {
        commit(index, self.batch()).await
    }

    /// Removes the record of a fallback that was never used.
    ///
    /// # Errors
    /// Those of a commit.
    pub(crate) async fn remove(index: &Arc<dyn Index>) -> Result<()> {
        let mut batch = Batch::new();
        batch.remove(Table::Meta, FALLBACK_KEY);
        commit(index, batch).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::codec::fixture::{
        assert_golden, assert_later_format_refused, assert_robust,
    };
    use crate::records::last_versions_prefix;
    use proptest::prelude::*;

    fn record(state: FallbackState, cursor: Option<ObjectId>) -> FallbackRecord {
        FallbackRecord {
            description: "fs:/a".into(),
            state,
            migration: MigrationProgress {
                passes: 2,
                cursor,
                moved: 300,
                found: 4,
                failed: 1,
                bytes: 5,
            },
        }
    }

    #[test]
    fn the_stored_form_of_a_fallback_record_is_stable() {
        let id = ObjectId::try_from("k").unwrap();
        let fixtures = [
            (FallbackState::Open, None, "00 02 00"),
            (
                FallbackState::Sealed,
                Some(id),
                "01 02 01 09 64656661756c7400 6b",
            ),
            (FallbackState::Lost, None, "02 02 00"),
        ];
        for (state, cursor, middle) in fixtures {
            let record = record(state, cursor);
            let encoded = record.encode();
            assert_golden(
                &encoded,
                &format!("01 05 66733a2f61 {middle} ac02 04 01 05"),
            );
            assert_eq!(FallbackRecord::decode(&encoded).unwrap(), record);
            assert_later_format_refused(&encoded, FallbackRecord::decode);
            assert_robust(&encoded, FallbackRecord::decode);
        }
        assert_golden(FALLBACK_KEY, "66616c6c6261636b");
        assert!(!FALLBACK_KEY.starts_with(&last_versions_prefix()));
    }

    proptest! {
        #[test]
        fn fallback_record_survives_encoding(
            description in ".{0,40}",
            key in proptest::option::of("[a-z/]{1,20}"),
            counts in any::<[u64; 5]>(),
        ) {
            let [passes, moved, found, failed, bytes] = counts;
            let cursor = key.map(|key| ObjectId::try_from(key.as_str()).unwrap());
            let migration = MigrationProgress { passes, cursor, moved, found, failed, bytes };
            let record = FallbackRecord { description, state: FallbackState::Open, migration };
            prop_assert_eq!(FallbackRecord::decode(&record.encode()).unwrap(), record);
        }
    }
}
