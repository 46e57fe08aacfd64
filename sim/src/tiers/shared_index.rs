//! The simulated shared index: [`SharedSimIndex`], a handle of one member on a store that several
//! share. It models the index in PostgreSQL (`storage/src/index/postgres/`).
//!
//! ```text
//! member 1: queue ──transaction──> server: one at a time ──> commit observer
//! member 2: queue ──transaction──>   entry of the member, token, all conditions
//! every member: heartbeat ───────> beat + 1
//! ```
//!
//! Requests of a member reach the server at their step, and their answers arrive later. A member may
//! crash, be paused or lose its connection in between.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use cenotaph_storage::index::{
    Batch, CommitError, Completion, Index, IndexStats, Member, SharedIndex, Snapshot, Table,
};
use cenotaph_storage::{Epoch, Error, ErrorKind, Result, WallTime};
use futures::FutureExt;
use futures::future::BoxFuture;

use self::reads::SharedSnapshot;
use crate::faults::Fault;
use crate::tiers::commit_queue::CommitQueue;
use crate::world::process::{Process, Remote};
use crate::world::scheduler::Scheduler;

mod commit;
mod reads;
mod server;

/// Age from which a commit under way is overdue.
const DEADLINE: Duration = Duration::from_secs(60);
/// Time between two heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Longest key, in bytes, as in PostgreSQL.
const KEY_BYTES_MAX: usize = 2_000;

/// Handle of a member. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SharedSimIndex(Arc<Inner>);

/// State that a handle shares with its snapshots, its committer and its heartbeat.
struct Inner {
    scheduler: Arc<Scheduler>,
    epoch: u64,
    queue: CommitQueue,
    /// Reason why this member may not write any more.
    fenced: Mutex<Option<Error>>,
}

impl SharedSimIndex {
    /// Joins the store as a new member.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the store can't be reached. The member may have joined.
    pub(crate) async fn open(scheduler: Arc<Scheduler>) -> Result<Self> {
        scheduler.pass("index open", String::new).await;
        if scheduler.is_cut_off(Remote::Index) {
            return Err(unavailable("this member is cut off from the index"));
        }
        let name = scheduler
            .process()
            .map_or("world", Process::name)
            .to_owned();
        let epoch = scheduler
            .durable_state()
            .join(&name, scheduler.time_of_day_ms());
        if let Some(process) = scheduler.process() {
            process.joined(epoch);
        }
        scheduler.linger().await;
        if scheduler
            .durable_state()
            .strikes(Fault::IndexCutAfter, || "index open".to_owned())
        {
            return Err(unavailable("the connection was lost"));
        }
        let inner = Arc::new(Inner {
            scheduler,
            epoch,
            queue: CommitQueue::new(DEADLINE),
            fenced: Mutex::default(),
        });
        let heart = Arc::downgrade(&inner);
        inner
            .scheduler
            .spawn("the heartbeat", beat(heart, Arc::clone(&inner.scheduler)));
        Ok(Self(inner))
    }
}

impl Inner {
    /// Refuses every later batch.
    fn fence(&self) {
        let mut fenced = self.fenced.lock().unwrap_or_else(PoisonError::into_inner);
        if fenced.is_none() {
            let mut state = self.scheduler.durable_state().state();
            state.coverage.count("index: a dead member found out");
            *fenced = Some(declared_dead());
        }
    }

    fn fenced(&self) -> Option<Error> {
        let fenced = self.fenced.lock().unwrap_or_else(PoisonError::into_inner);
        fenced.clone()
    }

    /// Sends a request about members, and returns its answer unless it is lost.
    async fn ask_members<T>(&self, what: &'static str, effect: impl FnOnce() -> T) -> Result<T> {
        self.request(what).await?;
        let answer = effect();
        self.scheduler.linger().await;
        if self
            .scheduler
            .durable_state()
            .strikes(Fault::IndexCutAfter, || what.to_owned())
        {
            return Err(unavailable("the connection was lost"));
        }
        Ok(answer)
    }

