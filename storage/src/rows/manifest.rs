//! The manifest of a tombstone: which revisions hold the bytes, in order. Its bytes are part of the row's (`row.rs`).
//!
//! Guards I2 by its type: an [`Extent`] is only made of a finished blob's length and checksum.

use serde::{Deserialize, Serialize};

use crate::checksum::{BLOCK_BYTES, Checksum};
use crate::id::ObjectId;
use crate::word::{RevisionId, RevisionKey};

/// One revision's share of a payload: all of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// The revision.
    pub revision: RevisionId,
    /// Its length in bytes.
    pub bytes: u64,
    /// xxh3 over all of it. Its block checksums lie in the payload table, under its id.
    pub checksum: Checksum,
}

impl Extent {
    /// How many blocks it has, and with them block checksums.
    pub fn block_count(&self) -> u64 {
        self.bytes.div_ceil(BLOCK_BYTES as u64)
    }
}

/// The ordered revisions that make up a payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// In the order of their bytes.
    pub extents: Vec<Extent>,
    /// The object under whose name the blobs lie, if it is not the row's own: the object was renamed since they were
    /// written (docs/adr/0008).
    pub written_as: Option<ObjectId>,
}

impl Manifest {
    /// The manifest of a payload that one revision holds.
    pub fn of(extent: Extent) -> Self {
        Self { extents: vec![extent], written_as: None }
    }

    /// Whether it names this revision.
    pub fn names(&self, revision: RevisionId) -> bool {
        self.extents.iter().any(|extent| extent.revision == revision)
    }

    /// The keys under which the blob tier knows the revisions, in order, if `row` is the object whose row this is in.
    pub fn keys(&self, row: &ObjectId) -> impl Iterator<Item = RevisionKey> + '_ {
        let object = self.written_as.as_ref().unwrap_or(row).clone();
        self.revisions().map(move |revision| RevisionKey { object: object.clone(), revision })
    }

    /// The same manifest in the row of `to`, once the object `from` is renamed so.
    #[must_use]
    pub fn renamed(&self, from: &ObjectId, to: &ObjectId) -> Self {
        let written_as = self.written_as.as_ref().unwrap_or(from);
        Self { extents: self.extents.clone(), written_as: (written_as != to).then(|| written_as.clone()) }
    }

    /// The revisions it names, in order.
    pub fn revisions(&self) -> impl Iterator<Item = RevisionId> + '_ {
        self.extents.iter().map(|extent| extent.revision)
    }
}
