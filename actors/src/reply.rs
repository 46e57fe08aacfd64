//! How an outcome finds its caller (I10).
//!
//! A [`Reply`] travels with its request: in the message, then in the completion that the index fires. Whoever fires it
//! tells the truth; a reply that is dropped unfired was never part of a submitted batch. So a caller that loses its
//! reply knows that nothing was committed, whichever actor died on the way, and may deliver the request again.

use std::sync::{Arc, Mutex, PoisonError};

use cenotaph_storage::swap::{Deleted, Written};
use cenotaph_storage::{Error, ErrorKind, Result};
use tokio::sync::oneshot;

/// What a shard answers to a swap.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// A put committed, or was superseded.
    Written(Written),
    /// A delete committed, or there was nothing to delete.
    Deleted(Deleted),
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

/// The way back to the caller of a large put, shared by all that may have to answer it. The first answer counts.
#[derive(Clone)]
pub(crate) struct Caller(Arc<Mutex<Option<oneshot::Sender<Result<Written>>>>>);

impl Caller {
    /// A caller, and its ear.
    pub(crate) fn new() -> (Self, oneshot::Receiver<Result<Written>>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Arc::new(Mutex::new(Some(sender)))), receiver)
    }

    /// Answers, if nobody has before.
    pub(crate) fn answer(&self, answer: Result<Written>) {
        if let Some(sender) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = sender.send(answer);
        }
    }
}

/// What the caller of a put hears for a shard's answer.
pub(crate) fn written(answer: Answer) -> Result<Written> {
    match answer {
        Answer::Written(written) => Ok(written),
        Answer::Fenced => {
            Err(Error::new(ErrorKind::Unavailable, "put", "recovery has given this write up; nothing was committed"))
        }
        Answer::Deleted(_) => unreachable!("a put is not answered as a delete"),
    }
}
