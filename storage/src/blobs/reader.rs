//! Reads a blob in verified blocks: [`BlobReader`].
//!
//! Guards "never wrong bytes": a block is returned only if it matches its checksum. The caller
//! holds the pin that keeps the sweeper from deleting the blob (I8).

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use opendal::Buffer;

use super::BlobTier;
use super::assembly::Assembly;
use super::failure::{self, Cause};
use super::path::path;
use crate::types::RevisionKey;
use crate::types::{BLOCK_BYTES, BlockHasher, Checksum};
use crate::types::{Error, Result};

/// Reader of verified blocks of a blob. Cheap to clone; clones share the open file or connection.
///
/// On `fs` the file stays open from the first read on. It can be read to the end even if it is
/// unlinked meanwhile.
#[derive(Clone)]
pub struct BlobReader {
    tier: BlobTier,
    key: RevisionKey,
    /// Reader at the path of the blob; empty before the first successful read.
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

    /// Reads `count` blocks from `first_block` on, in a single ranged read, and verifies each of
    /// them. Returns fewer blocks if the revision has fewer, and `None` if the blob does not exist.
    ///
    /// `revision_bytes` and `checksums` are the length and the block checksums of the whole
    /// revision, as in its [`FinishedBlob`](super::FinishedBlob).
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) if the blob is too short, if a block does
    /// not match its checksum, or if the number of checksums is not the number of blocks.
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
                "wrong number of block checksums: checksums={} bytes={revision_bytes}",
                checksums.len()
            )));
        }
        let byte_at = |block: usize| {
            (block as u64)
                .saturating_mul(BLOCK_BYTES as u64)
                .min(revision_bytes)
        };
        let start = byte_at(first_block);
        let end = byte_at(first_block.saturating_add(count));
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

    /// Hashes the whole blob, a block at a time. Returns `None` if the blob does not exist, and
    /// never returns bytes. This is the only way to restore lost block checksums. The caller
    /// compares the checksum of the whole blob with the checksum in the row.
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
                return Err(self.corrupt("too short"));
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
        // The present path is read first: only blobs of earlier builds are at the older path.
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
        // The reader is stored only after a successful read, which proves that the blob is at this
        // path.
        let buffer = reader.read(start..end).await?;
        // A concurrent read of a clone may have set a reader first. That reader stays.
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
                "wrong length of a read: expected={expected_bytes} found={}",
                buffer.len()
            )));
        }
        let verified = (first_block..)
            .zip(into_blocks(buffer))
            .map(|(number, block)| {
                if checksums.get(number) == Some(&Checksum::of(&block)) {
                    Ok(block)
                } else {
                    Err(self.corrupt(&format!("checksum mismatch: block={number}")))
                }
            });
        verified.collect()
    }

    /// Converts the error of a failed read. Returns `Ok(None)` if the blob does not exist,
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) if it is too short, and
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) otherwise.
    async fn explain<T>(&self, error: opendal::Error, revision_bytes: u64) -> Result<Option<T>> {
        let too_short = match failure::cause(&error) {
            Cause::Gone => return Ok(None),
            Cause::TooShort => true,
            // Services report a range behind the end by different errors, so the length of the
            // blob decides.
            Cause::Other => match self.tier.stat(&self.key).await {
                Ok(Some(bytes)) => bytes < revision_bytes,
                Ok(None) => return Ok(None),
                Err(_) => false,
            },
        };
        if too_short {
            return Err(self.corrupt("too short").with_source(error));
        }
        Err(failure::unavailable("read", &self.key.object, error))
    }

    fn corrupt(&self, cause: &str) -> Error {
        failure::corrupt(&self.key, cause)
    }
}

/// Cuts a buffer into blocks. A block that is in a single chunk of the buffer is not copied: the
/// memory budget of reads counts the bytes once, and a copy would hold them twice.
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
