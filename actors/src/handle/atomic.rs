//! Commits on objects of several shards: atomic batches and renames.
//!
//! ```text
//! 1 spawn a task, so that a caller that stops polling blocks no shard
//! 2 lock the objects of each shard, in the order of shard numbers   lost request: release, retry
//! 3 decide everything on the states of all objects (pure)           one conflict: nothing happens
//! 4 submit one batch under all locks at once                        a shard has died: retry
//! 5 the completion answers the caller (I10), the locks end   another member has changed an object: 2
//! ```
//!
//! Guards I3: one batch, decided while no other decision about these objects can be made. All
//! commits lock shards in the same order, so that there is no deadlock.

use std::collections::BTreeMap;
use std::sync::Arc;

use cenotaph_storage::decide::{
    Deleted, Effect, FallbackAnswer, Mutation, Plan, Precondition, PutResult, ReadSet, Rename,
    RowState, Swap, SwapReply, SwapView,
};
use cenotaph_storage::index::{CommitError, Table};
use cenotaph_storage::records::BASE_VERSION_KEY;
use cenotaph_storage::{Error, ErrorKind, ObjectId, Result, SyncPoint};
use tokio::sync::oneshot;

use crate::admission::permits::Permit;
use crate::context::messages::ShardMessage;
use crate::context::post_commit::PostCommit;
use crate::context::{Context, SharedContext};
use crate::handle::Tiered;
use crate::runtime::reply::{ReplyCallback, reply};
use crate::runtime::shard_lock::{self, ShardLock};
use crate::shard::{completion, guarded, pause, too_often};

/// Result of a write of an atomic batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteReply {
    /// A put.
    Written(PutResult),
    /// A delete.
    Deleted(Deleted),
}

impl Tiered {
    /// Commits all of these swaps, or none. Each object may occur once.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if a precondition does not hold: the error names its object;
    /// [`ErrorKind::Invalid`] if an object occurs twice; otherwise as
    /// [`put_inline`](Self::put_inline), for all swaps together.
    pub async fn write_atomically(
        &self,
        swaps: Vec<Swap>,
        permit: Permit,
    ) -> Result<Vec<WriteReply>> {
        self.context().health.check("batch")?;
        if swaps
            .iter()
            .any(|swap| !matches!(swap.mutation, Mutation::Delete))
        {
            self.make_room(swaps.iter().map(Swap::stored_bytes).sum())
                .await?;
        }
        let objects: Vec<ObjectId> = swaps.iter().map(|swap| swap.id.clone()).collect();
        let answers = self.context().answers(&swaps).await?;
        let permit = permit.and(self.context().admission.writes(swaps.len()).await?);
        let decide = move |row_states: &BTreeMap<ObjectId, RowState>, context: &Context| {
            decide(&swaps, &answers, row_states, context)
        };
        self.commit_together(objects, permit, decide).await
    }

    /// Renames an object in one commit, without copying its bytes. Returns `None` if there is no
    /// object to rename.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if a precondition does not hold: the error names its object;
    /// otherwise as [`put_inline`](Self::put_inline).
    pub async fn rename(&self, rename: Rename) -> Result<Option<PutResult>> {
        self.context().health.check("rename")?;
        self.make_room(0).await?;
        // A rename moves a row, so the object must have one. Under a version or an etag it does not
        // commit without one.
        if rename.source == Precondition::None {
            self.adopt(&rename.from, false).await?;
        }
        let answer = FallbackAnswer::NotAsked;
        let context = self.context();
        let answer = context.answer(&rename.to, rename.target, answer).await?;
        let permit = self.context().admission.writes(2).await?;
        let objects = vec![rename.from.clone(), rename.to.clone()];
        let decide = move |row_states: &BTreeMap<ObjectId, RowState>, context: &Context| {
            let now = context.env.steady_now();
            let to = row_states[&rename.to]
                .clone()
                .answered(context.valid(answer));
            rename.decide(&row_states[&rename.from], &to, now)
        };
        self.commit_together(objects, permit, decide).await
    }

    /// Runs the commit in a task of its own, and returns its reply.
    async fn commit_together<T: Send + 'static>(
        &self,
        mut objects: Vec<ObjectId>,
        permit: Permit,
        decide: impl Fn(&BTreeMap<ObjectId, RowState>, &Context) -> Plan<T> + Send + Sync + 'static,
    ) -> Result<T> {
        // Sorted, so that duplicates are neighbours.
        objects.sort_unstable();
        if let Some(twice) = objects.windows(2).find(|pair| pair[0] == pair[1]) {
            let message = "an object occurs twice in an atomic batch";
            return Err(Error::new(ErrorKind::Invalid, "batch", message).with_id(&twice[0]));
        }
        for object in &objects {
            self.context().check_id(object)?;
        }
        let (reply, answer) = reply();
        let context = Arc::clone(self.context());
        // A caller that stops polling its future must not hold locks.
        self.context().env.spawn(async move {
            CrossShardCommit { context, objects }
                .run(decide, Waiting { reply, permit })
                .await;
        });
        answer.await.unwrap_or_else(|| {
            Err(Error::new(
                ErrorKind::Unavailable,
                "batch",
                "the task of the batch has ended; nothing was committed",
            ))
        })
    }
}

