//! One object before and after a commit: [`Transition`], and the batch entries that carry it out.
//!
//! Guards I3: whatever belongs to a row (its payload or block checksums, its expiry entry, its
//! version floor, the orphans it leaves) comes and goes in the row's own batch. Several transitions
//! may share a batch; what one object gives up and another takes over is then neither removed nor
//! orphaned. Deliberately not here: who decides (`swap.rs`, `rename.rs`).

use std::collections::BTreeSet;

use bytes::Bytes;

use super::Standing;
use crate::id::ObjectId;
use crate::index::{Batch, Table};
use crate::rows::{Landing, Orphan, Row, expiry_key, expiry_value, floor_key, write_floor};
use crate::word::{RevisionKey, Timestamp, Version};

/// One object before and after a commit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transition<'a> {
    pub(super) id: &'a ObjectId,
    pub(super) before: &'a Standing,
    pub(super) after: &'a Standing,
}

/// The revisions that the rows name before and not after.
pub(super) fn orphans(transitions: &[Transition<'_>]) -> Vec<RevisionKey> {
    let named = |standing: &Standing, id| {
        standing
            .row()
            .map(|row| row.revision_keys(id))
            .unwrap_or_default()
    };
    let kept: BTreeSet<RevisionKey> = transitions
        .iter()
        .flat_map(|one| named(one.after, one.id))
        .collect();
    let before = transitions.iter().flat_map(|one| named(one.before, one.id));
    before.filter(|key| !kept.contains(key)).collect()
}

/// Rows, floors, expiry entries, and the removal of what belonged to the old rows and does not to
/// the new ones.
pub(super) fn put_rows(batch: &mut Batch, transitions: &[Transition<'_>]) {
    let belongings = |standing: &Standing| standing.row().map(Row::belongings).unwrap_or_default();
    let kept: BTreeSet<Bytes> = transitions
        .iter()
        .flat_map(|one| belongings(one.after))
        .collect();
    for one in transitions {
        for key in belongings(one.before)
            .into_iter()
            .filter(|key| !kept.contains(key))
        {
            batch.remove(Table::Payloads, key);
        }
        put_row(batch, one);
        put_expiry(batch, one);
    }
}

fn put_row(batch: &mut Batch, Transition { id, before, after }: &Transition<'_>) {
    match after {
        Standing::Present(row) => {
            batch.put(Table::Rows, id.encoded().clone(), row.encode());
            if let Standing::Absent(floor) = before
                && *floor != Version::NONE
            {
                batch.remove(Table::Meta, floor_key(id));
            }
        }
        Standing::Absent(floor) => {
            batch.remove(Table::Rows, id.encoded().clone());
            batch.put(Table::Meta, floor_key(id), write_floor(*floor));
        }
    }
}

fn put_expiry(batch: &mut Batch, Transition { id, before, after }: &Transition<'_>) {
    let deadline = |standing: &Standing| standing.row().and_then(|row| row.metadata.expires_at);
    let (old, new) = (deadline(before), deadline(after));
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

/// Queues revisions that nothing names any more.
pub(super) fn put_orphans(
    batch: &mut Batch,
    revisions: &[RevisionKey],
    now: Timestamp,
    landing: Landing,
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
