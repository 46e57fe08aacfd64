//! How an outcome finds its caller (I10).
//!
//! A [`Reply`] travels with its request: in the message, then in the completion that the index
//! fires. Whoever fires it tells the truth; a reply that is dropped unfired was never part of a
//! submitted batch. So a caller that loses its reply knows that nothing was committed, whichever
//! actor died on the way, and may deliver the request again.

use std::sync::{Arc, Mutex, PoisonError};

use cenotaph_storage::rows::Row;
use cenotaph_storage::swap::{Decision, Deleted, Mutation, Outcome, Standing, Swap, Written};
use cenotaph_storage::{Current, Error, ErrorKind, Result};
use tokio::sync::oneshot;

/// What a shard answers to a swap.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// A put committed, or was superseded.
    Written(Written),
    /// A delete committed, or there was nothing to delete.
    Deleted(Deleted),
    /// The precondition did not hold: how the object stands.
    Conflict(Option<Current>),
    /// There is no object to change.
    Absent,
    /// Its change had been fenced: it never commits.
    Fenced,
}

/// What a shard answers to a step of an upload.
#[derive(Clone, Debug)]
pub(crate) enum SessionAnswer {
    /// It is done, or was before.
    Done,
    /// The upload is completed, or was before.
    Completed(Written),
    /// It can't be done.
    Refused(Error),
    /// A precondition did not hold: how the object stands.
    Conflict(Option<Current>),
    /// Its change had been fenced: it never commits.
    Fenced,
}

/// Fired at most once, with the truth.
pub(crate) type Reply<T> = Box<dyn FnOnce(Result<T>) + Send>;

/// A reply, and what becomes of it: its answer, or none if it was dropped unfired.
pub(crate) fn reply<T: Send + 'static>() -> (Reply<T>, impl Future<Output = Option<Result<T>>>) {
    let (sender, receiver) = oneshot::channel();
    let reply: Reply<T> = Box::new(move |answer| drop(sender.send(answer)));
    (reply, async move { receiver.await.ok() })
}

/// The way back to the caller of an upload, shared by all that may have to answer it. The first
/// answer counts.
pub(crate) struct Caller<T>(Arc<Mutex<Option<oneshot::Sender<Result<T>>>>>);

impl<T> Clone for Caller<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Caller<T> {
    /// A caller, and its ear.
    pub(crate) fn new() -> (Self, oneshot::Receiver<Result<T>>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Arc::new(Mutex::new(Some(sender)))), receiver)
    }

    /// Answers, if nobody has before.
    pub(crate) fn answer(&self, answer: Result<T>) {
        if let Some(sender) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = sender.send(answer);
        }
    }
}

/// What the caller of a put hears for a shard's answer.
pub(crate) fn written(answer: Answer) -> Result<Written> {
    match amended("put", answer)? {
        Some(written) => Ok(written),
        None => unreachable!("a put needs no object to begin with"),
    }
}

/// What the caller of a change to an object hears; none if there is no object.
pub(crate) fn amended(operation: &'static str, answer: Answer) -> Result<Option<Written>> {
    match answer {
        Answer::Written(written) => Ok(Some(written)),
        Answer::Absent => Ok(None),
        Answer::Conflict(current) => Err(conflict(operation, current)),
        Answer::Fenced => Err(fenced(operation)),
        Answer::Deleted(_) => unreachable!("a write is not answered as a delete"),
    }
}

/// What the caller of a delete hears.
#[expect(clippy::needless_pass_by_value, reason = "an answer is heard once")]
pub(crate) fn deleted(answer: Answer) -> Result<Deleted> {
    match answer {
        Answer::Deleted(deleted) => Ok(deleted),
        Answer::Conflict(current) => Err(conflict("delete", current)),
        Answer::Written(_) | Answer::Absent | Answer::Fenced => {
            unreachable!("a delete is answered as a delete")
        }
    }
}

fn fenced(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        operation,
        "recovery has given this write up; nothing was committed",
    )
}

/// What the caller of a step of an upload hears: what it came to, if that was a completion.
pub(crate) fn stepped(answer: SessionAnswer) -> Result<Option<Written>> {
    match answer {
        SessionAnswer::Done => Ok(None),
        SessionAnswer::Completed(written) => Ok(Some(written)),
        SessionAnswer::Refused(error) => Err(error),
        SessionAnswer::Conflict(current) => Err(conflict("multipart", current)),
        SessionAnswer::Fenced => Err(fenced("multipart")),
    }
}

/// A precondition does not hold.
pub(crate) fn conflict(operation: &'static str, current: Option<Current>) -> Error {
    let stands = match current {
        Some(Current { version, etag }) => format!("version={version} etag={etag}"),
        None => "absent".to_owned(),
    };
    let message =
        format!("the precondition does not hold; nothing was committed: current: {stands}");
    Error::new(ErrorKind::Conflict { current }, operation, message)
}

/// What the caller hears once the decision is durable.
pub(crate) fn answer(swap: &Swap, standing: &Standing, decision: &Decision) -> Answer {
    let deletes = matches!(swap.mutation, Mutation::Delete | Mutation::Expire);
    match decision {
        Decision::Fenced => Answer::Fenced,
        Decision::Conflict { current, .. } => Answer::Conflict(*current),
        Decision::Supersede { .. } => Answer::Written(Written {
            outcome: Outcome::Superseded,
            version: None,
            etag: None,
            created: false,
        }),
        // The expirer counts what it removes; for everybody else an expired object did not exist.
        Decision::Commit { existed, .. } if deletes => Answer::Deleted(Deleted {
            existed: *existed || matches!(swap.mutation, Mutation::Expire),
        }),
        Decision::Already | Decision::Absent | Decision::Unchanged if deletes => {
            Answer::Deleted(Deleted { existed: false })
        }
        Decision::Commit { next, existed, .. } => Answer::Written(applied(next, !existed)),
        Decision::Absent => Answer::Absent,
        Decision::Already | Decision::Unchanged => Answer::Written(applied(standing, false)),
    }
}

/// The reply of a request that writes no row. What it stands behind may be unknown, but that it
/// wrote nothing is not (I10).
pub(crate) fn nothing_committed<T: Send + 'static>(reply: Reply<T>) -> Reply<T> {
    Box::new(move |outcome| {
        reply(outcome.map_err(|error| match error.kind() {
            ErrorKind::Indeterminate => {
                let message = "the index failed before it could be told how the object stands; nothing was committed";
                Error::new(ErrorKind::Unavailable, "commit", message).with_source(error)
            }
            _ => error,
        }));
    })
}

/// The answer of a write that made the object stand so.
pub(crate) fn applied(standing: &Standing, created: bool) -> Written {
    let current = standing.row().map(Row::current);
    Written {
        outcome: Outcome::Applied,
        version: current.map(|current| current.version),
        etag: current.map(|current| current.etag),
        created,
    }
}
