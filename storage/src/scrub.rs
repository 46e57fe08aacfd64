//! The scrub: verifies all entries of the index and all blobs against each other, and proposes
//! repairs. [`ScrubWalk`] is the walk, [`ScrubReport`] its result.
//!
//! ```text
//! walk                                                                 reads from
//! 1 rows      each is readable and has its expiry entry                snapshot per page
//! 2 uploads   each upload record is readable and has its expiry entry; snapshot per page
//!             each part is readable and belongs to an open upload
//! 3 entries   expiry entries, changes, orphans, last versions and the  snapshot per page
//!             base version are valid
//! 4 payloads  each is named by a row or a part                         one snapshot for all
//! 5 bytes     the bytes that each row names exist and are intact       pinned, row read again (I8)
//! 6 parts     the same for the parts of open uploads                   pinned, part read again (I8)
//! 7 blobs     each is named by a row, a part, a change or an orphan    list, then one snapshot
//! ```
//!
//! Related entries are read from one snapshot. A finding is confirmed on the newest state before it
//! counts (`second.rs`, and the shards). Keys that cannot be read are skipped, and are findings. An
//! expired object that is not removed yet is not damage: the object counts as absent, and the
//! expirer removes it. Memory is bounded by pages, by [`ScrubOptions`], and by the byte budget that
//! all reads share.
//!
//! Guards I5 (walks 4 and 7), and the promise that damage is found before a read needs the bytes.
//! The driver of the walk carries out the proposed repairs after each [`step`](ScrubWalk::step).
//! Therefore a later step finds the damage that a repair uncovers: the payload of a row that was
//! given up, then its blob.

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

use crate::index::{Range, Table};
use crate::read::Reads;
use crate::records::last_versions_prefix;
use crate::types::Result;

pub use damage::{Damage, RawKey};
pub use finding::{Finding, FoundDamage, RepairAction, RepairOutcome, RepairPolicy};
pub use report::{ScrubCounts, ScrubProgress, ScrubReport};

use self::bytes::ScrubPace;
use blobs::TierWalk;
use payloads::Strays;
pub(crate) use payloads::visit_rows;
use report::{Listener, ScrubTally};
pub(crate) use second::visit;
use sessions::Sessions;
pub(crate) use sessions::visit_parts;

/// Extent to which a scrub verifies payload bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScrubDepth {
    /// Existence and length only: one request per blob.
    Presence,
    /// All bytes, compared with their checksums.
    #[default]
    Bytes,
}

/// Options of a scrub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrubOptions {
    /// Extent to which payload bytes are verified.
    pub depth: ScrubDepth,
    /// Minimum age of a blob to be reported as unknown. Younger blobs are skipped.
    pub grace: Duration,
    /// Number of objects, or of parts, whose bytes are verified concurrently.
    pub objects_at_once: usize,
    /// Maximum number of findings that the report lists. All findings are counted.
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

/// A walk over both tiers.
pub struct ScrubWalk {
    reads: Reads,
    options: ScrubOptions,
    tally: Arc<ScrubTally>,
    stage: WalkStage,
    /// True if a range of rows is unreadable: these rows may be the only entries that name some
    /// blobs.
    rows_are_unreadable: bool,
}

/// Current walk, with the range that remains.
enum WalkStage {
    Rows(Range),
    Sessions(Box<Sessions>),
    Entries(Table, Range),
    Payloads(Strays),
    Bytes(Range),
    Parts(Range),
    Blobs(Box<TierWalk>),
    Done,
}

impl ScrubWalk {
    /// Creates a scrub of the store behind `reads`. `listener` is called with the progress from
    /// time to time.
    pub fn new(
        reads: Reads,
        options: ScrubOptions,
        listener: Option<Arc<dyn Fn(ScrubProgress) + Send + Sync>>,
    ) -> Self {
        let listener: Option<Listener> = listener;
        Self {
            reads,
            options,
            tally: Arc::new(ScrubTally::new(listener)),
            stage: WalkStage::Rows(Range::all(rows::PAGE)),
            rows_are_unreadable: false,
        }
    }

    /// Returns the options.
    pub fn options(&self) -> &ScrubOptions {
        &self.options
    }

    /// Returns the counts so far.
    pub fn looked(&self) -> ScrubCounts {
        self.tally.looked()
    }

