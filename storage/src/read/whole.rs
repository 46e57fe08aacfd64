//! Access of a scrub to the tiers, the pins and whole extents.
//!
//! Extents are read by the fetcher of [`Reads`], so a scrub shares the memory budget of all other
//! reads.

use std::sync::Arc;

use super::Reads;
use super::fetch::{BlobSource, Units};
use super::plan::ExtentPiece;
use crate::blobs::BlobTiers;
use crate::env::Env;
use crate::read::pins::Pin;
use crate::records::Extent;
use crate::types::{Checksum, ObjectId, RevisionId, RevisionKey};

impl Reads {
    pub(crate) fn blobs(&self) -> &BlobTiers {
        &self.0.blobs
    }

    pub(crate) fn env(&self) -> &Env {
        &self.0.env
    }

    /// Pins a revision, so that the sweeper does not delete it. The caller must read the row again
    /// afterwards (I8).
    pub(crate) fn pin(&self, revision: RevisionId) -> Pin {
        self.0.pins.pin(revision)
    }

    /// Returns the units of a whole extent. A unit is its verified blocks, or the revision if its
    /// blob is missing. `checksums` must contain a checksum per block.
    pub(crate) fn extent(
        &self,
        id: &ObjectId,
        extent: &Extent,
        key: &RevisionKey,
        checksums: Arc<[Checksum]>,
    ) -> Units {
        let piece = ExtentPiece {
            extent: *extent,
            bytes: 0..extent.bytes,
        };
        let source = BlobSource {
            id: id.clone(),
            piece,
            reader: self.0.blobs.reader(key),
            checksums,
        };
        self.0.fetcher.units(vec![source])
    }
}
