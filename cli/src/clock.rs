//! How long things took: [`Stopwatch`]. Time is asked of the engine's [`Env`], so that no call here
//! needs the system's clock.

use std::time::Duration;

use cenotaph::Env;

/// Measures from its start.
#[derive(Clone)]
pub(crate) struct Stopwatch {
    env: Env,
    started: Duration,
}

impl Stopwatch {
    /// Starts now.
    pub(crate) fn start(env: &Env) -> Self {
        Self {
            env: env.clone(),
            started: env.monotonic(),
        }
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.env.monotonic().saturating_sub(self.started)
    }
}
