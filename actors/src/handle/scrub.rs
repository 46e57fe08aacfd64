//! The scrub on [`Tiered`]: runs the walk, has findings repaired, and reports.
//!
//! ```text
//! storage's walk ─> damage, repair ─┬─ confirmed by the walk: nothing can name it again;
//!                                   │  one batch, submitted from here
//!                                   └─ entries of one object or upload: its shard reads the newest
//!                                      state, confirms, and repairs in the same turn (I3)
//!                                        └─ not confirmed: neither reported nor repaired
//! ```
//!
//! Each repair is decided where it is carried out, on the newest state, and is idempotent. A scrub
//! that is dropped, or whose shard dies, keeps the repairs it has made, and the next scrub finds
//! the rest. `cenotaph_storage::scrub` decides which findings are damage, and their repair.

use cenotaph_storage::decide::{
    FallbackAnswer, Mutation, Precondition, Repair, Swap, SwapReply, UploadMutation, UploadRepair,
    UploadStep,
};
use cenotaph_storage::index::Table;
use cenotaph_storage::planted::Bug;
use cenotaph_storage::records::{BASE_VERSION_KEY, BaseVersion};
use cenotaph_storage::scrub::{
    Damage, FoundDamage, RepairAction, RepairOutcome, RepairPolicy, ScrubReport, ScrubWalk,
};
use cenotaph_storage::{ErrorKind, ObjectId, Reason, Result, UploadId};
use futures::stream::{self, StreamExt};

use crate::admission::permits::Permit;
use crate::context::Context;
use crate::context::messages::{RepairMode, ShardMessage};
use crate::context::post_commit::PostCommit;
use crate::handle::Tiered;
use crate::shard::DecisionReader;

/// Number of repairs at once, which share syncs.
const REPAIRS_AT_ONCE: usize = 64;

/// Repairs that a scrub may make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum RepairLevel {
    /// None: the scrub only reports.
    #[default]
    Nothing,
    /// Repairs that lose nothing that is not lost already.
    Safe,
    /// All possible repairs, even those that give up an object.
    Lossy,
}

impl Tiered {
    /// Runs a scrub to its end, makes the permitted repairs, and reports. Dropping the future ends
    /// the scrub after the repairs that have begun.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) if repairs are requested of a read-only engine; as
    /// [`ScrubWalk::step`] and [`check_blobs`](Self::check_blobs); with repairs as
    /// [`put_inline`](Self::put_inline) too, except [`Conflict`](ErrorKind::Conflict).
    pub async fn scrub(&self, mut walk: ScrubWalk, repair: RepairLevel) -> Result<ScrubReport> {
        if repair > RepairLevel::Nothing {
            self.check_writable("scrub")?;
        }
        let findings_max = walk.options().findings_max;
        let mut report = ScrubReport::default();
        self.check_tier_of(&[]).await?;
        while let Some(found) = walk.step().await? {
            // Checked again after each step: a tier that went away during the step makes damage of
            // everything.
            if !found.is_empty() {
                self.check_tier_of(&found).await?;
            }
            let repairs = found
                .into_iter()
                .map(|FoundDamage { damage, policy }| async move {
                    let fate = self.context().policy(policy, repair).await;
                    (damage, fate)
                });
            // In order, so that the report does not depend on the speed of repairs.
            let mut repairs = stream::iter(repairs).buffered(REPAIRS_AT_ONCE);
            while let Some((damage, fate)) = repairs.next().await {
                match fate? {
                    Some(fate) => {
                        note(&damage, fate);
                        report.take(damage, fate, findings_max);
                    }
                    None => {
                        tracing::debug!(%damage, "a finding of a scrub is not confirmed");
                        report.unconfirmed += 1;
                    }
                }
            }
        }
        report.looked = walk.looked();
        Ok(report)
    }

