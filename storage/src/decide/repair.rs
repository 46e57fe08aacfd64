//! The decision of a repair: the reaction of a shard to damage of an object's entries.
//!
//! ```text
//! repair       the shard reads                                      plan
//! ------------ ---------------------------------------------------- --------------------------------------------------
//! Expiry       a row with exactly this deadline, no valid entry     the expiry entry is put
//!              a row with another one, or no row, and an entry      the expiry entry is removed
//! Checksums    a tombstone that names the revision, no checksums    its block checksums are put
//! LastVersion  a row, and a last version                            the last version is removed
//!              no row, and a last version that can't be read        it is set to a version that was never reached
//! RemoveRow    a row that can't be read                             the row is removed, the last version set likewise
//!              a row that a later build may have written            nothing: it is not damage
//! GiveUp       a row whose payload is missing or not as written,    the object is deleted
//!              or that names the lost revision
//! any          anything else                                        none: not confirmed
//! ```
//!
//! A plan also confirms a finding: a finding without a plan is neither reported nor acted on
//! (docs/adr/0015). Guards I3 for repairs: a scrub reads an earlier state, so the shard reads again,
//! and each batch only restores entries of the current row. Repairs are idempotent.

use bytes::Bytes;

use super::transition::{self, Transition};
use super::{Effect, Plan, RowState, SeenEntry};
use crate::index::{Batch, Table};
use crate::records::{
    BlockChecksums, LastVersion, LateWrite, Row, RowBody, check_expiry_value, expiry_key,
    expiry_value, last_version_key,
};
use crate::types::{Checksum, ObjectId, RevisionId, Timestamp, Version};

/// A repair of the entries of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Puts or removes the expiry entry of this deadline, so that it exists exactly if the row has
    /// this deadline.
    Expiry {
        /// Deadline.
        deadline: Timestamp,
    },
    /// Puts the block checksums of a revision, computed from bytes that match the checksum of the
    /// whole.
    Checksums {
        /// Revision.
        revision: RevisionId,
        /// Block checksums of the revision.
        blocks: BlockChecksums,
    },
    /// Removes the last version beside a row, and replaces a last version that can't be read.
    LastVersion,
    /// Removes a row that can't be read, and its object with it.
    RemoveRow,
    /// Deletes an object whose payload is lost.
    GiveUp(Lost),
}

/// Lost payload of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Inline payload: missing, unreadable, or not as written.
    Payload,
    /// Blob of this revision.
    Blob(RevisionId),
}

/// State of an object that may be damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeenRow {
    /// Row and last version are readable.
    Whole(RowState),
    /// The row is damaged.
    BrokenRow,
    /// There is no row, and the last version is damaged.
    BrokenLastVersion,
}

/// Newest state that a [`Repair`] is decided on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenObject {
    /// Row or last version.
    pub row: SeenRow,
    /// Durable value of the key that [`Repair::reads`] returns.
    pub entry: SeenEntry<Bytes>,
    /// True if a batch about the object is on its way to the disk. `entry` may then be older than
    /// `row`.
    pub is_pending: bool,
}

impl Repair {
    /// Returns the key whose value the decision needs beside the row; `None` if the row suffices.
    pub fn reads(&self, id: &ObjectId, seen: &SeenRow) -> Option<(Table, Bytes)> {
        match self {
            Self::Expiry { deadline } => Some((Table::Expiry, expiry_key(*deadline, id))),
            Self::Checksums { revision, .. } => {
                Some((Table::Payloads, Bytes::copy_from_slice(revision.as_bytes())))
            }
            Self::LastVersion => Some((Table::Meta, last_version_key(id))),
            Self::GiveUp(Lost::Payload) => match seen.row().map(|row| &row.body) {
                Some(RowBody::Separate(operation)) => Some((
                    Table::Payloads,
                    Bytes::copy_from_slice(operation.as_bytes()),
                )),
                Some(RowBody::Embedded(_) | RowBody::Tombstone(_)) | None => None,
            },
            Self::RemoveRow | Self::GiveUp(Lost::Blob(_)) => None,
        }
    }

    /// Decides on the newest state. Returns `None` if the damage is not confirmed. The plan replies
    /// true.
    pub fn decide(&self, id: &ObjectId, seen: &SeenObject, now: Timestamp) -> Option<Plan<bool>> {
        match self {
            Self::Expiry { deadline } => expiry(id, *deadline, seen),
            Self::Checksums { revision, blocks } => checksums(*revision, blocks, seen),
            Self::LastVersion => last_version(id, seen, now),
            Self::RemoveRow => (seen.row == SeenRow::BrokenRow).then(|| remove_row(id, now)),
            Self::GiveUp(lost) => {
                let row = seen.row.row().filter(|row| lost.is_lost(row, seen))?;
                Some(give_up(id, row, now))
            }
        }
    }
}

impl SeenRow {
    fn row(&self) -> Option<&Row> {
        match self {
            Self::Whole(row_state) => row_state.row(),
            Self::BrokenRow | Self::BrokenLastVersion => None,
        }
    }
}

impl Lost {
    fn is_lost(self, row: &Row, seen: &SeenObject) -> bool {
        match (self, &row.body) {
            (Self::Blob(revision), _) => row.names(revision),
            (Self::Payload, RowBody::Embedded(payload)) => !is_as_written(row, payload),
            // The payload of a pending write is not in the index yet.
            (Self::Payload, RowBody::Separate(_)) if seen.is_pending => false,
            (Self::Payload, RowBody::Separate(_)) => match &seen.entry {
                SeenEntry::Absent | SeenEntry::Broken => true,
                SeenEntry::Whole(payload) => !is_as_written(row, payload),
            },
            (Self::Payload, RowBody::Tombstone(_)) => false,
        }
    }
}

