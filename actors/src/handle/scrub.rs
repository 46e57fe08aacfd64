//! The scrub, carried out: drives the walk, has what it finds repaired, and reports.
//!
//! ```text
//! storage's walk ─> damage and its remedy ─┬─ confirmed by the walk: nothing can name it again; one batch, from here
//!                                          └─ what one object has in the index, or an upload to it: its shard reads the
//!                                             newest state, confirms, and mends in the same turn (I3)
//!                                                  └─ not confirmed: neither reported nor acted on
//! ```
//!
//! Each repair is decided where it is carried out, against what stands then, and is idempotent: a
//! scrub that is dropped, or whose shard dies, has repaired what it has, and the next one finds the
//! rest. Deliberately not here: what is damage, and which remedy it has
//! (`cenotaph_storage::scrub`); what a shard does about it (`cenotaph_storage::decide::Mend`,
//! `UploadMend`).

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

/// Repairs at once: they share syncs.
const REPAIRS_AT_ONCE: usize = 64;

/// What a scrub may repair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Repair {
    /// Nothing: it reports.
    #[default]
    Nothing,
    /// What loses nothing that is not lost already.
    Safe,
    /// All that can be, even where an object is given up by it.
    Lossy,
}

impl Tiered {
    /// Walks to the end, repairs what may be, and reports. Dropping the future ends it after the
    /// repairs that have begun.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) if repairs are asked of an engine that is read-only; as
    /// [`Scrub::step`] and [`check_blobs`](Self::check_blobs); with repairs as
    /// [`put_inline`](Self::put_inline) too, and never [`Conflict`](ErrorKind::Conflict).
    pub async fn scrub(&self, mut walk: Scrub, repair: Repair) -> Result<ScrubReport> {
        if repair > Repair::Nothing {
            self.check_writable("scrub")?;
        }
        let findings_max = walk.options().findings_max;
        let mut report = ScrubReport::default();
        self.check_beneath(&[]).await?;
        while let Some(found) = walk.step().await? {
            if !found.is_empty() {
                self.check_beneath(&found).await?;
            }
            let repairs = found
                .into_iter()
                .map(|Found { damage, remedy }| async move {
                    let fate = self.context().remedy(remedy, repair).await;
                    (damage, fate)
                });
            let mut repairs = stream::iter(repairs).buffered(REPAIRS_AT_ONCE);
            while let Some((damage, fate)) = repairs.next().await {
                match fate? {
                    Some(fate) => {
                        note(&damage, fate);
                        report.take(damage, fate, findings_max);
                    }
                    None => {
                        tracing::debug!(%damage, "a finding of a scrub was not confirmed");
                        report.unconfirmed += 1;
                    }
                }
            }
        }
        report.looked = walk.looked();
        Ok(report)
    }

    /// A blob tier that is away, or was while these were looked for, makes damage of everything
    /// (I11). One that can't be read now does not, unless a blob is said to be missing from it.
    async fn check_beneath(&self, found: &[Found]) -> Result<()> {
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
    tracing::warn!(%damage, ?fate, "a scrub has found damage");
    metrics::counter!("cenotaph_scrub_damage_total", "damage" => damage.name()).increment(1);
}

impl Context {
    /// Confirms damage, and carries its remedy out if that may be. None if it is not confirmed.
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

    async fn cure(&self, cure: Cure, act: Act) -> Result<Option<Fate>> {
        match act {
            Act::Mend => self.health.check("scrub")?,
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
                after.wake(self);
                Ok(Some(Fate::Repaired))
            }
            Cure::Mend(object, mend) => {
                let request = |reply| {
                    let (object, mend) = (object.clone(), Box::new(mend.clone()));
                    ShardMessage::Mend {
                        object,
                        mend,
                        act,
                        reply,
                    }
                };
                let fate = mended(self.deliver(&object, request).await, act)?;
                if fate == Some(Fate::Repaired) {
                    self.expire_if_due(&object, &mend).await?;
                }
                Ok(fate)
            }
            Cure::MendUpload(object, upload, mend) => {
                let request = |reply| {
                    let (object, mend) = (object.clone(), Box::new(mend.clone()));
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

    /// Confirms without a shard, for an engine that has failed: nothing is written any more, so
    /// that the durable state is the newest.
    async fn look(&self, cure: Cure) -> Result<Option<Fate>> {
        let is_confirmed = match cure {
            Cure::Mend(object, mend) => {
                let sight = Reader::of_index(self).sight(&object, &mend).await?;
                mend.decide(&object, &sight, self.env.steady_now())
                    .is_some()
            }
            Cure::Commit(_) | Cure::MendUpload(..) => true,
        };
        Ok(is_confirmed.then_some(Fate::Left))
    }

    /// Removes an object that got its expiry entry back if it has expired meanwhile: the expirer
    /// does not look so far back.
    async fn expire_if_due(&self, id: &ObjectId, mend: &Mend) -> Result<()> {
        match mend {
            Mend::Expiry { .. } => self
                .swap_freely(id.clone(), Precondition::None, Mutation::Expire)
                .await
                .map(drop),
            Mend::Checksums { .. } | Mend::Floor | Mend::Excise | Mend::GiveUp(_) => Ok(()),
        }
    }

    /// Likewise for an upload that got its expiry entry back, or whose end failed because of a part
    /// that could not be read.
    async fn end_if_due(&self, id: ObjectId, upload: UploadId, mend: &UploadMend) -> Result<()> {
        match mend {
            UploadMend::Expiry { .. } | UploadMend::GiveUp { named: None, .. } => {
                let (operation, mutation) = (self.env.operation_id(), SessionMutation::Expire);
                let swap = SessionSwap {
                    id,
                    upload,
                    operation,
                    mutation,
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
                    // What is left of it that can't be read is a finding of its own.
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

/// What came of having a shard confirm or mend something; none if it was not confirmed.
fn mended(answer: Result<bool>, act: Act) -> Result<Option<Fate>> {
    match answer {
        Ok(false) => Ok(None),
        Ok(true) if act == Act::Mend => Ok(Some(Fate::Repaired)),
        Ok(true) => Ok(Some(Fate::Left)),
        Err(error) if error.kind() == ErrorKind::UnknownFormat && act == Act::Mend => {
            Ok(Some(Fate::Withheld))
        }
        Err(error) if matches!(error.kind(), ErrorKind::UnknownFormat | ErrorKind::Corrupt) => {
            Ok(Some(Fate::Left))
        }
        Err(error) => Err(error),
    }
}
