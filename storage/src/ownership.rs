//! Checks that a blob tier belongs to the store that is opened over it: [`TierClaim`], and `decide`,
//! which it carries out before any blob is read or deleted.
//!
//! ```text
//! record in the index   marker in the tier    decision             error
//! Claimed(id)           id                    open
//! Claimed(id)           none                  refuse               Unavailable (not mounted?)
//! Pending(id)           id                    open, write record
//! Pending(id)           none, or unfinished   take if plausible    otherwise (1)
//! none                  none                  take if plausible    otherwise (1)
//! any                   of another store      refuse               Invalid
//! any                   unreadable            refuse               Corrupt, UnknownFormat
//!
//! (1) Invalid if the tier contains files, Unavailable if it is empty
//! ```
//!
//! A tier is plausible if it contains a blob that the index names, or if it is empty and the index
//! names no blob. So the empty tier of a new index is plausible, and so is the tier of an index
//! that was written by a build without store ids.
//!
//! A tier is taken in three steps, each durable before the next: the record `Pending` in the index,
//! the marker in the tier, the record `Claimed`. A crash between them results in a row of the
//! table. Adopting a tier replaces every refusal. A directory is created only for a tier that is
//! taken.
//!
//! The table is about the current tier. `ownership/several.rs` opens all tiers of a store, and adds
//! a tier.
//!
//! Members of a shared index may open a new store at the same time. Each record is written only over the
//! record that was read, so that the store has one id. A member that is refused reads everything again
//! a few times, because it may have read in the middle of the steps of another one.
//!
//! A reader ([`TierClaim::find_all`]) decides by the same table, but neither takes nor creates a tier.
//!
//! Guards I11. The bytes of the marker are in `blobs/marker.rs`, those of the record in
//! `records/store.rs`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use opendal::Operator;

use crate::blobs::{self, BlobOptions, BlobTier, Contents, FoundBlob, Marker, marker};
use crate::env::Env;
use crate::index::{Index, LeaseTimes, Range, Table, wait_until_alone};
use crate::records::{Change, Row, StoreRecord, TierState, all_parts_prefix};
use crate::types::{Error, ErrorKind, Result, RevisionId, TierMark};

/// Number of rows or changes that a scan reads at a time.
const PAGE: usize = 1000;
/// Way out at the end of every refusal.
const WAY_OUT: &str =
    "open the tier that belongs to this store, or adopt this one if you are sure that it does";

/// Location of a blob tier.
#[derive(Clone, Debug)]
pub enum TierPlace {
    /// Tier of an OpenDAL operator.
    Operator(Operator),
    /// Local directory. It is created for a new store only.
    Directory(PathBuf),
}

/// Parameters of opening a blob tier for a store.
#[derive(Clone)]
pub struct TierClaim {
    /// Index of the store.
    pub index: Arc<dyn Index>,
    /// Environment of the store.
    pub env: Env,
    /// Settings for writing blobs.
    pub options: BlobOptions,
    /// Longest wait for the marker to be read.
    pub timeout: Duration,
    /// True if a tier that would be refused is taken.
    pub adopt: bool,
    /// Times by which other members of a shared index are judged.
    pub lease: LeaseTimes,
    /// True once this opening has recorded a new store: it may repeat the steps that follow, and other
    /// members wait for it.
    pub has_begun: Arc<AtomicBool>,
}

/// Record of the tier in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TierRecord {
    /// No record: the index is new, or was written by a build without store ids.
    Nothing,
    /// The tier is claimed, or will be, with this mark.
    Tier(TierMark, TierState),
}

impl From<Option<&StoreRecord>> for TierRecord {
    fn from(record: Option<&StoreRecord>) -> Self {
        record.map_or(Self::Nothing, |record| {
            Self::Tier(record.mark(record.current), record.tier)
        })
    }
}

/// State of the index and the tier before the decision.
struct TierView {
    record: Option<StoreRecord>,
    /// The tier; `None` if its directory does not exist.
    tier: Option<BlobTier>,
    marker: Marker,
    /// Location of the tier, for messages.
    text: String,
}

/// Decision about a tier.
#[derive(Clone, Debug)]
enum Decision {
    /// The tier belongs to this store.
    Open(TierMark),
    /// The tier has the marker of this store, but the record is still `Pending`.
    Note(TierMark),
    /// The tier is taken if it is plausible.
    IfPlausible,
    /// The tier is taken regardless of its contents.
    Adopt,
    /// The tier is refused with this error.
    Refuse(Error),
}

