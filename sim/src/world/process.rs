//! A process that shares its world with others: [`Process`]. It has clocks of its own, and may be
//! paused or cut off from the index or the blob tier while the others go on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::scheduler::Scheduler;

/// Part of the world that a process may be cut off from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remote {
    /// The shared index.
    Index,
    /// The blob tier.
    BlobTier,
}

/// A process in a world with several.
pub(crate) struct Process {
    name: String,
    /// Scheduler of the world, which carries what is under way when a process ends.
    network: Arc<Scheduler>,
    /// Start of the monotonic clock of the process. Monotonic times of two processes differ.
    monotonic_start: Duration,
    state: Mutex<ProcessState>,
}

#[derive(Default)]
struct ProcessState {
    /// Difference of the wall clock of the process from that of the world, in milliseconds.
    wall_ms: i64,
    paused_until: Duration,
    index_away_until: Duration,
    tier_away_until: Duration,
    epoch: Option<u64>,
}

impl Process {
    /// Creates a process with clocks that differ from those of the world by these times.
    pub(crate) fn new(
        name: String,
        network: Arc<Scheduler>,
        wall_ms: i64,
        monotonic_start: Duration,
    ) -> Self {
        Self {
            name,
            network,
            monotonic_start,
            state: Mutex::new(ProcessState {
                wall_ms,
                ..ProcessState::default()
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, ProcessState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn network(&self) -> &Arc<Scheduler> {
        &self.network
    }

    pub(crate) fn monotonic_start(&self) -> Duration {
        self.monotonic_start
    }

    /// Returns the difference of the wall clock from that of the world, in milliseconds.
    pub(crate) fn wall_ms(&self) -> i64 {
        self.state().wall_ms
    }

    /// Moves the wall clock of the process.
    pub(crate) fn jump_clock(&self, by_ms: i64) {
        let mut state = self.state();
        state.wall_ms = state.wall_ms.saturating_add(by_ms);
    }

    /// Returns the virtual time at which the process goes on.
    pub(crate) fn paused_until(&self) -> Duration {
        self.state().paused_until
    }

    /// Stops every task of the process until this virtual time.
    pub(crate) fn pause(&self, until: Duration) {
        let mut state = self.state();
        state.paused_until = state.paused_until.max(until);
    }

    /// Returns the end of the present separation from a remote, in virtual time.
    pub(crate) fn away_until(&self, remote: Remote) -> Duration {
        let state = self.state();
        match remote {
            Remote::Index => state.index_away_until,
            Remote::BlobTier => state.tier_away_until,
        }
    }

    /// Separates the process from a remote until this virtual time.
    pub(crate) fn cut_off(&self, remote: Remote, until: Duration) {
        let mut state = self.state();
        match remote {
            Remote::Index => state.index_away_until = until,
            Remote::BlobTier => state.tier_away_until = until,
        }
    }

    /// Returns the epoch with which the process has joined the index.
    pub(crate) fn epoch(&self) -> Option<u64> {
        self.state().epoch
    }

    /// Records that the process has joined the index.
    pub(crate) fn joined(&self, epoch: u64) {
        self.state().epoch = Some(epoch);
    }

    /// Ends pauses and separations.
    pub(crate) fn quieten(&self) {
        let mut state = self.state();
        state.paused_until = Duration::ZERO;
        state.index_away_until = Duration::ZERO;
        state.tier_away_until = Duration::ZERO;
    }
}
