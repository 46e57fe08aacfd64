//! Upkeep of fjall's own files: decides when a table is compacted because many of its keys were
//! removed or replaced, and when all tables are flushed because of old journals.
//! [`Tidier`](super::tidier::Tidier) carries out the work.
//!
//! ```text
//! sink     count the removed and the written keys of each table, and the commits
//! watch    removed keys >= 20,000 and >= a quarter of the table ──> flush and compact the table
//!          more than 3 journals ──────────────────────────────────> flush every table
//!          quiet for some seconds:
//!            changed keys >= a third of a table of >= 4 MiB ──────> flush and compact the table
//!            more than 1 journal ─────────────────────────────────> flush every table
//!            a large journal beside little data ──────────────────> end it (`journal_end.rs`)
//!          otherwise, or too soon after the last work ────────────> nothing
//! ```
//!
//! fjall keeps an entry for a removed or replaced key until a compaction reaches it. Until then the
//! entry takes space, and a scan over it about 0.7 µs. Without further writes, fjall neither flushes
//! nor compacts. A table that is written rarely keeps the journals with its last writes. Guards I12
//! for the tables of the index: a compaction costs time in proportion to the table, and runs only
//! after changes in proportion to the table.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::journal_end;
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
/// Maximal number of journals that cause no flush of a quiet index.
const QUIET_JOURNALS_MAX: usize = 1;
/// Minimal share of changed keys for a compaction in a quiet index, as a divisor.
const QUIET_DIVISOR: u64 = 3;
/// Minimal size of a table for a compaction in a quiet index, in bytes.
const QUIET_BYTES_MIN: u64 = 4 * 1024 * 1024;
/// Interval at which commits are counted.
const INTERVAL: Duration = Duration::from_secs(5);
/// Maximal number of commits in an interval of a quiet index.
const QUIET_COMMITS_MAX: u64 = 50;
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
    /// End of the journal, before it has its full size.
    EndJournal,
}

/// Counters of changed keys, and the pace of the work.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    changed: [Changed; Table::ALL.len()],
    /// Commits that have changed a table.
    commits: AtomicU64,
    /// Number of commits at the end of the last flush of a quiet index, and of the last early end
    /// of a journal.
    flushed: AtomicU64,
    ended: AtomicU64,
    interval: Mutex<Option<Interval>>,
    /// Monotonic time before which no work is due, in milliseconds.
    not_before_ms: AtomicU64,
}

/// Number of changed keys of a table since its last compaction.
#[derive(Debug, Default)]
struct Changed {
    removed: AtomicU64,
    written: AtomicU64,
}

/// Changed keys of a table that a compaction will drop.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Dropped {
    removed: u64,
    written: u64,
}

/// Interval in which commits are counted.
#[derive(Clone, Copy, Debug)]
struct Interval {
    began: Duration,
    /// Number of commits at its begin.
    commits: u64,
    /// Whether the interval before it was quiet.
    after_quiet: bool,
}

