//! One commit for objects of several shards: atomic batches and renames.
//!
//! ```text
//! 1 a task of its own, so that a caller who stops polling holds up no shard
//! 2 ask each shard, in the order of their numbers, to lend its objects          a lost request: give back, begin again
//! 3 decide everything against how all of them stand (pure)                      one conflict: nothing of it happens
//! 4 one batch, submitted under all leases at once                               a shard has died: begin again
//! 5 the completion answers the caller (I10), the leases end
//! ```
//!
//! Guards I3: one batch, decided while no other decision about these objects can be made. Every
//! borrower takes shards in the same order, so that none waits for another in a circle.
//! Deliberately not here: how a lease ends (`lease.rs`), and what is decided about each object
//! (`cenotaph_storage::swap`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cenotaph_storage::index::{Batch, CommitError};
use cenotaph_storage::planted::Bug;
use cenotaph_storage::swap::{
    Decision, Deleted, Mutation, Rename, RenameDecision, Standing, Swap, Written,
};
use cenotaph_storage::{Error, ErrorKind, ObjectId, Result, Seam, Timestamp};
use tokio::sync::oneshot;

use crate::admission::Permit;
use crate::aftermath::Aftermath;
use crate::lease::{self, Lease};
use crate::messages::ShardMessage;
use crate::reply::{
    Answer, Reply, answer, applied, conflict, deleted, nothing_committed, reply, written,
};
use crate::shared::{Common, Shared};
use crate::tiered::Tiered;

/// What one write of an atomic batch came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteReply {
    /// A put.
    Written(Written),
    /// A delete.
    Deleted(Deleted),
}

/// What is to be committed, and what its caller hears then.
struct Plan<T> {
    batch: Batch,
    next: BTreeMap<ObjectId, Standing>,
    answer: Result<T>,
}

impl Tiered {
    /// Commits all of these swaps, or none. Each object may occur once.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if one of the preconditions does not hold: the error names its
    /// object; [`ErrorKind::Invalid`] if an object occurs twice; otherwise as
    /// [`put_inline`](Self::put_inline), for all of them together.
    pub async fn write_atomically(
        &self,
        swaps: Vec<Swap>,
        permit: Permit,
    ) -> Result<Vec<WriteReply>> {
        self.shared().health.check("batch")?;
        if swaps
            .iter()
            .any(|swap| !matches!(swap.mutation, Mutation::Delete))
        {
            self.make_room(swaps.iter().map(Swap::stored_bytes).sum())
                .await?;
        }
        let objects: Vec<ObjectId> = swaps.iter().map(|swap| swap.id.clone()).collect();
        let permit = permit.and(self.shared().admission.writes(swaps.len()).await?);
        let decide = move |standings: &BTreeMap<ObjectId, Standing>, common: &Common| {
            decide(&swaps, standings, common)
        };
        self.commit_together(objects, permit, decide).await
    }

    /// Renames an object, in one commit. No byte is copied. None if there is no object to rename.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if one of the preconditions does not hold: the error names its
    /// object; otherwise as [`put_inline`](Self::put_inline).
    pub async fn rename(&self, rename: Rename) -> Result<Option<Written>> {
        self.shared().health.check("rename")?;
        self.make_room(0).await?;
        let permit = self.shared().admission.writes(2).await?;
        let objects = vec![rename.from.clone(), rename.to.clone()];
        let decide = move |standings: &BTreeMap<ObjectId, Standing>, common: &Common| {
            let now = common.env.steady_now();
            Ok(decide_rename(&rename, standings, now))
        };
        self.commit_together(objects, permit, decide).await
    }

    async fn commit_together<T: Send + 'static>(
        &self,
        mut objects: Vec<ObjectId>,
        permit: Permit,
        decide: impl Fn(&BTreeMap<ObjectId, Standing>, &Common) -> Result<Plan<T>> + Send + 'static,
    ) -> Result<T> {
        objects.sort_unstable();
        if let Some(twice) = objects.windows(2).find(|pair| pair[0] == pair[1]) {
            let message = "an object occurs twice in what must happen at once";
            return Err(Error::new(ErrorKind::Invalid, "batch", message).with_id(&twice[0]));
        }
        let (reply, answer) = reply();
        let shared = Arc::clone(self.shared());
        self.shared().env.spawn(async move {
            Borrower {
                shared,
                objects,
                permit,
            }
            .run(decide, reply)
            .await;
        });
        answer.await.unwrap_or_else(|| {
            Err(Error::new(
                ErrorKind::Unavailable,
                "batch",
                "its task has ended; nothing was committed",
            ))
        })
    }
}

