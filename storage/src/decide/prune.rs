//! The decision about old last versions: they are dropped, and the base version rises above them.
//!
//! ```text
//! state of the object                       plan
//! ----------------------------------------- ------------------------------------------------------
//! a last version, deleted by `cutoff`       it is removed; the base version is at least as high
//! a last version, deleted later             nothing
//! a row, or no last version                 nothing
//! ```
//!
//! All objects of a request are decided in one plan. Guards "a version is never reused": one batch
//! removes the entries and stores the raised base version, so that no crash separates the two
//! (docs/adr/0027).

use super::transition::{self, Transition};
use super::{Effect, Plan, RowState};
use crate::index::{Batch, Table};
use crate::records::{BASE_VERSION_KEY, BaseVersion, LastVersion};
use crate::types::{ObjectId, Timestamp, Version};

/// Maximum last version that is dropped. Higher versions are kept: as the base version they would
/// leave new objects too few versions. No object reaches them by writes ([`unreached`]).
///
/// [`unreached`]: super::unreached
const PRUNED_MAX: Version = Version::new(1 << 62);

/// Plans the removal of the last versions of these objects that were deleted at or before `cutoff`.
/// Replies the number of removed entries. Returns the base version as of the commit, too.
pub fn prune(
    objects: Vec<(ObjectId, RowState)>,
    base: BaseVersion,
    cutoff: Timestamp,
) -> (Plan<u64>, BaseVersion) {
    let due: Vec<_> = objects
        .into_iter()
        .filter_map(|(id, before)| {
            let last = due_version(&before, base, cutoff)?;
            Some((id, before, last))
        })
        .collect();
    let Some(highest) = due.iter().map(|(.., last)| *last).max() else {
        return (Plan::known(Ok(0)), base);
    };
    let raised = base.raised(highest);
    let after = RowState::New(raised.version);
    let transitions: Vec<_> = due
        .iter()
        .map(|(id, before, _)| Transition {
            id,
            before,
            after: &after,
        })
        .collect();
    let mut batch = Batch::new();
    transition::put_rows(&mut batch, &transitions);
    batch.put(Table::Meta, BASE_VERSION_KEY, raised.encode());
    let plan = Plan {
        rows: due
            .iter()
            .map(|(id, ..)| (id.clone(), after.clone()))
            .collect(),
        ..Plan::new(batch, Ok(due.len() as u64), Effect::Commits)
    };
    (plan, raised)
}

/// Returns the last version of an object if it is to be dropped.
fn due_version(state: &RowState, base: BaseVersion, cutoff: Timestamp) -> Option<Version> {
    match state {
        RowState::Absent(last) if is_due(last, base, cutoff) => Some(last.version),
        RowState::Absent(_)
        | RowState::Present(_)
        | RowState::New(_)
        | RowState::Fallback { .. } => None,
    }
}

/// Returns whether a last version is to be dropped.
pub fn is_due(last: &LastVersion, base: BaseVersion, cutoff: Timestamp) -> bool {
    last.version <= PRUNED_MAX && base.deleted(last) <= cutoff
}