    /// Checks the blob tier beneath these findings (I11).
    ///
    /// # Errors
    /// The error of the check if the tier is unavailable or not this store's. A tier that only
    /// can't be read now is an error if a finding is a missing blob.
    async fn check_tier_of(&self, found: &[FoundDamage]) -> Result<()> {
        let is_missing = |damage: &Damage| {
            matches!(
                damage,
                Damage::MissingBlob { .. } | Damage::MissingPart { .. }
            )
        };
        let rests_on_absence = found.iter().any(|found| is_missing(&found.damage));
        match self.check_blobs().await {
            Err(error) if rests_on_absence || error.reason() == Some(Reason::BlobTier) => {
                Err(error)
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

fn note(damage: &Damage, fate: RepairOutcome) {
    tracing::warn!(%damage, ?fate, "a scrub found damage");
    metrics::counter!("cenotaph_scrub_damage_total", "damage" => damage.name()).increment(1);
}

impl Context {
    /// Confirms damage, and repairs it if the repair is permitted. Returns `None` if the damage is
    /// not confirmed.
    async fn policy(
        &self,
        policy: RepairPolicy,
        repair: RepairLevel,
    ) -> Result<Option<RepairOutcome>> {
        match policy {
            RepairPolicy::None => Ok(Some(RepairOutcome::Left)),
            RepairPolicy::Withheld if repair == RepairLevel::Nothing => {
                Ok(Some(RepairOutcome::Left))
            }
            RepairPolicy::Withheld => Ok(Some(RepairOutcome::Withheld)),
            RepairPolicy::Safe(action) if repair >= RepairLevel::Safe => {
                self.action(action, RepairMode::Repair).await
            }
            RepairPolicy::Lossy(action) if repair >= RepairLevel::Lossy => {
                self.action(action, RepairMode::Repair).await
            }
            RepairPolicy::Safe(action)
            | RepairPolicy::Lossy(action)
            | RepairPolicy::Beyond(action) => self.action(action, RepairMode::Confirm).await,
        }
    }

    /// Carries out a repair, or only confirms its damage.
    async fn action(
        &self,
        action: RepairAction,
        mode: RepairMode,
    ) -> Result<Option<RepairOutcome>> {
        match mode {
            RepairMode::Repair => self.health.check("scrub")?,
            // An engine that has failed can't ask its shards, but can still report.
            RepairMode::Confirm if self.health.check_failed("scrub").is_err() => {
                return self.look(action).await;
            }
            RepairMode::Confirm => {}
        }
        if mode == RepairMode::Confirm && self.env.planted(Bug::ScrubUnconfirmed) {
            return Ok(Some(RepairOutcome::Left));
        }
        match action {
            RepairAction::Commit(_) if mode == RepairMode::Confirm => Ok(Some(RepairOutcome::Left)),
            RepairAction::Commit(batch) => {
                let after = PostCommit::of(&batch);
                self.commit(batch, ()).await?;
                // `commit` has noted the batch in the backlog.
                after.wake(self);
                Ok(Some(RepairOutcome::Repaired))
            }
            RepairAction::BaseVersion => self.repair_base(mode).await,
            RepairAction::Repair(object, repair) => {
                let request = |reply| {
                    let object = object.clone();
                    let repair = Box::new(repair.clone());
                    ShardMessage::Repair {
                        object,
                        repair,
                        mode,
                        reply,
                    }
                };
                let fate = repaired(self.deliver(&object, request).await, mode)?;
                // The restored entry may be due already.
                if fate == Some(RepairOutcome::Repaired) {
                    self.expire_if_due(&object, &repair).await?;
                }
                Ok(fate)
            }
            RepairAction::RepairUpload(object, upload, repair) => {
                let request = |reply| {
                    let object = object.clone();
                    let repair = Box::new(repair.clone());
                    ShardMessage::RepairUpload {
                        object,
                        upload,
                        repair,
                        mode,
                        reply,
                    }
                };
                let fate = repaired(self.deliver(&object, request).await, mode)?;
                if fate == Some(RepairOutcome::Repaired) {
                    self.end_if_due(object, upload, &repair).await?;
                }
                Ok(fate)
            }
        }
    }

    /// Confirms damage without a shard, for an engine that has failed: nothing is written any more,
    /// so that the durable state is the newest.
    async fn look(&self, action: RepairAction) -> Result<Option<RepairOutcome>> {
        let is_confirmed = match action {
            RepairAction::Repair(object, repair) => {
                let seen = DecisionReader::of_index(self)
                    .seen_object(&object, &repair)
                    .await?;
                repair
                    .decide(&object, &seen, self.env.steady_now())
                    .is_some()
            }
            RepairAction::BaseVersion => self.is_base_damaged().await?,
            RepairAction::Commit(_) | RepairAction::RepairUpload(..) => true,
        };
        Ok(is_confirmed.then_some(RepairOutcome::Left))
    }

    /// Confirms that the stored base version is damaged, and stores it again from memory if `mode`
    /// requires it. Where it was damaged at the open, the memory has a version that no object has
    /// reached.
    async fn repair_base(&self, mode: RepairMode) -> Result<Option<RepairOutcome>> {
        if !self.is_base_damaged().await? {
            return Ok(None);
        }
        match mode {
            RepairMode::Confirm => Ok(Some(RepairOutcome::Left)),
            RepairMode::Repair => {
                self.store_base().await?;
                Ok(Some(RepairOutcome::Repaired))
            }
        }
    }

    async fn is_base_damaged(&self) -> Result<bool> {
        let read = self.index.get(Table::Meta, BASE_VERSION_KEY).await;
        match read.and_then(|value| value.as_ref().map(BaseVersion::decode).transpose()) {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Removes an object whose expiry entry was restored, if the object has expired meanwhile: the
    /// entry is behind the expiry cursor.
    async fn expire_if_due(&self, id: &ObjectId, repair: &Repair) -> Result<()> {
        match repair {
            Repair::Expiry { .. } => self
                .swap_freely(id.clone(), Precondition::None, Mutation::Expire)
                .await
                .map(drop),
            Repair::Checksums { .. }
            | Repair::LastVersion
            | Repair::RemoveRow
            | Repair::GiveUp(_) => Ok(()),
        }
    }

    /// Ends an upload whose expiry entry was restored, or whose end failed because of an unreadable
    /// part, if the upload has expired.
    async fn end_if_due(
        &self,
        id: ObjectId,
        upload: UploadId,
        repair: &UploadRepair,
    ) -> Result<()> {
        match repair {
            UploadRepair::Expiry { .. } | UploadRepair::GiveUp { named: None, .. } => {
                let swap = UploadStep {
                    id,
                    upload,
                    operation: self.env.operation_id(),
                    mutation: UploadMutation::Expire,
                };
                let free = Permit::free();
                let ended = self.step(swap, FallbackAnswer::NotAsked, &free, |reply| reply);
                match ended.await {
                    Err(error)
                        if !matches!(
                            error.kind(),
                            ErrorKind::Corrupt | ErrorKind::UnknownFormat
                        ) =>
                    {
                        Err(error)
                    }
                    // Unreadable entries of the upload are findings of their own.
                    Ok(_) | Err(_) => Ok(()),
                }
            }
            UploadRepair::RemoveRecord
            | UploadRepair::GiveUp { named: Some(_), .. }
            | UploadRepair::Checksums { .. } => Ok(()),
        }
    }

    async fn swap_freely(
        &self,
        id: ObjectId,
        precondition: Precondition,
        mutation: Mutation,
    ) -> Result<SwapReply> {
        let swap = Swap {
            id,
            operation: self.env.operation_id(),
            precondition,
            mutation,
        };
        self.compare_and_write(swap, FallbackAnswer::NotAsked, &Permit::free(), |reply| {
            reply
        })
        .await
    }
}

/// Maps the answer of a shard to the outcome of a repair, or to `None` if the damage is not
/// confirmed.
fn repaired(answer: Result<bool>, mode: RepairMode) -> Result<Option<RepairOutcome>> {
    match answer {
        Ok(false) => Ok(None),
        Ok(true) if mode == RepairMode::Repair => Ok(Some(RepairOutcome::Repaired)),
        Ok(true) => Ok(Some(RepairOutcome::Left)),
        // An entry of a later build is not damage: it is not touched.
        Err(error) if error.kind() == ErrorKind::UnknownFormat && mode == RepairMode::Repair => {
            Ok(Some(RepairOutcome::Withheld))
        }
        Err(error) if matches!(error.kind(), ErrorKind::UnknownFormat | ErrorKind::Corrupt) => {
            Ok(Some(RepairOutcome::Left))
        }
        Err(error) => Err(error),
    }
}
