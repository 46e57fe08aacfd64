//! The plan: the result of every decision, and the set of index entries the decision was based on.
//!
//! ```text
//! decider                          plan                             shard
//! Swap, Rename, UploadStep,  ──>  batch, rows, settled, reply,  ──>  apply: admit, record as pending,
//! Repair, UploadRepair, fence          effect, event, reads               count, submit; reply when durable
//! ```
//!
//! Guards I3: a plan holds one batch, and the batch holds everything that the decision changes.

use bytes::Bytes;

use super::{RowState, UnmetState};
use crate::index::{Batch, RangeCondition, Table};
use crate::types::{Error, ErrorKind, ObjectId, ObjectVersion, OperationId, Result};

/// Everything that follows from one decision.
#[derive(Clone, Debug)]
pub struct Plan<T> {
    /// Entries to commit as one atomic batch (I3); empty if the decision changes nothing.
    pub batch: Batch,
    /// State of each changed object once the batch is durable.
    pub rows: Vec<(ObjectId, RowState)>,
    /// Changes that the batch removes from the changelog.
    pub settled: Vec<OperationId>,
    /// Reply to the caller once the batch is durable.
    pub reply: Result<T>,
    /// Relation between the reply and the commit.
    pub effect: Effect,
    /// Event to count, if the decision is one.
    pub event: Option<DecisionEvent>,
    /// Entries that the decision was based on.
    pub reads: ReadSet,
}

/// Relation between a reply and the commit that it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The reply reports the commit, or an earlier commit of the same operation.
    Commits,
    /// The request writes no row. If the commit fails, the caller still knows that nothing was
    /// committed (I10).
    Nothing,
    /// The request repeats a step that may not be durable yet. If the commit fails, the outcome of
    /// that step is unknown (I10).
    Repeats,
    /// The reply depends on durable state only and is sent without a commit.
    Known,
}

/// Decisions that the metrics count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecisionEvent {
    /// A precondition did not hold.
    Conflict,
    /// A later write won against a large put or a completion.
    Superseded,
    /// The record of an ended upload was removed.
    UploadForgotten,
}

impl<T> Plan<T> {
    /// Returns a plan that changes nothing and sends this reply without a commit.
    pub fn known(reply: Result<T>) -> Self {
        Self::new(Batch::new(), reply, Effect::Known)
    }

    /// Returns a plan that changes nothing and sends this reply once all earlier batches are
    /// durable (I7).
    pub fn nothing(reply: Result<T>) -> Self {
        Self::new(Batch::new(), reply, Effect::Nothing)
    }

    /// Returns a plan for a request whose precondition does not hold.
    pub fn conflict(operation: &'static str, unmet: impl Into<UnmetState>) -> Self {
        Self {
            event: Some(DecisionEvent::Conflict),
            ..Self::nothing(Err(conflict(operation, unmet)))
        }
    }

    pub(super) fn new(batch: Batch, reply: Result<T>, effect: Effect) -> Self {
        Self {
            batch,
            rows: Vec::new(),
            settled: Vec::new(),
            reply,
            effect,
            event: None,
            reads: ReadSet::default(),
        }
    }

    /// Returns one plan for requests that commit together.
    pub fn together<U>(plans: Vec<Plan<U>>, reply: T) -> Self {
        let mut all = Self::nothing(Ok(reply));
        for plan in plans {
            all.batch.append(plan.batch);
            all.rows.extend(plan.rows);
            all.settled.extend(plan.settled);
            all.reads.extend(plan.reads);
        }
        if !all.batch.is_empty() {
            all.effect = Effect::Commits;
        }
        all
    }

    /// Returns the plan with the entries that its decision was based on.
    #[must_use]
    pub fn based_on(mut self, reads: ReadSet) -> Self {
        self.reads.extend(reads);
        self
    }
}

/// Value of an entry when a decision read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadValue {
    /// The key was absent.
    Absent,
    /// The key had this value.
    Value(Bytes),
    /// The value could not be read.
    Unreadable,
}

/// One read of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadEntry {
    /// Table that was read.
    pub table: Table,
    /// Key that was read.
    pub key: Bytes,
    /// Value that was found.
    pub value: ReadValue,
}

/// Entries that a decision was based on, in the order of the reads.
///
/// An exclusive index has no other writer, so these entries are unchanged when the plan's batch
/// commits. An index that several engines share must check them in the commit's transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadSet {
    entries: Vec<ReadEntry>,
    ranges: Vec<RangeCondition>,
}

impl ReadSet {
    /// Adds a read.
    pub fn note(&mut self, table: Table, key: impl Into<Bytes>, value: ReadValue) {
        let key = key.into();
        self.entries.push(ReadEntry { table, key, value });
    }

    /// Adds a read of all keys with a prefix. The entries themselves are noted, too.
    pub fn note_range(&mut self, range: RangeCondition) {
        self.ranges.push(range);
    }

    /// Adds the reads of another set.
    pub fn extend(&mut self, other: Self) {
        self.entries.extend(other.entries);
        self.ranges.extend(other.ranges);
    }

    /// Returns whether an entry was read.
    pub fn has(&self, table: Table, key: &[u8]) -> bool {
        let mut entries = self.entries.iter();
        entries.any(|read| read.table == table && read.key == key)
    }

    /// Makes a batch depend on the reads. Only an index with a single owner has values that can't be
    /// read, and it checks no conditions.
    pub fn require(self, batch: &mut Batch) {
        for read in self.entries {
            match read.value {
                ReadValue::Absent => batch.require(read.table, read.key, None),
                ReadValue::Value(value) => batch.require(read.table, read.key, Some(value)),
                ReadValue::Unreadable => {}
            }
        }
        for range in self.ranges {
            batch.require_only(range);
        }
    }

    /// Returns the reads in their order.
    pub fn entries(&self) -> &[ReadEntry] {
        &self.entries
    }
}

/// Returns the error of a write whose precondition does not hold.
pub fn conflict(operation: &'static str, unmet: impl Into<UnmetState>) -> Error {
    let unmet = unmet.into();
    let found = match unmet {
        UnmetState::Current(ObjectVersion { version, etag }) => {
            format!("version={version} etag={etag}")
        }
        UnmetState::InFallback => "in the fallback only".to_owned(),
        UnmetState::Absent => "absent".to_owned(),
    };
    let current = unmet.current();
    let message =
        format!("the precondition does not hold; nothing was committed: current: {found}");
    Error::new(ErrorKind::Conflict { current }, operation, message)
}

/// Returns the error of a write whose change recovery has removed (I6).
pub(super) fn fenced(operation: &'static str) -> Error {
    let message = "recovery has given this write up; nothing was committed";
    Error::new(ErrorKind::Unavailable, operation, message)
}
