//! Carrying out a plan: the only way from a decision to the index.
//!
//! ```text
//! plan ──> 1 admit: is there space for the batch?   no: the caller receives the error
//!          2 record rows, settled changes and upload entries as pending
//!          3 count the event
//!          4 submit the batch; the shard continues with its next message
//!          5 durable: trim the pending writes, wake sweeper and expirer, reply
//!            changed by another member: decide again (`again.rs`)
//! ```
//!
//! Guards I3 (the pending writes are exactly those of submitted batches), I7 (a reply that depends
//! on pending state waits behind an empty batch), I10 (the completion replies, even if this actor
//! has died since).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cenotaph_storage::decide::{DecisionEvent, Effect, Plan};
use cenotaph_storage::index::{CommitError, Completion, Table};
use cenotaph_storage::planted::Bug;
use cenotaph_storage::records::BASE_VERSION_KEY;
use cenotaph_storage::{Error, ErrorKind, Result};

use crate::admission::permits::Permit;
use crate::context::post_commit::PostCommit;
use crate::context::{Context, SharedContext};
use crate::runtime::reply::ReplyCallback;
use crate::runtime::ticket::{Durable, Ticket};
use crate::shard::Shard;
use crate::shard::again::Again;
use crate::shard::pending_writes::PendingWrites;

impl Shard {
    /// Carries out a planned request, or replies with the error of its reads.
    ///
    /// A request of a caller holds a permit and is refused if the index has no space for it.
    pub(super) fn carry_out<T: Send + 'static>(
        &self,
        pending: &mut PendingWrites,
        planned: Result<Plan<T>>,
        permit: Option<Permit>,
        (reply, again): (ReplyCallback<T>, Option<Again<T>>),
    ) {
        match planned {
            Ok(plan) => self.apply(pending, plan, permit, (reply, again)),
            Err(error) => reply(Err(error)),
        }
    }

    fn apply<T: Send + 'static>(
        &self,
        pending: &mut PendingWrites,
        mut plan: Plan<T>,
        permit: Option<Permit>,
        (reply, again): (ReplyCallback<T>, Option<Again<T>>),
    ) {
        if plan.effect == Effect::Known {
            // No write, no dependency on pending state: the reply need not wait.
            return reply(plan.reply);
        }
        // Fences and repairs hold no permit and are not refused for lack of space.
        let space = match permit {
            Some(_) => self.context.admit(&plan.batch),
            None => Ok(()),
        };
        if let Err(error) = space {
            if self.context.env.planted(Bug::RoomAskedLate) {
                pending.record(&plan);
            }
            return reply(Err(error));
        }
        // Recorded before the submission: the next decision must see this batch.
        let ticket = pending.record(&plan);
        self.context.count(plan.event);
        let after = PostCommit::of(&plan.batch);
        let reached = vec![(ticket, pending.durable())];
        let context = Arc::clone(&self.context);
        let rests_on_base = plan.reads.has(Table::Meta, BASE_VERSION_KEY);
        let answer = move |outcome| match (outcome, again) {
            (Err(CommitError::Changed), Some(again)) => {
                if rests_on_base {
                    context.base.doubt();
                }
                again.send(&context, reply);
            }
            (outcome, again) => {
                // It holds a permit, which is returned before the reply.
                drop(again);
                let committed = outcome.map_err(CommitError::into_error);
                guarded(plan.effect, reply)(committed.and(plan.reply));
            }
        };
        let completion = completion(&self.context, after, reached, permit, answer);
        plan.reads.require(&mut plan.batch);
        self.context.index.submit(plan.batch, completion);
    }
}

/// Returns the completion of a batch that holds these places in the order of its shards.
pub(crate) fn completion(
    context: &SharedContext,
    after: PostCommit,
    reached: Vec<(Ticket, Durable)>,
    permit: Option<Permit>,
    answer: impl FnOnce(Result<(), CommitError>) + Send + 'static,
) -> Completion {
    let context = Arc::clone(context);
    Box::new(move |outcome| {
        // Completions fire in order, so that all batches up to this one have ended: the index now
        // shows what they have left, which a decision must use after `Changed`, too.
        for (ticket, durable) in &reached {
            match outcome {
                Ok(()) => durable.reached(*ticket),
                Err(CommitError::Changed) => durable.changed(*ticket),
                Err(_) => {}
            }
        }
        match &outcome {
            Ok(()) => after.notify(&context),
            // After other failures, the pending writes of this batch never become durable: the index
            // has failed, and no further decision is made on them.
            Err(error) => after.failed(&context, error),
        }
        // Before the reply: a caller that receives it may send its next request at once.
        drop(permit);
        answer(outcome);
    })
}

/// Returns the reply of a plan with this effect: it corrects the error of a failed commit (I10).
pub(crate) fn guarded<T: Send + 'static>(
    effect: Effect,
    reply: ReplyCallback<T>,
) -> ReplyCallback<T> {
    match effect {
        Effect::Commits | Effect::Known => reply,
        Effect::Nothing => Box::new(move |outcome| {
            reply(outcome.map_err(|error| match error.kind() {
                ErrorKind::Indeterminate => {
                    let message = "the index failed before the state of the object was durable; \
                                   nothing was committed";
                    Error::new(ErrorKind::Unavailable, "commit", message).with_source(error)
                }
                _ => error,
            }));
        }),
        Effect::Repeats => Box::new(move |outcome| {
            reply(outcome.map_err(|error| {
                let message = "the index failed while it committed the repeated step, which may or \
                               may not be durable";
                Error::new(ErrorKind::Indeterminate, "multipart", message).with_source(error)
            }));
        }),
    }
}

impl Context {
    /// Counts the event of a plan.
    pub(crate) fn count(&self, event: Option<DecisionEvent>) {
        match event {
            Some(DecisionEvent::Conflict) => {
                self.counters.conflicts.fetch_add(1, Ordering::Relaxed);
                metrics::counter!("cenotaph_conflicts_total").increment(1);
            }
            Some(DecisionEvent::Superseded) => {
                self.counters.superseded.fetch_add(1, Ordering::Relaxed);
                metrics::counter!("cenotaph_superseded_total").increment(1);
            }
            Some(DecisionEvent::UploadForgotten) => {
                metrics::counter!("cenotaph_uploads_forgotten_total").increment(1);
            }
            None => {}
        }
    }
}
