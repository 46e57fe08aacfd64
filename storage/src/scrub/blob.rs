//! Verifies that a blob exists and is intact.
//!
//! Bytes are read through the shared fetcher, within its budget. Lost block checksums are computed
//! again from a blob that matches its checksum. A damaged trailer does not affect the object, and
//! is a finding of its own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::ScrubDepth;
use super::report::ScrubTally;
use crate::blobs::path::is_long;
use crate::read::Reads;
use crate::records::{BlockChecksums, Extent};
use crate::types::{BlockHasher, Checksum, Error, ErrorKind, ObjectId, Result, RevisionKey};

/// Access of a scrub to the blob tier.
#[derive(Clone, Copy)]
pub(super) struct ScrubbedTier<'a> {
    pub(super) reads: &'a Reads,
    pub(super) tally: &'a ScrubTally,
    pub(super) depth: ScrubDepth,
}

/// Pause before a scrub retries a read that exceeded the byte budget.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Outcome of the verification of a blob.
pub(super) enum Blob {
    /// The blob is intact.
    Whole,
    /// The bytes are intact, but their block checksums are lost. Contains the computed block
    /// checksums.
    WithoutChecksums(BlockChecksums),
    /// The bytes are intact, but the trailer that names the object is damaged.
    Nameless,
    /// The blob does not exist.
    Missing,
}

impl ScrubbedTier<'_> {
    /// Verifies the blob of an extent. `checksums` is the stored entry of its block checksums.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if the blob differs from the bytes written. After any other error its
    /// state is unknown.
    pub(super) async fn verify(
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
                None => self.compute_checksums(extent, key).await,
                Some(blocks) => self.compare(object, extent, key, blocks).await,
            };
            match looked {
                // Readers use the whole byte budget. This is not damage, and a scrub is not urgent:
                // retry.
                Err(error) if error.kind() == ErrorKind::Overloaded => {
                    self.reads.env().sleep(RETRY_PAUSE).await;
                }
                looked => break looked,
            }
        };
        // A corrupt blob exists, too. `named_blobs` decides whether the blob tier belongs to this
        // index.
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

    /// Verifies a blob with known block checksums, to the depth of the scrub.
    async fn compare(
        &self,
        object: &ObjectId,
        extent: &Extent,
        key: &RevisionKey,
        checksums: Arc<[Checksum]>,
    ) -> Result<Blob> {
        if self.depth == ScrubDepth::Presence || extent.bytes == 0 {
            match self.stat(extent, key).await {
                // By the length alone, missing bytes of the object cannot be distinguished from a
                // missing trailer. Read the bytes.
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
            // Checked last: damaged bytes are the more serious finding.
            Blob::Whole if !self.reads.blobs().tells_name(key).await? => Ok(Blob::Nameless),
            looked => Ok(looked),
        }
    }

    /// Reads all blocks, and compares each block and the whole blob with their checksums.
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
                "the blocks match their checksums, but the blob does not match its checksum",
            ));
        }
        Ok(Blob::Whole)
    }

    /// Compares only the length of a blob.
    async fn stat(&self, extent: &Extent, key: &RevisionKey) -> Result<Blob> {
        match self.reads.blobs().stat(key).await? {
            None => Ok(Blob::Missing),
            Some(bytes) if bytes != extent.bytes => Err(corrupt(&format!(
                "the blob has the wrong length: bytes={bytes} expected={}",
                extent.bytes
            ))),
            Some(_) => Ok(Blob::Whole),
        }
    }

    /// Computes the lost block checksums, if the blob matches its checksum.
    async fn compute_checksums(&self, extent: &Extent, key: &RevisionKey) -> Result<Blob> {
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
                "the block checksums are lost, and the blob does not match its checksum",
            )),
        }
    }
}

fn corrupt(why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "scrub", why)
}
