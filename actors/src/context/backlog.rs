//! [`Backlog`]: the unsettled changes and the orphans of the index, in memory.
//!
//! ```text
//! full scan (first pass, after an unknown outcome) ──┐
//! every durable batch that puts or removes an entry ─┴─> backlog ──> passes, statistics
//! ```
//!
//! A pass reads only the entries that the backlog names: scanning a table from which most entries
//! were removed costs a walk over all of them until fjall compacts the table. The index decides. An
//! entry of the backlog that the index lacks is forgotten, and a batch of unknown outcome causes a
//! scan.
//!
//! On a shared index the backlog names the changes and orphans that this member has committed or
//! scanned. An orphan is due only after the grace time for readers of other members (I8).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cenotaph_storage::index::{Batch, Table};
use cenotaph_storage::records::{Change, Orphan};
use cenotaph_storage::{Env, OperationId, RevisionId, Timestamp};

/// Maximum number of orphans in memory, about 150 bytes each. A scan finds the others once these
/// are settled.
const ORPHANS_MAX: usize = 100_000;
/// A time before all others.
const ALWAYS: Timestamp = Timestamp::from_millis(0);
/// A time after all others.
const NEVER: Timestamp = Timestamp::from_millis(u64::MAX);

/// Work of recovery and the sweeper: unsettled changes and orphans. Filled by scans and by durable
/// batches.
pub(crate) struct Backlog {
    state: Mutex<State>,
    orphans_max: usize,
    /// Time for which an orphan is kept after it was first seen; `None` on an index with a single
    /// owner, whose readers are known.
    grace: Option<Grace>,
}

/// Time for which readers of other members may have an orphan open.
struct Grace {
    env: Env,
    time: Duration,
}

struct State {
    /// Unsettled changes with the time at which they were recorded, about as many as uploads under
    /// way. The time is `None` if the entry is damaged.
    changes: BTreeMap<OperationId, Option<Timestamp>>,
    orphans: BTreeMap<RevisionId, Queued>,
    /// Orphans in their grace time, in the order in which they were first seen. Those that were settled
    /// meanwhile remain until their time is over.
    fresh: VecDeque<(Duration, RevisionId)>,
    /// Orphans that no pass has taken, by due time.
    due: BTreeSet<(Timestamp, RevisionId)>,
    /// Orphans that the pass under way has taken.
    taken: BTreeSet<RevisionId>,
    scan_changes: RequestedScans,
    scan_orphans: RequestedScans,
    /// True if more orphans exist than are in memory.
    has_overflowed: bool,
}

/// Requested scans of a table: their number, and how many of them a completed scan has served. A
/// scan whose actor dies is run again.
#[derive(Clone, Copy, Debug)]
struct RequestedScans {
    requested: u64,
    done: u64,
}

impl RequestedScans {
    /// The state of a new backlog: a scan is requested.
    const FIRST: Self = Self {
        requested: 1,
        done: 0,
    };

    fn is_requested(self) -> bool {
        self.done < self.requested
    }
}

/// A queued orphan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Queued {
    since: Timestamp,
    not_before: Timestamp,
    /// Monotonic time until which the orphan is in its grace time, if it is.
    kept_until: Option<Duration>,
}

/// Changes and orphans that a batch puts or removes.
#[derive(Default)]
pub(crate) struct BacklogUpdate {
    changes: Vec<(OperationId, Option<Option<Timestamp>>)>,
    orphans: Vec<(RevisionId, Option<Queued>)>,
}

/// Number of entries, and the time of the oldest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) count: u64,
    pub(crate) oldest: Option<Timestamp>,
}

impl BacklogUpdate {
    /// Reads the changes and orphans of a batch.
    pub(crate) fn of(batch: &Batch) -> Self {
        let mut update = Self::default();
        for (table, key, value) in batch.ops() {
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
                Table::Rows | Table::Payloads | Table::Uploads | Table::Expiry | Table::Meta => {}
            }
        }
        update
    }

    /// Returns whether the batch adds orphans.
    pub(crate) fn adds_orphans(&self) -> bool {
        self.orphans.iter().any(|(_, queued)| queued.is_some())
    }
}

fn recorded(value: &Bytes) -> Option<Timestamp> {
    Change::decode(value).map(|change| change.started).ok()
}

