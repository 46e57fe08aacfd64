//! The scrub, carried out: drives the walk, has what it finds repaired, and reports.
//!
//! ```text
//! storage's walk ─> damage and its remedy ─┬─ what nothing can name again: one batch, from here
//!                                          ├─ what one object has in the index, or an upload to it: its shard looks
//!                                          │  again, and mends (I3)
//!                                          └─ an object that is given up: a delete, if its etag still stands
//! ```
//!
//! Each repair is decided where it is carried out, against what stands then, and is idempotent: a scrub that is dropped, or
//! whose shard dies, has repaired what it has, and the next one finds the rest. Deliberately not here: what is damage, and
//! which remedy it has (`cenotaph_storage::scrub`); what a shard does about it (`cenotaph_storage::swap::Mend`, `UploadMend`).

use std::collections::BTreeMap;

use cenotaph_storage::index::Table;
use cenotaph_storage::rows::{Filed, Row, Session, floor_key, read_floor, read_part_key, session_key};
use cenotaph_storage::scrub::{Cure, Damage, Fate, Found, Remedy, Scrub, ScrubReport};
use cenotaph_storage::swap::{
    Mend, Mending, Mutation, Precondition, Seen, SeenEntry, SeenUpload, SessionMutation, SessionSwap, Standing, Swap,
    UploadMend,
};
use cenotaph_storage::{Error, ErrorKind, Etag, ObjectId, Result, UploadId, Version};
use futures::stream::{self, StreamExt};

use crate::admission::Permit;
use crate::aftermath::Aftermath;
use crate::messages::ShardMessage;
use crate::overlay::Overlay;
use crate::reply::{Answer, Reply, deleted};
use crate::shard::Shard;
use crate::shared::Common;
use crate::tiered::Tiered;

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
    /// Walks to the end, repairs what may be, and reports. Dropping the future ends it after the repairs that have begun.
    ///
    /// # Errors
    /// As [`Scrub::step`]; with repairs as [`put_inline`](Self::put_inline) too, and never
    /// [`Conflict`](ErrorKind::Conflict).
    pub async fn scrub(&self, mut walk: Scrub, repair: Repair) -> Result<ScrubReport> {
        let findings_max = walk.options().findings_max;
        let mut report = ScrubReport::default();
        while let Some(found) = walk.step().await? {
            let repairs = found.into_iter().map(|Found { damage, remedy }| async move {
                let fate = self.shared().remedy(remedy, repair).await;
                (damage, fate)
            });
            let mut repairs = stream::iter(repairs).buffered(REPAIRS_AT_ONCE);
            while let Some((damage, fate)) = repairs.next().await {
                let fate = fate?;
                note(&damage, fate);
                report.take(damage, fate, findings_max);
            }
        }
        report.looked = walk.looked();
        Ok(report)
    }
}

fn note(damage: &Damage, fate: Fate) {
    tracing::warn!(%damage, ?fate, "a scrub has found damage");
    metrics::counter!("cenotaph_scrub_damage_total", "damage" => damage.name()).increment(1);
}

impl Common {
    /// Carries a remedy out if it may be.
    async fn remedy(&self, remedy: Remedy, repair: Repair) -> Result<Fate> {
        match remedy {
            Remedy::None => Ok(Fate::Left),
            Remedy::Withheld if repair == Repair::Nothing => Ok(Fate::Left),
            Remedy::Withheld => Ok(Fate::Withheld),
            Remedy::Safe(cure) if repair >= Repair::Safe => self.cure(cure).await,
            Remedy::Lossy(cure) if repair >= Repair::Lossy => self.cure(cure).await,
            Remedy::Safe(_) | Remedy::Lossy(_) => Ok(Fate::Left),
        }
    }

    async fn cure(&self, cure: Cure) -> Result<Fate> {
        self.health.check("scrub")?;
        match cure {
            Cure::Commit(batch) => {
                let after = Aftermath::of(&batch);
                self.commit(batch, ()).await?;
                after.tell(self);
                Ok(Fate::Repaired)
            }
            Cure::Mend(object, mend) => {
                let request =
                    |reply| ShardMessage::Mend { object: object.clone(), mend: Box::new(mend.clone()), reply };
                let fate = mended(self.deliver(&object, request).await)?;
                if fate == Fate::Repaired {
                    self.expire_if_due(&object, &mend).await?;
                }
                Ok(fate)
            }
            Cure::MendUpload(object, upload, mend) => {
                let request = |reply| {
                    let (object, mend) = (object.clone(), Box::new(mend.clone()));
                    ShardMessage::MendUpload { object, upload, mend, reply }
                };
                let fate = mended(self.deliver(&object, request).await)?;
                if fate == Fate::Repaired {
                    self.end_if_due(object, upload, &mend).await?;
                }
                Ok(fate)
            }
            Cure::Delete(object, etag) => self.give_up(object, etag).await,
        }
    }

    /// Removes an object that got its expiry entry back if it has expired meanwhile: the expirer does not look so far back.
    async fn expire_if_due(&self, id: &ObjectId, mend: &Mend) -> Result<()> {
        match mend {
            Mend::Expiry { .. } => self.swap_freely(id.clone(), Precondition::None, Mutation::Expire).await.map(drop),
            Mend::Checksums { .. } | Mend::Floor | Mend::Excise => Ok(()),
        }
    }

