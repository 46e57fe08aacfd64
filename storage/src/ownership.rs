//! Whether a blob tier belongs to the store that is opened over it: the decision `decide`, and
//! [`Claim`], which carries it out before any blob is read or deleted.
//!
//! ```text
//! the index has         marker in the tier     the tier is             otherwise
//! Claimed(id)           id                     opened
//! Claimed(id)           none                   -                       Unavailable: is its disk mounted?
//! Pending(id)           id                     opened
//! Pending(id)           none, or unfinished    taken if plausible      Invalid; Unavailable if it is empty
//! no record             none                   taken if plausible      Invalid; Unavailable if it is empty
//! anything              of another store       -                       Invalid
//! anything              unreadable             -                       Corrupt, UnknownFormat
//! ```
//!
//! Plausible is a tier that holds a blob which the index knows, or an empty one if the index names
//! no blob: so is the empty tier of a new index, and the tier of an index that a build without
//! store ids wrote.
//!
//! A tier is taken in three steps, each durable before the next: the record `Pending` in the index,
//! the marker in the tier, the record `Claimed`. A crash between them leaves a state of the table.
//! Whoever adopts a tier takes the place of every refusal. A directory is made only for a tier that
//! is taken.
//!
//! A reader ([`Claim::find`]) decides by the same table, and takes and makes nothing.
//!
//! Guards I11. Deliberately not here: the bytes of the marker (`blobs/marker.rs`) and of the record
//! (`rows/store.rs`).

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use opendal::Operator;

use crate::blobs::{self, BlobOptions, BlobTier, Contents, FoundBlob, Marker, marker};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::index::{Index, Range, Table};
use crate::rows::{Change, Row, StoreRecord, TierState, all_parts_prefix};
use crate::word::{RevisionId, StoreId};

/// Rows and changes read at once.
const PAGE: usize = 1000;
/// What an error about a tier says at its end.
const WAY_OUT: &str =
    "open the tier that belongs to this store, or adopt this one if you are sure that it does";

/// Where a blob tier is.
#[derive(Clone, Debug)]
pub enum Place {
    /// Behind an operator.
    Operator(Operator),
    /// In a directory of this machine, which is made for a new store, and only then.
    Directory(PathBuf),
}

/// A tier that an opening is about to take.
#[derive(Clone)]
pub struct Claim {
    /// The index of the store.
    pub index: Arc<dyn Index>,
    /// The world.
    pub env: Env,
    /// How blobs are written.
    pub options: BlobOptions,
    /// Longest wait for the mark.
    pub timeout: Duration,
    /// True if a tier is taken that would be refused.
    pub adopt: bool,
}

/// What the index knows of its tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// Nothing: it is new, or a build without store ids wrote it.
    Nothing,
    /// This.
    Record(StoreRecord),
}

/// The marks that are there before anything is decided.
struct Sight {
    known: Known,
    tier: Option<BlobTier>,
    marker: Marker,
    text: String,
}

/// What becomes of the tier.
#[derive(Clone, Debug)]
enum Decision {
    /// It is this store's.
    Open(StoreId),
    /// It carries the marker, and the index does not know yet.
    Note(StoreId),
    /// It is taken if it is plausible.
    IfPlausible,
    /// It is taken, whatever it holds.
    Adopt,
    /// It is not this store's.
    Refuse(Error),
}

impl Claim {
    /// The tier at this place, if it belongs to the store. Nothing is written or made if it does
    /// not, and costs one small read if it is known to.
    ///
    /// # Errors
    /// - [`ErrorKind::Invalid`] if it belongs to another store, or holds blobs and no marker;
    /// - [`ErrorKind::Unavailable`] if the marker should be there and is not, or the tier can't be
    ///   read or written now;
    /// - [`ErrorKind::Corrupt`] and [`ErrorKind::UnknownFormat`] if the marker or the record can't
    ///   be read;
    /// - as committing to the index.
    pub async fn take(&self, place: Place) -> Result<BlobTier> {
        let Sight {
            known,
            tier,
            marker,
            text,
        } = self.sight(&place).await?;
        let id = match decide(known, &marker, self.adopt, &text) {
            Decision::Refuse(error) => return Err(error),
            Decision::Open(id) => id,
            Decision::Note(id) => {
                StoreRecord {
                    id,
                    tier: TierState::Claimed,
                }
                .write(&self.index)
                .await?;
                id
            }
            Decision::Adopt => {
                tracing::warn!(tier = text, ?marker, "the blob tier is adopted");
                return self.mark(known, tier, place).await;
            }
            Decision::IfPlausible => {
                self.check_plausible(tier.as_ref(), &marker, &text).await?;
                return self.mark(known, tier, place).await;
            }
        };
        owned(tier, id, &text).await
    }

