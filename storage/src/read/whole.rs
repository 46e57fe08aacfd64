//! What a scrub needs of the read side: its tiers, its pins, and whole extents through the one
//! fetcher, so that a scrub and all other reads share one budget of memory. Deliberately not here:
//! what to make of it (`scrub`).

use std::sync::Arc;

use super::Reads;
use super::fetch::{Source, Units};
use super::plan::Piece;
use crate::blobs::BlobTier;
use crate::checksum::Checksum;
use crate::env::Env;
use crate::id::ObjectId;
use crate::pins::Pin;
use crate::rows::Extent;
use crate::word::{RevisionId, RevisionKey};

impl Reads {
    pub(crate) fn blobs(&self) -> &BlobTier {
        &self.0.blobs
    }

    pub(crate) fn env(&self) -> &Env {
        &self.0.env
    }

    /// Keeps a revision from being swept; whoever asks looks at the row again afterwards (I8).
    pub(crate) fn pin(&self, revision: RevisionId) -> Pin {
        self.0.pins.pin(revision)
    }

    /// All of an extent, in units of verified blocks; or, for a unit, the revision if its blob is
    /// gone. There must be a checksum for each block.
    pub(crate) fn extent(
        &self,
        id: &ObjectId,
        extent: &Extent,
        key: &RevisionKey,
        checksums: Arc<[Checksum]>,
    ) -> Units {
        let piece = Piece {
            extent: *extent,
            bytes: 0..extent.bytes,
        };
        let source = Source {
            id: id.clone(),
            piece,
            reader: self.0.blobs.reader(key),
            checksums,
        };
        self.0.fetcher.units(vec![source])
    }
}
