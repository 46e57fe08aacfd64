//! The scrub: verify everything against everything, and say what could be done about what is wrong.
//! [`Scrub`] walks, [`ScrubReport`] says what came of it.
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
//! What must be seen together is seen in one snapshot, and is looked at again on the newest state
//! before it counts (`second.rs`, and the shards). Keys that can't be read are stepped over, and
//! are findings. An expired object that is not removed yet is no damage: it is absent, and the
//! expirer's. Memory is bounded, whatever there is: pages, [`ScrubOptions`], and the byte budget
//! that all reads share.
//!
//! Guards I5 (4 and 7) and the promise that damage is found before somebody needs the bytes.
//! Deliberately not here: carrying out what is proposed. Whoever drives the walk does so after each
//! [`step`](Scrub::step), so that what a repair lays open is found by a later one: the payload of a
//! row that was given up, then its blob.

mod blob;
mod blobs;
mod bytes;
mod damage;
mod entries;
mod finding;
mod parts;
mod payloads;
mod report;
mod rows;
mod second;
mod sessions;

use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::index::{Range, Table};
use crate::read::Reads;
use crate::rows::floors_prefix;

pub use damage::{Damage, RawKey};
pub use finding::{Cure, Fate, Finding, Found, Remedy};
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
        Self {
            depth: ScrubDepth::default(),
            grace: day,
            objects_at_once: 8,
            findings_max: 1000,
        }
    }
}

/// One walk over both tiers.
pub struct Scrub {
    reads: Reads,
    options: ScrubOptions,
    tally: Arc<Tally>,
    stage: Stage,
    /// Rows that can't be read may be all that is known of some blobs.
    rows_are_unreadable: bool,
}

/// Where the walk is; each but the last says what is still to be looked at.
enum Stage {
    Rows(Range),
    Sessions(Box<Sessions>),
    Entries(Table, Range),
    Payloads(Strays),
    Bytes(Range),
    Parts(Range),
    Blobs(Box<Listing>),
    Done,
}

impl Scrub {
    /// A walk over what these reads read. `listener` is told how far it has come, from time to
    /// time.
    pub fn new(
        reads: Reads,
        options: ScrubOptions,
        listener: Option<Arc<dyn Fn(ScrubProgress) + Send + Sync>>,
    ) -> Self {
        let listener: Option<Listener> = listener;
        Self {
            reads,
            options,
            tally: Arc::new(Tally::new(listener)),
            stage: Stage::Rows(Range::all(rows::PAGE)),
            rows_are_unreadable: false,
        }
    }

    /// How it looks.
    pub fn options(&self) -> &ScrubOptions {
        &self.options
    }

    /// What it has looked at so far.
    pub fn looked(&self) -> Looked {
        self.tally.looked()
    }

    /// Looks at some more: what is wrong with it, or none at the end. After a step that failed or
    /// was dropped, begin anew.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if the index can't be read or the blob tier
    /// can't be listed. Damage is a finding, also where the index itself is damaged, and so is a
    /// blob that can't be read.
    pub async fn step(&mut self) -> Result<Option<Vec<Found>>> {
        let (reads, tally) = (&self.reads, &*self.tally);
        let pace = Pace {
            depth: self.options.depth,
            at_once: self.options.objects_at_once.max(1),
        };
        let (found, next) = match &mut self.stage {
            Stage::Rows(range) => {
                let (found, rest) = rows::page(reads.index(), range.clone(), tally).await?;
                let is_range =
                    |found: &Found| matches!(found.damage, Damage::UnreadableRange { .. });
                self.rows_are_unreadable |= found.iter().any(is_range);
                (
                    found,
                    rest.map_or_else(|| Stage::Sessions(Box::default()), Stage::Rows),
                )
            }
            Stage::Sessions(sessions) => match sessions.page(reads.index(), tally).await? {
                Some(found) => {
                    tally.tell();
                    return Ok(Some(found));
                }
                None => (
                    Vec::new(),
                    Stage::Entries(Table::Expiry, Range::all(entries::PAGE)),
                ),
            },
            Stage::Entries(table, range) => {
                let (found, rest) =
                    entries::page(reads.index(), *table, range.clone(), tally).await?;
                let table = *table;
                (
                    found,
                    rest.map_or_else(|| behind(table), |rest| Stage::Entries(table, rest)),
                )
            }
            Stage::Payloads(strays) => match strays.page(reads.index(), tally).await? {
                Some(found) => (found, Stage::Payloads(std::mem::take(strays))),
                None => (Vec::new(), Stage::Bytes(Range::all(self::bytes::PAGE))),
            },
            Stage::Bytes(range) => {
                let (found, rest) = self::bytes::page(reads, pace, range.clone(), tally).await?;
                (
                    found,
                    rest.map_or_else(|| Stage::Parts(sessions::all(parts::PAGE)), Stage::Bytes),
                )
            }
            Stage::Parts(range) => {
                let (found, rest) = parts::page(reads, pace, range.clone(), tally).await?;
                let suspects_filed = self.rows_are_unreadable;
                let listing = || {
                    Stage::Blobs(Box::new(Listing::new(
                        reads,
                        self.options.grace,
                        suspects_filed,
                    )))
                };
                (found, rest.map_or_else(listing, Stage::Parts))
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
        Table::Expiry => Stage::Entries(Table::Changes, Range::all(entries::PAGE)),
        Table::Changes => Stage::Entries(Table::Orphans, Range::all(entries::PAGE)),
        Table::Orphans => {
            Stage::Entries(Table::Meta, Range::prefix(&floors_prefix(), entries::PAGE))
        }
        Table::Rows | Table::Payloads | Table::Sessions | Table::Meta => {
            Stage::Payloads(Strays::default())
        }
    }
}

/// Damage found on a page, and what is left to be looked at; none if it was the last.
type Paged = (Vec<Found>, Option<Range>);