impl TierClaim {
    /// Returns the tier at this place if it belongs to the store, after taking it if necessary. A
    /// refused tier is not changed, and no directory is created for it. If the tier was taken
    /// before, the check costs a small read.
    ///
    /// # Errors
    /// - [`ErrorKind::Invalid`] if the tier belongs to another store, or contains blobs but no
    ///   marker.
    /// - [`ErrorKind::Unavailable`] if the expected marker is missing, or the tier cannot be read
    ///   or written now.
    /// - [`ErrorKind::Corrupt`] and [`ErrorKind::UnknownFormat`] if the marker or the record cannot
    ///   be decoded.
    /// - The errors of committing to the index.
    async fn take(&self, place: TierPlace) -> Result<BlobTier> {
        let TierView {
            record,
            tier,
            marker,
            text,
        } = self.inspect(&place).await?;
        let known = TierRecord::from(record.as_ref());
        let mark = match decide(known, &marker, self.adopt, &text) {
            Decision::Refuse(error) => return Err(error),
            Decision::Open(mark) => mark,
            Decision::Note(mark) => {
                let claimed = StoreRecord::new(mark.store, TierState::Claimed);
                claimed.write(&self.index, record.as_ref()).await?;
                mark
            }
            Decision::Adopt => {
                self.check_not_older(record.as_ref(), &marker, &text)?;
                tracing::warn!(tier = text, ?marker, "adopting the blob tier");
                return self.take_over(record, tier, place).await;
            }
            Decision::IfPlausible => {
                if record.is_some() && !self.has_begun.load(Ordering::Acquire) {
                    // Another member may be taking a tier, which this one must not be then.
                    self.check_alone("another member is opening the store for the first time")
                        .await?;
                }
                self.check_plausible(tier.as_ref(), &marker, &text).await?;
                return self.take_over(record, tier, place).await;
            }
        };
        owned(tier, mark, &text).await
    }

    /// Returns the tier at this place for reading, without writing or creating anything. A tier
    /// that [`take`](Self::take) would take is returned as it is, without a marker.
    ///
    /// # Errors
    /// As [`take`](Self::take), except the errors of writing.
    async fn find(&self, place: TierPlace) -> Result<BlobTier> {
        let TierView {
            record,
            tier,
            marker,
            text,
        } = self.inspect(&place).await?;
        match decide(TierRecord::from(record.as_ref()), &marker, false, &text) {
            Decision::Refuse(error) => Err(error),
            Decision::Open(mark) | Decision::Note(mark) => owned(tier, mark, &text).await,
            Decision::IfPlausible | Decision::Adopt => {
                self.check_plausible(tier.as_ref(), &marker, &text).await?;
                match (tier, place) {
                    (Some(tier), _) => Ok(tier),
                    (None, TierPlace::Operator(operator)) => Ok(self.tier(operator)),
                    // The index names no blob, so an empty tier in memory is equivalent. OpenDAL
                    // would create the directory.
                    (None, TierPlace::Directory(_)) => Ok(self.tier(blobs::nothing()?)),
                }
            }
        }
    }

    /// Waits until no other member has the store open.
    async fn check_alone(&self, why: &'static str) -> Result<()> {
        wait_until_alone(&*self.index, &self.env, self.lease, why).await
    }

    /// Reads the record and the marker.
    async fn inspect(&self, place: &TierPlace) -> Result<TierView> {
        let record = StoreRecord::read(&*self.index).await?;
        let (tier, text) = self.resolve(place).await?;
        let marker = match &tier {
            Some(tier) => {
                let read = self.env.deadline(self.timeout, tier.read_marker()).await;
                read.unwrap_or_else(|| {
                    Err(refusal(
                        ErrorKind::Unavailable,
                        "did not respond in time",
                        &text,
                    ))
                })?
            }
            None => Marker::Absent,
        };
        Ok(TierView {
            record,
            tier,
            marker,
            text,
        })
    }

