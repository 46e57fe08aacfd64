//! Implementation of [`World`], the backend of [`Env`], for a simulated world: [`SimWorld`]. Time,
//! chance, ids, tasks and blocking work are functions of the seed.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

#[cfg(feature = "planted")]
use cenotaph_storage::planted::Bug;
use cenotaph_storage::{Env, SyncPoint, WallTime, World};
use futures::future::BoxFuture;

#[cfg(feature = "planted")]
use crate::mutants;
use crate::world::scheduler::Scheduler;

/// Backend of the [`Env`] of an incarnation.
struct SimWorld {
    scheduler: Arc<Scheduler>,
    #[cfg(feature = "planted")]
    mutants: mutants::Mutants,
}

/// Creates an [`Env`] over this scheduler.
pub(super) fn env(scheduler: &Arc<Scheduler>) -> Env {
    Env::new(SimWorld {
        scheduler: Arc::clone(scheduler),
        #[cfg(feature = "planted")]
        mutants: mutants::Mutants::default(),
    })
}

impl World for SimWorld {
    fn wall_time(&self) -> WallTime {
        WallTime::from_millis(self.scheduler.time_of_day_ms())
    }

    fn monotonic(&self) -> Duration {
        self.scheduler.monotonic()
    }

    fn random_u64(&self) -> u64 {
        self.scheduler.durable_state().random_id()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let scheduler = Arc::clone(&self.scheduler);
        Box::pin(async move { scheduler.sleep(duration).await })
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        let scheduler = Arc::clone(&self.scheduler);
        self.scheduler.spawn("a task", async move {
            scheduler.pass("task begins", String::new).await;
            task.await;
        });
    }

    /// Runs blocking work as a task of the world. Like a real blocking call, the work can't be
    /// cancelled.
    fn blocking(&self, work: Box<dyn FnOnce() + Send>) {
        let scheduler = Arc::clone(&self.scheduler);
        self.scheduler.spawn("blocking work", async move {
            // The work itself is a single step: it can't be interrupted half-way.
            scheduler.pass("blocking work", String::new).await;
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

    fn pass(&self, sync_point: SyncPoint) -> Option<BoxFuture<'static, ()>> {
        let scheduler = Arc::clone(&self.scheduler);
        Some(Box::pin(async move {
            scheduler
                .pass(sync_point_name(sync_point), String::new)
                .await;
        }))
    }

    /// Names the timeline lane of an actor. A restarted actor continues on its lane.
    fn actor_started(&self, kind: &'static str, number: Option<usize>) {
        // Uploads are short-lived and many. They share a few lanes in turn, enough to show
        // concurrent ones next to each other.
        let next_upload = || self.scheduler.durable_state().state().next_upload();
        let number = number.or_else(|| (kind == "upload").then(next_upload));
        let name = number.map_or_else(|| kind.to_owned(), |number| format!("{kind} {number}"));
        self.scheduler.name_lane(&name, true);
    }

    #[cfg(feature = "planted")]
    fn planted(&self, bug: Bug) -> bool {
        self.scheduler.durable_state().is_planted(bug)
    }

    #[cfg(feature = "planted")]
    fn tamper(&self, decided: &mut dyn std::any::Any) {
        if let Some(bug) = self.scheduler.durable_state().planted() {
            self.mutants.tamper(bug, decided);
        }
    }
}

/// Returns the name of a sync point in the timeline.
const fn sync_point_name(sync_point: SyncPoint) -> &'static str {
    match sync_point {
        SyncPoint::UploadBeforeRecord => "upload: before record",
        SyncPoint::UploadAfterRecord => "upload: after record",
        SyncPoint::UploadMidStream => "upload: mid stream",
        SyncPoint::UploadBeforeClose => "upload: before close",
        SyncPoint::UploadAfterBlob => "upload: after blob",
        SyncPoint::UploadAfterClose => "upload: after close",
        SyncPoint::UploadAfterCommit => "upload: after commit",
        SyncPoint::CompleteBeforeSwap => "complete: before swap",
        SyncPoint::ShardBeforeDecide => "shard: before decide",
        SyncPoint::ShardAfterSubmit => "shard: after submit",
        SyncPoint::ShardLent => "shard: lent",
        SyncPoint::AtomicBeforeDecide => "atomic: before decide",
        SyncPoint::AtomicAfterSubmit => "atomic: after submit",
        SyncPoint::RecoveryBeforeFence => "recovery: before fence",
        SyncPoint::RecoveryAfterFence => "recovery: after fence",
        SyncPoint::SweeperBeforeDelete => "sweeper: before delete",
        SyncPoint::SweeperAfterDelete => "sweeper: after delete",
        SyncPoint::ExpirerBeforeRemove => "expirer: before remove",
        SyncPoint::PrunerBeforeDrop => "pruner: before drop",
    }
}
