//! The shard: sole decider for its objects, sole submitter of their swaps (I3).
//!
//! ```text
//! message -> how does the object stand? (overlay, then index) -> decide (pure) -> submit one batch -> next message
//!                                                                                  \-- durable --> reply, trim
//! ```
//!
//! It never waits for the disk to write: the completion answers the caller, even if this actor has
//! died since (I10). What it answers without changing anything is answered behind an empty batch,
//! so that nobody hears of a state that is not durable yet (I7). A restarted shard first passes the
//! index's barrier: only then does the index show all that its predecessor submitted. For a commit
//! that touches objects of other shards too it lends its own (`lease.rs`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cenotaph_storage::index::{Batch, CommitError, Table};
use cenotaph_storage::planted::Bug;
use cenotaph_storage::rows::Change;
use cenotaph_storage::swap::{self, Decision, Deleted, Mending, Mutation, Standing, Swap};
use cenotaph_storage::{ErrorKind, ObjectId, OperationId, Result, Seam, Timestamp, Version};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;

use crate::admission::Permit;
use crate::aftermath::Aftermath;
use crate::lease::Lease;
use crate::messages::ShardMessage;
use crate::overlay::Overlay;
use crate::reply::{Answer, Reply, answer, nothing_committed};
use crate::shared::Shared;

/// One shard.
pub(crate) struct Shard {
    pub(crate) shared: Shared,
    pub(crate) number: usize,
}

impl Actor for Shard {
    type Msg = ShardMessage;
    type State = Overlay;
    type Arguments = ();

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        (): (),
    ) -> Result<Overlay, ActorProcessingErr> {
        Ok(Overlay::default())
    }

    async fn post_start(
        &self,
        _: ActorRef<Self::Msg>,
        _: &mut Overlay,
    ) -> Result<(), ActorProcessingErr> {
        self.shared.env.actor_started("shard", Some(self.number));
        if self.shared.env.planted(Bug::NoBarrier) {
            return Ok(());
        }
        // A poisoned index fails the barrier too. It will refuse every submission, so serving on is
        // safe.
        if let Err(error) = self.shared.index.barrier().await {
            tracing::warn!(%error, "a shard starts on an index that has failed");
        }
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: ShardMessage,
        overlay: &mut Overlay,
    ) -> Result<(), ActorProcessingErr> {
        self.shared.env.pass(Seam::ShardBeforeDecide).await;
        overlay.trim();
        if let Err(error) = self.shared.health.check_failed("commit") {
            message.refuse(error);
            return Ok(());
        }
        match message {
            ShardMessage::Swap {
                swap,
                permit,
                reply,
            } => match self.view(overlay, &swap).await {
                Ok(view) => self.swap(overlay, &swap, view, permit, reply),
                Err(error) => reply(Err(error)),
            },
            ShardMessage::Session {
                swap,
                permit,
                reply,
            } => self.step(overlay, &swap, permit, reply).await,
            ShardMessage::Mend {
                object,
                mend,
                act,
                reply,
            } => self.mend(overlay, &object, &mend, act, reply).await,
            ShardMessage::MendUpload {
                object,
                upload,
                mend,
                act,
                reply,
            } => {
                self.mend_upload(overlay, (&object, &upload), &mend, act, reply)
                    .await;
            }
            ShardMessage::Lend { objects, granted } => self.lend(overlay, &objects, granted).await,
            ShardMessage::Fence {
                object,
                change,
                reply,
            } => match self.load_change(overlay, change).await {
                Ok(None) => self.submit(overlay, Batch::new(), false, None, reply),
                Ok(Some(recorded)) => match self.standing(overlay, &object).await {
                    Ok(standing) => self.fence(overlay, change, &recorded, &standing, reply),
                    Err(error) => reply(Err(error)),
                },
                Err(error) => reply(Err(error)),
            },
        }
        self.shared.env.pass(Seam::ShardAfterSubmit).await;
        Ok(())
    }
}

