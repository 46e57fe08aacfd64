//! The shard: sole decider for its objects, sole submitter of their swaps (I3).
//!
//! ```text
//! message ──> read: pending writes, then index ──> decide (pure) ──> apply plan ──> next message
//!                                                                        └─ durable ──> reply
//! ```
//!
//! A shard never waits for the disk to write. The completion replies to the caller, even if the
//! actor has died since (I10). A restarted shard first passes the index's barrier, because only
//! then the index shows every batch that its predecessor submitted. Commits on several shards lock
//! objects of each (`runtime/shard_lock.rs`).

use cenotaph_storage::decide::{self, FallbackAnswer, Plan, Swap, SwapReply};
use cenotaph_storage::{ObjectId, OperationId, Result, SyncPoint, tamper};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;

use crate::admission::permits::Permit;
use crate::context::SharedContext;
use crate::context::messages::{ShardMessage, ShardRequest};
use crate::runtime::reply::ReplyCallback;
use crate::runtime::shard_lock::ShardLock;
use crate::shard::pending_writes::PendingWrites;

mod again;
mod apply;
pub(crate) mod pending_writes;
mod prune;
mod reader;
mod repair;
mod upload_steps;

pub(crate) use again::{pause, too_often};
pub(crate) use apply::{completion, guarded};
pub(crate) use reader::DecisionReader;

/// The actor of a shard.
pub(crate) struct Shard {
    pub(crate) context: SharedContext,
    pub(crate) number: usize,
}

impl Actor for Shard {
    type Msg = ShardRequest;
    type State = PendingWrites;
    type Arguments = ();

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        (): (),
    ) -> Result<PendingWrites, ActorProcessingErr> {
        Ok(PendingWrites::default())
    }

    async fn post_start(
        &self,
        _: ActorRef<Self::Msg>,
        _: &mut PendingWrites,
    ) -> Result<(), ActorProcessingErr> {
        self.context.env.actor_started("shard", Some(self.number));
        // A poisoned index fails the barrier, too. The index then refuses every submission, so that
        // serving requests is safe.
        if let Err(error) = self.context.index.barrier().await {
            tracing::warn!(%error, "a shard starts on a failed index");
        }
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        ShardRequest { message, attempt }: ShardRequest,
        pending: &mut PendingWrites,
    ) -> Result<(), ActorProcessingErr> {
        self.context.env.pass(SyncPoint::ShardBeforeDecide).await;
        // After a failed commit the pending writes are not trustworthy: nothing is decided on them.
        if let Err(error) = self.context.health.check_failed("commit") {
            message.refuse(error);
            return Ok(());
        }
        if attempt > 0
            && let Err(error) = self.context.base.reload(&self.context).await
        {
            message.refuse(error);
            return Ok(());
        }
        // Before the decision: writes whose batches have ended are read from the index.
        pending.trim();
        self.decide(message, pending, attempt).await;
        self.context.env.pass(SyncPoint::ShardAfterSubmit).await;
        Ok(())
    }
}

impl Shard {
    async fn decide(&self, message: ShardMessage, pending: &mut PendingWrites, attempt: u32) {
        match message {
            ShardMessage::Swap {
                swap,
                answer,
                permit,
                reply,
            } => {
                let request = (swap, answer, permit);
                self.swap(pending, request, (reply, attempt)).await;
            }
            ShardMessage::UploadStep {
                swap,
                answer,
                permit,
                reply,
            } => {
                let request = (swap, answer, permit);
                self.upload_step(pending, request, (reply, attempt)).await;
            }
            ShardMessage::Fence {
                object,
                change,
                reply,
            } => {
                let planned = self.plan_fence(pending, &object, change).await;
                let again = self.again(attempt, move |reply| ShardMessage::Fence {
                    object,
                    change,
                    reply,
                });
                self.carry_out(pending, planned, None, (reply, again));
            }
            ShardMessage::Prune {
                objects,
                cutoff,
                reply,
            } => self.prune(pending, objects, cutoff, (reply, attempt)).await,
            ShardMessage::Lock { objects, granted } => self.lock(pending, &objects, granted).await,
            ShardMessage::Repair {
                object,
                repair,
                mode,
                reply,
            } => {
                let finding = (object, repair);
                self.repair_object(pending, finding, mode, (reply, attempt))
                    .await;
            }
            ShardMessage::RepairUpload {
                object,
                upload,
                repair,
                mode,
                reply,
            } => {
                let finding = (object, upload, repair);
                self.repair_upload(pending, finding, mode, (reply, attempt))
                    .await;
            }
        }
    }

    async fn swap(
        &self,
        pending: &mut PendingWrites,
        (swap, answer, permit): (Box<Swap>, FallbackAnswer, Permit),
        (reply, attempt): (ReplyCallback<SwapReply>, u32),
    ) {
        let planned = self.plan_swap(pending, &swap, answer).await;
        let held = permit.clone();
        let again = self.again(attempt, move |reply| ShardMessage::Swap {
            swap,
            answer,
            permit: held,
            reply,
        });
        self.carry_out(pending, planned, Some(permit), (reply, again));
    }

    async fn plan_swap(
        &self,
        pending: &PendingWrites,
        swap: &Swap,
        answer: FallbackAnswer,
    ) -> Result<Plan<SwapReply>> {
        let mut reader = DecisionReader::new(&self.context, pending);
        let mut view = reader.swap_view(swap).await?;
        view.row_state = view.row_state.answered(self.context.valid(answer));
        let now = self.context.env.steady_now();
        let plan = swap.decide(&view, now);
        // Hook of planted bugs: without the feature it returns the same plan.
        let plan = tamper::swap(&self.context.env, swap, view, now, plan);
        Ok(plan.based_on(reader.into_reads()))
    }

    /// Plans the end of a dead change: its removal, and the orphans that it leaves.
    async fn plan_fence(
        &self,
        pending: &PendingWrites,
        object: &ObjectId,
        change: OperationId,
    ) -> Result<Plan<bool>> {
        let mut reader = DecisionReader::new(&self.context, pending);
        let plan = match reader.change(change).await? {
            Some(recorded) => {
                let row_state = reader.row_state(object).await?;
                decide::fence(change, &recorded, &row_state, self.context.env.steady_now())
            }
            None => decide::not_fenced(),
        };
        Ok(plan.based_on(reader.into_reads()))
    }

    /// Grants a lock on objects, and decides nothing until the lock has ended.
    async fn lock(
        &self,
        pending: &mut PendingWrites,
        objects: &[ObjectId],
        granted: oneshot::Sender<Result<ShardLock>>,
    ) {
        let mut reader = DecisionReader::new(&self.context, pending);
        let mut row_states = Vec::with_capacity(objects.len());
        for object in objects {
            match reader.row_state(object).await {
                Ok(row_state) => row_states.push(row_state),
                Err(error) => return drop(granted.send(Err(error))),
            }
        }
        let reads = reader.into_reads();
        // The ticket is taken before the lock is granted: later batches of this shard are ordered
        // after the commit.
        let ticket = pending.next_ticket();
        let (lock, locked) = ShardLock::new(row_states, reads, ticket, pending.durable());
        // The task is gone: the lock has been dropped unused.
        if granted.send(Ok(lock)).is_err() {
            return;
        }
        self.context.env.pass(SyncPoint::ShardLent).await;
        for (object, row_state) in locked.ended().await.unwrap_or_default() {
            pending.set_state(ticket, &object, row_state);
        }
    }
}
