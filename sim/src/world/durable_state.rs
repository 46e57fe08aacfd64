//! Durable state of a simulated world: [`DurableState`] outlives every incarnation of the engine.
//!
//! ```text
//! DurableState ──┬─ Disk, Blobs          state that survives a crash
//!                ├─ random streams       schedule, faults, ids
//!                ├─ clock                virtual; the time of day may jump, the elapsed time never does
//!                ├─ trace, coverage      events and their counts
//!                └─ model                checks each event when it happens
//! ```
//!
//! A world runs on a single thread, so its lock is never contended.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cenotaph_storage::index::{Batch, Table};
use cenotaph_storage::planted::Bug;
use tokio::time::Instant;

use crate::check::{Model, Words};
use crate::disks::blobs::StoredBlobs;
use crate::disks::disk::{Disk, sum};
use crate::disks::shared_store::SharedStore;
use crate::disks::source::Source;
use crate::faults::{Fault, Faults, Schedule, ScriptedFault};
use crate::rng::Rng;
use crate::trace::coverage::Coverage;
use crate::trace::{EventKind, Tick, Trace};

/// Time of day at the start of every world: 2026-01-01 UTC, in milliseconds since 1970.
const DAWN_MS: u64 = 1_767_225_600_000;

/// Number of timeline lanes that upload actors share.
const UPLOAD_LANES: usize = 8;
/// Rest of an outage of the blob tier after the end of all faults.
const OUTAGE_REST: Duration = Duration::from_secs(1);

/// Durable tiers and mutable state of a world. Shared by all its incarnations.
pub(crate) struct DurableState {
    state: Mutex<State>,
    pub(crate) disk: Disk,
    pub(crate) blobs: StoredBlobs,
    /// Members and tokens of a shared index, whose tables are on the disk.
    pub(crate) shared: SharedStore,
    planted: Option<Bug>,
}

/// Mutable part of the durable state, except its tiers.
pub(crate) struct State {
    pub(crate) schedule: Schedule,
    pub(crate) faults: Faults,
    pub(crate) scheduling: Rng,
    pub(crate) faulting: Rng,
    ids: Rng,
    pub(crate) trace: Trace,
    pub(crate) coverage: Coverage,
    pub(crate) model: Model,
    /// Planned acts by step. Steps are counted from the start of the world.
    pub(crate) script: BTreeMap<u64, Vec<ScriptedFault>>,
    pub(crate) step: u64,
    pub(crate) steps_max: u64,
    /// True if a deletion of an absent blob returns an error, as some services do. This is a
    /// property of the service and no fault, so `quieten` does not reset it.
    pub(crate) strict_deletes: bool,
    /// `true` if the index has a payload log.
    pub(crate) has_payload_log: bool,
    /// End of the current outage of the blob tier, in virtual time.
    pub(crate) tier_away_until: Duration,
    /// Largest number of small writes that may wait at once. `None` if no plan configures the
    /// engine.
    pub(crate) writes_max: Option<usize>,
    /// Objects of the fallback, if the engine is opened over one.
    pub(crate) source: Option<Source>,
    /// Blob tier over which the engine is opened next. All before it are older tiers.
    pub(crate) tier: usize,
    uploads: usize,
    clock: Clock,
}

/// Virtual clock of a world.
#[derive(Default)]
struct Clock {
    /// Virtual time of all earlier incarnations.
    before: Duration,
    /// Start of the current incarnation.
    started: Option<Instant>,
    /// Sum of all jumps of the time of day, in milliseconds.
    jumped_ms: i64,
}

impl Clock {
    /// Returns the virtual time since the world began.
    fn elapsed(&self) -> Duration {
        self.before
            + self.started.map_or(Duration::ZERO, |started| {
                now().saturating_duration_since(started)
            })
    }

    /// Returns the time of day after this virtual time, in milliseconds since 1970.
    fn time_of_day_ms(&self, elapsed: Duration) -> u64 {
        let elapsed = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        DAWN_MS
            .saturating_add(elapsed)
            .saturating_add_signed(self.jumped_ms)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "tokio's clock is paused: this is virtual time"
)]
fn now() -> Instant {
    Instant::now()
}

