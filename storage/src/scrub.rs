//! The scrub: verify everything against everything, and say what could be done about what is wrong. [`Scrub`] walks,
//! [`ScrubReport`] says what came of it.
//!
//! ```text
//! 1 rows      each can be read, and has its expiry entry                            a snapshot for each page
//! 2 sessions  each can be read, has its expiry entry, and all parts have theirs     a snapshot for each page
//! 3 entries   expiry entries, changes, orphans, version floors: each makes sense    a snapshot for each page
//! 4 payloads  each is named by a row or a part                                      one snapshot: keys, then all of those
//! 5 bytes     what each row names is there, and is what was written                 pinned, the row read again (I8)
//! 6 parts     the same for the parts of open uploads                                pinned, the part read again (I8)
//! 7 blobs     each is named by a row, a part, a change or an orphan                 listed first, then one snapshot
//! ```
//!
//! What must be seen together is seen in one snapshot, so that no write, rename or upload beside it makes a false alarm. An
//! expired object that is not removed yet is no damage: it is absent, and the expirer's. Memory is bounded, whatever there
//! is: pages, [`ScrubOptions`], and the byte budget that all reads share.
//!
//! Guards I5 (4 and 7) and the promise that damage is found before somebody needs the bytes. Deliberately not here: carrying
//! out what is proposed. Whoever drives the walk does so after each [`step`](Scrub::step), so that what a repair lays open
//! is found by a later one: the payload of a row that was given up, then its blob.

mod blob;
mod blobs;
mod bytes;
mod entries;
mod finding;
mod parts;
mod payloads;
mod report;
mod rows;
mod sessions;

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use ::bytes::Bytes;

use crate::error::Result;
use crate::index::{Range, Snapshot, Table};
use crate::read::Reads;

pub use finding::{Cure, Damage, Fate, Finding, Found, RawKey, Remedy};
pub use report::{Looked, ScrubProgress, ScrubReport};

use self::bytes::Pace;
use blobs::Listing;
use payloads::Strays;
use report::{Listener, Tally};
use sessions::Sessions;

/// How far a scrub looks at the bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScrubDepth {
    /// Whether they are there: one question for each blob.
    Presence,
    /// All of them, compared with their checksums.
    #[default]
    Bytes,
}

/// How a scrub looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrubOptions {
    /// How far it looks at the bytes.
    pub depth: ScrubDepth,
    /// Blobs that were begun within this time are not yet called unknown.
    pub grace: Duration,
    /// Objects, or parts, whose bytes are looked at together.
    pub objects_at_once: usize,
    /// Findings that the report names; it counts all of them.
    pub findings_max: usize,
}

impl Default for ScrubOptions {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self { depth: ScrubDepth::default(), grace: day, objects_at_once: 8, findings_max: 1000 }
    }
}

/// One walk over both tiers.
pub struct Scrub {
    reads: Reads,
    options: ScrubOptions,
    tally: Arc<Tally>,
    stage: Stage,
}

/// Where the walk is; each but the last says behind which key it goes on.
enum Stage {
    Rows(Option<Bytes>),
    Sessions(Box<Sessions>),
    Entries(Table, Option<Bytes>),
    Payloads(Strays),
    Bytes(Option<Bytes>),
    Parts(Option<Bytes>),
    Blobs(Box<Listing>),
    Done,
}

impl Scrub {
    /// A walk over what these reads read. `listener` is told how far it has come, from time to time.
    pub fn new(
        reads: Reads,
        options: ScrubOptions,
        listener: Option<Arc<dyn Fn(ScrubProgress) + Send + Sync>>,
    ) -> Self {
        let listener: Option<Listener> = listener;
        Self { reads, options, tally: Arc::new(Tally::new(listener)), stage: Stage::Rows(None) }
    }

    /// How it looks.
    pub fn options(&self) -> &ScrubOptions {
        &self.options
    }

    /// What it has looked at so far.
    pub fn looked(&self) -> Looked {
        self.tally.looked()
    }

    /// Looks at some more: what is wrong with it, or none at the end. After a step that failed or was dropped, begin
    /// anew.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if the index can't be read or the blob tier can't be listed. That one
    /// blob can't be read is a finding.
    pub async fn step(&mut self) -> Result<Option<Vec<Found>>> {
        let (reads, tally) = (&self.reads, &*self.tally);
        let pace = Pace { depth: self.options.depth, at_once: self.options.objects_at_once.max(1) };
        let (found, next) = match &mut self.stage {
            Stage::Rows(after) => {
                let (found, next) = rows::page(reads.index(), after.clone(), tally).await?;
                (found, next.map_or_else(|| Stage::Sessions(Box::default()), |last| Stage::Rows(Some(last))))
            }
            Stage::Sessions(sessions) => match sessions.page(reads.index(), tally).await? {
                Some(found) => {
                    tally.tell();
                    return Ok(Some(found));
                }
                None => (Vec::new(), Stage::Entries(Table::Expiry, None)),
            },
            Stage::Entries(table, after) => {
                let (found, next) = entries::page(reads.index(), *table, after.clone(), tally).await?;
                let table = *table;
                (found, next.map_or_else(|| behind(table), |last| Stage::Entries(table, Some(last))))
            }
            Stage::Payloads(strays) => match strays.page(reads.index(), tally).await? {
                Some(found) => (found, Stage::Payloads(std::mem::take(strays))),
                None => (Vec::new(), Stage::Bytes(None)),
            },
            Stage::Bytes(after) => {
                let (found, next) = self::bytes::page(reads, pace, after.clone(), tally).await?;
                (found, next.map_or(Stage::Parts(None), |last| Stage::Bytes(Some(last))))
            }
            Stage::Parts(after) => {
                let (found, next) = parts::page(reads, pace, after.clone(), tally).await?;
                let listing = || Stage::Blobs(Box::new(Listing::new(reads, self.options.grace)));
                (found, next.map_or_else(listing, |last| Stage::Parts(Some(last))))
            }
            Stage::Blobs(listing) => match listing.page(reads, tally).await? {
                Some(found) => {
                    tally.tell();
                    return Ok(Some(found));
                }
                None => (Vec::new(), Stage::Done),
            },
            Stage::Done => return Ok(None),
        };
        self.tally.tell();
        self.stage = next;
        Ok(Some(found))
    }
}

/// What comes after the entries of a table.
fn behind(table: Table) -> Stage {
    match table {
        Table::Expiry => Stage::Entries(Table::Changes, None),
        Table::Changes => Stage::Entries(Table::Orphans, None),
        Table::Orphans => Stage::Entries(Table::Meta, None),
        Table::Rows | Table::Payloads | Table::Sessions | Table::Meta => Stage::Payloads(Strays::default()),
    }
}

/// Damage found on a page, and the key behind which the next one begins; none if it was the last.
type Paged = (Vec<Found>, Option<Bytes>);

/// The range of a page behind this key.
fn page_range(after: Option<Bytes>, limit: usize) -> Range {
    match after {
        Some(key) => Range::all(limit).after(key),
        None => Range::all(limit),
    }
}

/// The last of these keys, if the page they make is full: there may be more.
fn last_of<'a>(keys: impl ExactSizeIterator<Item = &'a Bytes>, limit: usize) -> Option<Bytes> {
    let full = keys.len() == limit;
    keys.last().filter(|_| full).cloned()
}

/// Whether a key is there.
async fn contains(snapshot: &dyn Snapshot, table: Table, key: &Bytes) -> Result<bool> {
    let only = Range { start: Bound::Included(key.clone()), end: Bound::Included(key.clone()), limit: 1 };
    Ok(!snapshot.keys(table, only).await?.is_empty())
}