impl Upkeep {
    /// Counts the keys that a commit has changed.
    pub(super) fn committed(&self, changes: &Changes) {
        for ((table, _), value) in changes {
            let Changed { removed, written } = self.of(*table);
            let counter = if value.is_none() { removed } else { written };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        // A request for a high-water mark changes nothing.
        self.commits
            .fetch_add(u64::from(!changes.is_empty()), Ordering::Relaxed);
    }

    /// Returns the work that is due, or `None`. `now` is the monotonic time.
    pub(super) fn due(&self, store: &Store, now: Duration) -> Option<DueWork> {
        let is_quiet = self.is_quiet(now);
        if millis(now) < self.not_before_ms.load(Ordering::Relaxed) {
            return None;
        }
        let due = Table::ALL.into_iter().find(|&table| {
            let keyspace = store.tables.of(table);
            let Dropped { removed, written } = self.of(table).now();
            let has_values = keyspace.blob_file_count() > 0;
            let keys = keyspace.approximate_len() as u64;
            is_due(removed, keys, has_values)
                || is_quiet && is_due_when_quiet(removed + written, keys, keyspace.disk_space())
        });
        if let Some(table) = due {
            return Some(DueWork::Compact(table));
        }
        let journals = store.database.journal_count();
        // Work that did not help is not repeated.
        let is_news =
            |done: &AtomicU64| done.load(Ordering::Relaxed) != self.commits.load(Ordering::Relaxed);
        if journals > JOURNALS_MAX
            || is_quiet && journals > QUIET_JOURNALS_MAX && is_news(&self.flushed)
        {
            return Some(DueWork::Flush);
        }
        (is_quiet && is_news(&self.ended) && journal_end::is_due(store))
            .then_some(DueWork::EndJournal)
    }

    /// Returns whether few batches were committed in the last interval and since.
    fn is_quiet(&self, now: Duration) -> bool {
        let commits = self.commits.load(Ordering::Relaxed);
        let mut interval = self.interval.lock().unwrap_or_else(PoisonError::into_inner);
        let current = interval.get_or_insert(Interval {
            began: now,
            commits,
            after_quiet: false,
        });
        let has_few = commits - current.commits <= QUIET_COMMITS_MAX;
        if now.saturating_sub(current.began) >= INTERVAL {
            *current = Interval {
                began: now,
                commits,
                after_quiet: has_few,
            };
        }
        current.after_quiet && has_few
    }

    /// Begins a work. Returns the changed keys that it will drop.
    pub(super) fn begin(&self, work: DueWork) -> Dropped {
        match work {
            DueWork::Compact(table) => self.of(table).now(),
            DueWork::Flush | DueWork::EndJournal => Dropped::default(),
        }
    }

    /// Ends a work, also after an error: the next try is not due at once. `dropped` is the result
    /// of [`begin`](Self::begin).
    pub(super) fn end(&self, work: DueWork, dropped: Dropped, began: Duration, now: Duration) {
        let commits = self.commits.load(Ordering::Relaxed);
        match work {
            DueWork::Compact(table) => {
                // Keys changed since the begin count for the next work.
                let Changed { removed, written } = self.of(table);
                removed.fetch_sub(dropped.removed, Ordering::Relaxed);
                written.fetch_sub(dropped.written, Ordering::Relaxed);
            }
            DueWork::Flush => self.flushed.store(commits, Ordering::Relaxed),
            DueWork::EndJournal => self.ended.store(commits, Ordering::Relaxed),
        }
        let took = now.saturating_sub(began);
        let pause = took.saturating_mul(PAUSE_FACTOR).max(PAUSE_MIN);
        let not_before = millis(now.saturating_add(pause));
        self.not_before_ms.store(not_before, Ordering::Relaxed);
    }

    fn of(&self, table: Table) -> &Changed {
        &self.changed[table as usize]
    }
}

impl Changed {
    fn now(&self) -> Dropped {
        Dropped {
            removed: self.removed.load(Ordering::Relaxed),
            written: self.written.load(Ordering::Relaxed),
        }
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

/// Returns whether a table of a quiet index is due for a compaction. It has about `keys` keys,
/// removed and replaced ones included, and takes `bytes`.
fn is_due_when_quiet(changed: u64, keys: u64, bytes: u64) -> bool {
    bytes >= QUIET_BYTES_MIN && changed > 0 && changed >= keys / QUIET_DIVISOR
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
        let rows = upkeep.of(Table::Rows);
        rows.removed.store(7, Ordering::Relaxed);
        let dropped = upkeep.begin(work);
        rows.removed.fetch_add(2, Ordering::Relaxed);
        upkeep.end(work, dropped, seconds(10), seconds(13));
        assert_eq!(upkeep.not_before_ms.load(Ordering::Relaxed), 25_000);
        assert_eq!(rows.removed.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn quiet_begins_after_an_interval_with_few_commits_and_ends_with_a_load() {
        let upkeep = Upkeep::default();
        let seconds = Duration::from_secs;
        let commit = |count| upkeep.commits.fetch_add(count, Ordering::Relaxed);
        assert!(!upkeep.is_quiet(seconds(100)), "the first interval");
        commit(QUIET_COMMITS_MAX + 1);
        assert!(!upkeep.is_quiet(seconds(105)), "a load");
        assert!(!upkeep.is_quiet(seconds(109)), "not yet for an interval");
        commit(QUIET_COMMITS_MAX);
        assert!(upkeep.is_quiet(seconds(110)));
        commit(QUIET_COMMITS_MAX);
        assert!(upkeep.is_quiet(seconds(111)));
        commit(1);
        assert!(!upkeep.is_quiet(seconds(112)), "a new load");
        assert!(!upkeep.is_quiet(seconds(115)));
        assert!(upkeep.is_quiet(seconds(120)));
    }

    #[test]
    fn quiet_index_compacts_a_table_after_changes_in_proportion_to_it() {
        assert!(is_due_when_quiet(100, 300, QUIET_BYTES_MIN));
        assert!(!is_due_when_quiet(99, 300, QUIET_BYTES_MIN));
        assert!(!is_due_when_quiet(100, 300, QUIET_BYTES_MIN - 1));
        assert!(!is_due_when_quiet(0, 0, QUIET_BYTES_MIN));
    }
}
