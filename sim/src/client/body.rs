//! Payload streams of puts and parts, and the check that the stream of a dropped call is not read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cenotaph::Body;
use futures::StreamExt;

use crate::plan::Shape;
use crate::world::durable_state::DurableState;
use crate::world::scheduler::sleep;

/// Check that nothing polls a payload stream after its call was dropped.
#[derive(Clone)]
pub(super) struct DropWatch {
    dropped: Arc<AtomicBool>,
    durable_state: Arc<DurableState>,
}

impl DropWatch {
    /// Creates the check for a call.
    pub(super) fn new(durable_state: &Arc<DurableState>) -> Self {
        Self {
            dropped: Arc::default(),
            durable_state: Arc::clone(durable_state),
        }
    }

    /// Records that the call was dropped.
    pub(super) fn mark_dropped(&self) {
        self.dropped.store(true, Ordering::SeqCst);
    }

    /// Called when the stream is polled.
    fn polled(&self) {
        if self.dropped.load(Ordering::SeqCst) {
            let mut state = self.durable_state.state();
            state
                .model
                .violated("cancel", "the stream of a dropped put is still read");
            state.report_violations();
        }
    }
}

/// Creates a body of these bytes in this shape.
pub(super) fn body(all: &Bytes, shape: Shape, watch: DropWatch) -> Body {
    let bytes = all.len() as u64;
    match shape {
        Shape::Bytes => all.clone().into(),
        Shape::Stream(chunk) => chunks(all, chunk, 0, false, watch),
        Shape::Slow(chunk, pause_ms) => chunks(all, chunk, pause_ms, false, watch),
        Shape::Promised(chunk) => chunks(all, chunk, 0, false, watch).promise(bytes),
        Shape::Broken(chunk) => chunks(all, chunk, 0, false, watch).promise(bytes + 1),
        // A stream that fails or is dropped pauses, so that other tasks run before its end.
        Shape::Failing(chunk) => chunks(all, chunk, 1, true, watch),
        Shape::Dropped(chunk, _) => chunks(all, chunk, 5, false, watch),
    }
}

/// Creates a stream of `all` in chunks, each after a pause. Its last item is an error if `fails`.
fn chunks(all: &Bytes, chunk: u64, pause_ms: u64, fails: bool, watch: DropWatch) -> Body {
    // At least 1, because a shrunk plan may have chunks of 0 bytes.
    let chunk = usize::try_from(chunk).unwrap_or(usize::MAX).max(1);
    let mut parts: Vec<std::io::Result<Bytes>> = (0..all.len())
        .step_by(chunk)
        .map(|at| Ok(all.slice(at..all.len().min(at + chunk))))
        .collect();
    if fails {
        parts.push(Err(std::io::Error::other(
            "a planned failure of the stream",
        )));
    }
    Body::stream(futures::stream::iter(parts).then(move |part| {
        let watch = watch.clone();
        async move {
            watch.polled();
            if pause_ms > 0 {
                sleep(Duration::from_millis(pause_ms)).await;
            }
            // The call may have been dropped during the pause.
            watch.polled();
            part
        }
    }))
}
