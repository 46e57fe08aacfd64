//! Implementation of [`World`], the backend of [`Env`], for a simulated world: [`SimWorld`]. Time,
//! chance, ids, tasks and blocking work are functions of the seed.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

#[cfg(feature = "planted")]
use cenotaph_storage::decide::{Plan, SwapReply, Written};
#[cfg(feature = "planted")]
use cenotaph_storage::planted::{Bug, DecidedStep, DecidedSwap};
use cenotaph_storage::{Env, Seam, Timestamp, World};
use futures::future::BoxFuture;

use crate::gate::{Gate, sleep};
#[cfg(feature = "planted")]
use crate::mutants;

/// Backend of the [`Env`] of an incarnation.
pub(crate) struct SimWorld {
    gate: Arc<Gate>,
    #[cfg(feature = "planted")]
    mutants: mutants::Mutants,
}

/// Creates an [`Env`] over this scheduler.
pub(crate) fn env(gate: &Arc<Gate>) -> Env {
    Env::new(SimWorld {
        gate: Arc::clone(gate),
        #[cfg(feature = "planted")]
        mutants: mutants::Mutants::default(),
    })
}

impl World for SimWorld {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.gate.machine().time_of_day_ms())
    }

    fn monotonic(&self) -> Duration {
        self.gate.machine().elapsed()
    }

    fn random_u64(&self) -> u64 {
        self.gate.machine().random_id()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(sleep(duration))
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        let gate = Arc::clone(&self.gate);
        self.gate.spawn("a task", async move {
            gate.pass("task begins", String::new).await;
            task.await;
        });
    }

    /// Runs blocking work as a task of the world. Like a real blocking call, the work can't be
    /// cancelled.
    fn blocking(&self, work: Box<dyn FnOnce() + Send>) {
        let gate = Arc::clone(&self.gate);
        self.gate.spawn("blocking work", async move {
            // The work itself is a single step: it can't be interrupted half-way.
            gate.pass("blocking work", String::new).await;
            work();
        });
    }

    fn offload(&self, task: BoxFuture<'static, ()>) {
        self.spawn(task);
    }

    /// Starts a real thread. Only real fjall asks for threads, and the world waits for each request
    /// it makes of them.
    #[expect(
        clippy::disallowed_methods,
        reason = "the thread is fjall's, and not part of the world"
    )]
    fn thread(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(body)
    }

    fn pass(&self, seam: Seam) -> Option<BoxFuture<'static, ()>> {
        let gate = Arc::clone(&self.gate);
        Some(Box::pin(async move {
            gate.pass(seam_name(seam), String::new).await;
        }))
    }

    /// Names the timeline lane of an actor. A restarted actor continues on its lane.
    fn actor_started(&self, kind: &'static str, number: Option<usize>) {
        let mut state = self.gate.machine().state();
        // Uploads are short-lived and many. They share a few lanes in turn, enough to show
        // concurrent ones next to each other.
        let number = number.or_else(|| (kind == "upload").then(|| state.next_upload()));
        let name = number.map_or_else(|| kind.to_owned(), |number| format!("{kind} {number}"));
        state.trace.name_lane(name, true);
    }

    #[cfg(feature = "planted")]
    fn planted(&self, bug: Bug) -> bool {
        self.gate.machine().is_planted(bug)
    }

    #[cfg(feature = "planted")]
    fn tamper_swap(&self, decided: DecidedSwap<'_>, plan: &mut Plan<SwapReply>) {
        if let Some(bug) = self.gate.machine().planted() {
            self.mutants.tamper_swap(bug, decided, plan);
        }
    }

    #[cfg(feature = "planted")]
    fn tamper_step(&self, decided: DecidedStep<'_>, plan: &mut Plan<Option<Written>>) {
        if let Some(bug) = self.gate.machine().planted() {
            mutants::tamper_step(bug, decided, plan);
        }
    }
}

/// Returns the name of a sync point in the timeline.
const fn seam_name(seam: Seam) -> &'static str {
    match seam {
        Seam::UploadBeforeRecord => "upload: before record",
        Seam::UploadAfterRecord => "upload: after record",
        Seam::UploadMidStream => "upload: mid stream",
        Seam::UploadBeforeClose => "upload: before close",
        Seam::UploadAfterBlob => "upload: after blob",
        Seam::UploadAfterClose => "upload: after close",
        Seam::UploadAfterCommit => "upload: after commit",
        Seam::CompleteBeforeSwap => "complete: before swap",
        Seam::ShardBeforeDecide => "shard: before decide",
        Seam::ShardAfterSubmit => "shard: after submit",
        Seam::ShardLent => "shard: lent",
        Seam::AtomicBeforeDecide => "atomic: before decide",
        Seam::AtomicAfterSubmit => "atomic: after submit",
        Seam::RecoveryBeforeFence => "recovery: before fence",
        Seam::RecoveryAfterFence => "recovery: after fence",
        Seam::SweeperBeforeDelete => "sweeper: before delete",
        Seam::SweeperAfterDelete => "sweeper: after delete",
        Seam::ExpirerBeforeRemove => "expirer: before remove",
    }
}
