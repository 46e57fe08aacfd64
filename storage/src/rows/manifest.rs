//! The manifest of a tombstone: which revisions hold the bytes, in order. Its bytes are part of the
//! row's (`row.rs`).
//!
//! ```text
//! postcard: extents (revision, bytes, checksum each; about 32 bytes), written_as
//! ```
//!
//! Guards I2 by its type: an [`Extent`] is only made of a finished blob's length and checksum.
//! Beside each extent it knows in memory where that ends, so that a range is found without walking
//! over the others.

use std::ops::Range;

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
#[serde(from = "Stored", into = "Stored")]
pub struct Manifest {
    extents: Vec<Extent>,
    /// Where each extent ends in the payload.
    ends: Vec<u64>,
    written_as: Option<ObjectId>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    extents: Vec<Extent>,
    written_as: Option<ObjectId>,
}

impl From<Stored> for Manifest {
    fn from(
        Stored {
            extents,
            written_as,
        }: Stored,
    ) -> Self {
        Self {
            written_as,
            ..Self::of_parts(extents)
        }
    }
}

impl From<Manifest> for Stored {
    fn from(
        Manifest {
            extents,
            ends: _,
            written_as,
        }: Manifest,
    ) -> Self {
        Self {
            extents,
            written_as,
        }
    }
}

impl Manifest {
    /// The manifest of a payload that one revision holds.
    pub fn of(extent: Extent) -> Self {
        Self::of_parts(vec![extent])
    }

    /// The manifest of a payload that these revisions hold, in this order.
    pub fn of_parts(extents: Vec<Extent>) -> Self {
        // A row whose extents do not add up to its size is refused when it is decoded, so that this
        // can't saturate unseen.
        let add = |end: &mut u64, extent: &Extent| {
            *end = end.saturating_add(extent.bytes);
            Some(*end)
        };
        let ends = extents.iter().scan(0, add).collect();
        Self {
            extents,
            ends,
            written_as: None,
        }
    }

    /// The shares of the payload, in the order of their bytes.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// The object under whose name the blobs lie, if it is not the row's own: the object was
    /// renamed since they were written (docs/adr/0008).
    pub fn written_as(&self) -> Option<&ObjectId> {
        self.written_as.as_ref()
    }

    /// Bytes of the payload; none if they are more than can be counted.
    pub fn bytes(&self) -> Option<u64> {
        self.extents
            .iter()
            .try_fold(0u64, |sum, extent| sum.checked_add(extent.bytes))
    }

    /// The extents that hold bytes of `range`, each with where it begins in the payload: found by
    /// binary search.
    pub fn within(&self, range: &Range<u64>) -> impl Iterator<Item = (u64, Extent)> + '_ {
        let end = range.end;
        let first = self.ends.partition_point(|&end| end <= range.start);
        let begins = |at: usize| at.checked_sub(1).map_or(0, |before| self.ends[before]);
        (first..self.extents.len())
            .map(move |at| (begins(at), self.extents[at]))
            .take_while(move |&(begins, _)| begins < end)
    }

    /// Whether it names this revision.
    pub fn names(&self, revision: RevisionId) -> bool {
        self.extents
            .iter()
            .any(|extent| extent.revision == revision)
    }

    /// The keys under which the blob tier knows the revisions, in order, if `row` is the object
    /// whose row this is in.
    pub fn keys(&self, row: &ObjectId) -> impl Iterator<Item = RevisionKey> + '_ {
        let object = self.written_as.as_ref().unwrap_or(row).clone();
        self.revisions().map(move |revision| RevisionKey {
            object: object.clone(),
            revision,
        })
    }

    /// The same manifest in the row of `to`, once the object `from` is renamed so.
    #[must_use]
    pub fn renamed(&self, from: &ObjectId, to: &ObjectId) -> Self {
        let written_as = self.written_as.as_ref().unwrap_or(from);
        Self {
            written_as: (written_as != to).then(|| written_as.clone()),
            ..self.clone()
        }
    }

    /// The revisions it names, in order.
    pub fn revisions(&self) -> impl Iterator<Item = RevisionId> + '_ {
        self.extents.iter().map(|extent| extent.revision)
    }
}