impl DurableState {
    pub(crate) fn new(seed: u64, planted: Option<Bug>) -> Self {
        let state = State {
            schedule: Schedule::default(),
            faults: Faults::default(),
            // Each stream is independent: an additional fault does not change the schedule or the
            // ids.
            scheduling: Rng::new(seed, "schedule"),
            faulting: Rng::new(seed, "faults"),
            ids: Rng::new(seed, "ids"),
            trace: Trace::new(),
            coverage: Coverage::default(),
            model: Model::default(),
            script: BTreeMap::new(),
            step: 0,
            steps_max: u64::MAX,
            strict_deletes: false,
            has_payload_log: false,
            tier_away_until: Duration::ZERO,
            writes_max: None,
            source: None,
            tier: 0,
            uploads: 0,
            clock: Clock::default(),
        };
        let disk = Disk::new(
            Rng::new(seed, "disk"),
            planted == Some(Bug::ReaderSeesUnsynced),
        );
        Self {
            state: Mutex::new(state),
            disk,
            blobs: StoredBlobs::new(),
            shared: SharedStore::default(),
            planted,
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(feature = "planted")]
    pub(crate) fn planted(&self) -> Option<Bug> {
        self.planted
    }

    pub(crate) fn is_planted(&self, bug: Bug) -> bool {
        self.planted == Some(bug)
    }

    /// Draws whether this fault strikes now, and records it if it does.
    pub(crate) fn strikes(&self, fault: Fault, detail: impl FnOnce() -> String) -> bool {
        let mut state = self.state();
        let odds = state.faults.of(fault);
        if !state.faulting.hits(odds) {
            return false;
        }
        state.struck(fault, detail);
        true
    }

    /// Returns a number below `limit` from the stream of faults.
    pub(crate) fn below(&self, limit: u64) -> u64 {
        self.state().faulting.below(limit)
    }

    pub(crate) fn random_id(&self) -> u64 {
        self.state().ids.next_u64()
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.state().clock.elapsed()
    }

    pub(crate) fn time_of_day_ms(&self) -> u64 {
        self.state().time_of_day_ms()
    }

    pub(crate) fn note(
        &self,
        kind: EventKind,
        what: &'static str,
        detail: impl FnOnce() -> String,
    ) -> Tick {
        self.state().note(kind, what, detail)
    }

    /// Begins an incarnation and returns its number. Must be called within its runtime.
    pub(crate) fn begin_life(&self) -> u32 {
        let mut state = self.state();
        state.clock.started = Some(now());
        state.trace.begin_life();
        let life = state.trace.life();
        let tick = state.note(EventKind::World, "incarnation begins", || life.to_string());
        state.model.begin_life(tick);
        life
    }

    /// Ends the incarnation. Must be called within its runtime.
    pub(crate) fn end_life(&self, how: &'static str) {
        let mut state = self.state();
        state.note(EventKind::World, "incarnation ends", || how.to_owned());
        // Time passes only within incarnations.
        state.clock.before = state.clock.elapsed();
        state.clock.started = None;
    }

    /// Recovers the disk. Every unsynced batch that survived the end of the last incarnation is now
    /// durable.
    pub(crate) fn replay_disk(&self) {
        let replayed = self.disk.replay();
        if replayed.is_torn {
            self.state().coverage.count("disk: a torn tail");
        }
        if replayed.has_lost_log_tail {
            self.state()
                .coverage
                .count("disk: a lost tail of the payload log");
        }
        for batch in replayed.batches {
            let mut state = self.state();
            state
                .coverage
                .count("disk: an unsynced batch survived a crash");
            state.commit(&batch, &self.blobs, "survived unsynced");
        }
        self.state().replayed();
    }
}

impl State {
    /// Adds an event to the trace and returns its tick.
    pub(crate) fn note(
        &mut self,
        kind: EventKind,
        what: &'static str,
        detail: impl FnOnce() -> String,
    ) -> Tick {
        let at = self.clock.elapsed();
        // The model records the time of each tick, for deadlines.
        self.model.passes(self.clock.time_of_day_ms(at));
        self.trace.push(at, self.step, kind, what, detail)
    }

