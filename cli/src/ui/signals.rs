//! [`Signals`], the handler of the signals that stop the tool.
//!
//! 1. The first signal drops the running command, and interrupts a write to standard output.
//! 2. The store is closed, within 10 s.
//! 3. After [`END_AFTER_SIGNAL`] the process exits, whatever it waits for.

use std::future::Future;
use std::sync::mpsc;
use std::time::Duration;

use cenotaph::Env;

use crate::ui::failure::Failure;
use crate::ui::standard::Interrupt;

/// Longest time from the first signal to the end of the process: the limit for closing the store,
/// and a margin of 2 s.
const END_AFTER_SIGNAL: Duration = Duration::from_secs(12);

/// Listener of SIGINT and, on Unix, SIGTERM. A signal that arrives while no caller waits is kept
/// for the next wait.
pub(crate) struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    /// Installs the signal handlers.
    pub(crate) fn new() -> Result<Self, Failure> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let failed = |error| Failure::io("the signal handlers can't be installed", &error);
            let interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
            Ok(Self {
                interrupt,
                terminate: signal(SignalKind::terminate()).map_err(failed)?,
            })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Bounds the time from a signal to the end of the process. The process also ends if it blocks
    /// where it can't see a signal: in a write to standard output or standard error.
    pub(crate) fn bound(env: &Env, interrupt: Interrupt) -> Result<(), Failure> {
        // A listener of its own. Every listener receives each signal.
        let mut signals = Self::new()?;
        let runner = env.clone();
        env.spawn(async move {
            signals.signal().await;
            interrupt.send();
            // A thread and not a task: the runtime is shut down before the last message is written.
            let started = runner.thread("end-after-signal", || {
                // Nothing is ever sent: `recv_timeout` serves as a sleep.
                let (_open, never) = mpsc::channel::<()>();
                let _ = never.recv_timeout(END_AFTER_SIGNAL);
                std::process::exit(1);
            });
            drop(started);
        });
        Ok(())
    }

    /// Returns the result of `work`, or [`Failure::Interrupted`] if a signal arrives first. The
    /// signal drops `work`, which cancels its pending operations.
    pub(crate) async fn or<T>(
        &mut self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            // A finished command wins over a signal that arrives at the same time.
            biased;
            result = work => result,
            () = self.signal() => Err(Failure::Interrupted),
        }
    }

    /// Waits for a signal.
    #[cfg(unix)]
    async fn signal(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Waits for a signal.
    #[cfg(not(unix))]
    async fn signal(&mut self) {
        drop(tokio::signal::ctrl_c().await);
    }
}
