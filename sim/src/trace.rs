//! The trace of a run: an ordered list of [`TraceEvent`]s, each on the lane of its task.
//!
//! A trace is a function of the seed, byte for byte. It therefore contains nothing of the process:
//! no actor ids, task ids, addresses or real time. The length of the trace is the *tick* of the
//! world, the logical time that the checks compare. A trace that is not recorded counts its events
//! and keeps none of them: composing the details of an event takes longer than checking it.

#![expect(
    clippy::disallowed_types,
    reason = "the map of tasks is looked up in and never iterated"
)]

pub(crate) mod coverage;

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

use tokio::task;

/// Logical time: the number of events before.
pub type Tick = u64;

/// Kind of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventKind {
    /// Step of a task that the scheduler has admitted.
    Step,
    /// Call of a client.
    Call,
    /// Answer to a client.
    Answer,
    /// Durable commit of the index.
    Commit,
    /// Change of the blob tier.
    Effect,
    /// Injected fault.
    Fault,
    /// Start, end or crash of the world, or an action of the test that owns it.
    World,
    /// Violation found by a check.
    Violation,
}

impl EventKind {
    /// Returns the name of the kind.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Call => "call",
            Self::Answer => "answer",
            Self::Commit => "commit",
            Self::Effect => "effect",
            Self::Fault => "FAULT",
            Self::World => "world",
            Self::Violation => "VIOLATION",
        }
    }
}

/// Lane of an actor, a client, or other tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lane(u32);

/// Event of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceEvent {
    /// Virtual time since the start of the world.
    pub at: Duration,
    /// Number of steps so far.
    pub step: u64,
    /// Number of the incarnation, from 1.
    pub life: u32,
    /// Lane of the task.
    pub lane: Lane,
    /// Kind of the event.
    pub kind: EventKind,
    /// Name of the event.
    pub what: &'static str,
    /// Details. May be empty.
    pub detail: String,
}

/// Hasher of task ids. They are consecutive numbers, which a multiplication spreads well enough.
#[derive(Default)]
struct TaskHasher(u64);

impl Hasher for TaskHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

struct LaneName {
    name: String,
    is_actor: bool,
}

/// Ordered events of a run.
pub struct Trace {
    is_recorded: bool,
    events: Vec<TraceEvent>,
    /// Number of events, recorded or not.
    ticks: Tick,
    lanes: Vec<LaneName>,
    /// Lanes of the tasks of this incarnation.
    of_task: HashMap<task::Id, Lane, BuildHasherDefault<TaskHasher>>,
    life: u32,
}

impl Trace {
    /// Creates an empty trace, which is recorded. Its first lane is that of the world.
    pub(crate) fn new() -> Self {
        let lanes = vec![LaneName {
            name: "world".to_owned(),
            is_actor: false,
        }];
        Self {
            is_recorded: true,
            events: Vec::new(),
            ticks: 0,
            lanes,
            of_task: HashMap::default(),
            life: 0,
        }
    }

    /// Only counts the events from now on.
    pub(crate) fn stop_recording(&mut self) {
        self.is_recorded = false;
    }

    /// Returns true if the events are kept.
    pub(crate) const fn is_recorded(&self) -> bool {
        self.is_recorded
    }

    /// Returns all recorded events in order.
    pub fn events(&self) -> &[TraceEvent] {
        &self.events
    }

    /// Returns the name of a lane.
    pub fn lane_name(&self, lane: Lane) -> &str {
        &self.lanes[lane.0 as usize].name
    }

    /// Iterates over all lanes in the order of their first event.
    pub fn lanes(&self) -> impl Iterator<Item = Lane> {
        (0..self.lanes.len())
            .map(|lane| Lane(u32::try_from(lane).expect("fewer lanes than events")))
    }

    /// Returns the tick of the next event.
    pub(crate) fn tick(&self) -> Tick {
        self.ticks
    }

    /// Starts the next incarnation.
    pub(crate) fn begin_life(&mut self) {
        self.life += 1;
        // The tasks of the earlier incarnation were dropped with its runtime.
        self.of_task.clear();
    }

    /// Returns the number of the incarnation.
    pub(crate) fn life(&self) -> u32 {
        self.life
    }

    /// Names the lane of the current task. An existing lane of this name is continued, so that a
    /// restarted shard stays on its lane.
    pub(crate) fn name_lane(&mut self, name: &str, is_actor: bool) {
        // Code outside of a task belongs to the world, which has a name.
        let Some(task) = task::try_id() else { return };
        let known = self.lanes.iter().position(|lane| lane.name == name);
        let lane = known.unwrap_or_else(|| {
            let name = name.to_owned();
            self.lanes.push(LaneName { name, is_actor });
            self.lanes.len() - 1
        });
        self.of_task.insert(
            task,
            Lane(u32::try_from(lane).expect("fewer lanes than events")),
        );
    }

    /// Returns `true` if the current task is an actor.
    pub(crate) fn is_actor(&self) -> bool {
        task::try_id()
            .and_then(|task| self.of_task.get(&task))
            .is_some_and(|lane| self.lanes[lane.0 as usize].is_actor)
    }

    /// Returns the lane of the current task.
    fn lane(&mut self) -> Lane {
        let Some(task) = task::try_id() else {
            // Code outside of a task belongs to the world.
            return Lane(0);
        };
        if let Some(&lane) = self.of_task.get(&task) {
            return lane;
        }
        // All unnamed, short-lived tasks share a lane.
        self.name_lane("tasks", false);
        self.of_task[&task]
    }

    /// Adds an event on the lane of the current task and returns its tick.
    pub(crate) fn push(
        &mut self,
        at: Duration,
        step: u64,
        kind: EventKind,
        what: &'static str,
        detail: impl FnOnce() -> String,
    ) -> Tick {
        self.ticks += 1;
        if !self.is_recorded {
            return self.ticks - 1;
        }
        let lane = self.lane();
        let life = self.life;
        self.events.push(TraceEvent {
            at,
            step,
            life,
            lane,
            kind,
            what,
            detail: detail(),
        });
        self.ticks - 1
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace")
            .field("events", &self.ticks)
            .finish_non_exhaustive()
    }
}