/// The task of a commit, which holds the locks.
struct CrossShardCommit {
    context: SharedContext,
    objects: Vec<ObjectId>,
}

/// The caller of a commit, with its permit.
struct Waiting<T> {
    reply: ReplyCallback<T>,
    permit: Permit,
}

impl<T> Waiting<T> {
    fn answer(self, answer: Result<T>) {
        // Before the reply: a caller that receives it may send its next request at once.
        drop(self.permit);
        (self.reply)(answer);
    }
}

impl CrossShardCommit {
    /// Locks, decides and submits, until the batch is submitted or the request fails.
    async fn run<T: Send + 'static>(
        self,
        decide: impl Fn(&BTreeMap<ObjectId, RowState>, &Context) -> Plan<T>,
        mut waiting: Waiting<T>,
    ) {
        let mut deliveries = 0;
        let mut decisions = 0;
        loop {
            let attempt = self.attempt(&decide, waiting).await;
            let limits = &self.context.limits;
            waiting = match attempt {
                Attempt::Answered => return,
                Attempt::Lost(waiting) if deliveries >= limits.deliveries_max => {
                    let message = "a shard is not running; nothing was committed";
                    return waiting.answer(Err(Error::new(
                        ErrorKind::Unavailable,
                        "batch",
                        message,
                    )));
                }
                Attempt::Lost(waiting) => {
                    if let Err(error) = self.context.health.check_failed("batch") {
                        return waiting.answer(Err(error));
                    }
                    self.context.back_off(deliveries).await;
                    deliveries += 1;
                    waiting
                }
                Attempt::Changed(waiting) if decisions >= limits.members.attempts_max => {
                    return waiting.answer(Err(too_often(decisions)));
                }
                Attempt::Changed(waiting) => {
                    if let Some(pause) = pause(&self.context, decisions) {
                        self.context.env.sleep(pause).await;
                    }
                    if let Err(error) = self.context.base.reload(&self.context).await {
                        return waiting.answer(Err(error));
                    }
                    decisions += 1;
                    waiting
                }
            };
        }
    }

    /// Locks, decides and submits once.
    async fn attempt<T: Send + 'static>(
        &self,
        decide: &impl Fn(&BTreeMap<ObjectId, RowState>, &Context) -> Plan<T>,
        waiting: Waiting<T>,
    ) -> Attempt<T> {
        let locked = match self.lock_all().await {
            Ok(Some(locked)) => locked,
            Ok(None) => return Attempt::Lost(waiting),
            Err(error) => return answered(waiting, Err(error)),
        };
        self.context.env.pass(SyncPoint::AtomicBeforeDecide).await;
        let plan = decide(&locked.row_states(), &self.context);
        let plan = plan.based_on(locked.reads());
        // Nothing to commit: dropping the locks releases the objects.
        if plan.effect == Effect::Known {
            return answered(waiting, plan.reply);
        }
        // Before the commit: later decisions may rest on it.
        if let Err(error) = self.context.admit(&plan.batch) {
            return answered(waiting, Err(error));
        }
        match self.commit(locked, plan, waiting) {
            Err(waiting) => Attempt::Lost(waiting),
            Ok(changed) => {
                self.context.env.pass(SyncPoint::AtomicAfterSubmit).await;
                // Ends with the completion. Nobody else changes an index with a single owner.
                match changed.await {
                    Ok(waiting) => Attempt::Changed(waiting),
                    Err(_) => Attempt::Answered,
                }
            }
        }
    }

    /// Locks all objects, shard by shard. Returns `None` if a request was lost.
    async fn lock_all(&self) -> Result<Option<LockedObjects>> {
        let mut by_shard: BTreeMap<usize, Vec<ObjectId>> = BTreeMap::new();
        for object in &self.objects {
            by_shard
                .entry(self.context.registry.shard_number(object))
                .or_default()
                // A `BTreeMap`: shards are locked in the order of their numbers.
                .push(object.clone());
        }
        let mut locked = LockedObjects {
            locks: Vec::new(),
            objects: Vec::new(),
        };
        for (shard, objects) in by_shard {
            let (granted, grant) = oneshot::channel();
            let lock = ShardMessage::Lock {
                objects: objects.clone(),
                granted,
            };
            self.context.registry.shards[shard].send(lock.into());
            // The shard died with the request. The locks taken so far are released by their drop.
            let Ok(lock) = grant.await else {
                return Ok(None);
            };
            locked.locks.push(lock?);
            locked.objects.push(objects);
        }
        Ok(Some(locked))
    }

    /// Submits the plan under all locks. Returns the caller if a lock is void, otherwise a channel that
    /// returns the caller if another member has changed the objects.
    fn commit<T: Send + 'static>(
        &self,
        locked: LockedObjects,
        mut plan: Plan<T>,
        waiting: Waiting<T>,
    ) -> Result<oneshot::Receiver<Waiting<T>>, Waiting<T>> {
        let LockedObjects { locks, objects } = locked;
        let rows: BTreeMap<ObjectId, RowState> = plan.rows.into_iter().collect();
        let next = objects.into_iter().map(|objects| {
            let changed = |object: ObjectId| {
                let row_state = rows.get(&object).cloned();
                row_state.map(|row_state| (object, row_state))
            };
            objects.into_iter().filter_map(changed).collect()
        });
        let reached: Vec<_> = locks
            .iter()
            .map(|lock| (lock.ticket, lock.durable.clone()))
            .collect();
        let (give_back, changed) = oneshot::channel();
        let mut waiting = Some(waiting);
        // No `.await` here: the locks' states are held until the batch is submitted.
        shard_lock::commit(&locks, next.collect(), || {
            let Some(waiting) = waiting.take() else {
                return;
            };
            self.context.count(plan.event);
            let after = PostCommit::of(&plan.batch);
            let context = Arc::clone(&self.context);
            let rests_on_base = plan.reads.has(Table::Meta, BASE_VERSION_KEY);
            let answer = move |outcome| {
                if rests_on_base && matches!(outcome, Err(CommitError::Changed)) {
                    context.base.doubt();
                }
                let waiting = match outcome {
                    // If the task has ended, nobody decides again, and the caller is told so.
                    Err(CommitError::Changed) => match give_back.send(waiting) {
                        Ok(()) => return,
                        Err(waiting) => waiting,
                    },
                    Ok(()) | Err(_) => waiting,
                };
                let Waiting { reply, permit } = waiting;
                let reply = guarded(plan.effect, reply);
                let committed = outcome.map_err(CommitError::into_error);
                Waiting { reply, permit }.answer(committed.and(plan.reply));
            };
            let completion = completion(&self.context, after, reached, None, answer);
            plan.reads.require(&mut plan.batch);
            self.context.index.submit(plan.batch, completion);
        });
        match waiting {
            Some(waiting) => Err(waiting),
            None => Ok(changed),
        }
    }
}

