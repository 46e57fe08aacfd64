//! The decision of a repair: what a shard does about damage to what one object has in the index.
//! Pure.
//!
//! ```text
//! mend         the shard sees                                       one batch
//! ------------ ---------------------------------------------------- --------------------------------------------------
//! Expiry       a row with exactly this deadline, no valid entry     the expiry entry is put
//!              a row with another one, or no row, and an entry      the expiry entry is removed
//! Checksums    a tombstone that names the revision, no checksums    its block checksums are put
//! Floor        a row, and a version floor                           the version floor is removed
//!              no row, and a floor that can't be read               the floor is set to what no version has reached
//! Excise       a row that can't be read                             the row is removed, and the floor set likewise
//!              a row that a later build may have written            nothing: it is not damage
//! GiveUp       a row whose payload is missing or not as written,    the object is deleted
//!              or that names the lost revision
//! any          anything else                                        nothing: not confirmed
//! ```
//!
//! A decision is the confirmation of a finding too: a finding without one is neither reported nor
//! acted on (docs/adr/0015). Guards I3 for repairs: whoever found the damage read an earlier state,
//! so the shard reads again, and each batch only restores what belongs to the current row. Each is
//! idempotent. Deliberately not here: finding the damage (`scrub`).

use bytes::Bytes;

use super::transition::{self, Transition};
use super::{SeenEntry, Standing};
use crate::checksum::Checksum;
use crate::id::ObjectId;
use crate::index::{Batch, Table};
use crate::rows::{
    BlockChecksums, Body, Landing, Row, check_expiry_value, expiry_key, expiry_value, floor_key,
    write_floor,
};
use crate::word::{RevisionId, Timestamp, Version};

/// A repair of what one object has in the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mend {
    /// The expiry entry of this deadline is there exactly if the row has this deadline.
    Expiry {
        /// The deadline.
        deadline: Timestamp,
    },
    /// The block checksums of a revision, learnt anew from bytes that match the checksum of the
    /// whole.
    Checksums {
        /// The revision.
        revision: RevisionId,
        /// Its block checksums.
        blocks: BlockChecksums,
    },
    /// The version floor is there exactly if there is no row, and can be read.
    Floor,
    /// A row that can't be read is removed, and its object with it.
    Excise,
    /// An object whose bytes are lost is deleted.
    GiveUp(Lost),
}

/// The bytes of an object that are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Its inline payload: missing, unreadable, or not as written.
    Payload,
    /// The blob of this revision.
    Blob(RevisionId),
}

/// What a shard sees of an object that something is wrong with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing is wrong with its row or floor.
    Whole(Standing),
    /// It has a row that is damaged.
    BrokenRow,
    /// It has no row, and a version floor that is damaged.
    BrokenFloor,
}

/// What a [`Mend`] is decided on: the newest state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// The row or version floor.
    pub seen: Seen,
    /// The durable value of the key that [`Mend::reads`] gives.
    pub entry: SeenEntry<Bytes>,
    /// True if a batch about the object is on its way to the disk. `entry` may then be older than
    /// `seen`.
    pub is_pending: bool,
}

/// What a shard must do about a [`Mend`].
#[derive(Clone, Debug, Default)]
pub struct Mending {
    /// What to commit.
    pub batch: Batch,
    /// How the object stands then, if it stands otherwise than before.
    pub next: Option<Standing>,
}

impl Mend {
    /// The key whose value the decision needs beside the row; none if the row is enough.
    pub fn reads(&self, id: &ObjectId, seen: &Seen) -> Option<(Table, Bytes)> {
        match self {
            Self::Expiry { deadline } => Some((Table::Expiry, expiry_key(*deadline, id))),
            Self::Checksums { revision, .. } => {
                Some((Table::Payloads, Bytes::copy_from_slice(revision.as_bytes())))
            }
            Self::Floor => Some((Table::Meta, floor_key(id))),
            Self::GiveUp(Lost::Payload) => match seen.row().map(|row| &row.body) {
                Some(Body::Separate(operation)) => Some((
                    Table::Payloads,
                    Bytes::copy_from_slice(operation.as_bytes()),
                )),
                Some(Body::Embedded(_) | Body::Tombstone(_)) | None => None,
            },
            Self::Excise | Self::GiveUp(Lost::Blob(_)) => None,
        }
    }

    /// Decides against the newest state; none if the damage is not confirmed.
    pub fn decide(&self, id: &ObjectId, sight: &Sight, now: Timestamp) -> Option<Mending> {
        match self {
            Self::Expiry { deadline } => expiry(id, *deadline, sight),
            Self::Checksums { revision, blocks } => checksums(*revision, blocks, sight),
            Self::Floor => floor(id, sight, now),
            Self::Excise => (sight.seen == Seen::BrokenRow).then(|| excise(id, now)),
            Self::GiveUp(lost) => {
                let row = sight.seen.row().filter(|row| lost.is_lost(row, sight))?;
                Some(give_up(id, row, now))
            }
        }
    }
}

