//! How an outcome finds its caller (I10).
//!
//! A [`Reply`] travels with its request: in the message, then in the completion that the index
//! fires. Whoever fires it tells the truth; a reply that is dropped unfired was never part of a
//! submitted batch. So a caller that loses its reply knows that nothing was committed, whichever
//! actor died on the way, and may deliver the request again.

use std::sync::{Arc, Mutex, PoisonError};

use cenotaph_storage::Result;
use tokio::sync::oneshot;

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
