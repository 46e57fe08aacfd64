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
    Mend, Mutation, Precondition, SessionMutation, SessionSwap, Swap, SwapReply, UploadMend,
};
use cenotaph_storage::planted::Bug;
use cenotaph_storage::scrub::{Cure, Damage, Fate, Found, Remedy, Scrub, ScrubReport};
use cenotaph_storage::{ErrorKind, ObjectId, Reason, Result, UploadId};
use futures::stream::{self, StreamExt};

use crate::admission::permits::Permit;
use crate::handle::Tiered;
use crate::runtime::context::Context;
use crate::runtime::messages::{Act, ShardMessage};
use crate::runtime::post_commit::PostCommit;
use crate::shard::Reader;

/// Number of repairs at once, which share syncs.
const REPAIRS_AT_ONCE: usize = 64;

/// Repairs that a scrub may make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Repair {
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
    /// [`Scrub::step`] and [`check_blobs`](Self::check_blobs); with repairs as
    /// [`put_inline`](Self::put_inline) too, except [`Conflict`](ErrorKind::Conflict).
    pub async fn scrub(&self, mut walk: Scrub, repair: Repair) -> Result<ScrubReport> {
        if repair > Repair::Nothing {
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
                .map(|Found { damage, remedy }| async move {
                    let fate = self.context().remedy(remedy, repair).await;
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
    async fn check_tier_of(&self, found: &[Found]) -> Result<()> {
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

fn note(damage: &Damage, fate: Fate) {
    tracing::warn!(%damage, ?fate, "a scrub found damage");
    metrics::counter!("cenotaph_scrub_damage_total", "damage" => damage.name()).increment(1);
}

impl Context {
    /// Confirms damage, and repairs it if the repair is permitted. Returns `None` if the damage is
    /// not confirmed.
    async fn remedy(&self, remedy: Remedy, repair: Repair) -> Result<Option<Fate>> {
        match remedy {
            Remedy::None => Ok(Some(Fate::Left)),
            Remedy::Withheld if repair == Repair::Nothing => Ok(Some(Fate::Left)),
            Remedy::Withheld => Ok(Some(Fate::Withheld)),
            Remedy::Safe(cure) if repair >= Repair::Safe => self.cure(cure, Act::Mend).await,
            Remedy::Lossy(cure) if repair >= Repair::Lossy => self.cure(cure, Act::Mend).await,
            Remedy::Safe(cure) | Remedy::Lossy(cure) | Remedy::Beyond(cure) => {
                self.cure(cure, Act::Look).await
            }
        }
    }

    /// Carries out a repair, or only confirms its damage.
    async fn cure(&self, cure: Cure, act: Act) -> Result<Option<Fate>> {
        match act {
            Act::Mend => self.health.check("scrub")?,
            // An engine that has failed can't ask its shards, but can still report.
            Act::Look if self.health.check_failed("scrub").is_err() => {
                return self.look(cure).await;
            }
            Act::Look => {}
        }
        if act == Act::Look && self.env.planted(Bug::ScrubUnconfirmed) {
            return Ok(Some(Fate::Left));
        }
        match cure {
            Cure::Commit(_) if act == Act::Look => Ok(Some(Fate::Left)),
            Cure::Commit(batch) => {
                let after = PostCommit::of(&batch);
                self.commit(batch, ()).await?;
                // `commit` has noted the batch in the backlog.
                after.wake(self);
                Ok(Some(Fate::Repaired))
            }
            Cure::Mend(object, mend) => {
                let request = |reply| {
                    let object = object.clone();
                    let mend = Box::new(mend.clone());
                    ShardMessage::Mend {
                        object,
                        mend,
                        act,
                        reply,
                    }
                };
                let fate = mended(self.deliver(&object, request).await, act)?;
                // The restored entry may be due already.
                if fate == Some(Fate::Repaired) {
                    self.expire_if_due(&object, &mend).await?;
                }
                Ok(fate)
            }
            Cure::MendUpload(object, upload, mend) => {
                let request = |reply| {
                    let object = object.clone();
                    let mend = Box::new(mend.clone());
                    ShardMessage::MendUpload {
                        object,
                        upload,
                        mend,
                        act,
                        reply,
                    }
                };
                let fate = mended(self.deliver(&object, request).await, act)?;
                if fate == Some(Fate::Repaired) {
                    self.end_if_due(object, upload, &mend).await?;
                }
                Ok(fate)
            }
        }
    }

    /// Confirms damage without a shard, for an engine that has failed: nothing is written any more,
    /// so that the durable state is the newest.
    async fn look(&self, cure: Cure) -> Result<Option<Fate>> {
        let is_confirmed = match cure {
            Cure::Mend(object, mend) => {
                let sight = Reader::of_index(&*self.index).sight(&object, &mend).await?;
                mend.decide(&object, &sight, self.env.steady_now())
                    .is_some()
            }
            Cure::Commit(_) | Cure::MendUpload(..) => true,
        };
        Ok(is_confirmed.then_some(Fate::Left))
    }

    /// Removes an object whose expiry entry was restored, if the object has expired meanwhile: the
    /// entry is behind the expiry cursor.
    async fn expire_if_due(&self, id: &ObjectId, mend: &Mend) -> Result<()> {
        match mend {
            Mend::Expiry { .. } => self
                .swap_freely(id.clone(), Precondition::None, Mutation::Expire)
                .await
                .map(drop),
            Mend::Checksums { .. } | Mend::Floor | Mend::Excise | Mend::GiveUp(_) => Ok(()),
        }
    }

    /// Ends an upload whose expiry entry was restored, or whose end failed because of an unreadable
    /// part, if the upload has expired.
    async fn end_if_due(&self, id: ObjectId, upload: UploadId, mend: &UploadMend) -> Result<()> {
        match mend {
            UploadMend::Expiry { .. } | UploadMend::GiveUp { named: None, .. } => {
                let swap = SessionSwap {
                    id,
                    upload,
                    operation: self.env.operation_id(),
                    mutation: SessionMutation::Expire,
                };
                match self.step(swap, &Permit::free(), |reply| reply).await {
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
            UploadMend::Excise
            | UploadMend::GiveUp { named: Some(_), .. }
            | UploadMend::Checksums { .. } => Ok(()),
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
        self.compare_and_write(swap, &Permit::free(), |reply| reply)
            .await
    }
}

/// Maps the answer of a shard to the outcome of a repair, or to `None` if the damage is not
/// confirmed.
fn mended(answer: Result<bool>, act: Act) -> Result<Option<Fate>> {
    match answer {
        Ok(false) => Ok(None),
        Ok(true) if act == Act::Mend => Ok(Some(Fate::Repaired)),
        Ok(true) => Ok(Some(Fate::Left)),
        // An entry of a later build is not damage: it is not touched.
        Err(error) if error.kind() == ErrorKind::UnknownFormat && act == Act::Mend => {
            Ok(Some(Fate::Withheld))
        }
        Err(error) if matches!(error.kind(), ErrorKind::UnknownFormat | ErrorKind::Corrupt) => {
            Ok(Some(Fate::Left))
        }
        Err(error) => Err(error),
    }
}