    /// Returns the tier, or `None` if its directory does not exist, and its location for messages.
    async fn resolve(&self, place: &TierPlace) -> Result<(Option<BlobTier>, String)> {
        let operator = match place {
            TierPlace::Operator(operator) => operator.clone(),
            TierPlace::Directory(path) => {
                let text = path.display().to_string();
                let path = path.clone();
                let shown = text.clone();
                let open = move || match path.try_exists() {
                    // Only an existing directory: OpenDAL would create a missing root.
                    Ok(true) => blobs::local(&path).map(Some),
                    Ok(false) => Ok(None),
                    Err(error) => {
                        Err(
                            refusal(ErrorKind::Unavailable, "cannot be accessed", &shown)
                                .with_source(error),
                        )
                    }
                };
                match self.env.blocking_on_blobs(open).await?? {
                    Some(operator) => operator,
                    None => return Ok((None, text)),
                }
            }
        };
        let tier = self.tier(operator);
        let text = tier.place();
        Ok((Some(tier), text))
    }

    fn tier(&self, operator: Operator) -> BlobTier {
        BlobTier::new(operator, self.env.clone(), self.options.clone())
    }

    /// Takes the tier in the three steps of the file head, each durable before the next.
    async fn take_over(
        &self,
        record: Option<StoreRecord>,
        tier: Option<BlobTier>,
        place: TierPlace,
    ) -> Result<BlobTier> {
        // Step 1: the record `Pending`. An existing record keeps its id.
        let record = match record {
            Some(record) => record,
            None => {
                let record = StoreRecord::new(self.env.store_id(), TierState::Pending);
                record.write(&self.index, None).await?;
                self.has_begun.store(true, Ordering::Release);
                record
            }
        };
        let tier = self.created(tier, place).await?;
        // Step 2: the marker.
        let mark = record.mark(record.current);
        tier.write_marker(mark).await?;
        // Step 3: the record `Claimed`.
        let claimed = StoreRecord {
            tier: TierState::Claimed,
            ..record.clone()
        };
        claimed.write(&self.index, Some(&record)).await?;
        tier.belongs_to(mark);
        tier.check_owner().await?;
        Ok(tier)
    }

    /// Returns the tier, after creating its directory if it is missing.
    async fn created(&self, tier: Option<BlobTier>, place: TierPlace) -> Result<BlobTier> {
        let operator = match (tier, place) {
            (Some(tier), _) => return Ok(tier),
            (None, TierPlace::Operator(operator)) => operator,
            (None, TierPlace::Directory(path)) => {
                let modes = self.options.modes;
                let create = move || blobs::local_new(&path, modes);
                self.env.blocking_on_blobs(create).await??
            }
        };
        Ok(self.tier(operator))
    }

    /// Checks that a tier without a valid marker is plausible.
    async fn check_plausible(
        &self,
        tier: Option<&BlobTier>,
        marker: &Marker,
        text: &str,
    ) -> Result<()> {
        let Contents { has_marker, sample } = match tier {
            Some(tier) => tier.contents().await?,
            None => Contents::default(),
        };
        // The marker was absent when it was read: it was created since, or reads are inconsistent.
        if has_marker && matches!(marker, Marker::Absent) {
            return Err(refusal(
                ErrorKind::Unavailable,
                "has a marker that cannot be read now",
                text,
            ));
        }
        match sample.first() {
            Some(_) if self.names_any_of(&sample).await? => Ok(()),
            Some(first) => {
                let cause = format!(
                    "contains files, but no blob that the index names: file={}",
                    first.path
                );
                Err(refusal(ErrorKind::Invalid, &cause, text))
            }
            None if self.names_a_blob().await? => Err(refusal(
                ErrorKind::Unavailable,
                "is empty or missing, but the index names blobs",
                text,
            )),
            None => Ok(()),
        }
    }

    /// Returns whether a row, a part, an orphan or a change names any of these blobs.
    async fn names_any_of(&self, sample: &[FoundBlob]) -> Result<bool> {
        let listed: BTreeSet<RevisionId> = sample.iter().filter_map(|blob| blob.revision).collect();
        for revision in &listed {
            for table in [Table::Payloads, Table::Orphans] {
                if self.index.get(table, revision.as_bytes()).await?.is_some() {
                    return Ok(true);
                }
            }
        }
        let names_any = |value: &Bytes| {
            let change = Change::decode(value);
            change.is_ok_and(|change| {
                change
                    .revisions
                    .iter()
                    .any(|revision| listed.contains(revision))
            })
        };
        self.any(Table::Changes, names_any).await
    }

