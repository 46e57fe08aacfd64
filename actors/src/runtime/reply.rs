//! Replies: the path of an outcome to its caller (I10).
//!
//! A [`ReplyCallback`] travels with its request: in the message, then in the completion that the
//! index fires. A fired reply carries the outcome of the commit. A reply that is dropped unfired was
//! never part of a submitted batch: nothing was committed, whichever actor died, and the request
//! may be delivered again.
//!
//! The longest path is that of a large put or a part, which also has a [`Caller`]:
//!
//! ```text
//! 1 handle        takes permits, creates the Caller, offers the job          handle/writes.rs
//!     caller drops its future: the permits return, nothing is recorded
//! 2 uploads       takes the job, starts an upload actor                      upload/mod.rs
//!     actor dies before it has the job: the handle offers the job again
//!     upload dies in steps 2 to 4: the Caller is dropped, the handle returns `Unavailable`
//! 3 upload actor  reads the row, records the change, durable (I1)    upload/change_recorder.rs
//!     upload dies: its WriteGuard is dropped, recovery fences the change; no blob exists
//! 4 upload actor  streams the payload, finishes the blobs (I2)               upload/stream.rs
//!     caller drops while bytes flow: the blob is aborted, the put ends, recovery fences the change
//!     caller drops after the last byte: the put continues
//!     upload dies: recovery fences the change, the revisions become orphans
//! 5 upload actor  delivers the swap to the object's shard                    context/mod.rs
//!     upload dies: the message holds Caller and WriteGuard, the commit proceeds
//!     shard dies before it submits: the reply is dropped, the swap is delivered again
//!     both die: the Caller is dropped, the handle returns `Unavailable`, recovery fences
//! 6 shard         decides, records pending writes, submits one batch (I3)    shard/apply.rs
//!     shard dies: the index owns the batch and its completion
//! 7 completion    durable: answers the Caller, then drops the WriteGuard     shard/apply.rs
//!     index fails: the Caller receives `Indeterminate`, the engine fails
//! 8 handle        returns the answer                                         handle/writes.rs
//! ```

use std::sync::{Arc, Mutex, PoisonError};

use cenotaph_storage::Result;
use tokio::sync::oneshot;

/// Callback of a request, fired at most once, with the outcome of its commit.
pub(crate) type ReplyCallback<T> = Box<dyn FnOnce(Result<T>) + Send>;

/// Creates a reply, and a future of its answer: `None` if the reply is dropped unfired.
pub(crate) fn reply<T: Send + 'static>()
-> (ReplyCallback<T>, impl Future<Output = Option<Result<T>>>) {
    let (sender, receiver) = oneshot::channel();
    let reply: ReplyCallback<T> = Box::new(move |answer| drop(sender.send(answer)));
    (reply, async move { receiver.await.ok() })
}

/// The caller of an upload, shared by all that may have to answer it. The first answer counts.
pub(crate) struct Caller<T>(Arc<Mutex<Option<oneshot::Sender<Result<T>>>>>);

impl<T> Clone for Caller<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Caller<T> {
    /// Creates the caller and the receiver of its answer.
    pub(crate) fn new() -> (Self, oneshot::Receiver<Result<T>>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Arc::new(Mutex::new(Some(sender)))), receiver)
    }

    /// Sends the answer, unless an answer has been sent before.
    pub(crate) fn answer(&self, answer: Result<T>) {
        if let Some(sender) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = sender.send(answer);
        }
    }
}