/// Returns whether these bytes are the inline payload that the row was written with.
pub(crate) fn is_as_written(row: &Row, payload: &Bytes) -> bool {
    payload.len() as u64 == row.metadata.size
        && row
            .metadata
            .checksum
            .is_none_or(|checksum| Checksum::of(payload) == checksum)
}

fn expiry(id: &ObjectId, deadline: Timestamp, seen: &SeenObject) -> Option<Plan<bool>> {
    if seen.is_pending || seen.row == SeenRow::BrokenRow {
        return None;
    }
    let mut batch = Batch::new();
    let is_due = seen
        .row
        .row()
        .is_some_and(|row| row.metadata.expires_at == Some(deadline));
    match &seen.entry {
        SeenEntry::Whole(value) if is_due && check_expiry_value(value).is_ok() => return None,
        SeenEntry::Absent if !is_due => return None,
        SeenEntry::Whole(_) | SeenEntry::Broken | SeenEntry::Absent if is_due => {
            batch.put(Table::Expiry, expiry_key(deadline, id), expiry_value());
        }
        SeenEntry::Whole(_) | SeenEntry::Broken | SeenEntry::Absent => {
            batch.remove(Table::Expiry, expiry_key(deadline, id));
        }
    }
    Some(repaired(batch))
}

fn checksums(
    revision: RevisionId,
    blocks: &BlockChecksums,
    seen: &SeenObject,
) -> Option<Plan<bool>> {
    let row = seen.row.row()?;
    // The checksums of a pending put or rename may not be in the index yet.
    if seen.is_pending || !row.names(revision) || hold_checksums(&seen.entry, blocks) {
        return None;
    }
    let mut batch = Batch::new();
    batch.put(
        Table::Payloads,
        revision.as_bytes().to_vec(),
        blocks.encode(),
    );
    Some(repaired(batch))
}

/// Returns whether the entry holds checksums of as many blocks as these.
pub(super) fn hold_checksums(entry: &SeenEntry<Bytes>, blocks: &BlockChecksums) -> bool {
    match entry {
        SeenEntry::Whole(value) => {
            BlockChecksums::decode(value).is_ok_and(|found| found.0.len() == blocks.0.len())
        }
        SeenEntry::Absent | SeenEntry::Broken => false,
    }
}

fn last_version(id: &ObjectId, seen: &SeenObject, now: Timestamp) -> Option<Plan<bool>> {
    if seen.is_pending {
        return None;
    }
    let mut batch = Batch::new();
    match (&seen.row, &seen.entry) {
        (SeenRow::Whole(RowState::Present(_)), SeenEntry::Whole(_) | SeenEntry::Broken) => {
            batch.remove(Table::Meta, last_version_key(id));
            Some(repaired(batch))
        }
        (SeenRow::BrokenLastVersion, _) => {
            let last = LastVersion::at(unreached(now), now);
            batch.put(Table::Meta, last_version_key(id), last.encode());
            Some(repaired_to(batch, id, RowState::Absent(last)))
        }
        (SeenRow::Whole(_) | SeenRow::BrokenRow, _) => None,
    }
}

/// Plans the removal of a row that can't be read, and of its object with it.
pub fn remove_row(id: &ObjectId, now: Timestamp) -> Plan<bool> {
    let (batch, last) = remove_unreadable_row(id, now);
    repaired_to(batch, id, RowState::Absent(last))
}

/// Returns the batch that removes a row which can't be read, and the last version it sets.
pub(super) fn remove_unreadable_row(id: &ObjectId, now: Timestamp) -> (Batch, LastVersion) {
    let last = LastVersion::at(unreached(now), now);
    let mut batch = Batch::new();
    batch.remove(Table::Rows, id.encoded().clone());
    batch.put(Table::Meta, last_version_key(id), last.encode());
    (batch, last)
}

/// Plans a delete of the object.
fn give_up(id: &ObjectId, row: &Row, now: Timestamp) -> Plan<bool> {
    let before = RowState::Present(Box::new(row.clone()));
    let after = RowState::Absent(LastVersion::at(row.version, now));
    let transition = [Transition {
        id,
        before: &before,
        after: &after,
    }];
    let mut batch = Batch::new();
    transition::put_rows(&mut batch, &transition);
    let orphans = transition::orphans(&transition);
    transition::put_orphans(&mut batch, &orphans, now, LateWrite::Landed);
    repaired_to(batch, id, after)
}

fn repaired(batch: Batch) -> Plan<bool> {
    Plan::new(batch, Ok(true), Effect::Commits)
}

fn repaired_to(batch: Batch, id: &ObjectId, next: RowState) -> Plan<bool> {
    Plan {
        rows: vec![(id.clone(), next)],
        ..repaired(batch)
    }
}

/// Returns a version that an object whose last version is lost has not reached, so that none is
/// reused: 1024 for each millisecond since 1970. That exceeds a million writes per second to this
/// object since 1970; after a second loss, a million per second since the first.
pub fn unreached(now: Timestamp) -> Version {
    Version::new(now.as_millis().saturating_mul(1024).clamp(1 << 32, 1 << 62))
}

#[cfg(test)]
mod tests;
