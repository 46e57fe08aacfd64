//! [`Limited`]: the state of a namespace that has limits, and the stream that keeps to its rate.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cenotaph_storage::{Env, Error, ErrorKind, Result};
use futures::StreamExt;

use super::{NamespaceLimits, NamespacePermit, Slot};
use crate::admission::payload::PayloadStream;
use crate::admission::token_bucket::TokenBucket;

/// A namespace with limits.
pub(super) struct Limited {
    pub(super) namespace: String,
    env: Env,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) limits: NamespaceLimits,
    /// Operations under way.
    pub(super) live: usize,
    operations: Option<TokenBucket>,
    bytes: Option<TokenBucket>,
}

impl Limited {
    pub(super) fn new(namespace: &str, env: Env) -> Self {
        Self {
            namespace: namespace.to_owned(),
            env,
            state: Mutex::default(),
        }
    }

    pub(super) fn set(&self, limits: NamespaceLimits) {
        let mut state = self.state();
        // A new bucket is full, so an unchanged rate must keep its bucket.
        if limits.operations_per_second != state.limits.operations_per_second {
            let rate = limits.operations_per_second.and_then(NonZeroU32::new);
            state.operations = rate.map(|rate| TokenBucket::of_operations(&self.env, rate));
        }
        if limits.bytes_per_second != state.limits.bytes_per_second {
            let rate = limits.bytes_per_second.and_then(NonZeroU64::new);
            state.bytes = rate.map(|rate| TokenBucket::of_bytes(&self.env, rate));
        }
        state.limits = limits;
    }

    pub(super) fn begin(limited: Arc<Self>, operation: &'static str) -> Result<NamespacePermit> {
        limited
            .state()
            .begin()
            .map_err(|refusal| limited.refused(refusal, operation))?;
        Ok(NamespacePermit(Some(Slot {
            limited,
            operation,
            charged_bytes: 0,
            has_begun: Arc::default(),
        })))
    }

    pub(super) fn charge(&self, bytes: u64, operation: &'static str) -> Result<()> {
        self.state()
            .charge(bytes)
            .map_err(|refusal| self.refused(refusal, operation))
    }

    pub(super) async fn pace(&self, owed: &mut u64) {
        loop {
            let paid = self.state().pay(owed);
            match paid {
                Ok(()) => return,
                // With jitter: otherwise the same waiting stream would be first each time.
                Err(wait) => {
                    self.env
                        .sleep(wait.saturating_add(self.env.jitter(wait)))
                        .await;
                }
            }
        }
    }

    /// Counts a refusal by its reason, and returns its error. The namespace is not a label, because
    /// the number of namespaces is unbounded.
    fn refused(&self, refusal: Refusal, operation: &'static str) -> Error {
        let (kind, reason, why) = match refusal {
            Refusal::Disabled => (
                ErrorKind::Disabled,
                "disabled",
                "the namespace is switched off",
            ),
            Refusal::Concurrency => (
                ErrorKind::Overloaded,
                "concurrency",
                "too many operations at once",
            ),
            Refusal::Operations => (
                ErrorKind::Overloaded,
                "operations",
                "too many operations per second",
            ),
            Refusal::Bytes => (ErrorKind::Overloaded, "bytes", "too many bytes per second"),
        };
        metrics::counter!("cenotaph_namespace_refused_total", "reason" => reason).increment(1);
        Error::new(
            kind,
            operation,
            format!("{why}: namespace={}", self.namespace),
        )
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reason for refusing an operation.
#[derive(Clone, Copy)]
enum Refusal {
    Disabled,
    Concurrency,
    Operations,
    Bytes,
}

impl State {
    fn begin(&mut self) -> Result<(), Refusal> {
        if self.limits.disabled {
            return Err(Refusal::Disabled);
        }
        if self
            .limits
            .operations_at_once
            .is_some_and(|max| self.live >= max)
        {
            return Err(Refusal::Concurrency);
        }
        if let Some(operations) = &mut self.operations {
            // The last check: a refusal before it has taken no token.
            operations.take(1).map_err(|_| Refusal::Operations)?;
        }
        self.live += 1;
        Ok(())
    }

    fn charge(&mut self, bytes: u64) -> Result<(), Refusal> {
        let Some(bucket) = &mut self.bytes else {
            return Ok(());
        };
        if bucket.take(bytes).is_ok() {
            return Ok(());
        }
        // The operation is refused as a whole: `begin` has charged it already.
        if let Some(operations) = &mut self.operations {
            operations.give_back(1);
        }
        Err(Refusal::Bytes)
    }

    /// Refunds an operation and its bytes.
    pub(super) fn give_back(&mut self, bytes: u64) {
        if let Some(operations) = &mut self.operations {
            operations.give_back(1);
        }
        if let Some(bucket) = &mut self.bytes {
            bucket.give_back(bytes);
        }
    }

    /// Returns the maximum number of bytes of a piece of a stream.
    fn step(&self) -> u64 {
        self.bytes.as_ref().map_or(u64::MAX, TokenBucket::step)
    }

    /// Pays as many bytes as possible, step by step, or returns the wait for the next step.
    fn pay(&mut self, owed: &mut u64) -> Result<(), Duration> {
        let Some(bucket) = &mut self.bytes else {
            *owed = 0;
            return Ok(());
        };
        while *owed > 0 {
            let step = bucket.step().min(*owed);
            bucket.take(step)?;
            *owed -= step;
        }
        Ok(())
    }
}

/// Splits a stream into pieces of at most a step, and yields each piece once it is paid, so that
/// large chunks flow, too.
pub(super) fn paced(limited: Arc<Limited>, stream: PayloadStream) -> PayloadStream {
    let start = (limited, stream, Bytes::new());
    let pieces = futures::stream::unfold(start, |(limited, mut stream, mut chunk)| async move {
        while chunk.is_empty() {
            match stream.next().await? {
                Ok(next) => chunk = next,
                Err(error) => return Some((Err(error), (limited, stream, chunk))),
            }
        }
        let step = limited.state().step();
        let piece = chunk.split_to(usize::try_from(step).unwrap_or(usize::MAX).min(chunk.len()));
        limited.pace(&mut (piece.len() as u64)).await;
        Some((Ok(piece), (limited, stream, chunk)))
    });
    pieces.boxed()
}