    /// Checks that the batches that wait for their commit contain at most `writes_max` small
    /// writes.
    pub(crate) fn waiting<'a>(&mut self, batches: impl Iterator<Item = &'a Batch>) {
        let Some(most) = self.writes_max else { return };
        let touches = |batch: &Batch, table: Table| batch.ops().iter().any(|(of, ..)| *of == table);
        // Small writes need a permit of admission. The expirer's removals do not, so a batch that
        // may be the expirer's is not counted.
        let expires = |batch: &Batch| {
            let removes = |wanted: Table| {
                batch
                    .ops()
                    .iter()
                    .any(|(of, _, value)| *of == wanted && value.is_none())
            };
            removes(Table::Rows) && removes(Table::Expiry)
        };
        let is_small = |batch: &&Batch| {
            touches(batch, Table::Rows) && !touches(batch, Table::Changes) && !expires(batch)
        };
        let waiting = batches.filter(is_small).count();
        if waiting > most {
            self.model.violated(
                "admission",
                format!("too many small writes wait: waiting={waiting} admitted={most}"),
            );
            self.report_violations();
        }
    }

    /// Records that the index was opened and its disk recovered.
    pub(crate) fn replayed(&mut self) {
        let tick = self.trace.tick();
        self.model.replayed(tick);
    }

    /// Stops all faults, those by chance and those planned for a step.
    pub(crate) fn quieten(&mut self) {
        self.faults = Faults::default();
        // An outage under way ends soon, but not between a request and the check of the tier that
        // follows it: real outages are longer than that.
        let soon = self.clock.elapsed() + OUTAGE_REST;
        self.tier_away_until = self.tier_away_until.min(soon);
        self.script.clear();
    }

    /// Counts a fault and records it in the trace and the model.
    pub(crate) fn struck(&mut self, fault: Fault, detail: impl FnOnce() -> String) {
        self.coverage.count(fault.name());
        let tick = self.note(EventKind::Fault, fault.name(), detail);
        self.model.struck(fault, tick);
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }

    pub(crate) fn time_of_day_ms(&self) -> u64 {
        self.clock.time_of_day_ms(self.clock.elapsed())
    }

    /// Returns true if the world has used all its steps.
    pub(crate) const fn is_exhausted(&self) -> bool {
        self.step > self.steps_max
    }

    /// Returns true if a fault in this incarnation may make an operation, or an engine, fail.
    pub(crate) fn was_provoked(&self) -> bool {
        self.model.was_provoked(self.trace.tick())
    }

    /// Returns the lane of the next upload actor.
    pub(crate) fn next_upload(&mut self) -> usize {
        self.uploads += 1;
        (self.uploads - 1) % UPLOAD_LANES
    }

    /// Moves the time of day. Virtual time since the beginning is not affected.
    pub(crate) fn jump_clock(&mut self, by_ms: i64) {
        self.clock.jumped_ms = self.clock.jumped_ms.saturating_add(by_ms);
    }

    /// Passes a batch that has just become durable to the commit observer. Calls are made in commit
    /// order.
    pub(crate) fn commit(&mut self, batch: &Batch, blobs: &StoredBlobs, how: &'static str) {
        // An empty batch is a barrier and changes nothing.
        if batch.is_empty() {
            return;
        }
        let tick = self.trace.tick();
        let now = self.clock.elapsed();
        self.model.at(self.clock.time_of_day_ms(now));
        let mut words = Words::new(self.trace.is_recorded());
        self.model
            .commit(tick, batch, blobs, &mut self.coverage, &mut words);
        // The checksum makes every stored byte part of the trace: two runs of a seed with equal
        // traces have stored equal bytes.
        self.note(EventKind::Commit, how, || {
            format!("{} [{:016x}]", words.joined(), sum(batch))
        });
        self.report_violations();
    }

    /// Writes the violations found since the last call into the trace.
    pub(crate) fn report_violations(&mut self) {
        for violation in self.model.unreported() {
            self.note(EventKind::Violation, violation.checker, || {
                violation.message
            });
        }
    }
}
