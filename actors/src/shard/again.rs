//! [`Again`]: repeats a request whose plan could not commit, because another member of a shared index
//! has changed an entry that the plan rested on.
//!
//! ```text
//! decide ──> submit ──> Changed: the shard forgets the plan ──> decide on the newest entries ──> ..
//!                └────> Ok: reply                                 └─ too often: Overloaded
//! ```
//!
//! Guards I3 on a shared index. The batch of a plan that did not commit is gone as a whole, so that
//! the repeated request is decided as if it had just arrived. The caller, its permits and the guard of
//! its change stay in the request: no caller learns of the first plan.

use std::time::Duration;

use cenotaph_storage::{Error, ErrorKind};

use super::Shard;
use crate::context::SharedContext;
use crate::context::messages::{ShardMessage, ShardRequest};
use crate::runtime::reply::ReplyCallback;
use crate::runtime::restart_policy::backoff;

/// Number of repetitions without a pause.
const AT_ONCE: u32 = 2;
/// First pause before a further repetition.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// A request that its shard can decide once more.
pub(super) struct Again<T> {
    shard: usize,
    attempt: u32,
    request: Box<dyn FnOnce(ReplyCallback<T>) -> ShardMessage + Send>,
}

impl Shard {
    /// Returns the request for the case that its plan does not commit. Returns `None` on an index with
    /// a single owner, where no other member changes anything.
    pub(super) fn again<T>(
        &self,
        attempt: u32,
        request: impl FnOnce(ReplyCallback<T>) -> ShardMessage + Send + 'static,
    ) -> Option<Again<T>> {
        self.context.index.is_shared().then(|| Again {
            shard: self.number,
            attempt,
            request: Box::new(request),
        })
    }
}

impl<T: Send + 'static> Again<T> {
    /// Sends the request to its shard once more, or replies that it was repeated too often.
    pub(super) fn send(self, context: &SharedContext, reply: ReplyCallback<T>) {
        let Self {
            shard,
            attempt,
            request,
        } = self;
        if attempt >= context.limits.members.attempts_max {
            return reply(Err(too_often(attempt)));
        }
        metrics::counter!("cenotaph_repeated_decisions_total").increment(1);
        let request = ShardRequest {
            message: request(reply),
            attempt: attempt + 1,
        };
        // A request that does not reach its shard is dropped with its reply: nothing was committed,
        // and its caller delivers it again.
        match pause(context, attempt) {
            None => drop(context.registry.shards[shard].send(request)),
            Some(pause) => {
                let context = context.clone();
                context.env.clone().spawn(async move {
                    context.env.sleep(pause).await;
                    context.registry.shards[shard].send(request);
                });
            }
        }
    }
}

/// Returns the pause before a repetition. Random, so that members do not meet again.
pub(crate) fn pause(context: &SharedContext, attempt: u32) -> Option<Duration> {
    let attempt = attempt.checked_sub(AT_ONCE)?;
    Some(context.env.jitter(backoff(PAUSE_MIN, PAUSE_MAX, attempt)))
}

/// Returns the error of a request that was repeated too often.
pub(crate) fn too_often(attempts: u32) -> Error {
    let message = format!(
        "other members change the object all the time; nothing was committed: attempts={attempts}"
    );
    Error::new(ErrorKind::Overloaded, "commit", message)
}
