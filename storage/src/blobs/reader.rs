//! One blob being read: [`BlobReader`].
//!
//! Guards "never wrong bytes" (DESIGN §6): no block leaves here that does not match its checksum.
//! Deliberately not here: the pin that keeps the blob from the sweeper (I8), cutting blocks to the
//! range a caller asked for, and reading ahead.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use opendal::Buffer;

use super::BlobTier;
use super::assembly::Assembly;
use super::failure::{self, Cause};
use super::path::path;
use crate::checksum::{BLOCK_BYTES, BlockHasher, Checksum};
use crate::error::{Error, Result};
use crate::word::RevisionKey;

/// Reads verified blocks of one blob. Cheap to clone; clones share what is open.
///
/// On fs the file stays open from the first read on, so that it can be read to the end even if it
/// is unlinked meanwhile.
#[derive(Clone)]
pub struct BlobReader {
    tier: BlobTier,
    key: RevisionKey,
    /// Where it was found, from the first read that found it on.
    found: Arc<OnceLock<opendal::Reader>>,
}

impl BlobReader {
    pub(super) fn new(tier: BlobTier, key: RevisionKey) -> Self {
        Self {
            tier,
            key,
            found: Arc::default(),
        }
    }

    /// `count` whole blocks from the `first_block` on, or as many of them as there are, in one
    /// ranged read, each verified; none if the blob is gone.
    ///
    /// `revision_bytes` and `checksums` are those of the whole revision, as its
    /// [`FinishedBlob`](super::FinishedBlob) had them.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) if the blob is too short, if a block does
    /// not match its checksum, or if there is not exactly one checksum per block.
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) if the blob tier fails.
    pub async fn blocks(
        &self,
        first_block: usize,
        count: usize,
        revision_bytes: u64,
        checksums: &[Checksum],
    ) -> Result<Option<Vec<Bytes>>> {
        if checksums.len() as u64 != revision_bytes.div_ceil(BLOCK_BYTES as u64) {
            return Err(self.corrupt(&format!(
                "{} checksums for {revision_bytes} bytes",
                checksums.len()
            )));
        }
        let byte_at = |block: usize| {
            (block as u64)
                .saturating_mul(BLOCK_BYTES as u64)
                .min(revision_bytes)
        };
        let (start, end) = (
            byte_at(first_block),
            byte_at(first_block.saturating_add(count)),
        );
        if start >= end {
            return Ok(Some(Vec::new()));
        }
        match self.read(start, end).await {
            Ok(buffer) => self
                .verified(buffer, end - start, first_block, checksums)
                .map(Some),
            Err(error) => self.explain(error, revision_bytes).await,
        }
    }

    /// Hashes the whole blob, a block at a time; none if it is gone. The one way to learn block
    /// checksums that are lost: whoever asks compares the checksum of the whole with the one that
    /// the row has. No byte is handed out.
    ///
    /// # Errors
    /// As [`blocks`](Self::blocks).
    pub(crate) async fn hash(&self, revision_bytes: u64) -> Result<Option<BlockHasher>> {
        let mut hasher = BlockHasher::default();
        while hasher.bytes() < revision_bytes {
            let start = hasher.bytes();
            let end = start.saturating_add(BLOCK_BYTES as u64).min(revision_bytes);
            let buffer = match self.read(start, end).await {
                Ok(buffer) => buffer,
                Err(error) => return self.explain(error, revision_bytes).await,
            };
            if buffer.len() as u64 != end - start {
                return Err(self.corrupt("it ends too early"));
            }
            into_blocks(buffer)
                .iter()
                .for_each(|block| hasher.block(block));
        }
        Ok(Some(hasher))
    }

    async fn read(&self, start: u64, end: u64) -> Result<Buffer, opendal::Error> {
        if let Some(reader) = self.found.get() {
            return reader.read(start..end).await;
        }
        let gone = match self.find(&path(&self.key), start, end).await {
            Err(error) if failure::cause(&error) == Cause::Gone => error,
            read => return read,
        };
        match self.tier.older_path(&self.key) {
            Some(older) => self.find(&older, start, end).await,
            None => Err(gone),
        }
    }

    async fn find(&self, path: &str, start: u64, end: u64) -> Result<Buffer, opendal::Error> {
        let reader = self.tier.operator().reader(path).await?;
        let buffer = reader.read(start..end).await?;
        // A clone may have been faster: its reader stays.
        let _ = self.found.set(reader);
        Ok(buffer)
    }

    fn verified(
        &self,
        buffer: Buffer,
        expected_bytes: u64,
        first_block: usize,
        checksums: &[Checksum],
    ) -> Result<Vec<Bytes>> {
        if buffer.len() as u64 != expected_bytes {
            return Err(self.corrupt(&format!(
                "{} bytes where {expected_bytes} should be",
                buffer.len()
            )));
        }
        let verified = (first_block..)
            .zip(into_blocks(buffer))
            .map(|(number, block)| {
                if checksums.get(number) == Some(&Checksum::of(&block)) {
                    Ok(block)
                } else {
                    Err(self.corrupt(&format!("block {number} does not match its checksum")))
                }
            });
        verified.collect()
    }

    /// What a failed read means. Services say it in different ways that a blob is too short, its
    /// length says it in one.
    async fn explain<T>(&self, error: opendal::Error, revision_bytes: u64) -> Result<Option<T>> {
        let too_short = match failure::cause(&error) {
            Cause::Gone => return Ok(None),
            Cause::TooShort => true,
            Cause::Other => match self.tier.stat(&self.key).await {
                Ok(Some(bytes)) => bytes < revision_bytes,
                Ok(None) => return Ok(None),
                Err(_) => false,
            },
        };
        if too_short {
            return Err(self.corrupt("it ends too early").with_source(error));
        }
        Err(failure::unavailable("read", &self.key.object, error))
    }

    fn corrupt(&self, what: &str) -> Error {
        failure::corrupt(&self.key, what)
    }
}

/// The blocks of a buffer. What lies in one piece is not copied: a copy of the whole would be held
/// beside it, and whoever bounds the memory of reads counts it once.
fn into_blocks(buffer: Buffer) -> Vec<Bytes> {
    let mut assembly = Assembly::default();
    let mut blocks = Vec::with_capacity(buffer.len().div_ceil(BLOCK_BYTES));
    for mut chunk in buffer {
        while let Some(block) = assembly.take(&mut chunk) {
            blocks.push(block);
        }
    }
    blocks.extend(assembly.rest());
    blocks
}
