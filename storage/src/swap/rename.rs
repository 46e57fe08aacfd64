//! The decision of a rename: one object takes over the row of another. Pure.
//!
//! ```text
//! from             to                             outcome, one batch
//! ---------------- ------------------------------ ---------------------------------------------------------------
//! absent           anything                       Absent: nothing to do
//! present          its precondition does not hold Conflict
//! present          anything else                  Commit: `to` names what `from` named, `from` is deleted, and what
//!                                                 `to` named is queued
//! ```
//!
//! No byte is copied: payloads are filed under the operation that wrote them, and a tombstone
//! remembers under which name its blobs were written. So each revision is named by exactly one row
//! all along (I5; docs/adr/0008).

use super::transition::{self, Transition};
use super::{Precondition, Standing};
use crate::id::ObjectId;
use crate::index::Batch;
use crate::rows::{Body, Landing, Metadata, Row};
use crate::word::{Current, OperationId, Timestamp};

/// One rename.
#[derive(Clone, Debug)]
pub struct Rename {
    /// The object to be renamed.
    pub from: ObjectId,
    /// What it is to be called. An object that is there is replaced.
    pub to: ObjectId,
    /// The operation.
    pub operation: OperationId,
    /// How the object to be renamed must stand.
    pub source: Precondition,
    /// How the other one must stand.
    pub target: Precondition,
}

/// What must be done about a [`Rename`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RenameDecision {
    /// Commit it: the two objects then stand so.
    Commit {
        /// The one that was renamed.
        from: Standing,
        /// The one that it is now.
        to: Standing,
        /// Whether there was another object of this name before.
        replaced: bool,
    },
    /// One of the preconditions does not hold.
    Conflict {
        /// Of which object.
        of: ObjectId,
        /// How it stands.
        current: Option<Current>,
    },
    /// There is nothing to rename.
    Absent,
}

impl Rename {
    /// Decides against how both objects stand.
    pub fn decide(&self, from: &Standing, to: &Standing, now: Timestamp) -> RenameDecision {
        for (id, standing, precondition) in
            [(&self.from, from, self.source), (&self.to, to, self.target)]
        {
            if let Err(current) = precondition.check(standing.live(now)) {
                return RenameDecision::Conflict {
                    of: id.clone(),
                    current,
                };
            }
        }
        let Some(row) = from.live(now) else {
            return RenameDecision::Absent;
        };
        let body = match &row.body {
            Body::Embedded(payload) => Body::Embedded(payload.clone()),
            Body::Separate(operation) => Body::Separate(*operation),
            Body::Tombstone(manifest) => Body::Tombstone(manifest.renamed(&self.from, &self.to)),
        };
        let replaced = to.live(now);
        let created = replaced.map_or(now, |replaced| replaced.metadata.created);
        let metadata = Metadata {
            created,
            modified: now,
            ..row.metadata.clone()
        };
        let renamed = Row {
            version: to.version().next(),
            operation: self.operation,
            metadata,
            body,
        };
        RenameDecision::Commit {
            from: Standing::Absent(from.version()),
            to: Standing::Present(Box::new(renamed)),
            replaced: replaced.is_some(),
        }
    }

    /// The one atomic batch that carries a commit out (I3).
    pub fn batch(
        &self,
        before: (&Standing, &Standing),
        after: (&Standing, &Standing),
        now: Timestamp,
    ) -> Batch {
        let transitions = [
            Transition {
                id: &self.from,
                before: before.0,
                after: after.0,
            },
            Transition {
                id: &self.to,
                before: before.1,
                after: after.1,
            },
        ];
        let mut batch = Batch::new();
        transition::put_rows(&mut batch, &transitions);
        transition::put_orphans(
            &mut batch,
            &transition::orphans(&transitions),
            now,
            Landing::Landed,
        );
        batch
    }
}
