//! [`Health`]: the state of an engine, which decides whether new work is accepted.
//!
//! ```text
//! ReadOnly --close--> Closing --all stopped--> Closed
//! Running --close--> Closing
//!    \--restart limit, supervisor died, index poisoned--> Failed --close--> Closing
//! ```

use std::sync::{Mutex, PoisonError};

use cenotaph_storage::index::read_only;
use cenotaph_storage::{Error, ErrorKind, Result};

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Running,
    ReadOnly,
    Closing { had_failed: bool },
    Closed,
    Failed(String),
}

/// The state of an engine. Every accepted operation checks it first.
#[derive(Debug)]
pub(crate) struct Health(Mutex<State>);

impl Default for Health {
    fn default() -> Self {
        Self(Mutex::new(State::Running))
    }
}

impl Health {
    /// Returns the health of an engine that is opened read-only.
    pub(crate) fn read_only() -> Self {
        Self(Mutex::new(State::ReadOnly))
    }

    /// Returns whether the engine is open and read-only.
    pub(crate) fn is_read_only(&self) -> bool {
        *self.state() == State::ReadOnly
    }

    /// Checks that the engine can do the work for which it was opened: reads only, or all work.
    pub(crate) fn check_reads(&self, operation: &'static str) -> Result<()> {
        if self.is_read_only() {
            Ok(())
        } else {
            self.check(operation)
        }
    }

    /// Checks that the engine accepts new work.
    pub(crate) fn check(&self, operation: &'static str) -> Result<()> {
        match &*self.state() {
            State::Running => Ok(()),
            State::ReadOnly => Err(read_only(operation)),
            State::Closing { .. } | State::Closed => Err(Error::new(
                ErrorKind::Closed,
                operation,
                "the engine is closed",
            )),
            State::Failed(why) => Err(Error::new(
                ErrorKind::Unavailable,
                operation,
                format!("the engine has failed and must be reopened: {why}"),
            )),
        }
    }

    /// Checks that work that has begun can still end.
    pub(crate) fn check_failed(&self, operation: &'static str) -> Result<()> {
        match &*self.state() {
            State::Running | State::Closing { .. } => Ok(()),
            State::ReadOnly => Err(read_only(operation)),
            State::Closed => Err(Error::new(
                ErrorKind::Closed,
                operation,
                "the engine is closed; nothing was committed",
            )),
            State::Failed(_) => Err(Error::new(
                ErrorKind::Unavailable,
                operation,
                "the engine has failed; nothing was committed",
            )),
        }
    }

    /// Returns whether the engine accepts new work.
    pub(crate) fn is_running(&self) -> bool {
        *self.state() == State::Running
    }

    /// Returns whether dead actors are restarted: while work that has begun needs them, which
    /// includes closing.
    pub(crate) fn restarts_actors(&self) -> bool {
        matches!(
            *self.state(),
            State::Running | State::Closing { had_failed: false }
        )
    }

    /// Returns whether the engine is closing or closed.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(*self.state(), State::Closing { .. } | State::Closed)
    }

    /// Stops accepting work. Returns whether the engine had failed before.
    pub(crate) fn close(&self) -> bool {
        let mut state = self.state();
        let had_failed = match *state {
            State::Running | State::ReadOnly | State::Closed => false,
            State::Failed(_) => true,
            State::Closing { had_failed } => had_failed,
        };
        if *state != State::Closed {
            *state = State::Closing { had_failed };
        }
        had_failed
    }

    /// Marks the engine as closed: all actors have stopped.
    pub(crate) fn closed(&self) {
        *self.state() = State::Closed;
    }

    /// Marks the engine as failed, unless it is closing already.
    pub(crate) fn fail(&self, why: &str) {
        let mut state = self.state();
        // The first failure counts, and an engine that closes reports no failure.
        if *state == State::Running {
            tracing::error!(why, "the engine has failed and must be reopened");
            *state = State::Failed(why.to_owned());
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