impl Seen {
    fn row(&self) -> Option<&Row> {
        match self {
            Self::Whole(standing) => standing.row(),
            Self::BrokenRow | Self::BrokenFloor => None,
        }
    }
}

impl Lost {
    fn is_lost(self, row: &Row, sight: &Sight) -> bool {
        match (self, &row.body) {
            (Self::Blob(revision), _) => row.names(revision),
            (Self::Payload, Body::Embedded(payload)) => !is_as_written(row, payload),
            // Of a write that is not durable yet the payload is not there yet.
            (Self::Payload, Body::Separate(_)) if sight.is_pending => false,
            (Self::Payload, Body::Separate(_)) => match &sight.entry {
                SeenEntry::Absent | SeenEntry::Broken => true,
                SeenEntry::Whole(payload) => !is_as_written(row, payload),
            },
            (Self::Payload, Body::Tombstone(_)) => false,
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

fn expiry(id: &ObjectId, deadline: Timestamp, sight: &Sight) -> Option<Mending> {
    if sight.is_pending || sight.seen == Seen::BrokenRow {
        return None;
    }
    let mut batch = Batch::new();
    let is_due = sight
        .seen
        .row()
        .is_some_and(|row| row.metadata.expires_at == Some(deadline));
    match &sight.entry {
        SeenEntry::Whole(value) if is_due && check_expiry_value(value).is_ok() => return None,
        SeenEntry::Absent if !is_due => return None,
        SeenEntry::Whole(_) | SeenEntry::Broken | SeenEntry::Absent if is_due => {
            batch.put(Table::Expiry, expiry_key(deadline, id), expiry_value());
        }
        SeenEntry::Whole(_) | SeenEntry::Broken | SeenEntry::Absent => {
            batch.remove(Table::Expiry, expiry_key(deadline, id));
        }
    }
    Some(Mending { batch, next: None })
}

fn checksums(revision: RevisionId, blocks: &BlockChecksums, sight: &Sight) -> Option<Mending> {
    let row = sight.seen.row()?;
    // Those of a put or rename that is not durable yet may not be there yet.
    if sight.is_pending || !row.names(revision) || hold_checksums(&sight.entry, blocks) {
        return None;
    }
    let mut batch = Batch::new();
    batch.put(
        Table::Payloads,
        revision.as_bytes().to_vec(),
        blocks.encode(),
    );
    Some(Mending { batch, next: None })
}

/// Returns whether the block checksums are there: of as many blocks as these.
pub(super) fn hold_checksums(entry: &SeenEntry<Bytes>, blocks: &BlockChecksums) -> bool {
    match entry {
        SeenEntry::Whole(value) => {
            BlockChecksums::decode(value).is_ok_and(|found| found.0.len() == blocks.0.len())
        }
        SeenEntry::Absent | SeenEntry::Broken => false,
    }
}

fn floor(id: &ObjectId, sight: &Sight, now: Timestamp) -> Option<Mending> {
    if sight.is_pending {
        return None;
    }
    let mut batch = Batch::new();
    match (&sight.seen, &sight.entry) {
        (Seen::Whole(Standing::Present(_)), SeenEntry::Whole(_) | SeenEntry::Broken) => {
            batch.remove(Table::Meta, floor_key(id));
            Some(Mending { batch, next: None })
        }
        (Seen::BrokenFloor, _) => {
            let floor = unreached(now);
            batch.put(Table::Meta, floor_key(id), write_floor(floor));
            Some(Mending {
                batch,
                next: Some(Standing::Absent(floor)),
            })
        }
        (Seen::Whole(_) | Seen::BrokenRow, _) => None,
    }
}

/// Removes a row that can't be read, and its object with it.
pub fn excise(id: &ObjectId, now: Timestamp) -> Mending {
    let (mut batch, floor) = (Batch::new(), unreached(now));
    batch.remove(Table::Rows, id.encoded().clone());
    batch.put(Table::Meta, floor_key(id), write_floor(floor));
    Mending {
        batch,
        next: Some(Standing::Absent(floor)),
    }
}

/// As a delete.
fn give_up(id: &ObjectId, row: &Row, now: Timestamp) -> Mending {
    let (before, after) = (
        Standing::Present(Box::new(row.clone())),
        Standing::Absent(row.version),
    );
    let transition = [Transition {
        id,
        before: &before,
        after: &after,
    }];
    let mut batch = Batch::new();
    transition::put_rows(&mut batch, &transition);
    transition::put_orphans(
        &mut batch,
        &transition::orphans(&transition),
        now,
        Landing::Landed,
    );
    Mending {
        batch,
        next: Some(after),
    }
}

/// A version that an object whose last version is lost has not reached, so that none is ever
/// reused: 1024 for each millisecond since 1970. That takes a million writes a second to this one
/// object, ever since; and should it be lost a second time, a million a second since the first.
pub fn unreached(now: Timestamp) -> Version {
    Version::new(now.as_millis().saturating_mul(1024).clamp(1 << 32, 1 << 62))
}

#[cfg(test)]
#[path = "mend_tests.rs"]
mod tests;
