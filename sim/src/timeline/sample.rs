//! Small traces for the tests of this room.

use std::time::Duration;

use crate::trace::{Kind, Trace};

/// A lane, and what happens on it.
type Happening = (&'static str, u64, u64, Kind, &'static str, &'static str);

const LIFE_1: [Happening; 5] = [
    ("shard 1", 1, 1, Kind::Step, "task begins", ""),
    ("client 0", 1023, 2, Kind::Call, "asks", "put hot/1"),
    (
        "index",
        1023,
        3,
        Kind::Commit,
        "durable",
        "hot/1 = version 1",
    ),
    ("client 0", 1024, 4, Kind::Answer, "hears", "Applied"),
    (
        "shard 1",
        1025,
        5,
        Kind::Fault,
        "fault: crash",
        "at index sync",
    ),
];
const LIFE_2: [Happening; 2] = [
    (
        "client 10",
        1025,
        5,
        Kind::Effect,
        "blob deleted",
        "blobs/1",
    ),
    ("client 2", 1025, 5, Kind::Violation, "I2", "a row names it"),
];

/// Two lives: the first one crashes, and in the second one a checker finds something.
pub(super) fn crash() -> Trace {
    let mut trace = Trace::new();
    trace.begin_life();
    trace.push(
        Duration::ZERO,
        0,
        Kind::World,
        "a life begins",
        "1".to_owned(),
    );
    let mut trace = LIFE_1.into_iter().fold(trace, happens);
    trace.push(
        Duration::from_millis(1025),
        5,
        Kind::World,
        "the life ends",
        "it crashed".to_owned(),
    );
    trace.begin_life();
    trace.push(
        Duration::from_millis(1025),
        5,
        Kind::World,
        "a life begins",
        "2".to_owned(),
    );
    LIFE_2.into_iter().fold(trace, happens)
}

/// A trace in which each of these lanes has one step, in this order.
pub(super) fn lanes(names: &[&'static str]) -> Trace {
    let step = |name: &&'static str| (*name, 0, 0, Kind::Step, "task begins", "");
    names.iter().map(step).fold(Trace::new(), happens)
}

/// Lanes belong to tasks: so it happens on one.
fn happens(mut trace: Trace, (lane, at_ms, step, kind, what, detail): Happening) -> Trace {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime needs nothing");
    let task = runtime.spawn(async move {
        trace.name_lane(lane.to_owned(), false);
        trace.push(
            Duration::from_millis(at_ms),
            step,
            kind,
            what,
            detail.to_owned(),
        );
        trace
    });
    runtime.block_on(task).expect("the task does not panic")
}
