//! Start and close of an engine's actors, and their shared state.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cenotaph_storage::blobs::BlobTiers;
use cenotaph_storage::index::Index;
use cenotaph_storage::{Env, Epoch, Error, ErrorKind, Pins, Result};
use ractor::Actor;
use tokio::sync::{OnceCell, oneshot};

use crate::admission::permits::Admission;
use crate::context::backlog::Backlog;
use crate::context::claims::Claims;
use crate::context::conflict_queue::ConflictQueue;
use crate::context::expiry_cursor::ExpiryCursor;
use crate::context::fallback::FallbackOptions;
use crate::context::idle_refresh::IdleRefreshes;
use crate::context::leftovers::Leftovers;
use crate::context::messages::RecoveryMessage;
use crate::context::registry::ActorRegistry;
use crate::context::stored_base::StoredBase;
use crate::context::{Context, EventCounters, SharedContext, wake};
use crate::handle::Tiered;
use crate::handle::membership::spawn_member_task;
use crate::handle::supervisor::Supervisor;
use crate::limits::Limits;
use crate::runtime::health::Health;
use crate::runtime::live_writes::LiveWrites;

/// Maximum time for the actors to stop, once their work has ended.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Tiers, environment and limits of the actors to start.
pub struct StartOptions {
    /// The index.
    pub index: Arc<dyn Index>,
    /// The blob tier.
    pub blobs: BlobTiers,
    /// The environment.
    pub env: Env,
    /// Pinned revisions, which the reads of the engine share.
    pub pins: Pins,
    /// Epoch of the engine.
    pub epoch: Epoch,
    /// Limits of the actors.
    pub limits: Limits,
    /// The fallback of the store.
    pub fallback: Option<FallbackOptions>,
}

impl Tiered {
    /// Starts the actors, and settles the changes of all earlier epochs. The orphans of these are
    /// deleted in the background.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the actors can't start;
    /// [`UnknownFormat`](ErrorKind::UnknownFormat) if a later build wrote the base version;
    /// otherwise the error of the first recovery pass.
    pub async fn start(options: StartOptions) -> Result<Self> {
        let base = StoredBase::load(&*options.index, options.env.steady_now()).await?;
        let mut context = context(options, Health::default());
        context.base = base;
        let context = Arc::new(context);
        // Members that create objects then share the entry. Requiring its absence excludes them.
        if context.index.is_shared() && context.base.get().is_none() {
            context.store_base().await?;
        }
        let supervisor = Supervisor {
            context: Arc::clone(&context),
        };
        let (supervisor, ended) = Actor::spawn(None, supervisor, ()).await.map_err(|error| {
            Error::new(ErrorKind::Unavailable, "open", "the actors can't start")
                .with_source(error.to_string())
        })?;
        let watched = Watched(Arc::clone(&context));
        context.env.spawn(async move {
            // Moved into the task as a whole: its drop reports a runtime that shuts down.
            let watched = watched;
            drop(ended.await);
            watched.0.health.fail("its supervisor has died");
        });
        let tiered = Self {
            _housekeeping: Some(spawn_housekeeping(&context)),
            _membership: spawn_member_task(&context),
            context,
            supervisor: Some(supervisor),
            closed: OnceCell::new(),
        };
        // Before the first request: no write meets a change of a dead epoch.
        tiered.recover().await?;
        Ok(tiered)
    }

    /// Returns a handle without actors, over a read-only index: every write is refused, and nothing
    /// is settled, swept or expired.
    pub fn read_only(options: StartOptions) -> Self {
        let context = Arc::new(context(options, Health::read_only()));
        Self {
            context,
            supervisor: None,
            closed: OnceCell::new(),
            _housekeeping: None,
            _membership: None,
        }
    }

    /// Stops accepting work, waits for work under way, deletes the orphans that may be deleted, all
    /// within [`Limits::close_timeout`], and stops the actors within another second. The next open
    /// settles the work that is unfinished then. A repeated call waits for the first.
    pub async fn close(&self) {
        let had_failed = self.context.health.close();
        self.closed.get_or_init(|| self.stop(had_failed)).await;
    }

