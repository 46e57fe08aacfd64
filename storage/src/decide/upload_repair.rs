//! The decision of a repair to an upload: the reaction of a shard to damage of an upload record or
//! its parts.
//!
//! ```text
//! repair       the shard reads                                   plan
//! ------------ ------------------------------------------------- -----------------------------------------------------
//! Expiry       a record with exactly this deadline, no entry     the expiry entry is put
//!              a record with another one, or none, and an entry  the expiry entry is removed
//! RemoveRecord       a record that can't be read                       the record and its parts are removed: orphans
//! GiveUp       an open upload, and under the number the part of  the number is marked as lost; the revision: orphan
//!              the finding: with this revision, or unreadable
//! Checksums    an open upload, and a part of this revision       its block checksums are put
//!              without block checksums
//! any          anything else                                     none: not confirmed
//! ```
//!
//! Guards I3 for repairs, as `repair.rs` does for rows. The revision of a part that can't be read is
//! found by later steps of the scrub, as block checksums and a blob that no entry names.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::fence::revision_key;
use super::repair::hold_checksums;
use super::transition::give_up;
use super::{Effect, Plan};
use crate::index::{Batch, Table};
use crate::records::{
    BlockChecksums, Filed, Part, UploadPhase, UploadRecord, check_expiry_value, expiry_value,
    part_key, upload_expiry_key, upload_record_key,
};
use crate::types::{ObjectId, PartNumber, RevisionId, Timestamp, UploadId};

/// A repair of the entries of one upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UploadRepair {
    /// Puts or removes the expiry entry of this deadline, so that it exists exactly if the record
    /// has this deadline.
    Expiry {
        /// Deadline.
        deadline: Timestamp,
    },
    /// Removes a record that can't be read, and gives its parts up.
    RemoveRecord,
    /// Gives a part up. Its number is marked as lost, so that no completion omits the part before it
    /// is uploaded again.
    GiveUp {
        /// Number of the part.
        number: PartNumber,
        /// Revision of the part; `None` if the part can't be read.
        named: Option<RevisionId>,
    },
    /// Puts the block checksums of a part, computed from bytes that match the checksum of the whole.
    Checksums {
        /// Number of the part.
        number: PartNumber,
        /// Revision of the part.
        revision: RevisionId,
        /// Block checksums of the revision.
        blocks: BlockChecksums,
    },
}

/// Content of an entry, as far as it can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeenEntry<T> {
    /// No entry.
    Absent,
    /// An entry that can't be read.
    Broken,
    /// A readable entry.
    Whole(T),
}

/// State of an upload that may be damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenUpload {
    /// Upload record.
    pub session: SeenEntry<UploadRecord>,
    /// Parts, as far as the repair needs them.
    pub parts: BTreeMap<PartNumber, SeenEntry<Filed>>,
    /// Durable value of the key that [`UploadRepair::reads`] returns.
    pub entry: SeenEntry<Bytes>,
    /// True if a batch about the record or the part is on its way to the disk. `entry` may then be
    /// older than the rest.
    pub is_pending: bool,
}

impl UploadRepair {
    /// Returns the key whose value the decision needs beside record and parts; `None` if these
    /// suffice.
    pub fn reads(&self, id: &ObjectId, upload: &UploadId) -> Option<(Table, Bytes)> {
        match self {
            Self::Expiry { deadline } => {
                Some((Table::Expiry, upload_expiry_key(*deadline, id, upload)))
            }
            Self::Checksums { revision, .. } => {
                Some((Table::Payloads, Bytes::copy_from_slice(revision.as_bytes())))
            }
            Self::RemoveRecord | Self::GiveUp { .. } => None,
        }
    }

    /// Decides on the newest state. Returns `None` if the damage is not confirmed. The plan replies
    /// true.
    pub fn decide(
        &self,
        id: &ObjectId,
        upload: &UploadId,
        seen: &SeenUpload,
        now: Timestamp,
    ) -> Option<Plan<bool>> {
        let batch = match self {
            Self::Expiry { deadline } => {
                expiry(upload_expiry_key(*deadline, id, upload), *deadline, seen)
            }
            Self::RemoveRecord => (seen.session == SeenEntry::Broken)
                .then(|| remove_record(id, upload, &seen.parts, now)),
            Self::GiveUp { number, named } => {
                is_open(seen).then_some(())?;
                let entry = seen.parts.get(number)?;
                give_up_part((id, upload), (*number, entry), *named, now)
            }
            Self::Checksums {
                number,
                revision,
                blocks,
            } => {
                let part = seen.parts.get(number).and_then(whole_part)?;
                let lacks = !seen.is_pending
                    && is_open(seen)
                    && !hold_checksums(&seen.entry, blocks)
                    && part.extent.revision == *revision;
                lacks.then(|| {
                    let mut batch = Batch::new();
                    let key = revision.as_bytes().to_vec();
                    batch.put(Table::Payloads, key, blocks.encode());
                    batch
                })
            }
        };
        Some(Plan::new(batch?, Ok(true), Effect::Commits))
    }
}

fn is_open(seen: &SeenUpload) -> bool {
    matches!(&seen.session, SeenEntry::Whole(session) if session.phase == UploadPhase::Open)
}

fn expiry(key: Bytes, deadline: Timestamp, seen: &SeenUpload) -> Option<Batch> {
    let is_due = match &seen.session {
        _ if seen.is_pending => return None,
        SeenEntry::Whole(session) => session.expires_at == deadline,
        SeenEntry::Absent => false,
        SeenEntry::Broken => return None,
    };
    let mut batch = Batch::new();
    match &seen.entry {
        SeenEntry::Whole(value) if is_due && check_expiry_value(value).is_ok() => return None,
        SeenEntry::Absent if !is_due => return None,
        SeenEntry::Whole(_) | SeenEntry::Broken | SeenEntry::Absent if is_due => {
            batch.put(Table::Expiry, key, expiry_value());
        }
        SeenEntry::Whole(_) | SeenEntry::Broken | SeenEntry::Absent => {
            batch.remove(Table::Expiry, key);
        }
    }
    Some(batch)
}

fn remove_record(
    id: &ObjectId,
    upload: &UploadId,
    parts: &BTreeMap<PartNumber, SeenEntry<Filed>>,
    now: Timestamp,
) -> Batch {
    let mut batch = Batch::new();
    batch.remove(Table::Uploads, upload_record_key(id, upload));
    for &number in parts.keys() {
        batch.remove(Table::Uploads, part_key(upload, number));
    }
    for part in parts.values().filter_map(whole_part) {
        give_up(&mut batch, &[revision_key(id, part.extent.revision)], now);
    }
    batch
}

fn give_up_part(
    (id, upload): (&ObjectId, &UploadId),
    (number, entry): (PartNumber, &SeenEntry<Filed>),
    named: Option<RevisionId>,
    now: Timestamp,
) -> Option<Batch> {
    let mut batch = Batch::new();
    match (named, whole_part(entry)) {
        (None, _) if *entry == SeenEntry::Broken => {}
        (Some(named), Some(part)) if part.extent.revision == named => {
            give_up(&mut batch, &[revision_key(id, named)], now);
        }
        (None | Some(_), _) => return None,
    }
    batch.put(
        Table::Uploads,
        part_key(upload, number),
        Filed::Lost.encode(),
    );
    Some(batch)
}

fn whole_part(entry: &SeenEntry<Filed>) -> Option<Part> {
    match entry {
        SeenEntry::Whole(filed) => filed.part(),
        SeenEntry::Absent | SeenEntry::Broken => None,
    }
}

#[cfg(test)]
mod tests;
