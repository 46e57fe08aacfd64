//! The state of an object before and after a commit, and the batch entries between both.
//!
//! Guards I3: everything that belongs to a row (payload or block checksums, expiry entry, last
//! version, orphans) is written and removed in the batch of the row. Several transitions may share
//! a batch: an entry that one object gives up and another takes over is neither removed nor
//! orphaned.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::RowState;
use crate::index::{Batch, Table};
use crate::records::{LateWrite, Orphan, Row, expiry_key, expiry_value, last_version_key};
use crate::types::{ObjectId, RevisionKey, Timestamp};

/// State of an object before and after a commit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transition<'a> {
    pub(super) id: &'a ObjectId,
    pub(super) before: &'a RowState,
    pub(super) after: &'a RowState,
}

/// Returns the revisions that the rows name before and not after.
pub(super) fn orphans(transitions: &[Transition<'_>]) -> Vec<RevisionKey> {
    let named = |row_state: &RowState, id| {
        row_state
            .row()
            .map(|row| row.revision_keys(id))
            .unwrap_or_default()
    };
    let kept: BTreeSet<RevisionKey> = transitions
        .iter()
        .flat_map(|transition| named(transition.after, transition.id))
        .collect();
    transitions
        .iter()
        .flat_map(|transition| named(transition.before, transition.id))
        .filter(|key| !kept.contains(key))
        .collect()
}

/// Puts rows, last versions and expiry entries, and removes the entries that belonged to the old
/// rows only.
pub(super) fn put_rows(batch: &mut Batch, transitions: &[Transition<'_>]) {
    let belongings =
        |row_state: &RowState| row_state.row().map(Row::belongings).unwrap_or_default();
    let kept: BTreeSet<Bytes> = transitions
        .iter()
        .flat_map(|transition| belongings(transition.after))
        .collect();
    for transition in transitions {
        for key in belongings(transition.before) {
            if !kept.contains(&key) {
                batch.remove(Table::Payloads, key);
            }
        }
        put_row(batch, transition);
        put_expiry(batch, transition);
    }
}

fn put_row(batch: &mut Batch, Transition { id, before, after }: &Transition<'_>) {
    match after {
        RowState::Present(row) => {
            batch.put(Table::Rows, id.encoded().clone(), row.encode());
            if let RowState::Absent(_) = before {
                batch.remove(Table::Meta, last_version_key(id));
            }
        }
        RowState::Absent(last) => {
            batch.remove(Table::Rows, id.encoded().clone());
            batch.put(Table::Meta, last_version_key(id), last.encode());
        }
        RowState::New(_) | RowState::Fallback { .. } => {
            batch.remove(Table::Meta, last_version_key(id));
        }
    }
}

fn put_expiry(batch: &mut Batch, Transition { id, before, after }: &Transition<'_>) {
    let deadline = |row_state: &RowState| row_state.row().and_then(|row| row.metadata.expires_at);
    let old = deadline(before);
    let new = deadline(after);
    if old == new {
        return;
    }
    if let Some(old) = old {
        batch.remove(Table::Expiry, expiry_key(old, id));
    }
    if let Some(new) = new {
        batch.put(Table::Expiry, expiry_key(new, id), expiry_value());
    }
}

/// Queues revisions that no row names any more.
pub(super) fn put_orphans(
    batch: &mut Batch,
    revisions: &[RevisionKey],
    now: Timestamp,
    landing: LateWrite,
) {
    for key in revisions {
        let orphan = Orphan::new(key.object.clone(), now, landing);
        batch.put(
            Table::Orphans,
            key.revision.as_bytes().to_vec(),
            orphan.encode(),
        );
    }
}

/// Queues revisions and removes their block checksums.
pub(super) fn give_up(batch: &mut Batch, revisions: &[RevisionKey], now: Timestamp) {
    for key in revisions {
        batch.remove(Table::Payloads, key.revision.as_bytes().to_vec());
    }
    put_orphans(batch, revisions, now, LateWrite::Landed);
}