    /// The tier at this place, to be read only. Nothing is written or made: a tier that an opening
    /// would take is read as it is.
    ///
    /// # Errors
    /// As [`take`](Self::take), but for writing.
    pub async fn find(&self, place: Place) -> Result<BlobTier> {
        let Sight {
            known,
            tier,
            marker,
            text,
        } = self.sight(&place).await?;
        match decide(known, &marker, false, &text) {
            Decision::Refuse(error) => Err(error),
            Decision::Open(id) | Decision::Note(id) => owned(tier, id, &text).await,
            Decision::IfPlausible | Decision::Adopt => {
                self.check_plausible(tier.as_ref(), &marker, &text).await?;
                match (tier, place) {
                    (Some(tier), _) => Ok(tier),
                    (None, Place::Operator(operator)) => Ok(self.tier(operator)),
                    // Nothing names a blob, and OpenDAL would make the directory.
                    (None, Place::Directory(_)) => Ok(self.tier(blobs::nothing()?)),
                }
            }
        }
    }

    async fn sight(&self, place: &Place) -> Result<Sight> {
        let known = StoreRecord::read(&*self.index)
            .await?
            .map_or(Known::Nothing, Known::Record);
        let (tier, text) = self.look(place).await?;
        let marker = match &tier {
            Some(tier) => {
                let read = self.env.deadline(self.timeout, tier.read_marker()).await;
                read.unwrap_or_else(|| {
                    Err(refusal(ErrorKind::Unavailable, "does not answer", &text))
                })?
            }
            None => Marker::Absent,
        };
        Ok(Sight {
            known,
            tier,
            marker,
            text,
        })
    }