/// The task that holds the leases.
struct Borrower {
    shared: Shared,
    objects: Vec<ObjectId>,
    permit: Permit,
}

impl Borrower {
    async fn run<T: Send + 'static>(
        self,
        decide: impl Fn(&BTreeMap<ObjectId, Standing>, &Common) -> Result<Plan<T>>,
        reply: Reply<T>,
    ) {
        let mut reply = Some(reply);
        for attempt in 0..=self.shared.limits.deliveries_max {
            match self.borrow().await {
                Ok(Some(borrowed)) => {
                    self.shared.env.pass(Seam::AtomicBeforeDecide).await;
                    let plan = decide(&borrowed.standings(), &self.shared);
                    match plan.and_then(|plan| self.shared.admit(&plan.batch).map(|()| plan)) {
                        Ok(plan) => reply = self.commit(borrowed, plan, reply),
                        Err(error) => return answer_with(reply, error),
                    }
                    if reply.is_none() {
                        return self.shared.env.pass(Seam::AtomicAfterSubmit).await;
                    }
                }
                Ok(None) => {}
                Err(error) => return answer_with(reply, error),
            }
            if let Err(error) = self.shared.health.check_failed("batch") {
                return answer_with(reply, error);
            }
            self.shared.back_off(attempt).await;
        }
        answer_with(
            reply,
            Error::new(
                ErrorKind::Unavailable,
                "batch",
                "a shard is not there; nothing was committed",
            ),
        );
    }

    /// All objects, shard by shard; none if a request was lost.
    async fn borrow(&self) -> Result<Option<Borrowed>> {
        let mut by_shard: BTreeMap<usize, Vec<ObjectId>> = BTreeMap::new();
        for object in &self.objects {
            by_shard
                .entry(self.shared.routes.shard_number(object))
                .or_default()
                .push(object.clone());
        }
        let mut borrowed = Borrowed {
            leases: Vec::new(),
            objects: Vec::new(),
        };
        for (shard, objects) in by_shard {
            let (granted, grant) = oneshot::channel();
            self.shared.routes.shards[shard].send(ShardMessage::Lend {
                objects: objects.clone(),
                granted,
            });
            let Ok(lease) = grant.await else {
                return Ok(None);
            };
            borrowed.leases.push(lease?);
            borrowed.objects.push(objects);
        }
        Ok(Some(borrowed))
    }

    /// Submits the plan under all leases; gives the reply back if one of them is void.
    fn commit<T: Send + 'static>(
        &self,
        borrowed: Borrowed,
        plan: Plan<T>,
        mut reply: Option<Reply<T>>,
    ) -> Option<Reply<T>> {
        let Plan {
            batch,
            next,
            answer,
        } = plan;
        let Borrowed { leases, objects } = borrowed;
        let next = objects.into_iter().map(|objects| {
            let stands = |object: ObjectId| {
                next.get(&object)
                    .cloned()
                    .map(|standing| (object, standing))
            };
            objects.into_iter().filter_map(stands).collect()
        });
        let reached: Vec<_> = leases
            .iter()
            .map(|lease| (lease.ticket, lease.durable.clone()))
            .collect();
        let (shared, permit, after) = (
            Arc::clone(&self.shared),
            self.permit.clone(),
            Aftermath::of(&batch),
        );
        lease::commit(&leases, next.collect(), || {
            let Some(reply) = reply.take() else { return };
            let reply = if batch.is_empty() {
                nothing_committed(reply)
            } else {
                reply
            };
            let completion = move |outcome: Result<(), CommitError>| {
                match &outcome {
                    Ok(()) => {
                        reached
                            .iter()
                            .for_each(|(ticket, durable)| durable.reached(*ticket));
                        after.tell(&shared);
                    }
                    Err(error) => after.failed(&shared, error),
                }
                drop(permit);
                reply(outcome.map_err(CommitError::into_error).and(answer));
            };
            self.submit(batch, Box::new(completion));
        });
        reply
    }

    fn submit(&self, batch: Batch, completion: cenotaph_storage::index::Completion) {
        if !self.shared.env.planted(Bug::AtomicInTwoBatches) {
            return self.shared.index.submit(batch, completion);
        }
        let changes = batch.into_changes();
        let (mut first, mut second) = (Batch::new(), Batch::new());
        let half = changes.len() / 2;
        for (at, (table, key, value)) in changes.into_iter().enumerate() {
            let into = if at < half { &mut first } else { &mut second };
            match value {
                Some(value) => into.put(table, key, value),
                None => into.remove(table, key),
            }
        }
        self.shared.index.submit(first, Box::new(drop));
        self.shared.index.submit(second, completion);
    }
}

