//! [`Stopwatch`], which measures elapsed time with the clock of the engine's [`Env`].

use std::time::Duration;

use cenotaph::Env;

/// Timer that runs from its creation.
#[derive(Clone)]
pub(crate) struct Stopwatch {
    env: Env,
    started: Duration,
}

impl Stopwatch {
    /// Starts a stopwatch.
    pub(crate) fn start(env: &Env) -> Self {
        Self {
            env: env.clone(),
            started: env.monotonic(),
        }
    }

    /// Returns the time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.env.monotonic().saturating_sub(self.started)
    }
}
