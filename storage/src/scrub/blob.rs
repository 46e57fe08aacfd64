//! How a scrub looks at one blob: whether it is there, and is what was written.
//!
//! Bytes come through the fetcher of all reads, within their budget. Lost block checksums are
//! learnt anew from a blob that matches the checksum of the whole. A damaged trailer costs its
//! object nothing, and is reported by itself. Deliberately not here: whose blob it is, and what is
//! done about it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::ScrubDepth;
use super::report::Tally;
use crate::blobs::path::is_long;
use crate::checksum::{BlockHasher, Checksum};
use crate::error::{Error, ErrorKind, Result};
use crate::id::ObjectId;
use crate::read::Reads;
use crate::rows::{BlockChecksums, Extent};
use crate::word::RevisionKey;

/// The blob tier, as a scrub looks at it.
#[derive(Clone, Copy)]
pub(super) struct Blobs<'a> {
    pub(super) reads: &'a Reads,
    pub(super) tally: &'a Tally,
    pub(super) depth: ScrubDepth,
}

/// The pause before a scrub asks again where there is no room.
const BREATH: Duration = Duration::from_millis(50);

/// What became of one blob.
pub(super) enum Blob {
    Whole,
    /// The bytes are what was written; their block checksums are not there, and should be these.
    WithoutChecksums(BlockChecksums),
    /// The bytes are what was written; the trailer that names the object is damaged.
    Nameless,
    Missing,
}

impl Blobs<'_> {
    /// Looks at the blob of an extent, which has these block checksums in the index.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if it is not what was written; otherwise nothing is known about it.
    pub(super) async fn look(
        &self,
        object: &ObjectId,
        extent: &Extent,
        key: &RevisionKey,
        checksums: Option<&Bytes>,
    ) -> Result<Blob> {
        let blocks = checksums.and_then(|value| BlockChecksums::decode(value).ok());
        let blocks = blocks.filter(|blocks| blocks.0.len() as u64 == extent.block_count());
        let blocks: Option<Arc<[Checksum]>> = blocks.map(|blocks| blocks.0.into());
        let looked = loop {
            let looked = match blocks.clone() {
                None => self.learn(extent, key).await,
                Some(blocks) => self.compare(object, extent, key, blocks).await,
            };
            match looked {
                // Readers have all the room there is. That is no damage, and a scrub has time.
                Err(error) if error.kind() == ErrorKind::Overloaded => {
                    self.reads.env().sleep(BREATH).await;
                }
                looked => break looked,
            }
        };
        let is_there = match &looked {
            Ok(Blob::Whole | Blob::WithoutChecksums(_) | Blob::Nameless) => true,
            Ok(Blob::Missing) => false,
            Err(error) => error.kind() == ErrorKind::Corrupt,
        };
        if is_there {
            self.tally.named_blob();
        }
        looked
    }

    async fn compare(
        &self,
        object: &ObjectId,
        extent: &Extent,
        key: &RevisionKey,
        checksums: Arc<[Checksum]>,
    ) -> Result<Blob> {
        if self.depth == ScrubDepth::Presence || extent.bytes == 0 {
            match self.stat(extent, key).await {
                // The length alone does not tell whether bytes of the object are missing, or some
                // of the trailer.
                Err(error)
                    if error.kind() == ErrorKind::Corrupt
                        && is_long(&key.object)
                        && extent.bytes > 0 => {}
                looked if self.depth == ScrubDepth::Presence => return looked,
                Ok(Blob::Whole) => {}
                looked => return looked,
            }
        }
        match self.read(object, extent, key, checksums).await? {
            Blob::Whole if !self.reads.blobs().tells_name(key).await? => Ok(Blob::Nameless),
            looked => Ok(looked),
        }
    }

    /// All blocks, each compared with its checksum, and the whole with its own.
    async fn read(
        &self,
        object: &ObjectId,
        extent: &Extent,
        key: &RevisionKey,
        checksums: Arc<[Checksum]>,
    ) -> Result<Blob> {
        let mut units = self.reads.extent(object, extent, key, checksums);
        let mut hasher = BlockHasher::default();
        while let Some(unit) = units.next().await {
            let Ok(blocks) = unit? else {
                return Ok(Blob::Missing);
            };
            for block in blocks {
                hasher.block(&block);
                self.tally.bytes(block.len() as u64);
            }
        }
        if hasher.finish().0 != extent.checksum {
            return Err(corrupt(
                "its blocks match their checksums, but all of it does not match the checksum of the whole",
            ));
        }
        Ok(Blob::Whole)
    }

    async fn stat(&self, extent: &Extent, key: &RevisionKey) -> Result<Blob> {
        match self.reads.blobs().stat(key).await? {
            None => Ok(Blob::Missing),
            Some(bytes) if bytes != extent.bytes => Err(corrupt(&format!(
                "it has {bytes} bytes where {} should be",
                extent.bytes
            ))),
            Some(_) => Ok(Blob::Whole),
        }
    }

    /// The block checksums that are lost, if the blob is the one that was written.
    async fn learn(&self, extent: &Extent, key: &RevisionKey) -> Result<Blob> {
        if extent.bytes == 0 && self.reads.blobs().stat(key).await?.is_none() {
            return Ok(Blob::Missing);
        }
        let Some(hasher) = self.reads.blobs().reader(key).hash(extent.bytes).await? else {
            return Ok(Blob::Missing);
        };
        self.tally.bytes(hasher.bytes());
        match hasher.finish() {
            (whole, blocks) if whole == extent.checksum => {
                Ok(Blob::WithoutChecksums(BlockChecksums(blocks)))
            }
            (_, _) => Err(corrupt(
                "its block checksums are lost, and it does not match the checksum of the whole",
            )),
        }
    }
}

fn corrupt(why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "scrub", why)
}
