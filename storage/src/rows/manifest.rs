//! The manifest of a tombstone: which revisions hold the bytes, in order. Its bytes are part of the row's (`row.rs`).
//!
//! Guards I2 by its type: an [`Extent`] is only made of a finished blob's length and checksum.

use serde::{Deserialize, Serialize};

use crate::checksum::Checksum;
use crate::word::RevisionId;

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

/// The ordered revisions that make up a payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// In the order of their bytes.
    pub extents: Vec<Extent>,
}

impl Manifest {
    /// The manifest of a payload that one revision holds.
    pub fn of(extent: Extent) -> Self {
        Self { extents: vec![extent] }
    }

    /// Whether it names this revision.
    pub fn names(&self, revision: RevisionId) -> bool {
        self.extents.iter().any(|extent| extent.revision == revision)
    }

    /// The revisions it names, in order.
    pub fn revisions(&self) -> impl Iterator<Item = RevisionId> + '_ {
        self.extents.iter().map(|extent| extent.revision)
    }
}