    /// Likewise for an upload that got its expiry entry back, or whose end failed because of a part that could not be read.
    async fn end_if_due(&self, id: ObjectId, upload: UploadId, mend: &UploadMend) -> Result<()> {
        match mend {
            UploadMend::Expiry { .. } | UploadMend::GiveUp { named: None, .. } => {
                let (operation, mutation) = (self.env.operation_id(), SessionMutation::Expire);
                let swap = SessionSwap { id, upload, operation, mutation };
                match self.step(swap, &Permit::free(), |reply| reply).await {
                    Err(error) if !matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::UnknownFormat) => Err(error),
                    // What is left of it that can't be read is a finding of its own.
                    Ok(_) | Err(_) => Ok(()),
                }
            }
            UploadMend::Excise | UploadMend::GiveUp { named: Some(_), .. } | UploadMend::Checksums { .. } => Ok(()),
        }
    }

    async fn swap_freely(&self, id: ObjectId, precondition: Precondition, mutation: Mutation) -> Result<Answer> {
        let swap = Swap { id, operation: self.env.operation_id(), precondition, mutation };
        self.compare_and_write(swap, &Permit::free(), |reply| reply).await
    }

    async fn give_up(&self, id: ObjectId, etag: Etag) -> Result<Fate> {
        let answer = self.swap_freely(id, Precondition::Etag(etag), Mutation::Delete).await?;
        match deleted(answer).map_err(|error| error.kind()) {
            // Absent: its other damage had it deleted already.
            Ok(_) | Err(ErrorKind::Conflict { current: None }) => Ok(Fate::Repaired),
            Err(_) => Ok(Fate::Overtaken),
        }
    }
}

impl Shard {
    /// Looks again, and mends what is still to be mended; answers whether anything was.
    pub(crate) async fn mend(&self, overlay: &mut Overlay, object: &ObjectId, mend: &Mend, reply: Reply<bool>) {
        let seen = match overlay.standing(object) {
            Some(standing) => Ok(Seen::Whole(standing.clone())),
            None => self.shared.seen(object).await,
        };
        let seen = match seen {
            Ok(seen) => seen,
            Err(error) => return reply(Err(error)),
        };
        let mending = mend.decide(object, &seen, self.shared.env.steady_now());
        let has_mended = mending.is_some();
        let Mending { batch, next } = mending.unwrap_or_default();
        let ticket = overlay.next_ticket();
        if let Some(next) = next {
            overlay.stand(ticket, object, next);
        }
        self.submit(overlay, batch, has_mended, None, reply);
    }
}

impl Shard {
    /// The same for an upload.
    pub(crate) async fn mend_upload(
        &self,
        overlay: &mut Overlay,
        (object, upload): (&ObjectId, &UploadId),
        mend: &UploadMend,
        reply: Reply<bool>,
    ) {
        let seen = match self.seen_upload(overlay, (object, upload), mend).await {
            Ok(seen) => seen,
            Err(error) => return reply(Err(error)),
        };
        let batch = mend.decide(object, upload, &seen, self.shared.env.steady_now());
        let has_mended = batch.is_some();
        let batch = batch.unwrap_or_default();
        let ticket = overlay.next_ticket();
        overlay.note_sessions(ticket, &batch);
        self.submit(overlay, batch, has_mended, None, reply);
    }

    async fn seen_upload(
        &self,
        overlay: &Overlay,
        (object, upload): (&ObjectId, &UploadId),
        mend: &UploadMend,
    ) -> Result<SeenUpload> {
        let session = self.session_entry(overlay, &session_key(object, upload)).await?;
        let session = session.map_or(Ok(SeenEntry::Absent), |value| seen_entry(Session::decode(&value)))?;
        let filed = match mend {
            UploadMend::Expiry { .. } => BTreeMap::new(),
            UploadMend::Excise => self.part_entries(overlay, upload).await?,
            UploadMend::GiveUp { number, .. } | UploadMend::Checksums { number, .. } => {
                self.part_entry(overlay, upload, *number).await?
            }
        };
        let mut parts = BTreeMap::new();
        for (key, value) in filed {
            // One that is filed under no part's number is found, and mended, by itself.
            let Ok((_, number)) = read_part_key(&key) else { continue };
            parts.insert(number, seen_entry(Filed::decode(&value))?);
        }
        Ok(SeenUpload { session, parts })
    }
}

/// What is damaged is seen as such.
fn seen_entry<T>(decoded: Result<T>) -> Result<SeenEntry<T>> {
    decoded.map(SeenEntry::Whole).or_else(|error| broken(error, SeenEntry::Broken))
}

impl Common {
    /// How an object durably stands, even where it can't be read.
    async fn seen(&self, id: &ObjectId) -> Result<Seen> {
        if let Some(value) = self.index.get(Table::Rows, id.encoded()).await? {
            let row = Row::decode(&value).map(|row| Seen::Whole(Standing::Present(Box::new(row))));
            return row.or_else(|error| broken(error, Seen::BrokenRow));
        }
        match self.index.get(Table::Meta, &floor_key(id)).await? {
            Some(value) => {
                let floor = read_floor(&value).map(|floor| Seen::Whole(Standing::Absent(floor)));
                floor.or_else(|error| broken(error, Seen::BrokenFloor))
            }
            None => Ok(Seen::Whole(Standing::Absent(Version::NONE))),
        }
    }
}

/// What came of having a shard mend something.
fn mended(answer: Result<bool>) -> Result<Fate> {
    match answer {
        Ok(true) => Ok(Fate::Repaired),
        Ok(false) => Ok(Fate::Overtaken),
        Err(error) if error.kind() == ErrorKind::UnknownFormat => Ok(Fate::Withheld),
        Err(error) => Err(error),
    }
}

/// What is damaged is seen as such; what a later build may have written is not touched.
fn broken<T>(error: Error, seen: T) -> Result<T> {
    if error.kind() == ErrorKind::Corrupt { Ok(seen) } else { Err(error) }
}
