//! The relocation of payloads to the current blob tier, on [`Tiered`].
//!
//! ```text
//! 1 the row is a live tombstone with a revision in an older tier   otherwise: nothing to do
//! 2 copy its bytes into fresh revisions of the current tier        an upload actor, with a change
//! 3 the shard swaps the revisions, if the row still names the      otherwise: the copies become
//!   copied ones; version, etag and metadata stay                   orphans
//! ```
//!
//! Readers are not disturbed: they have pinned the revisions that they read (I8).

use cenotaph_storage::index::Table;
use cenotaph_storage::records::{Row, RowBody, STORE_KEY, StoreRecord};
use cenotaph_storage::{Error, ErrorKind, ObjectId, Result, RevisionId, TierNumber};

use crate::admission::payload::PayloadSource;
use crate::admission::permits::Permit;
use crate::context::messages::Purpose;
use crate::handle::Tiered;
use crate::handle::migration::RunningMigration;
use crate::handle::writes::UploadPayload;

impl Tiered {
    /// Returns the numbers of the older blob tiers.
    pub fn older_tiers(&self) -> Vec<TierNumber> {
        let older = self.context().blobs.older();
        older.into_iter().map(|(number, _)| number).collect()
    }

    /// Returns the numbers and places of the blob tiers, the current one first.
    pub fn tier_places(&self) -> Vec<(TierNumber, String)> {
        let blobs = &self.context().blobs;
        let current = (blobs.number(), blobs.current().clone());
        [current]
            .into_iter()
            .chain(blobs.older())
            .map(|(number, tier)| (number, tier.place()))
            .collect()
    }

    /// Returns whether a row has a payload in an older blob tier.
    pub fn is_relocatable(&self, row: &Row) -> bool {
        let is_older = |revision: RevisionId| self.context().blobs.is_older(revision);
        row.is_live(self.context().env.steady_now()) && row.revisions().into_iter().any(is_older)
    }

    /// Replaces the revisions of an object by a copy of its bytes in the current blob tier.
    /// `source` must return the bytes of the payload that `row` names. Returns false if the object
    /// has another payload by now, or is gone.
    ///
    /// A caller of bulk work holds its [turn](Self::bulk_turn).
    ///
    /// # Errors
    /// As [`put_stream`](Self::put_stream); [`ErrorKind::Corrupt`] if the bytes do not match the
    /// checksum of the object.
    pub async fn relocate(&self, id: &ObjectId, row: &Row, source: PayloadSource) -> Result<bool> {
        let context = self.context();
        context.health.check("relocate")?;
        let blobs = &context.blobs;
        blobs
            .current()
            .check_root()
            .map_err(|error| error.with_id(id))?;
        let (RowBody::Tombstone(manifest), checksum) = (&row.body, row.metadata.checksum) else {
            return Ok(false);
        };
        let copied = manifest.revisions().collect();
        let payload = UploadPayload {
            source,
            peeked: Permit::free(),
            is_bulk: true,
        };
        let purpose = |caller| Purpose::Relocate {
            copied,
            checksum,
            caller,
        };
        self.upload((id, context.env.operation_id()), payload, purpose)
            .await
            .map_err(|error| error.with_id(id))
    }

    /// Releases older blob tiers. The caller has checked that nothing names a revision in them. Returns
    /// `false` if they remain, because other members of a shared index have the store open and would
    /// miss them.
    ///
    /// # Errors
    /// Those of a commit. A marker that can't be deleted is only reported: the next opening ignores
    /// the tier.
    pub async fn release_tiers(
        &self,
        running: &RunningMigration,
        empty: &[TierNumber],
    ) -> Result<bool> {
        let context = self.context();
        context.health.check("relocate")?;
        if context.has_other_members().await? {
            tracing::info!("older blob tiers remain while other members have the store open");
            return Ok(false);
        }
        let Some(record) = StoreRecord::read(&*context.index).await? else {
            let message = "the store has no record of its blob tiers";
            return Err(Error::new(ErrorKind::Corrupt, "relocate", message));
        };
        let is_left = |number: TierNumber| !empty.contains(&number);
        let older = record.older.iter().copied();
        let released = StoreRecord {
            older: older.filter(|tier| is_left(tier.number)).collect(),
            ..record.clone()
        };
        let tiers: Vec<_> = context
            .blobs
            .older()
            .into_iter()
            .filter(|(number, _)| !is_left(*number))
            .collect();
        let blobs = context.blobs.clone();
        let running = running.clone();
        let numbers = empty.to_vec();
        let forget = move || {
            numbers.iter().for_each(|&number| blobs.release(number));
            drop(running);
        };
        let mut batch = released.batch();
        batch.require(Table::Meta, STORE_KEY, Some(record.encode()));
        context.commit_then(batch, forget, ()).await?;
        for (number, tier) in tiers {
            tracing::info!(%number, "the store has released a blob tier");
            let timeout = context.limits.sweep.timeout;
            let deleted = context.env.deadline(timeout, tier.delete_marker()).await;
            if !matches!(deleted, Some(Ok(()))) {
                tracing::warn!(?deleted, %number, "a released tier may have kept its marker");
            }
        }
        Ok(true)
    }
}