    /// The tier, unless its directory is not there; and what it is called.
    async fn look(&self, place: &Place) -> Result<(Option<BlobTier>, String)> {
        let operator = match place {
            Place::Operator(operator) => operator.clone(),
            Place::Directory(path) => {
                let text = path.display().to_string();
                let (path, shown) = (path.clone(), text.clone());
                let looked = move || match path.try_exists() {
                    // OpenDAL makes the directory that it is given.
                    Ok(true) => blobs::local(&path).map(Some),
                    Ok(false) => Ok(None),
                    Err(error) => {
                        Err(
                            refusal(ErrorKind::Unavailable, "can't be looked for", &shown)
                                .with_source(error),
                        )
                    }
                };
                match self.env.blocking_on_blobs(looked).await?? {
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

    /// Takes the tier: the three steps.
    async fn mark(&self, known: Known, tier: Option<BlobTier>, place: Place) -> Result<BlobTier> {
        let id = match known {
            Known::Record(record) => record.id,
            Known::Nothing => {
                let id = self.env.store_id();
                StoreRecord {
                    id,
                    tier: TierState::Pending,
                }
                .write(&self.index)
                .await?;
                id
            }
        };
        let tier = match (tier, place) {
            (Some(tier), _) => tier,
            (None, Place::Operator(operator)) => self.tier(operator),
            (None, Place::Directory(path)) => {
                let modes = self.options.modes;
                self.tier(
                    self.env
                        .blocking_on_blobs(move || blobs::local_new(&path, modes))
                        .await??,
                )
            }
        };
        tier.write_marker(id).await?;
        StoreRecord {
            id,
            tier: TierState::Claimed,
        }
        .write(&self.index)
        .await?;
        tier.belongs_to(id);
        tier.check_owner().await?;
        Ok(tier)
    }

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
        if has_marker && matches!(marker, Marker::Absent) {
            return Err(refusal(
                ErrorKind::Unavailable,
                "has a marker that can't be read now",
                text,
            ));
        }
        match sample.first() {
            Some(_) if self.knows_one_of(&sample).await? => Ok(()),
            Some(first) => {
                let what = format!(
                    "holds files, none of which the index knows: file={}",
                    first.path
                );
                Err(refusal(ErrorKind::Invalid, &what, text))
            }
            None if self.names_a_blob().await? => Err(refusal(
                ErrorKind::Unavailable,
                "is empty or not there, and the index names blobs",
                text,
            )),
            None => Ok(()),
        }
    }

    /// Returns whether one of these blobs is a row's, a part's, an orphan's or a change's.
    async fn knows_one_of(&self, sample: &[FoundBlob]) -> Result<bool> {
        let listed: BTreeSet<RevisionId> = sample.iter().filter_map(|blob| blob.revision).collect();
        for revision in &listed {
            for table in [Table::Payloads, Table::Orphans] {
                if self.index.get(table, revision.as_bytes()).await?.is_some() {
                    return Ok(true);
                }
            }
        }
        let names_one = |value: &Bytes| {
            let change = Change::decode(value);
            change.is_ok_and(|change| {
                change
                    .revisions
                    .iter()
                    .any(|revision| listed.contains(revision))
            })
        };
        self.any(Table::Changes, names_one).await
    }

    /// Returns whether a row or a part of an upload names a blob. Reads every row of a store that
    /// has no blob: once, at its first opening by a build with store ids.
    async fn names_a_blob(&self) -> Result<bool> {
        // A row that can't be read may name one.
        let by_row =
            |value: &Bytes| Row::decode(value).map_or(true, |row| !row.revisions().is_empty());
        if self.any(Table::Rows, by_row).await? {
            return Ok(true);
        }
        let parts = Range::prefix(&all_parts_prefix(), 1);
        Ok(!self
            .index
            .snapshot()?
            .scan(Table::Sessions, parts)
            .await?
            .is_empty())
    }

    async fn any(&self, table: Table, is_it: impl Fn(&Bytes) -> bool) -> Result<bool> {
        let mut range = Range::all(PAGE);
        loop {
            let page = self.index.snapshot()?.scan(table, range.clone()).await?;
            if page.iter().any(|(_, value)| is_it(value)) {
                return Ok(true);
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => range = range.after(last.clone()),
                Some(_) | None => return Ok(false),
            }
        }
    }
}

/// The tier, which carries the marker of this store.
async fn owned(tier: Option<BlobTier>, id: StoreId, text: &str) -> Result<BlobTier> {
    let tier = tier.ok_or_else(|| refusal(ErrorKind::Unavailable, "is not there", text))?;
    tier.belongs_to(id);
    // The marker was read by its path: that path must name the directory that is held open.
    tier.check_owner().await?;
    Ok(tier)
}

/// What becomes of a tier: the table in the file's head. Pure.
fn decide(known: Known, marker: &Marker, adopt: bool, place: &str) -> Decision {
    use TierState::{Claimed, Pending};
    let decision = match (known, marker) {
        (Known::Record(StoreRecord { id, tier }), Marker::Of(found)) if *found == id => {
            match tier {
                Claimed => Decision::Open(id),
                Pending => Decision::Note(id),
            }
        }
        (Known::Record(StoreRecord { id, .. }), Marker::Of(found)) => {
            let what = format!("belongs to another store: expected={id} found={found}");
            Decision::Refuse(refusal(ErrorKind::Invalid, &what, place))
        }
        (Known::Nothing, Marker::Of(found)) => {
            let what = format!("belongs to another store: found={found}");
            Decision::Refuse(refusal(ErrorKind::Invalid, &what, place))
        }
        (Known::Record(StoreRecord { id, tier: Pending }), Marker::Unreadable(bytes, _))
            if marker::is_unfinished(bytes, id) =>
        {
            Decision::IfPlausible
        }
        (Known::Nothing | Known::Record(_), Marker::Unreadable(_, error)) => {
            let refusal = refusal(error.kind(), "has a marker that can't be read", place);
            Decision::Refuse(refusal.with_source(error.clone()))
        }
        (Known::Nothing | Known::Record(StoreRecord { tier: Pending, .. }), Marker::Absent) => {
            Decision::IfPlausible
        }
        (Known::Record(StoreRecord { id, tier: Claimed }), Marker::Absent) => {
            let what = format!(
                "is not there, or is another one (is its disk mounted?): expected={id} found=none"
            );
            Decision::Refuse(refusal(ErrorKind::Unavailable, &what, place))
        }
    };
    match decision {
        Decision::Refuse(_) | Decision::IfPlausible if adopt => Decision::Adopt,
        decision => decision,
    }
}

fn refusal(kind: ErrorKind, what: &str, place: &str) -> Error {
    Error::new(
        kind,
        "open",
        format!("the blob tier {what} tier={place}; {WAY_OUT}"),
    )
}

#[cfg(test)]
mod tests;