    async fn stop(&self, had_failed: bool) {
        let Some(supervisor) = &self.supervisor else {
            return self.context.health.closed();
        };
        let finish = async {
            // A failed engine has no actors that could settle anything.
            if had_failed {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "close",
                    "the engine had failed",
                ));
            }
            // Writes without a caller hold permits, too.
            self.context.admission.work_ended().await;
            self.settle().await
        };
        match self
            .context
            .env
            .deadline(self.context.limits.close_timeout, finish)
            .await
        {
            Some(Ok(0)) => {}
            Some(Ok(waiting)) => {
                tracing::info!(waiting, "closed with orphans that may not be deleted yet");
            }
            Some(Err(error)) => tracing::warn!(%error, "closed without settling everything"),
            None => tracing::warn!("closed with work under way; the next open settles it"),
        }
        // The children die with the supervisor. The index completes the batches they submitted.
        self.context.registry.kill_all();
        let stopping = supervisor.stop_and_wait(None, None);
        if !matches!(
            self.context.env.deadline(STOP_TIMEOUT, stopping).await,
            Some(Ok(()))
        ) {
            supervisor.kill();
        }
        let patience = self.context.limits.close_timeout;
        let leftovers = self.context.leftovers.ended();
        if self
            .context
            .env
            .deadline(patience, leftovers)
            .await
            .is_none()
        {
            tracing::warn!("closed with deletions under way; a scrub finds the blobs");
        }
        self.context.health.closed();
    }
}

/// Creates the shared state of an engine.
fn context(options: StartOptions, health: Health) -> Context {
    let StartOptions {
        index,
        blobs,
        env,
        pins,
        epoch,
        limits,
        fallback,
    } = options;
    let registry = Arc::new(ActorRegistry::new(limits.shards));
    let recovery_requested = Arc::new(AtomicBool::new(false));
    let backlog = Arc::new(if index.is_shared() {
        Backlog::shared(env.clone(), limits.members.reader_grace)
    } else {
        Backlog::default()
    });
    let live_writes = {
        let registry = Arc::clone(&registry);
        let requested = Arc::clone(&recovery_requested);
        let backlog = Arc::clone(&backlog);
        LiveWrites::new(move |change| {
            // A change that is settled already needs no recovery: the common case.
            if backlog.may_hold(change) {
                wake(&requested, &registry.recovery, RecoveryMessage::Wake);
            }
        })
    };
    Context {
        admission: Admission::new(
            &limits,
            blobs.current().upload_buffer_bytes(None),
            env.clone(),
        ),
        index,
        blobs,
        env,
        pins,
        limits,
        epoch,
        base: StoredBase::default(),
        registry,
        live_writes,
        backlog,
        health,
        counters: EventCounters::default(),
        pinned_skipped: AtomicBool::new(false),
        sweep_requested: Arc::default(),
        recovery_requested,
        expiry_requested: Arc::default(),
        expiry_cursor: ExpiryCursor::default(),
        prune_requested: Arc::default(),
        last_versions_stored: AtomicU64::new(0),
        last_versions_kept: AtomicU64::new(0),
        making_room: AtomicBool::new(false),
        idle_refreshes: IdleRefreshes::default(),
        leftovers: Leftovers::default(),
        conflict_queue: ConflictQueue::default(),
        claims: Claims::default(),
        is_migrating: AtomicBool::new(false),
        fallback,
    }
}

/// Guard of the task that watches the supervisor. It is dropped before the supervisor ends only if
/// the runtime shuts down.
struct Watched(SharedContext);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0
            .health
            .fail("the tokio runtime that opened it has shut down");
    }
}

/// Spawns the housekeeping task, which ends when the returned sender is dropped. It wakes the
/// sweeper after reads of pinned orphans, and checks for overdue commits.
fn spawn_housekeeping(context: &SharedContext) -> oneshot::Sender<()> {
    let (handle, mut dropped) = oneshot::channel();
    let context = Arc::clone(context);
    context.env.clone().spawn(async move {
        let mut beat = context.env.sleep(context.limits.heartbeat);
        loop {
            tokio::select! {
                biased;
                // Polled first (`biased`), so that the task ends with the handle.
                _ = &mut dropped => return,
                () = &mut beat => {
                    context.index.watch(context.env.monotonic());
                    context.fail_if_poisoned();
                    context.admission.gauge();
                    context.backlog.gauge();
                    beat = context.env.sleep(context.limits.heartbeat);
                }
                () = context.pins.released() => {
                    // Most reads pin no orphan: the sweeper is woken only if it has skipped one.
                    if context.pinned_skipped.swap(false, Ordering::SeqCst) {
                        context.wake_sweeper();
                    }
                }
            }
        }
    });
    handle
}
