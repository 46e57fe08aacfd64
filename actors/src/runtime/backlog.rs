//! The work of recovery and the sweeper, in memory: [`Backlog`], the unsettled changes and the
//! orphans of the index.
//!
//! ```text
//! full scan (first pass, after an unknown outcome) ──┐
//! every durable batch that puts or removes an entry ─┴─> backlog ──> what a pass looks at, and what statistics count
//! ```
//!
//! A table of the index from which most entries were removed costs a scan of all that was removed,
//! until fjall compacts it. So a pass reads the entries that the backlog names, and no others. The
//! index decides: an entry that the backlog names and the index does not have is forgotten, and a
//! doubt leads to a scan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cenotaph_storage::index::{Batch, Table};
use cenotaph_storage::rows::{Change, Orphan};
use cenotaph_storage::{OperationId, RevisionId, Timestamp};

/// Most orphans that are kept in memory, about 150 bytes each. More are found by a scan when these
/// are settled.
const ORPHANS_MAX: usize = 100_000;
/// A moment before all others.
const ALWAYS: Timestamp = Timestamp::from_millis(0);
/// A moment after all others.
const NEVER: Timestamp = Timestamp::from_millis(u64::MAX);

/// See the head of this file.
pub(crate) struct Backlog {
    state: Mutex<State>,
    orphans_max: usize,
}

struct State {
    /// Unsettled changes, and when they were recorded. There are about as many as uploads under
    /// way.
    changes: BTreeMap<OperationId, Option<Timestamp>>,
    orphans: BTreeMap<RevisionId, Queued>,
    /// Orphans that nobody has taken, by the moment they are due.
    due: BTreeSet<(Timestamp, RevisionId)>,
    /// Orphans that the pass under way has taken.
    taken: BTreeSet<RevisionId>,
    scan_changes: Scan,
    scan_orphans: Scan,
    /// More orphans exist than are in memory.
    has_overflowed: bool,
}

/// Reasons to scan a table, counted, and how many of them a scan that came to its end has seen to.
/// A scan whose actor dies is begun again.
#[derive(Clone, Copy, Debug)]
struct Scan {
    wanted: u64,
    done: u64,
}

impl Scan {
    /// Nothing is known yet.
    const FIRST: Self = Self { wanted: 1, done: 0 };

    fn is_wanted(self) -> bool {
        self.done < self.wanted
    }
}

/// An orphan in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Queued {
    since: Timestamp,
    not_before: Timestamp,
}

/// Changes and orphans that a batch puts and removes.
#[derive(Default)]
pub(crate) struct BacklogUpdate {
    changes: Vec<(OperationId, Option<Option<Timestamp>>)>,
    orphans: Vec<(RevisionId, Option<Queued>)>,
}

/// Number of entries, and the moment of the oldest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) count: u64,
    pub(crate) oldest: Option<Timestamp>,
}

impl BacklogUpdate {
    pub(crate) fn of(batch: &Batch) -> Self {
        let mut update = Self::default();
        for (table, key, value) in batch.changes() {
            match table {
                Table::Changes => {
                    let id = OperationId::from_slice(key);
                    update
                        .changes
                        .extend(id.map(|id| (id, value.as_ref().map(recorded))));
                }
                Table::Orphans => {
                    let id = RevisionId::from_slice(key);
                    update
                        .orphans
                        .extend(id.map(|id| (id, value.as_ref().map(Queued::read))));
                }
                Table::Rows | Table::Payloads | Table::Sessions | Table::Expiry | Table::Meta => {}
            }
        }
        update
    }

    pub(crate) fn adds_orphans(&self) -> bool {
        self.orphans.iter().any(|(_, queued)| queued.is_some())
    }
}

fn recorded(value: &Bytes) -> Option<Timestamp> {
    Change::decode(value).map(|change| change.started).ok()
}

impl Queued {
    /// A damaged orphan is due at once: the pass that reads it reports it.
    fn read(value: &Bytes) -> Self {
        Orphan::decode(value).map_or(
            Self {
                since: NEVER,
                not_before: ALWAYS,
            },
            |orphan| Self {
                since: orphan.since,
                // One that never had to wait is due at any time of day.
                not_before: if orphan.not_before <= orphan.since {
                    ALWAYS
                } else {
                    orphan.not_before
                },
            },
        )
    }
}

impl Default for Backlog {
    fn default() -> Self {
        Self::with_orphans_max(ORPHANS_MAX)
    }
}

