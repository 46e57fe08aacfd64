//! Changes: recording them, and fencing those whose owner died.

use super::{Effect, Plan, RowState, transition};
use crate::index::{Batch, Table};
use crate::records::{Change, LateWrite};
use crate::types::ObjectId;
use crate::types::{OperationId, RevisionId, RevisionKey, Timestamp};

/// Returns the batch that records a change (I1).
pub fn record(change_id: OperationId, change: &Change) -> Batch {
    let mut batch = Batch::new();
    batch.put(
        Table::Changes,
        change_id.as_bytes().to_vec(),
        change.encode(),
    );
    batch
}

/// Fences the change of a dead owner (I6).
///
/// The batch removes the change, after which it can never commit, and queues those of its revisions
/// that the row does not name. The decision trusts the row alone. A write of the dead owner may
/// still be on its way to the blob tier, so its revisions may appear later ([`LateWrite::MayLand`]).
/// Replies true.
pub fn fence(
    change_id: OperationId,
    change: &Change,
    state: &RowState,
    now: Timestamp,
) -> Plan<bool> {
    let mut batch = Batch::new();
    batch.remove(Table::Changes, change_id.as_bytes().to_vec());
    let keys: Vec<_> = fence_orphans(change, state)
        .into_iter()
        .map(|revision| revision_key(&change.object, revision))
        .collect();
    transition::put_orphans(&mut batch, &keys, now, LateWrite::MayLand);
    Plan {
        settled: vec![change_id],
        ..Plan::new(batch, Ok(true), Effect::Commits)
    }
}

/// Replies false: recovery asked to fence a change that was settled meanwhile.
pub fn not_fenced() -> Plan<bool> {
    Plan::new(Batch::new(), Ok(false), Effect::Commits)
}

/// Returns the revisions of a dead change that the row does not name.
pub fn fence_orphans(change: &Change, state: &RowState) -> Vec<RevisionId> {
    let is_named = |revision: RevisionId| state.row().is_some_and(|row| row.names(revision));
    change
        .revisions
        .iter()
        .copied()
        .filter(|&revision| !is_named(revision))
        .collect()
}

/// Returns the key under which the blob tier holds a revision written for `id`.
pub fn revision_key(id: &ObjectId, revision: RevisionId) -> RevisionKey {
    RevisionKey {
        object: id.clone(),
        revision,
    }
}