    /// Returns whether a row or a part of an upload names a blob. Reads all rows of a store without
    /// blobs. This happens once, when the store is first opened by a build with store ids.
    async fn names_a_blob(&self) -> Result<bool> {
        // A row that cannot be decoded may name a blob.
        let by_row =
            |value: &Bytes| Row::decode(value).map_or(true, |row| !row.revisions().is_empty());
        if self.any(Table::Rows, by_row).await? {
            return Ok(true);
        }
        let parts = Range::prefix(&all_parts_prefix(), 1);
        Ok(!self
            .index
            .snapshot()?
            .scan(Table::Uploads, parts)
            .await?
            .is_empty())
    }

    /// Returns whether any value of a table matches.
    async fn any(&self, table: Table, matches: impl Fn(&Bytes) -> bool) -> Result<bool> {
        let mut range = Range::all(PAGE);
        loop {
            let page = self.index.snapshot()?.scan(table, range.clone()).await?;
            if page.iter().any(|(_, value)| matches(value)) {
                return Ok(true);
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => range = range.after(last.clone()),
                Some(_) | None => return Ok(false),
            }
        }
    }
}

/// Returns a tier that has the marker of this store, after checking its place.
async fn owned(tier: Option<BlobTier>, mark: TierMark, text: &str) -> Result<BlobTier> {
    let tier = tier.ok_or_else(|| refusal(ErrorKind::Unavailable, "is missing", text))?;
    tier.belongs_to(mark);
    // The marker was read by path, so the path must still name the directory that is held open.
    tier.check_owner().await?;
    Ok(tier)
}

/// Decides about a tier by the table in the file head. Pure function.
fn decide(known: TierRecord, marker: &Marker, adopt: bool, place: &str) -> Decision {
    use TierState::{Claimed, Pending};
    let decision = match (known, marker) {
        (TierRecord::Tier(mark, state), Marker::Of(found)) if *found == mark => match state {
            Claimed => Decision::Open(mark),
            Pending => Decision::Note(mark),
        },
        (TierRecord::Tier(mark, _), Marker::Of(found)) if found.store == mark.store => {
            let cause = format!(
                "is another tier of this store than its current one: expected={mark} found={found}"
            );
            Decision::Refuse(refusal(ErrorKind::Invalid, &cause, place))
        }
        (TierRecord::Tier(mark, _), Marker::Of(found)) => {
            let cause = format!("belongs to another store: expected={mark} found={found}");
            Decision::Refuse(refusal(ErrorKind::Invalid, &cause, place))
        }
        (TierRecord::Nothing, Marker::Of(found)) => {
            let cause = format!("belongs to another store: found={found}");
            Decision::Refuse(refusal(ErrorKind::Invalid, &cause, place))
        }
        (TierRecord::Tier(mark, Pending), Marker::Unreadable(bytes, _))
            if marker::is_unfinished(bytes, mark.store) =>
        {
            // A crash while this store wrote its marker.
            Decision::IfPlausible
        }
        (TierRecord::Nothing | TierRecord::Tier(..), Marker::Unreadable(_, error)) => {
            let refusal = refusal(error.kind(), "has an unreadable marker", place);
            Decision::Refuse(refusal.with_source(error.clone()))
        }
        (TierRecord::Nothing | TierRecord::Tier(_, Pending), Marker::Absent) => {
            Decision::IfPlausible
        }
        (TierRecord::Tier(mark, Claimed), Marker::Absent) => {
            let cause = format!(
                "is missing or is another tier (is its disk mounted?): expected={mark} found=none"
            );
            Decision::Refuse(refusal(ErrorKind::Unavailable, &cause, place))
        }
    };
    match decision {
        Decision::Refuse(_) | Decision::IfPlausible if adopt => Decision::Adopt,
        decision => decision,
    }
}

/// Returns the error of a refusal. `cause` continues the sentence "the blob tier ..".
fn refusal(kind: ErrorKind, cause: &str, place: &str) -> Error {
    Error::new(
        kind,
        "open",
        format!("the blob tier {cause} tier={place}; {WAY_OUT}"),
    )
}

mod several;

pub use several::{BeforeSwitch, OnNewTier, TierPlaces};

#[cfg(test)]
mod tests;
