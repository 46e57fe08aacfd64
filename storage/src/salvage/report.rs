//! The report of a salvage: [`SalvageReport`].

use serde::Serialize;

use crate::index::UnreadableRange;
use crate::scrub::RawKey;
use crate::types::ObjectId;
use crate::types::RevisionId;

/// Maximum number of names and of ranges that a report lists. All of them are counted.
pub(super) const NAMED_MAX: usize = 10_000;

/// Counts of copied entries, and losses of a salvage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SalvageReport {
    /// Rows copied, one per object.
    pub rows: u64,
    /// Payloads and block checksums copied.
    pub payloads: u64,
    /// Upload records and parts of multipart uploads copied.
    pub sessions: u64,
    /// Changes copied: writes in progress.
    pub changes: u64,
    /// Orphans copied: blobs queued for deletion.
    pub orphans: u64,
    /// Orphans left out, because a copied entry names their blobs.
    pub orphans_kept: u64,
    /// Other entries copied, most of them last versions of deleted objects.
    pub meta: u64,
    /// Expiry entries built again.
    pub expiry: u64,
    /// Changes and orphans left out, because batches of the journal or a table file are lost, and
    /// their blobs may be needed.
    pub held_back: u64,
    /// True if acknowledged batches of the journal are lost: an unknown set of objects may be
    /// missing or older than before.
    pub journal_damaged: bool,
    /// Table files that are lost in part or in full, with unknown keys: entries of these tables may
    /// be missing or older than before.
    pub lost_tables: Vec<LostTable>,
    /// Number of unreadable ranges of keys.
    pub unreadable: u64,
    /// The first 10,000 of these ranges.
    pub unreadable_ranges: Vec<Unread>,
    /// Number of objects whose inline bytes could not be read. Their rows were copied.
    pub without_payload: u64,
    /// The first 10,000 of these objects.
    pub objects_without_payload: Vec<LostName>,
    /// Number of blobs of objects whose rows could not be read, or may be in lost batches. Lost
    /// objects without a blob are unknown.
    pub lost_blobs: u64,
    /// The first 10,000 of these blobs.
    pub lost_objects: Vec<LostBlob>,
}

/// A lost table file with unknown keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LostTable {
    /// Name of the table.
    pub table: &'static str,
    /// Path of the file, relative to the directory of the database.
    pub file: String,
    /// Description of the damage.
    pub why: String,
}

/// A range of keys that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unread {
    /// Name of the table.
    pub table: &'static str,
    /// First key of the range. Empty for the start of the table.
    pub from: RawKey,
    /// First key behind the range, or `None` for the end of the table.
    pub to: Option<RawKey>,
    /// Error of the index.
    pub why: String,
}

/// Name of an object that lost data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LostName {
    /// Namespace of the object.
    pub namespace: String,
    /// Key of the object.
    pub key: String,
}

/// A blob of an object whose row could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LostBlob {
    /// Object that the blob was written for. The object may have been renamed since. `None` if the
    /// name is long and the trailer of the blob cannot be read: the path then contains the start of
    /// the name.
    #[serde(flatten)]
    pub object: Option<LostName>,
    /// Revision of the blob.
    pub revision: RevisionId,
    /// Path of the blob in the blob tier.
    pub path: String,
    /// Length of the blob in bytes, if the blob tier reports it.
    pub bytes: Option<u64>,
}

impl SalvageReport {
    /// Returns whether all entries could be read.
    pub fn is_complete(&self) -> bool {
        let is_all_read =
            self.unreadable == 0 && self.lost_tables.is_empty() && !self.journal_damaged;
        is_all_read && self.without_payload == 0 && self.lost_blobs == 0
    }

    /// Adds an unreadable range.
    pub(super) fn unread(&mut self, range: Option<UnreadableRange>) {
        let Some(UnreadableRange {
            table,
            from,
            to,
            why,
        }) = range
        else {
            return;
        };
        self.unreadable += 1;
        if self.unreadable_ranges.len() < NAMED_MAX {
            self.unreadable_ranges.push(Unread {
                table: table.name(),
                from: RawKey(from),
                to: to.map(RawKey),
                why,
            });
        }
    }
}

impl LostName {
    /// Returns the name of an object.
    pub(super) fn of(object: &ObjectId) -> Self {
        Self {
            namespace: object.namespace_str().to_owned(),
            key: object.key().to_owned(),
        }
    }
}