/// End of an attempt.
enum Attempt<T> {
    /// The caller has been answered, or the completion answers it.
    Answered,
    /// A shard has died, and nothing was submitted.
    Lost(Waiting<T>),
    /// Another member has changed an object, and nothing was committed.
    Changed(Waiting<T>),
}

fn answered<T>(waiting: Waiting<T>, answer: Result<T>) -> Attempt<T> {
    waiting.answer(answer);
    Attempt::Answered
}

/// The locked objects of a commit.
struct LockedObjects {
    locks: Vec<ShardLock>,
    objects: Vec<Vec<ObjectId>>,
}

impl LockedObjects {
    fn reads(&self) -> ReadSet {
        let mut reads = ReadSet::default();
        for lock in &self.locks {
            reads.extend(lock.reads.clone());
        }
        reads
    }

    fn row_states(&self) -> BTreeMap<ObjectId, RowState> {
        let of_one = |(lock, objects): (&ShardLock, &Vec<ObjectId>)| {
            objects
                .iter()
                .cloned()
                .zip(lock.row_states.iter().cloned())
                .collect::<Vec<_>>()
        };
        self.locks
            .iter()
            .zip(&self.objects)
            .flat_map(of_one)
            .collect()
    }
}

/// Decides all swaps. Returns a plan that only fails if one of them cannot commit.
fn decide(
    swaps: &[Swap],
    answers: &BTreeMap<ObjectId, FallbackAnswer>,
    row_states: &BTreeMap<ObjectId, RowState>,
    context: &Context,
) -> Plan<Vec<WriteReply>> {
    let now = context.env.steady_now();
    let mut replies = Vec::with_capacity(swaps.len());
    let mut plans = Vec::with_capacity(swaps.len());
    for swap in swaps {
        let answer = answers.get(&swap.id).copied().unwrap_or_default();
        let view = SwapView {
            row_state: row_states[&swap.id].clone().answered(context.valid(answer)),
            is_unreadable: false,
            change_is_live: false,
        };
        let plan = swap.decide(&view, now);
        match &plan.reply {
            Ok(reply) => replies.push(write_reply(swap, *reply)),
            Err(error) => return plan_failure(error, &swap.id),
        }
        plans.push(plan);
    }
    Plan::together(plans, replies)
}

/// Plans the failure of a batch because of an object.
fn plan_failure<T>(error: &Error, id: &ObjectId) -> Plan<T> {
    let mut plan = match error.kind() {
        ErrorKind::Conflict { current } => Plan::conflict("batch", current),
        // The row may be that of a pending batch, which may not commit.
        _ => Plan::nothing(Err(error.clone())),
    };
    plan.reply = plan.reply.map_err(|error| error.with_id(id));
    plan
}

fn write_reply(swap: &Swap, reply: SwapReply) -> WriteReply {
    match swap.mutation {
        Mutation::Delete => WriteReply::Deleted(reply.deleted()),
        Mutation::Inline { .. }
        | Mutation::Tombstone { .. }
        | Mutation::Amend(_)
        | Mutation::Extend(_)
        | Mutation::Touch { .. }
        | Mutation::Relocate { .. }
        | Mutation::Expire => WriteReply::Written(reply.written()),
    }
}