impl Queued {
    /// Decodes an orphan. A damaged orphan is due at once: the pass that reads it reports it.
    fn read(value: &Bytes) -> Self {
        Orphan::decode(value).map_or(
            Self {
                since: NEVER,
                not_before: ALWAYS,
                kept_until: None,
            },
            |orphan| Self {
                since: orphan.since,
                kept_until: None,
                // An orphan that never had to wait is due at any time, even after the clock was set
                // back.
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
    /// Creates the backlog of a member of a shared index. An orphan is due no earlier than `time` after
    /// this member has first seen it.
    pub(crate) fn shared(env: Env, time: Duration) -> Self {
        Self {
            grace: Some(Grace { env, time }),
            ..Self::default()
        }
    }

    fn with_orphans_max(orphans_max: usize) -> Self {
        let state = State {
            changes: BTreeMap::new(),
            orphans: BTreeMap::new(),
            fresh: VecDeque::new(),
            due: BTreeSet::new(),
            taken: BTreeSet::new(),
            scan_changes: RequestedScans::FIRST,
            scan_orphans: RequestedScans::FIRST,
            has_overflowed: false,
        };
        Self {
            state: Mutex::new(state),
            orphans_max,
            grace: None,
        }
    }

    /// Returns the end of the grace time of an orphan that is first seen now.
    fn kept_until(&self) -> Option<Duration> {
        let grace = self.grace.as_ref()?;
        Some(grace.env.monotonic().saturating_add(grace.time))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a durable batch.
    pub(crate) fn note(&self, update: &BacklogUpdate) {
        if update.changes.is_empty() && update.orphans.is_empty() {
            return;
        }
        let kept_until = self.kept_until();
        let mut state = self.state();
        for (id, recorded) in &update.changes {
            match recorded {
                Some(started) => drop(state.changes.insert(*id, *started)),
                None => drop(state.changes.remove(id)),
            }
        }
        for (id, queued) in &update.orphans {
            match queued {
                Some(queued) => state.queue(*id, *queued, kept_until, self.orphans_max),
                None => state.forget(*id),
            }
        }
    }

    /// Notes a batch of unknown outcome: the next passes scan.
    pub(crate) fn doubt(&self, update: &BacklogUpdate) {
        let mut state = self.state();
        state.scan_changes.requested += u64::from(!update.changes.is_empty());
        state.scan_orphans.requested += u64::from(!update.orphans.is_empty());
    }

    /// Returns whether a change may be unsettled.
    pub(crate) fn may_hold(&self, change: OperationId) -> bool {
        let state = self.state();
        // Before a scan has ended, the backlog may lack changes that exist.
        state.scan_changes.is_requested() || state.changes.contains_key(&change)
    }

    /// Returns the scan that recovery must run, if any. Its number is passed to
    /// [`scanned_changes`](Self::scanned_changes) at its end.
    pub(crate) fn scan_of_changes(&self) -> Option<u64> {
        let scan = self.state().scan_changes;
        scan.is_requested().then_some(scan.requested)
    }

    /// Notes the end of a scan.
    pub(crate) fn scanned_changes(&self, scan: u64) {
        self.state().scan_changes.done = scan;
    }

    /// Requests a scan by the next pass of recovery.
    pub(crate) fn request_scan_of_changes(&self) {
        self.state().scan_changes.requested += 1;
    }

    /// Notes a change that a scan found.
    pub(crate) fn found_change(&self, id: OperationId, value: &Bytes) {
        self.state().changes.insert(id, recorded(value));
    }

    /// Forgets a change that the index lacks.
    pub(crate) fn forget_change(&self, id: OperationId) {
        self.state().changes.remove(&id);
    }

    /// Returns all unsettled changes.
    pub(crate) fn changes(&self) -> Vec<OperationId> {
        self.state().changes.keys().copied().collect()
    }

    /// Returns the scan that the sweeper must run, if any. Its number is passed to
    /// [`scanned_orphans`](Self::scanned_orphans) at its end.
    pub(crate) fn scan_of_orphans(&self) -> Option<u64> {
        let mut state = self.state();
        // Half of the memory is free again: worth a scan for the orphans that did not fit.
        if state.has_overflowed && state.orphans.len() <= self.orphans_max / 2 {
            state.has_overflowed = false;
            state.scan_orphans.requested += 1;
        }
        state
            .scan_orphans
            .is_requested()
            .then_some(state.scan_orphans.requested)
    }

    /// Notes the end of a scan.
    pub(crate) fn scanned_orphans(&self, scan: u64) {
        self.state().scan_orphans.done = scan;
    }

    /// Returns the orphans that an earlier pass took and neither settled nor postponed.
    pub(crate) fn put_back_all(&self) {
        let mut state = self.state();
        let taken = std::mem::take(&mut state.taken);
        taken.into_iter().for_each(|id| state.put_back(id));
    }

    /// Returns orphans that the pass under way took and skipped because they are pinned.
    pub(crate) fn put_back(&self, orphans: Vec<RevisionId>) {
        let mut state = self.state();
        for id in orphans {
            if state.taken.remove(&id) {
                state.put_back(id);
            }
        }
    }

    /// Notes an orphan that a scan found.
    pub(crate) fn found_orphan(&self, id: RevisionId, value: &Bytes) {
        let queued = Queued::read(value);
        let kept_until = self.kept_until();
        self.state().queue(id, queued, kept_until, self.orphans_max);
    }

    /// Keeps an orphan that a reader of another member holds for another grace time.
    pub(crate) fn keep_orphan(&self, id: RevisionId) {
        let kept_until = self.kept_until();
        self.state().keep(id, kept_until);
    }

    /// Requests a scan by the next pass of the sweeper.
    pub(crate) fn request_scan_of_orphans(&self) {
        self.state().scan_orphans.requested += 1;
    }

    /// Forgets an orphan that the index lacks.
    pub(crate) fn forget_orphan(&self, id: RevisionId) {
        self.state().forget(id);
    }

    /// Takes an orphan that is due at `now`, or would wait longer than `longest`.
    pub(crate) fn take_due(&self, now: Timestamp, longest: Duration) -> Option<RevisionId> {
        let mut state = self.state();
        if let Some(grace) = &self.grace {
            state.end_grace(grace.env.monotonic());
        }
        // An orphan that would wait longer than any orphan may shows that the clock was set back.
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

    /// Returns the due time of the next orphan that no pass has taken.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        let state = self.state();
        let due = state.due.first().map(|(moment, _)| *moment);
        let kept = self.grace.as_ref().and_then(|grace| {
            let (until, _) = state.fresh.front()?;
            let rest = until.saturating_sub(grace.env.monotonic());
            Some(grace.env.steady_now().after(rest))
        });
        due.into_iter().chain(kept).min()
    }

    /// Returns the number of orphans in memory.
    pub(crate) fn known_orphans(&self) -> u64 {
        self.state().orphans.len() as u64
    }

    /// Returns whether more orphans exist than are in memory.
    pub(crate) fn has_overflowed(&self) -> bool {
        self.state().has_overflowed
    }

    /// Counts the changes, or returns `None` if only a scan can count them.
    pub(crate) fn tally_changes(&self) -> Option<Tally> {
        let state = self.state();
        let oldest = state.changes.values().flatten().min().copied();
        (!state.scan_changes.is_requested()).then(|| Tally {
            count: state.changes.len() as u64,
            oldest,
        })
    }

    /// Sets the gauges of unsettled changes and orphans, where the numbers are known.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    pub(crate) fn gauge(&self) {
        if let Some(changes) = self.tally_changes() {
            metrics::gauge!("cenotaph_changes").set(changes.count as f64);
        }
        if let Some(orphans) = self.tally_orphans() {
            metrics::gauge!("cenotaph_orphans").set(orphans.count as f64);
        }
    }

    /// Counts the orphans, or returns `None` if only a scan can count them.
    pub(crate) fn tally_orphans(&self) -> Option<Tally> {
        let state = self.state();
        let since = state.orphans.values().map(|queued| queued.since);
        let oldest = since.min().filter(|since| *since < NEVER);
        let is_known = !state.scan_orphans.is_requested() && !state.has_overflowed;
        is_known.then(|| Tally {
            count: state.orphans.len() as u64,
            oldest,
        })
    }
}

impl State {
    fn queue(
        &mut self,
        id: RevisionId,
        queued: Queued,
        kept_until: Option<Duration>,
        orphans_max: usize,
    ) {
        // An orphan that is known has its grace time behind it, or is in it.
        let known = self.orphans.get(&id).map(|known| known.kept_until);
        self.forget(id);
        // The orphan stays in the index, where a later scan finds it.
        if self.orphans.len() >= orphans_max {
            self.has_overflowed = true;
            return;
        }
        self.orphans.insert(id, queued);
        match known {
            Some(None) => drop(self.due.insert((queued.not_before, id))),
            Some(kept_until) => self.set_kept(id, kept_until),
            None => self.keep(id, kept_until),
        }
    }

    /// Begins the grace time of a known orphan, or makes it due if there is none.
    fn keep(&mut self, id: RevisionId, kept_until: Option<Duration>) {
        let Some(queued) = self.orphans.get(&id) else {
            return;
        };
        match kept_until {
            Some(until) => {
                self.taken.remove(&id);
                self.fresh.push_back((until, id));
                self.set_kept(id, kept_until);
            }
            None => drop(self.due.insert((queued.not_before, id))),
        }
    }

    fn set_kept(&mut self, id: RevisionId, kept_until: Option<Duration>) {
        if let Some(queued) = self.orphans.get_mut(&id) {
            queued.kept_until = kept_until;
        }
    }

    /// Makes the orphans due whose grace time is over.
    fn end_grace(&mut self, now: Duration) {
        while let Some((until, id)) = self
            .fresh
            .front()
            .copied()
            .filter(|(until, _)| *until <= now)
        {
            self.fresh.pop_front();
            let Some(queued) = self.orphans.get_mut(&id) else {
                continue;
            };
            if queued.kept_until == Some(until) {
                queued.kept_until = None;
                self.due.insert((queued.not_before, id));
            }
        }
    }

    fn put_back(&mut self, id: RevisionId) {
        if let Some(queued) = self
            .orphans
            .get(&id)
            .filter(|queued| queued.kept_until.is_none())
        {
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
