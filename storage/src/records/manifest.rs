//! The manifest of a tombstone: the ordered revisions that hold the payload. It is stored as a part
//! of the row (`row.rs`).
//!
//! ```text
//! postcard: extents (revision, bytes, checksum each; about 32 bytes), written_as
//! ```
//!
//! The revisions of a payload change when it is relocated to another blob tier (docs/adr/0030). Its
//! [`PayloadId`] stays: the first revision that ever held it. Rows of relocated payloads store it.
//!
//! Guards I2 by its type: an [`Extent`] is only made from the length and checksum of a finished
//! blob.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::types::{BLOCK_BYTES, Checksum, ObjectId, RevisionId, RevisionKey};

/// Section of a payload that a whole revision holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// The revision.
    pub revision: RevisionId,
    /// Length of the revision in bytes.
    pub bytes: u64,
    /// xxh3 over the whole revision. The block checksums are in the payload table, under the id of
    /// the revision.
    pub checksum: Checksum,
}

impl Extent {
    /// Returns the number of blocks, which is also the number of block checksums.
    pub fn block_count(&self) -> u64 {
        self.bytes.div_ceil(BLOCK_BYTES as u64)
    }
}

/// Ordered revisions that make up a payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct Manifest {
    extents: Vec<Extent>,
    /// End of each extent in the payload, for binary search. Kept in memory only.
    ends: Vec<u64>,
    written_as: Option<ObjectId>,
    /// Identity of a relocated payload; `None` if its revisions are those of its write.
    relocated: Option<PayloadId>,
}

/// Identity of a payload in the blob tier: the first revision of its write. It stays when the
/// payload is relocated to other revisions.
pub type PayloadId = RevisionId;

/// Stored form of a manifest.
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
            relocated: _,
        }: Manifest,
    ) -> Self {
        Self {
            extents,
            written_as,
        }
    }
}

impl Manifest {
    /// Creates the manifest of a payload that a single revision holds.
    pub fn of(extent: Extent) -> Self {
        Self::of_parts(vec![extent])
    }

    /// Creates the manifest of a payload that these revisions hold, in this order.
    pub fn of_parts(extents: Vec<Extent>) -> Self {
        // A saturated sum is never used: `Row::decode` refuses a row whose extents do not add up to
        // its size.
        let add = |end: &mut u64, extent: &Extent| {
            *end = end.saturating_add(extent.bytes);
            Some(*end)
        };
        let ends = extents.iter().scan(0, add).collect();
        Self {
            extents,
            ends,
            written_as: None,
            relocated: None,
        }
    }

    /// Returns the extents in the order of the payload.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// Returns the object whose id is in the paths of the blobs, or `None` if it is the object of
    /// the row. They differ after a rename (docs/adr/0008).
    pub fn written_as(&self) -> Option<&ObjectId> {
        self.written_as.as_ref()
    }

    /// Returns the identity of the payload, or `None` if the manifest names no revision.
    pub fn payload_id(&self) -> Option<PayloadId> {
        self.relocated.or_else(|| self.revisions().next())
    }

    /// Returns the identity of a relocated payload.
    pub(super) fn relocated(&self) -> Option<PayloadId> {
        self.relocated
    }

    /// Returns this manifest, as that of the payload with this identity.
    #[must_use]
    pub fn holding(self, payload: Option<PayloadId>) -> Self {
        Self {
            relocated: payload.filter(|_| payload != self.revisions().next()),
            ..self
        }
    }

    /// Returns the size of the payload in bytes, or `None` if the sum overflows.
    pub fn bytes(&self) -> Option<u64> {
        self.extents
            .iter()
            .try_fold(0u64, |sum, extent| sum.checked_add(extent.bytes))
    }

    /// Returns the extents that hold bytes of `range`, each with its offset in the payload. The
    /// first extent is found by binary search.
    pub fn within(&self, range: &Range<u64>) -> impl Iterator<Item = (u64, Extent)> + '_ {
        let end = range.end;
        // The first extent that ends after the start of the range.
        let first = self.ends.partition_point(|&end| end <= range.start);
        let begins = |at: usize| at.checked_sub(1).map_or(0, |before| self.ends[before]);
        (first..self.extents.len())
            .map(move |at| (begins(at), self.extents[at]))
            .take_while(move |&(begins, _)| begins < end)
    }

    /// Returns `true` if the manifest names this revision.
    pub fn names(&self, revision: RevisionId) -> bool {
        self.extents
            .iter()
            .any(|extent| extent.revision == revision)
    }

    /// Returns the blob keys of the revisions, in order. `row` is the object whose row holds this
    /// manifest.
    pub fn keys(&self, row: &ObjectId) -> impl Iterator<Item = RevisionKey> + '_ {
        let object = self.written_as.as_ref().unwrap_or(row).clone();
        self.revisions().map(move |revision| RevisionKey {
            object: object.clone(),
            revision,
        })
    }

    /// Returns the manifest for the row of `to` when the object `from` is renamed to `to`. The
    /// blobs keep their paths.
    #[must_use]
    pub fn renamed(&self, from: &ObjectId, to: &ObjectId) -> Self {
        let written_as = self.written_as.as_ref().unwrap_or(from);
        // A rename back to the original name needs no `written_as`.
        Self {
            written_as: (written_as != to).then(|| written_as.clone()),
            ..self.clone()
        }
    }

    /// Returns the revisions that the manifest names, in order.
    pub fn revisions(&self) -> impl Iterator<Item = RevisionId> + '_ {
        self.extents.iter().map(|extent| extent.revision)
    }
}