/// What the decision about a swap depends on.
struct View {
    standing: Standing,
    /// True if the swap's change is live.
    live: bool,
    /// What removes a row that can't be read, if the swap replaces that.
    excised: Option<Batch>,
}

impl Shard {
    async fn view(&self, overlay: &Overlay, swap: &Swap) -> Result<View> {
        let (standing, excised) = match self.standing(overlay, &swap.id).await {
            Err(error) if error.kind() == ErrorKind::Corrupt && swap.replaces_unread() => {
                tracing::warn!(%error, "a row that can't be read is replaced");
                let Mending { batch, next } = swap::excise(&swap.id, self.shared.env.steady_now());
                (next.unwrap_or(Standing::Absent(Version::NONE)), Some(batch))
            }
            standing => (standing?, None),
        };
        let live = match swap.mutation {
            Mutation::Tombstone { .. } => {
                self.load_change(overlay, swap.operation).await?.is_some()
            }
            Mutation::Inline { .. }
            | Mutation::Delete
            | Mutation::Amend(_)
            | Mutation::Extend(_)
            | Mutation::Touch { .. }
            | Mutation::Expire => true,
        };
        Ok(View {
            standing,
            live,
            excised,
        })
    }

    pub(crate) async fn standing(&self, overlay: &Overlay, id: &ObjectId) -> Result<Standing> {
        let standing = match overlay.standing(id) {
            Some(standing) => standing.clone(),
            None => self.shared.standing(id).await?,
        };
        match standing {
            Standing::Absent(_) if self.shared.env.planted(Bug::VersionReuse) => {
                Ok(Standing::Absent(Version::NONE))
            }
            standing => Ok(standing),
        }
    }

    pub(crate) async fn load_change(
        &self,
        overlay: &Overlay,
        change: OperationId,
    ) -> Result<Option<Change>> {
        if overlay.is_settled(change) {
            return Ok(None);
        }
        let value = self
            .shared
            .index
            .get(Table::Changes, change.as_bytes())
            .await?;
        value.map(|value| Change::decode(&value)).transpose()
    }

    fn swap(
        &self,
        overlay: &mut Overlay,
        swap: &Swap,
        View {
            standing,
            live,
            excised,
        }: View,
        permit: Permit,
        reply: Reply<Answer>,
    ) {
        let now = self.shared.env.steady_now();
        let mut decision = match swap.decide(&standing, live, now) {
            Ok(decision) => decision,
            Err(error) => return reply(Err(error)),
        };
        self.forget_orphans(&mut decision, &standing, swap, now);
        let has_excised = excised.is_some();
        let mut batch = excised.unwrap_or_default();
        batch.append(swap.batch(&standing, &decision, self.shared.env.steady_now()));
        let room = self.shared.admit(&batch);
        if let Err(error) = &room
            && !self.shared.env.planted(Bug::RoomAskedLate)
        {
            return reply(Err(error.clone()));
        }
        let answer = match &decision {
            Decision::Supersede { .. } if self.shared.env.planted(Bug::SupersededAsConflict) => {
                Answer::Fenced
            }
            // There was an object, though nobody knows which.
            Decision::Absent if has_excised => Answer::Deleted(Deleted { existed: true }),
            decision => answer(swap, &standing, decision),
        };
        let ticket = overlay.next_ticket();
        if has_excised {
            overlay.stand(ticket, &swap.id, standing.clone());
        }
        if let Decision::Commit { next, .. } = &decision {
            overlay.stand(ticket, &swap.id, next.clone());
        }
        if let Err(error) = room {
            return reply(Err(error));
        }
        if let (
            Mutation::Tombstone { .. },
            Decision::Commit { .. } | Decision::Supersede { .. } | Decision::Conflict { .. },
        ) = (&swap.mutation, &decision)
        {
            overlay.settle(ticket, swap.operation);
        }
        if let Decision::Conflict { .. } = decision {
            self.shared
                .counters
                .conflicts
                .fetch_add(1, Ordering::Relaxed);
            metrics::counter!("cenotaph_conflicts_total").increment(1);
        }
        if let Decision::Supersede { .. } = decision {
            self.shared
                .counters
                .superseded
                .fetch_add(1, Ordering::Relaxed);
            metrics::counter!("cenotaph_superseded_total").increment(1);
        }
        let reply = match &decision {
            Decision::Absent if has_excised => reply,
            Decision::Conflict { .. } | Decision::Absent | Decision::Unchanged => {
                nothing_committed(reply)
            }
            Decision::Commit { .. }
            | Decision::Supersede { .. }
            | Decision::Already
            | Decision::Fenced => reply,
        };
        self.submit(overlay, batch, answer, Some(permit), reply);
    }

