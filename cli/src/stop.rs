//! Signals that ask the tool to stop: [`Stop`]. One that comes while nobody waits is not lost: the
//! next wait sees it.
//!
//! 1. The first signal drops the work, and ends a write to standard output that waits for its
//!    reader.
//! 2. The store is closed, for 10 s at most.
//! 3. After [`END_AFTER_SIGNAL`] the process ends, whatever it waits for.

use std::future::Future;
use std::sync::mpsc;
use std::time::Duration;

use cenotaph::Env;

use crate::failure::Failure;
use crate::standard::Interrupt;

/// Longest time from the first signal to the end of the process: what closing the store may take,
/// and a margin.
const END_AFTER_SIGNAL: Duration = Duration::from_secs(12);

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
            Ok(Self {
                interrupt,
                terminate: signal(SignalKind::terminate()).map_err(failed)?,
            })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Sees to it that the process ends after a signal even if it waits where a signal is not seen:
    /// for whoever reads standard output, or messages.
    pub(crate) fn bound(env: &Env, interrupt: Interrupt) -> Result<(), Failure> {
        let (mut stop, runner) = (Self::new()?, env.clone());
        env.spawn(async move {
            stop.signal().await;
            interrupt.send();
            // A thread, for the runtime is shut down before the last message is written.
            let started = runner.thread("end-after-signal", || {
                let (_open, never) = mpsc::channel::<()>();
                let _ = never.recv_timeout(END_AFTER_SIGNAL);
                std::process::exit(1);
            });
            drop(started);
        });
        Ok(())
    }

    /// What the work gives, unless a signal comes first: the work is then dropped, which cancels
    /// what it has under way.
    pub(crate) async fn or<T>(
        &mut self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
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
