//! Small traces for the tests of timelines.

use std::time::Duration;

use crate::trace::{EventKind, Trace};

/// An event: lane, time in milliseconds, step, kind, event and detail.
type SampleEvent = (
    &'static str,
    u64,
    u64,
    EventKind,
    &'static str,
    &'static str,
);

const INCARNATION_1: [SampleEvent; 5] = [
    ("shard 1", 1, 1, EventKind::Step, "task starts", ""),
    ("client 0", 1023, 2, EventKind::Call, "calls", "put hot/1"),
    (
        "index",
        1023,
        3,
        EventKind::Commit,
        "durable",
        "hot/1 = version 1",
    ),
    (
        "client 0",
        1024,
        4,
        EventKind::Answer,
        "receives",
        "Applied",
    ),
    (
        "shard 1",
        1025,
        5,
        EventKind::Fault,
        "fault: crash",
        "at index sync",
    ),
];
const INCARNATION_2: [SampleEvent; 2] = [
    (
        "client 10",
        1025,
        5,
        EventKind::Effect,
        "blob deleted",
        "blobs/1",
    ),
    (
        "client 2",
        1025,
        5,
        EventKind::Violation,
        "I2",
        "a row names it",
    ),
];

/// Returns a trace of two incarnations. The first crashes, and a check finds a violation in the
/// second.
pub(super) fn crash() -> Trace {
    let mut trace = Trace::new();
    trace.begin_life();
    trace.push(
        Duration::ZERO,
        0,
        EventKind::World,
        "incarnation begins",
        || "1".to_owned(),
    );
    let mut trace = INCARNATION_1.into_iter().fold(trace, push);
    trace.push(
        Duration::from_millis(1025),
        5,
        EventKind::World,
        "incarnation ends",
        || "crashed".to_owned(),
    );
    trace.begin_life();
    trace.push(
        Duration::from_millis(1025),
        5,
        EventKind::World,
        "incarnation begins",
        || "2".to_owned(),
    );
    INCARNATION_2.into_iter().fold(trace, push)
}

/// Returns a trace in which each of these lanes has a single step, in this order.
pub(super) fn lanes(names: &[&'static str]) -> Trace {
    let step = |name: &&'static str| (*name, 0, 0, EventKind::Step, "task starts", "");
    names.iter().map(step).fold(Trace::new(), push)
}

/// Adds an event to a trace.
fn push(mut trace: Trace, (lane, at_ms, step, kind, what, detail): SampleEvent) -> Trace {
    // Lanes belong to tasks, so that the event must be added on a task.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime needs nothing");
    let task = runtime.spawn(async move {
        trace.name_lane(lane, false);
        trace.push(Duration::from_millis(at_ms), step, kind, what, || {
            detail.to_owned()
        });
        trace
    });
    runtime.block_on(task).expect("the task does not panic")
}