impl Backlog {
    fn with_orphans_max(orphans_max: usize) -> Self {
        let state = State {
            changes: BTreeMap::new(),
            orphans: BTreeMap::new(),
            due: BTreeSet::new(),
            taken: BTreeSet::new(),
            scan_changes: Scan::FIRST,
            scan_orphans: Scan::FIRST,
            has_overflowed: false,
        };
        Self {
            state: Mutex::new(state),
            orphans_max,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a durable batch.
    pub(crate) fn note(&self, update: &BacklogUpdate) {
        if update.changes.is_empty() && update.orphans.is_empty() {
            return;
        }
        let mut state = self.state();
        for (id, recorded) in &update.changes {
            match recorded {
                Some(started) => drop(state.changes.insert(*id, *started)),
                None => drop(state.changes.remove(id)),
            }
        }
        for (id, queued) in &update.orphans {
            match queued {
                Some(queued) => state.queue(*id, *queued, self.orphans_max),
                None => state.forget(*id),
            }
        }
    }

    /// Notes a batch of unknown outcome: the next passes scan.
    pub(crate) fn doubt(&self, update: &BacklogUpdate) {
        let mut state = self.state();
        state.scan_changes.wanted += u64::from(!update.changes.is_empty());
        state.scan_orphans.wanted += u64::from(!update.orphans.is_empty());
    }

    /// Returns whether a change may be unsettled.
    pub(crate) fn may_hold(&self, change: OperationId) -> bool {
        let state = self.state();
        state.scan_changes.is_wanted() || state.changes.contains_key(&change)
    }

    /// The scan that recovery must run, if any: to be given to
    /// [`scanned_changes`](Self::scanned_changes) at its end.
    pub(crate) fn scan_of_changes(&self) -> Option<u64> {
        let scan = self.state().scan_changes;
        scan.is_wanted().then_some(scan.wanted)
    }

    pub(crate) fn scanned_changes(&self, scan: u64) {
        self.state().scan_changes.done = scan;
    }

    /// Asks for a scan by the next pass of recovery.
    pub(crate) fn want_scan_of_changes(&self) {
        self.state().scan_changes.wanted += 1;
    }

    pub(crate) fn found_change(&self, id: OperationId, value: &Bytes) {
        self.state().changes.insert(id, recorded(value));
    }

    pub(crate) fn forget_change(&self, id: OperationId) {
        self.state().changes.remove(&id);
    }

    /// All unsettled changes.
    pub(crate) fn changes(&self) -> Vec<OperationId> {
        self.state().changes.keys().copied().collect()
    }

    /// The scan that the sweeper must run, if any: to be given to
    /// [`scanned_orphans`](Self::scanned_orphans) at its end.
    pub(crate) fn scan_of_orphans(&self) -> Option<u64> {
        let mut state = self.state();
        if state.has_overflowed && state.orphans.len() <= self.orphans_max / 2 {
            state.has_overflowed = false;
            state.scan_orphans.wanted += 1;
        }
        state
            .scan_orphans
            .is_wanted()
            .then_some(state.scan_orphans.wanted)
    }

    pub(crate) fn scanned_orphans(&self, scan: u64) {
        self.state().scan_orphans.done = scan;
    }

    /// Puts back orphans that an earlier pass took and neither settled nor put off.
    pub(crate) fn put_back_all(&self) {
        let mut state = self.state();
        let taken = std::mem::take(&mut state.taken);
        taken.into_iter().for_each(|id| state.put_back(id));
    }

    /// Puts back orphans that the pass under way took, and left to their readers.
    pub(crate) fn put_back(&self, orphans: Vec<RevisionId>) {
        let mut state = self.state();
        for id in orphans {
            if state.taken.remove(&id) {
                state.put_back(id);
            }
        }
    }

    pub(crate) fn found_orphan(&self, id: RevisionId, value: &Bytes) {
        let queued = Queued::read(value);
        self.state().queue(id, queued, self.orphans_max);
    }

    pub(crate) fn forget_orphan(&self, id: RevisionId) {
        self.state().forget(id);
    }

    /// Takes an orphan that is due at `now`, or would wait longer than `longest`.
    pub(crate) fn take_due(&self, now: Timestamp, longest: Duration) -> Option<RevisionId> {
        let mut state = self.state();
        let is_due = |(moment, _): &&(Timestamp, RevisionId)| *moment <= now;
        let is_far = |(moment, _): &&(Timestamp, RevisionId)| *moment > now.after(longest);
        let next = state
            .due
            .first()
            .filter(is_due)
            .or_else(|| state.due.last().filter(is_far))
            .copied()?;
        state.due.remove(&next);
        state.taken.insert(next.1);
        Some(next.1)
    }

    /// The moment when the next orphan is due that nobody has taken.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.state().due.first().map(|(moment, _)| *moment)
    }

    /// Number of orphans in memory.
    pub(crate) fn known_orphans(&self) -> u64 {
        self.state().orphans.len() as u64
    }

    pub(crate) fn has_overflowed(&self) -> bool {
        self.state().has_overflowed
    }

    /// Changes, or none if only a scan can count them.
    pub(crate) fn tally_changes(&self) -> Option<Tally> {
        let state = self.state();
        let oldest = state.changes.values().flatten().min().copied();
        (!state.scan_changes.is_wanted()).then(|| Tally {
            count: state.changes.len() as u64,
            oldest,
        })
    }

    /// Sets the gauges of what is left to do, where it is known.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    pub(crate) fn gauge(&self) {
        if let Some(changes) = self.tally_changes() {
            metrics::gauge!("cenotaph_changes").set(changes.count as f64);
        }
        if let Some(orphans) = self.tally_orphans() {
            metrics::gauge!("cenotaph_orphans").set(orphans.count as f64);
        }
    }

    /// Orphans, or none if only a scan can count them.
    pub(crate) fn tally_orphans(&self) -> Option<Tally> {
        let state = self.state();
        let since = state.orphans.values().map(|queued| queued.since);
        let oldest = since.min().filter(|since| *since < NEVER);
        let is_known = !state.scan_orphans.is_wanted() && !state.has_overflowed;
        is_known.then(|| Tally {
            count: state.orphans.len() as u64,
            oldest,
        })
    }
}

impl State {
    fn queue(&mut self, id: RevisionId, queued: Queued, orphans_max: usize) {
        self.forget(id);
        if self.orphans.len() >= orphans_max {
            self.has_overflowed = true;
            return;
        }
        self.orphans.insert(id, queued);
        self.due.insert((queued.not_before, id));
    }

    fn put_back(&mut self, id: RevisionId) {
        if let Some(queued) = self.orphans.get(&id) {
            self.due.insert((queued.not_before, id));
        }
    }

    fn forget(&mut self, id: RevisionId) {
        self.taken.remove(&id);
        if let Some(queued) = self.orphans.remove(&id) {
            self.due.remove(&(queued.not_before, id));
        }
    }
}

#[cfg(test)]
mod tests;
