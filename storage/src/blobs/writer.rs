//! Writes a blob: [`BlobWriter`], whose result is a [`FinishedBlob`].
//!
//! ```text
//! chunks of any size --> blocks of 1 MiB, hashed --> units --> OpenDAL writer --> close
//!                        trailer, not hashed ------> last unit             --> sync names (fs)
//! ```
//!
//! Guards I2: a [`FinishedBlob`] exists only for a blob that is closed and durable, including its
//! directory entries. Guards I1: the blob tier is not accessed before the first unit is full or the
//! writer is flushed. The caller has made the change durable by then. A blob that is never finished
//! is an orphan of that change.

use bytes::Bytes;
use opendal::Buffer;

use super::assembly::Assembly;
use super::path::path;
use super::room::RoomClaim;
use super::{BlobTier, failure, trailer};
use crate::types::{BlockHasher, Checksum, Error, ErrorKind, PartEtag, Result, RevisionKey};

/// A closed and durable blob. Only such a blob may be named by a tombstone (I2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedBlob {
    /// Length in bytes, without the trailer.
    pub bytes: u64,
    /// Checksum of the whole blob, without the trailer.
    pub checksum: Checksum,
    /// Checksums of the blocks, in order.
    pub blocks: Vec<Checksum>,
    /// Etag of the blob as a part of a multipart upload; covers the whole blob, too.
    pub etag: PartEtag,
}

/// State of a writer.
///
/// ```text
/// Open --flush--> Flushed --finish--> (gone)
///  |  \              |
///  |   `---error or cancelled call---> Broken --finish--> error
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriterState {
    /// Accepts bytes.
    Open,
    /// All bytes were passed to OpenDAL.
    Flushed,
    /// A call failed or was cancelled. The bytes in the blob tier are unknown.
    Broken,
}

/// Writer of a blob, which is written once (I4).
///
/// Dropping the writer at any point is safe. At most a part of a blob remains, which is an orphan
/// of its change. Some services may still complete a call in progress, so the blob may appear after
/// the drop.
pub struct BlobWriter {
    tier: BlobTier,
    key: RevisionKey,
    inner: Option<opendal::Writer>,
    assembly: Assembly,
    /// Blocks of the next write to OpenDAL.
    unit: Vec<Bytes>,
    hasher: BlockHasher,
    phase: WriterState,
    /// Disk space claimed for the last two units.
    claims: [Option<RoomClaim>; 2],
}

impl BlobWriter {
    pub(super) fn new(tier: BlobTier, key: RevisionKey) -> Self {
        Self {
            tier,
            key,
            inner: None,
            assembly: Assembly::default(),
            unit: Vec::new(),
            hasher: BlockHasher::default(),
            phase: WriterState::Open,
            claims: [None, None],
        }
    }

    /// Returns the number of bytes written so far.
    pub fn bytes_so_far(&self) -> u64 {
        self.hasher.bytes() + self.assembly.bytes() as u64
    }

    /// Appends bytes, in chunks of any size. Returns when the writer accepts more.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the blob tier fails, [`ErrorKind::Invalid`] if its root is too
    /// long. After an error every further call fails.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        self.begin(WriterState::Open)?;
        while let Some(block) = self.assembly.take(&mut bytes) {
            self.push(block);
            if self.unit.len() == self.tier.unit_blocks() {
                self.write_unit().await?;
            }
        }
        self.phase = WriterState::Open;
        Ok(())
    }

    /// Writes the buffered bytes and the trailer to the blob tier. No bytes can follow.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn flush(&mut self) -> Result<()> {
        self.begin(WriterState::Open)?;
        if let Some(block) = self.assembly.rest() {
            self.push(block);
        }
        self.unit.extend(trailer::encode(&self.key));
        // The unit is written even if it is empty: the write opens the OpenDAL writer, and an empty
        // blob must exist.
        self.write_unit().await?;
        self.phase = WriterState::Flushed;
        Ok(())
    }

    /// Flushes unless [`flush`](Self::flush) was called, closes the blob, and makes it durable. An
    /// empty blob is allowed.
    ///
    /// # Errors
    /// As [`write`](Self::write). After an error, or if the returned future is dropped, the blob
    /// may exist or appear later.
    pub async fn finish(mut self) -> Result<FinishedBlob> {
        if self.phase == WriterState::Open {
            self.flush().await?;
        }
        self.begin(WriterState::Flushed)?;
        // Closed first: OpenDAL syncs the file on close, then the directory entries are synced
        // (I2).
        self.close().await?;
        let bytes = self.hasher.bytes();
        let file_bytes = bytes + trailer::length(&self.key.object);
        self.tier
            .make_durable(&path(&self.key), file_bytes)
            .await
            .map_err(|error| error.with_id(&self.key.object))?;
        let etag = self.hasher.part_etag();
        let (checksum, blocks) = self.hasher.finish();
        Ok(FinishedBlob {
            bytes,
            checksum,
            blocks,
            etag,
        })
    }

    /// Abandons the blob and aborts the upload in the blob tier. This frees resources that a drop
    /// would not, such as the parts of an S3 multipart upload. A failure of the abort is logged
    /// only: the blob is an orphan of its change in any case.
    pub async fn abandon(mut self) {
        if let Some(inner) = &mut self.inner
            && let Err(error) = inner.abort().await
        {
            tracing::debug!(revision = %self.key, %error, "an abandoned blob could not be aborted");
        }
    }

    /// Begins a call that requires this phase. The call sets the next phase when it succeeds.
    fn begin(&mut self, expected: WriterState) -> Result<()> {
        if self.phase != expected {
            let message = format!("the blob writer cannot continue: phase={:?}", self.phase);
            return Err(
                Error::new(ErrorKind::Unavailable, "write", message).with_id(&self.key.object)
            );
        }
        // Broken until the call succeeds: the call may fail or be cancelled at any await.
        self.phase = WriterState::Broken;
        Ok(())
    }

    fn push(&mut self, block: Bytes) {
        self.hasher.block(&block);
        self.unit.push(block);
    }

    async fn write_unit(&mut self) -> Result<()> {
        let unit = Buffer::from(std::mem::take(&mut self.unit));
        // OpenDAL may buffer a unit until it receives the next unit, so the last two are claimed.
        let claim = self
            .tier
            .claim(unit.len())
            .map_err(|error| error.with_id(&self.key.object))?;
        self.claims = [self.claims[1].take(), claim];
        if self.inner.is_none() {
            self.inner = Some(self.tier.open_writer(&self.key).await?);
        }
        let inner = self.inner.as_mut().expect("opened above");
        inner
            .write(unit)
            .await
            .map_err(|error| failure::unavailable("write", &self.key.object, error))
    }

    async fn close(&mut self) -> Result<()> {
        let mut inner = self
            .inner
            .take()
            .expect("flush opens it, even for a blob without bytes");
        let close = async move { inner.close().await };
        // On fs, OpenDAL syncs the file on the thread that polls this future, which would block a
        // worker of the runtime.
        let closed = if self.tier.is_local() {
            self.tier
                .env()
                .offload(close)
                .await
                .map_err(|error| error.with_id(&self.key.object))?
        } else {
            close.await
        };
        closed
            .map(drop)
            .map_err(|error| failure::unavailable("close", &self.key.object, error))
    }
}