    /// Commits what is queued, and removes the entry of the member.
    async fn close(self: Arc<Self>) -> Result<()> {
        // A member whose commit hangs is left to be declared dead.
        if self.queue.drained(&self.scheduler).await {
            self.scheduler.pass("index close", String::new).await;
            if !self.scheduler.is_cut_off(Remote::Index) {
                self.scheduler.durable_state().leave(self.epoch);
            }
        }
        match self.queue.poisoned() {
            Some(_) => Err(self.queue.unknown_end()),
            None => Ok(()),
        }
    }
}

/// Counts up the heartbeat until the handle is closed, dropped or fenced.
async fn beat(heart: Weak<Inner>, scheduler: Arc<Scheduler>) {
    scheduler.name_lane("heartbeat", false);
    loop {
        scheduler.sleep(HEARTBEAT).await;
        let is_over = |inner: &Inner| inner.queue.is_closed() || inner.fenced().is_some();
        if heart.upgrade().is_none_or(|inner| is_over(&inner)) {
            return;
        }
        scheduler.pass("heartbeat", String::new).await;
        let Some(inner) = heart.upgrade().filter(|inner| !is_over(inner)) else {
            return;
        };
        let durable_state = scheduler.durable_state();
        if !scheduler.is_cut_off(Remote::Index)
            && !durable_state.beat(inner.epoch, scheduler.time_of_day_ms())
        {
            inner.fence();
        }
    }
}

impl Index for SharedSimIndex {
    fn submit(&self, batch: Batch, completion: Completion) {
        if let Some(reason) = self.0.fenced() {
            return completion(Err(CommitError::not_started(&reason)));
        }
        let required = batch.conditions().iter().map(|condition| &condition.key);
        let mut keys = batch.ops().iter().map(|(_, key, _)| key).chain(required);
        if keys.any(|key| key.len() > KEY_BYTES_MAX) {
            let error = Error::new(ErrorKind::Invalid, "commit", "a key is too long");
            return completion(Err(CommitError::NotStarted(error)));
        }
        if self.0.queue.submit(&self.0.scheduler, batch, completion) {
            self.0.start();
        }
    }

    fn get<'a>(&'a self, table: Table, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>>> {
        self.0.get(table, key).boxed()
    }

    fn shared(&self) -> Option<&dyn SharedIndex> {
        Some(self)
    }

    fn key_bytes_max(&self) -> usize {
        KEY_BYTES_MAX
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        if self.0.queue.is_closed() {
            return Err(Error::new(ErrorKind::Closed, "read", "the index is closed"));
        }
        Ok(Box::new(SharedSnapshot::new(Arc::clone(&self.0))))
    }

    fn watch(&self, now: Duration) {
        self.0.queue.watch(&self.0.scheduler, now);
    }

    fn poisoned(&self) -> Option<Error> {
        self.0.queue.poisoned().or_else(|| self.0.fenced())
    }

    fn stats(&self) -> IndexStats {
        self.0.queue.stats()
    }

    /// Closes the handle. A commit that hangs is given up.
    fn close(&self) -> BoxFuture<'static, Result<()>> {
        self.0.queue.close();
        Arc::clone(&self.0).close().boxed()
    }
}

impl SharedIndex for SharedSimIndex {
    fn epoch(&self) -> Epoch {
        Epoch::new(self.0.epoch)
    }

    fn members(&self) -> BoxFuture<'_, Result<Vec<Member>>> {
        let durable_state = self.0.scheduler.durable_state();
        let members = move || durable_state.members();
        self.0.ask_members("index members", members).boxed()
    }

    fn declare_dead(&self, member: Epoch, beat: u64) -> BoxFuture<'_, Result<bool>> {
        let durable_state = self.0.scheduler.durable_state();
        let declare = move || durable_state.declare_dead(self.0.epoch, member.get(), beat);
        self.0.ask_members("index declares dead", declare).boxed()
    }

    fn wall_time(&self) -> BoxFuture<'_, Result<WallTime>> {
        let durable_state = self.0.scheduler.durable_state();
        let now = move || WallTime::from_millis(durable_state.time_of_day_ms());
        self.0.ask_members("index clock", now).boxed()
    }
}

/// Creates the error of a request that did not get through.
fn unavailable(message: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, "read", message)
}

/// Creates the error of a member whose entry is gone.
fn declared_dead() -> Error {
    let message = "this member was declared dead; reopen the store";
    Error::new(ErrorKind::Unavailable, "commit", message)
}
