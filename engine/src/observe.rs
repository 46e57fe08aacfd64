//! The tracing span and the metrics of each operation. `docs/metrics.md` lists the names and
//! meanings.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cenotaph_actors::PayloadSource;
use cenotaph_storage::{Env, Result};
use futures::StreamExt;
use futures::future::BoxFuture;
use tracing::{Instrument, Span};

use crate::engine::Engine;

/// Creates the span of an operation, with its name, its fields, and the outcome to be recorded at
/// its end.
macro_rules! operation_span {
    ($name:literal $(, $($fields:tt)+)?) => {
        // `outcome` is declared empty, because a span records only declared fields.
        tracing::debug_span!($name, outcome = tracing::field::Empty $(, $($fields)+)?)
    };
}
pub(crate) use operation_span;

/// Tier that holds or receives bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tier {
    Inline,
    Blob,
}

impl Tier {
    fn name(self) -> &'static str {
        match self {
            Self::Inline => "inline",
            Self::Blob => "blob",
        }
    }

    /// Counts bytes that an operation received from its caller.
    pub(crate) fn taken(self, bytes: u64) {
        metrics::counter!("cenotaph_bytes_total", "direction" => "in", "tier" => self.name())
            .increment(bytes);
    }

    /// Counts bytes that an operation returned to its caller.
    pub(crate) fn given(self, bytes: u64) {
        metrics::counter!("cenotaph_bytes_total", "direction" => "out", "tier" => self.name())
            .increment(bytes);
    }

    /// Records the size of an object that was put.
    #[expect(clippy::cast_precision_loss, reason = "a histogram is of floats")]
    pub(crate) fn put(self, bytes: u64) {
        metrics::histogram!("cenotaph_object_bytes", "tier" => self.name()).record(bytes as f64);
    }
}

/// Runs an operation within its span, and records its duration and outcome.
pub(crate) async fn observe<T>(
    engine: &Engine,
    operation: &'static str,
    span: Span,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    // The guard records in its drop, so that a cancelled operation is counted too.
    let observation = Observation::begin(engine.env().clone(), operation, span.clone());
    observation.end(work.instrument(span).await)
}

/// As [`observe`], in a box that owns the engine. Builders return it from `into_future`.
pub(crate) fn observed<T: Send + 'static>(
    engine: Engine,
    operation: &'static str,
    span: Span,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> BoxFuture<'static, Result<T>> {
    // The layers around the operation move this pointer, and not its state of a few kilobytes.
    let work = Box::pin(work);
    Box::pin(async move { observe(&engine, operation, span, work).await })
}

/// An operation in progress. If dropped before [`end`](Self::end), the outcome is `dropped`: the
/// caller has cancelled the operation.
struct Observation {
    env: Env,
    operation: &'static str,
    span: Span,
    begun: Duration,
    outcome: Option<&'static str>,
}

impl Observation {
    fn begin(env: Env, operation: &'static str, span: Span) -> Self {
        metrics::gauge!("cenotaph_operations_live", "operation" => operation).increment(1);
        let begun = env.monotonic();
        Self {
            env,
            operation,
            span,
            begun,
            outcome: None,
        }
    }

    fn end<T>(mut self, outcome: Result<T>) -> Result<T> {
        self.outcome = Some(
            outcome
                .as_ref()
                .map_or_else(|error| error.kind().as_str(), |_| "ok"),
        );
        outcome
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        let operation = self.operation;
        let outcome = self.outcome.unwrap_or("dropped");
        self.span.record("outcome", outcome);
        let took = self.env.monotonic().saturating_sub(self.begun);
        metrics::gauge!("cenotaph_operations_live", "operation" => operation).decrement(1);
        let labels = [("operation", operation), ("outcome", outcome)];
        metrics::counter!("cenotaph_operations_total", &labels).increment(1);
        metrics::histogram!("cenotaph_operation_seconds", "operation" => operation).record(took);
    }
}

/// Counts the bytes of a stream as they flow to the blob tier. Also returns the running total.
pub(crate) fn counted(source: PayloadSource) -> (PayloadSource, Arc<AtomicU64>) {
    let total = Arc::new(AtomicU64::new(0));
    let so_far = Arc::clone(&total);
    let stream = source.stream.inspect(move |chunk| {
        if let Ok(chunk) = chunk {
            let bytes = chunk.len() as u64;
            so_far.fetch_add(bytes, Ordering::Relaxed);
            Tier::Blob.taken(bytes);
        }
    });
    (
        PayloadSource {
            stream: stream.boxed(),
            bytes: source.bytes,
        },
        total,
    )
}