/// The objects of one commit.
struct Borrowed {
    leases: Vec<Lease>,
    objects: Vec<Vec<ObjectId>>,
}

impl Borrowed {
    fn standings(&self) -> BTreeMap<ObjectId, Standing> {
        let of_one = |(lease, objects): (&Lease, &Vec<ObjectId>)| {
            objects
                .iter()
                .cloned()
                .zip(lease.standings.iter().cloned())
                .collect::<Vec<_>>()
        };
        self.leases
            .iter()
            .zip(&self.objects)
            .flat_map(of_one)
            .collect()
    }
}

fn answer_with<T>(reply: Option<Reply<T>>, error: Error) {
    if let Some(reply) = reply {
        reply(Err(error));
    }
}

/// What all swaps come to; nothing but an answer if one of them can't be.
fn decide(
    swaps: &[Swap],
    standings: &BTreeMap<ObjectId, Standing>,
    common: &Common,
) -> Result<Plan<Vec<WriteReply>>> {
    let now = common.env.steady_now();
    let mut plan = Plan {
        batch: Batch::new(),
        next: BTreeMap::new(),
        answer: Ok(()),
    };
    let mut replies = Vec::with_capacity(swaps.len());
    for swap in swaps {
        let standing = &standings[&swap.id];
        let decision = swap
            .decide(standing, false, now)
            .map_err(|error| error.with_id(&swap.id))?;
        if let Decision::Conflict { current, .. } = decision {
            common.counters.conflicts.fetch_add(1, Ordering::Relaxed);
            let error = conflict("batch", current).with_id(&swap.id);
            return Ok(Plan {
                batch: Batch::new(),
                next: BTreeMap::new(),
                answer: Err(error),
            });
        }
        plan.batch.append(swap.batch(standing, &decision, now));
        replies.push(write_reply(swap, answer(swap, standing, &decision))?);
        if let Decision::Commit { next, .. } = decision {
            plan.next.insert(swap.id.clone(), next);
        }
    }
    let Plan {
        batch,
        next,
        answer,
    } = plan;
    Ok(Plan {
        batch,
        next,
        answer: answer.map(|()| replies),
    })
}

fn write_reply(swap: &Swap, answer: Answer) -> Result<WriteReply> {
    match swap.mutation {
        Mutation::Delete => deleted(answer).map(WriteReply::Deleted),
        Mutation::Inline { .. }
        | Mutation::Tombstone { .. }
        | Mutation::Amend(_)
        | Mutation::Extend(_)
        | Mutation::Touch { .. }
        | Mutation::Expire => written(answer).map(WriteReply::Written),
    }
}

fn decide_rename(
    rename: &Rename,
    standings: &BTreeMap<ObjectId, Standing>,
    now: Timestamp,
) -> Plan<Option<Written>> {
    let before = (&standings[&rename.from], &standings[&rename.to]);
    let nothing = |answer| Plan {
        batch: Batch::new(),
        next: BTreeMap::new(),
        answer,
    };
    match rename.decide(before.0, before.1, now) {
        RenameDecision::Absent => nothing(Ok(None)),
        RenameDecision::Conflict { of, current } => {
            nothing(Err(conflict("rename", current).with_id(&of)))
        }
        RenameDecision::Commit { from, to, replaced } => Plan {
            batch: rename.batch(before, (&from, &to), now),
            answer: Ok(Some(applied(&to, !replaced))),
            next: BTreeMap::from([(rename.from.clone(), from), (rename.to.clone(), to)]),
        },
    }
}