    /// Verifies the next page. Returns its damage, or `None` at the end of the scrub. A scrub whose
    /// step failed or was dropped must be started again.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if the index cannot be read or the blob tier
    /// cannot be listed. Damage is a finding, not an error, also if the index itself is damaged or
    /// a blob cannot be read.
    pub async fn step(&mut self) -> Result<Option<Vec<FoundDamage>>> {
        let reads = &self.reads;
        let tally = &*self.tally;
        let pace = ScrubPace {
            depth: self.options.depth,
            // 0 would never make progress.
            at_once: self.options.objects_at_once.max(1),
        };
        let (found, next) = match &mut self.stage {
            WalkStage::Rows(range) => {
                let (found, rest) = rows::page(reads.index(), range.clone(), tally).await?;
                let is_range =
                    |found: &FoundDamage| matches!(found.damage, Damage::UnreadableRange { .. });
                // Kept until the walk over blobs: see `TierWalk::new`.
                self.rows_are_unreadable |= found.iter().any(is_range);
                (
                    found,
                    rest.map_or_else(|| WalkStage::Sessions(Box::default()), WalkStage::Rows),
                )
            }
            WalkStage::Sessions(sessions) => match sessions.page(reads.index(), tally).await? {
                Some(found) => {
                    tally.notify();
                    return Ok(Some(found));
                }
                None => (
                    Vec::new(),
                    WalkStage::Entries(Table::Expiry, Range::all(entries::PAGE)),
                ),
            },
            WalkStage::Entries(table, range) => {
                WalkStage::entries(reads, *table, range.clone(), tally).await?
            }
            WalkStage::Payloads(strays) => match strays.page(reads.index(), tally).await? {
                Some(found) => (found, WalkStage::Payloads(std::mem::take(strays))),
                None => (Vec::new(), WalkStage::Bytes(Range::all(self::bytes::PAGE))),
            },
            WalkStage::Bytes(range) => {
                let (found, rest) = self::bytes::page(reads, pace, range.clone(), tally).await?;
                (
                    found,
                    rest.map_or_else(
                        || WalkStage::Parts(sessions::all(parts::PAGE)),
                        WalkStage::Bytes,
                    ),
                )
            }
            WalkStage::Parts(range) => {
                let (found, rest) = parts::page(reads, pace, range.clone(), tally).await?;
                let grace = self.options.grace;
                let blobs = || WalkStage::blobs(reads, grace, self.rows_are_unreadable);
                (found, rest.map_or_else(blobs, WalkStage::Parts))
            }
            WalkStage::Blobs(listing) => match listing.page(reads, tally).await? {
                Some(found) => {
                    tally.notify();
                    return Ok(Some(found));
                }
                None => (Vec::new(), WalkStage::Done),
            },
            WalkStage::Done => return Ok(None),
        };
        self.tally.notify();
        self.stage = next;
        Ok(Some(found))
    }
}

impl WalkStage {
    /// Verifies a page of a table of small entries. Returns its damage and the next stage.
    async fn entries(
        reads: &Reads,
        table: Table,
        range: Range,
        tally: &ScrubTally,
    ) -> Result<(Vec<FoundDamage>, Self)> {
        let (mut found, rest) = entries::page(reads.index(), table, range, tally).await?;
        if table == Table::Meta && rest.is_none() {
            found.extend(entries::base_version(reads.index()).await?);
        }
        let next = match rest {
            Some(rest) => Self::Entries(table, rest),
            None => stage_after(table),
        };
        Ok((found, next))
    }

    /// Begins the walk over blobs.
    fn blobs(reads: &Reads, grace: Duration, rows_are_unreadable: bool) -> Self {
        // A lost row may leave block checksums behind, so that they do not prove a row.
        let suspects_filed = rows_are_unreadable;
        Self::Blobs(Box::new(TierWalk::new(reads, grace, suspects_filed)))
    }
}

/// Returns the stage after the entries of a table.
fn stage_after(table: Table) -> WalkStage {
    match table {
        Table::Expiry => WalkStage::Entries(Table::Changes, Range::all(entries::PAGE)),
        Table::Changes => WalkStage::Entries(Table::Orphans, Range::all(entries::PAGE)),
        Table::Orphans => WalkStage::Entries(
            Table::Meta,
            Range::prefix(&last_versions_prefix(), entries::PAGE),
        ),
        Table::Rows | Table::Payloads | Table::Uploads | Table::Meta => {
            WalkStage::Payloads(Strays::default())
        }
    }
}

/// Damage found on a page, and the remaining range, or `None` after the last page.
type Paged = (Vec<FoundDamage>, Option<Range>);
