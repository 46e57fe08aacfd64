//! Signals that ask the tool to stop: [`Stop`]. One that comes while nobody waits is not lost: the next wait sees it.

use std::future::Future;

use crate::failure::Failure;

/// Ctrl-C, and where there is such a thing the request to terminate.
pub(crate) struct Stop {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Stop {
    /// Listens from now on.
    pub(crate) fn new() -> Result<Self, Failure> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let failed = |error| Failure::io("signals can't be heard", &error);
            let interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
            Ok(Self { interrupt, terminate: signal(SignalKind::terminate()).map_err(failed)? })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// What the work gives, unless a signal comes first: the work is then dropped, which cancels what it has under way.
    pub(crate) async fn or<T>(&mut self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            result = work => result,
            () = self.signal() => Err(Failure::Interrupted),
        }
    }

    #[cfg(unix)]
    async fn signal(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    #[cfg(not(unix))]
    async fn signal(&mut self) {
        drop(tokio::signal::ctrl_c().await);
    }
}