    /// The planted bugs of whoever queues what a swap replaces.
    fn forget_orphans(
        &self,
        decision: &mut Decision,
        standing: &Standing,
        swap: &Swap,
        now: Timestamp,
    ) {
        let Decision::Commit { orphans, .. } = decision else {
            return;
        };
        let is_overwritten =
            standing.live(now).is_none() && !matches!(swap.mutation, Mutation::Expire);
        if self.shared.env.planted(Bug::OldRevisionNotQueued)
            || is_overwritten && self.shared.env.planted(Bug::ExpiredTombstoneNotQueued)
        {
            orphans.clear();
        }
    }

    /// Lends these objects, and decides nothing until the lease has ended.
    async fn lend(
        &self,
        overlay: &mut Overlay,
        objects: &[ObjectId],
        granted: oneshot::Sender<Result<Lease>>,
    ) {
        let mut standings = Vec::with_capacity(objects.len());
        for object in objects {
            match self.standing(overlay, object).await {
                Ok(standing) => standings.push(standing),
                Err(error) => return drop(granted.send(Err(error))),
            }
        }
        let ticket = overlay.next_ticket();
        let (lease, lent) = Lease::new(standings, ticket, overlay.durable());
        if granted.send(Ok(lease)).is_err() {
            return;
        }
        self.shared.env.pass(Seam::ShardLent).await;
        for (object, standing) in lent.ended().await.unwrap_or_default() {
            overlay.stand(ticket, &object, standing);
        }
    }

    fn fence(
        &self,
        overlay: &mut Overlay,
        change: OperationId,
        recorded: &Change,
        standing: &Standing,
        reply: Reply<bool>,
    ) {
        let batch = swap::fence(change, recorded, standing, self.shared.env.steady_now());
        let ticket = overlay.next_ticket();
        overlay.settle(ticket, change);
        self.submit(overlay, batch, true, None, reply);
    }

    /// Submits the batch of the ticket last given, and answers when it is durable.
    pub(crate) fn submit<T: Send + 'static>(
        &self,
        overlay: &mut Overlay,
        batch: Batch,
        answer: T,
        permit: Option<Permit>,
        reply: Reply<T>,
    ) {
        let (ticket, durable) = (overlay.ticket(), overlay.durable());
        let after = Aftermath::of(&batch);
        let shared = Arc::clone(&self.shared);
        let (guesses, delays) = (
            shared.env.planted(Bug::UnknownTreatedAsFailed),
            shared.env.planted(Bug::ZombieCommit),
        );
        let completion = move |outcome: Result<(), CommitError>| {
            match &outcome {
                Ok(()) => {
                    durable.reached(ticket);
                    after.tell(&shared);
                }
                // What stands in the overlay will never be durable: nothing may be decided on it
                // any more.
                Err(error) => after.failed(&shared, error),
            }
            drop(permit);
            let outcome = match outcome {
                Err(CommitError::Unknown(error)) if guesses => {
                    Err(CommitError::not_started(&error))
                }
                outcome => outcome,
            };
            reply(outcome.map(|()| answer).map_err(CommitError::into_error));
        };
        if delays {
            let (shared, completion) = (Arc::clone(&self.shared), Box::new(completion));
            return self.shared.env.spawn(async move {
                shared.env.pass(Seam::ShardAfterSubmit).await;
                shared.index.submit(batch, completion);
            });
        }
        self.shared.index.submit(batch, Box::new(completion));
    }
}
