//! Upkeep of fjall's own files: decides when a table is compacted because many of its keys were
//! removed, and when all tables are flushed because of old journals. [`Tidier`](super::tidier::Tidier)
//! carries out the work.
//!
//! ```text
//! sink     count the removed keys of each table
//! watch    removed keys >= 20,000 and >= a quarter of the table ──> flush and compact the table
//!          more than 3 journals ──────────────────────────────────> flush every table
//!          otherwise, or too soon after the last work ────────────> nothing
//! ```
//!
//! fjall keeps an entry for a removed key until a compaction reaches it. Until then the entry takes
//! space, and a scan over it about 0.7 µs. A table that is written rarely keeps the journals with
//! its last writes. Guards I12 for the tables of the index: a compaction costs time in proportion to
//! the table, and runs only after removals in proportion to the table.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::store::Store;
use crate::index::Table;
use crate::index::group_commit::Changes;

/// Minimal number of removed keys for a compaction: some 14 ms of a scan.
const REMOVED_MIN: u64 = 20_000;
/// Minimal number of removed payloads for a compaction if the table has values in blob files, which
/// stores of earlier builds have.
const REMOVED_VALUES_MIN: u64 = 64;
/// Minimal share of removed keys in a table for a compaction, as a divisor.
const SHARE_DIVISOR: u64 = 4;
/// Maximal number of journals that cause no flush.
const JOURNALS_MAX: usize = 3;
/// Minimal time between the end of a work and the next work.
const PAUSE_MIN: Duration = Duration::from_secs(2);
/// Minimal pause after a work, as a multiple of its duration.
const PAUSE_FACTOR: u32 = 4;

/// Work that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DueWork {
    /// Compaction of a table.
    Compact(Table),
    /// Flush of every table.
    Flush,
}

/// Counters of removed keys, and the pace of the work.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    removed: [AtomicU64; Table::ALL.len()],
    /// Monotonic time before which no work is due, in milliseconds.
    not_before_ms: AtomicU64,
}

impl Upkeep {
    /// Counts the keys that a commit has removed.
    pub(super) fn committed(&self, changes: &Changes) {
        for ((table, _), value) in changes {
            if value.is_none() {
                self.counter(*table).fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Returns the work that is due, or `None`. `now` is the monotonic time.
    pub(super) fn due(&self, store: &Store, now: Duration) -> Option<DueWork> {
        if millis(now) < self.not_before_ms.load(Ordering::Relaxed) {
            return None;
        }
        let due = Table::ALL.into_iter().find(|&table| {
            let keyspace = store.tables.of(table);
            let removed = self.counter(table).load(Ordering::Relaxed);
            let has_values = keyspace.blob_file_count() > 0;
            is_due(removed, keyspace.approximate_len() as u64, has_values)
        });
        match due {
            Some(table) => Some(DueWork::Compact(table)),
            None if store.database.journal_count() > JOURNALS_MAX => Some(DueWork::Flush),
            None => None,
        }
    }

    /// Begins a work. Returns the number of removed keys that it will drop.
    pub(super) fn begin(&self, work: DueWork) -> u64 {
        match work {
            DueWork::Compact(table) => self.counter(table).load(Ordering::Relaxed),
            DueWork::Flush => 0,
        }
    }

    /// Ends a work, also after an error: the next try is not due at once. `dropped` is the result
    /// of [`begin`](Self::begin).
    pub(super) fn end(&self, work: DueWork, dropped: u64, began: Duration, now: Duration) {
        if let DueWork::Compact(table) = work {
            // Keys removed since the begin count for the next work.
            self.counter(table).fetch_sub(dropped, Ordering::Relaxed);
        }
        let took = now.saturating_sub(began);
        let pause = took.saturating_mul(PAUSE_FACTOR).max(PAUSE_MIN);
        let not_before = millis(now.saturating_add(pause));
        self.not_before_ms.store(not_before, Ordering::Relaxed);
    }

    fn counter(&self, table: Table) -> &AtomicU64 {
        &self.removed[table as usize]
    }
}

/// Returns whether a table with about `keys` keys, removed ones included, is due for a compaction.
fn is_due(removed: u64, keys: u64, has_values: bool) -> bool {
    let least = if has_values {
        REMOVED_VALUES_MIN
    } else {
        REMOVED_MIN
    };
    removed >= least && removed >= keys / SHARE_DIVISOR
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compaction_is_due_after_removals_in_proportion_to_the_table() {
        assert!(!is_due(REMOVED_MIN - 1, 0, false));
        assert!(is_due(REMOVED_MIN, 4 * REMOVED_MIN, false));
        assert!(!is_due(REMOVED_MIN, 4 * REMOVED_MIN + 4, false));
        assert!(is_due(REMOVED_VALUES_MIN, 200, true));
        assert!(!is_due(REMOVED_VALUES_MIN, 300, true));
    }

    #[test]
    fn work_pauses_in_proportion_to_its_duration() {
        let upkeep = Upkeep::default();
        let seconds = Duration::from_secs;
        let work = DueWork::Compact(Table::Rows);
        upkeep.counter(Table::Rows).store(7, Ordering::Relaxed);
        let dropped = upkeep.begin(work);
        upkeep.counter(Table::Rows).fetch_add(2, Ordering::Relaxed);
        upkeep.end(work, dropped, seconds(10), seconds(13));
        assert_eq!(upkeep.not_before_ms.load(Ordering::Relaxed), 25_000);
        assert_eq!(upkeep.counter(Table::Rows).load(Ordering::Relaxed), 2);
    }
}
