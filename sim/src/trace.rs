//! What happened, in order: [`Trace`], a list of [`Event`]s, each on the lane of the task it
//! happened on.
//!
//! A trace is a function of the seed, byte for byte. So nothing in it may come from the process: no
//! actor ids, no task ids, no addresses, no real time. Its length is the simulated world's *tick*:
//! the moments that checkers compare.

#![expect(
    clippy::disallowed_types,
    reason = "the map of tasks is looked up in and never iterated"
)]

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use tokio::task;

/// A moment: how many events there were before.
pub type Tick = u64;

/// What kind of thing an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A step that the gate let through.
    Step,
    /// A client calls.
    Call,
    /// A client hears an answer.
    Answer,
    /// The index made something durable.
    Commit,
    /// The blob tier changed.
    Effect,
    /// Something went wrong, on purpose.
    Fault,
    /// The world began, ended, crashed, or its owner did something to it.
    World,
    /// A checker found something.
    Violation,
}

impl Kind {
    /// One word.
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

/// Where an event happened: one lane per actor, client, or other task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lane(u32);

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Virtual time since the world began.
    pub at: Duration,
    /// Steps so far.
    pub step: u64,
    /// Which incarnation, from 1 on.
    pub life: u32,
    /// Where.
    pub lane: Lane,
    /// What kind of thing.
    pub kind: Kind,
    /// What.
    pub what: &'static str,
    /// More of it; may be empty.
    pub detail: String,
}

struct LaneName {
    name: String,
    is_actor: bool,
}

/// All that happened.
pub struct Trace {
    events: Vec<Event>,
    lanes: Vec<LaneName>,
    of_task: HashMap<task::Id, Lane>,
    life: u32,
}

impl Trace {
    /// Nothing yet. The first lane is the world's own.
    pub(crate) fn new() -> Self {
        let lanes = vec![LaneName {
            name: "world".to_owned(),
            is_actor: false,
        }];
        Self {
            events: Vec::with_capacity(1024),
            lanes,
            of_task: HashMap::new(),
            life: 0,
        }
    }

    /// What happened, in order.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The name of a lane.
    pub fn lane_name(&self, lane: Lane) -> &str {
        &self.lanes[lane.0 as usize].name
    }

    /// Every lane, in the order of their first event.
    pub fn lanes(&self) -> impl Iterator<Item = Lane> {
        (0..self.lanes.len())
            .map(|lane| Lane(u32::try_from(lane).expect("fewer lanes than events")))
    }

    /// The next event's tick.
    pub(crate) fn tick(&self) -> Tick {
        self.events.len() as Tick
    }

    pub(crate) fn begin_life(&mut self) {
        self.life += 1;
        self.of_task.clear();
    }

    pub(crate) fn life(&self) -> u32 {
        self.life
    }

    /// Names the current task's lane. One that was here before under the same name is gone on with:
    /// a restarted shard stays on its lane.
    pub(crate) fn name_lane(&mut self, name: String, is_actor: bool) {
        let Some(task) = task::try_id() else { return };
        let known = self.lanes.iter().position(|lane| lane.name == name);
        let lane = known.unwrap_or_else(|| {
            self.lanes.push(LaneName { name, is_actor });
            self.lanes.len() - 1
        });
        self.of_task.insert(
            task,
            Lane(u32::try_from(lane).expect("fewer lanes than events")),
        );
    }

    /// Whether the current task is an actor.
    pub(crate) fn is_actor(&self) -> bool {
        task::try_id()
            .and_then(|task| self.of_task.get(&task))
            .is_some_and(|lane| self.lanes[lane.0 as usize].is_actor)
    }

    fn lane(&mut self) -> Lane {
        let Some(task) = task::try_id() else {
            return Lane(0);
        };
        if let Some(&lane) = self.of_task.get(&task) {
            return lane;
        }
        // Short-lived tasks that nobody named share a lane.
        self.name_lane("tasks".to_owned(), false);
        self.of_task[&task]
    }

    /// Adds an event on the current task's lane.
    pub(crate) fn push(
        &mut self,
        at: Duration,
        step: u64,
        kind: Kind,
        what: &'static str,
        detail: String,
    ) -> Tick {
        let lane = self.lane();
        let life = self.life;
        self.events.push(Event {
            at,
            step,
            life,
            lane,
            kind,
            what,
            detail,
        });
        self.events.len() as Tick - 1
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace")
            .field("events", &self.events.len())
            .finish_non_exhaustive()
    }
}
