//! The state of an engine, which says whether it may take on work: running, read-only, closing,
//! closed, or failed for good.
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

/// The state of an engine.
#[derive(Debug)]
pub(crate) struct Health(Mutex<State>);

impl Default for Health {
    fn default() -> Self {
        Self(Mutex::new(State::Running))
    }
}

impl Health {
    /// Of an engine that was opened for reads only.
    pub(crate) fn read_only() -> Self {
        Self(Mutex::new(State::ReadOnly))
    }

    /// Returns whether the engine was opened for reads only, and is open.
    pub(crate) fn is_read_only(&self) -> bool {
        *self.state() == State::ReadOnly
    }

    /// Returns whether nothing stands in the way of the work that the engine was opened for.
    pub(crate) fn check_reads(&self, operation: &'static str) -> Result<()> {
        if self.is_read_only() {
            Ok(())
        } else {
            self.check(operation)
        }
    }

    /// Whether new work may begin.
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

    /// Whether work that has begun may hope to end.
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

    /// Whether nothing stands in the way of new work.
    pub(crate) fn is_running(&self) -> bool {
        *self.state() == State::Running
    }

    /// Whether dead actors are still brought back: as long as work that has begun needs them, which
    /// is while closing too.
    pub(crate) fn wants_actors(&self) -> bool {
        matches!(
            *self.state(),
            State::Running | State::Closing { had_failed: false }
        )
    }

    /// Whether it has been asked to close.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(*self.state(), State::Closing { .. } | State::Closed)
    }

    /// Takes on no more work; whether it had failed before.
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

    /// Everything has stopped.
    pub(crate) fn closed(&self) {
        *self.state() = State::Closed;
    }

    /// Gives up, unless it is closing anyway.
    pub(crate) fn fail(&self, why: &str) {
        let mut state = self.state();
        if *state == State::Running {
            tracing::error!(why, "the engine has failed and must be reopened");
            *state = State::Failed(why.to_owned());
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
