//! The decision of a rename: an object takes over the row of another.
//!
//! ```text
//! from             to                             plan
//! ---------------- ------------------------------ ---------------------------------------------------------------
//! absent           anything                       nothing
//! present          excluded by its precondition   conflict
//! present          anything else                  commit: `to` names the revisions of `from`, `from` is deleted,
//!                                                 and the former revisions of `to` are queued
//! ```
//!
//! No payload is copied: payloads are stored under the operation that wrote them, and a tombstone
//! records the name under which its blobs were written. So each revision is named by exactly one
//! row at any time (I5; docs/adr/0008).

use super::transition::{self, Transition};
use super::{Effect, Plan, Precondition, PutResult, RowState, SwapReply};
use crate::index::Batch;
use crate::records::{LastVersion, LateWrite, Metadata, Row, RowBody};
use crate::types::{ObjectId, OperationId, Timestamp};

/// One rename.
#[derive(Clone, Debug)]
pub struct Rename {
    /// Object to rename.
    pub from: ObjectId,
    /// New name. An existing object of this name is replaced.
    pub to: ObjectId,
    /// Operation.
    pub operation: OperationId,
    /// State that the renamed object must be in.
    pub source: Precondition,
    /// State that the object of the new name must be in.
    pub target: Precondition,
}

impl Rename {
    /// Decides. The reply is `None` if there is no object to rename, and
    /// [`Conflict`](crate::ErrorKind::Conflict) with the id of the object whose precondition does
    /// not hold.
    pub fn decide(
        &self,
        from: &RowState,
        to: &RowState,
        now: Timestamp,
    ) -> Plan<Option<PutResult>> {
        let conditions = [(&self.from, from, self.source), (&self.to, to, self.target)];
        for (id, row_state, precondition) in conditions {
            if let Err(unmet) = row_state.check(precondition, now) {
                let mut plan = Plan::conflict("rename", unmet);
                plan.reply = plan.reply.map_err(|error| error.with_id(id));
                return plan;
            }
        }
        match from.live(now) {
            Some(row) => self.commit(row, from, to, now),
            None => Plan::nothing(Ok(None)),
        }
    }

    fn commit(
        &self,
        row: &Row,
        from: &RowState,
        to: &RowState,
        now: Timestamp,
    ) -> Plan<Option<PutResult>> {
        let removed = RowState::Absent(LastVersion::at(from.version(), now));
        let renamed = RowState::Present(Box::new(self.renamed(row, to, now)));
        let transitions = [
            Transition {
                id: &self.from,
                before: from,
                after: &removed,
            },
            Transition {
                id: &self.to,
                before: to,
                after: &renamed,
            },
        ];
        let mut batch = Batch::new();
        transition::put_rows(&mut batch, &transitions);
        let orphans = transition::orphans(&transitions);
        transition::put_orphans(&mut batch, &orphans, now, LateWrite::Landed);
        let replaces = to.exists(now);
        let reply = SwapReply::applied(&renamed, replaces).written();
        Plan {
            rows: vec![(self.from.clone(), removed), (self.to.clone(), renamed)],
            ..Plan::new(batch, Ok(Some(reply)), Effect::Commits)
        }
    }

    fn renamed(&self, row: &Row, to: &RowState, now: Timestamp) -> Row {
        let body = match &row.body {
            RowBody::Embedded(payload) => RowBody::Embedded(payload.clone()),
            RowBody::Separate(operation) => RowBody::Separate(*operation),
            RowBody::Tombstone(manifest) => {
                RowBody::Tombstone(manifest.renamed(&self.from, &self.to))
            }
        };
        let metadata = Metadata {
            created: to.next_times(None, now).created,
            modified: now,
            ..row.metadata.clone()
        };
        Row {
            version: to.version().next(),
            operation: self.operation,
            metadata,
            body,
        }
    }
}
