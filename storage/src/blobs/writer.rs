//! One blob being written: [`BlobWriter`], and the [`FinishedBlob`] it becomes.
//!
//! ```text
//! chunks of any size --> blocks of 1 MiB, hashed --> units --> OpenDAL writer --> close --> directory entries (fs)
//!                        trailer, not hashed ------> the last unit
//! ```
//!
//! Guards I2: a [`FinishedBlob`] exists only of a blob that is closed and durable, name and all.
//! Guards I1 in that nothing touches the blob tier before the first unit is full or the writer is
//! flushed. Deliberately not here: the change that must be durable by then, and what becomes of a
//! blob that is never finished: it is an orphan of that change.

use bytes::Bytes;
use opendal::Buffer;

use super::assembly::Assembly;
use super::path::path;
use super::room::Claim;
use super::{BlobTier, failure, trailer};
use crate::checksum::{BlockHasher, Checksum};
use crate::error::{Error, ErrorKind, Result};
use crate::multipart::PartEtag;
use crate::word::RevisionKey;

/// A blob that is closed and durable: what a tombstone may name (I2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedBlob {
    /// Its length, its trailer left out.
    pub bytes: u64,
    /// Over all of it.
    pub checksum: Checksum,
    /// Over each of its blocks.
    pub blocks: Vec<Checksum>,
    /// Over all of it too: what it is known by if it is a part.
    pub etag: PartEtag,
}

/// Where a writer stands.
///
/// ```text
/// Open --flush--> Flushed --finish--> (gone)
///  |  \              |
///  |   `---error or cancelled call---> Broken --finish--> error
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Takes bytes.
    Open,
    /// The last block is with OpenDAL.
    Flushed,
    /// A call failed or was dropped half-way: which bytes the blob tier has is not known.
    Broken,
}

/// Writes one blob, once (I4).
///
/// Dropping it at any point is safe. It leaves at most part of a blob, which is an orphan of its
/// change; some services may still complete a call under way, so that it appears later than the
/// drop.
pub struct BlobWriter {
    tier: BlobTier,
    key: RevisionKey,
    inner: Option<opendal::Writer>,
    assembly: Assembly,
    unit: Vec<Bytes>,
    hasher: BlockHasher,
    phase: Phase,
    claims: [Option<Claim>; 2],
}

impl BlobWriter {
    pub(super) fn new(tier: BlobTier, key: RevisionKey) -> Self {
        let (assembly, unit, hasher) = (Assembly::default(), Vec::new(), BlockHasher::default());
        Self {
            tier,
            key,
            inner: None,
            assembly,
            unit,
            hasher,
            phase: Phase::Open,
            claims: [None, None],
        }
    }

    /// Bytes taken so far.
    pub fn bytes_so_far(&self) -> u64 {
        self.hasher.bytes() + self.assembly.bytes() as u64
    }

    /// Takes the next bytes, in chunks of any size. Returns when there is room for more.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the blob tier fails, [`ErrorKind::Invalid`] if its root is too
    /// long. The writer is of no use then.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        self.leave(Phase::Open)?;
        while let Some(block) = self.assembly.take(&mut bytes) {
            self.push(block);
            if self.unit.len() == self.tier.unit_blocks() {
                self.write_unit().await?;
            }
        }
        self.phase = Phase::Open;
        Ok(())
    }

    /// Hands what is left over to the blob tier. No bytes can follow.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn flush(&mut self) -> Result<()> {
        self.leave(Phase::Open)?;
        if let Some(block) = self.assembly.rest() {
            self.push(block);
        }
        self.unit.extend(trailer::encode(&self.key));
        self.write_unit().await?;
        self.phase = Phase::Flushed;
        Ok(())
    }

    /// Flushes if need be, closes the blob, and makes it durable. A blob without bytes is legal.
    ///
    /// # Errors
    /// As [`write`](Self::write). After an error, or if the returned future is dropped, the blob
    /// may exist, now or later.
    pub async fn finish(mut self) -> Result<FinishedBlob> {
        if self.phase == Phase::Open {
            self.flush().await?;
        }
        self.leave(Phase::Flushed)?;
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

    /// Gives the blob up, and tells the blob tier where that frees what a mere drop would leave:
    /// the parts of an S3 multipart upload, for one. Its failure changes nothing: the blob stays an
    /// orphan of its change.
    pub async fn abandon(mut self) {
        if let Some(inner) = &mut self.inner
            && let Err(error) = inner.abort().await
        {
            tracing::debug!(revision = %self.key, %error, "an abandoned blob could not be aborted");
        }
    }

    /// Leaves a phase; whoever gets through sets the next one. Who does not, or is dropped on the
    /// way, leaves it broken.
    fn leave(&mut self, expected: Phase) -> Result<()> {
        if self.phase != expected {
            let message = format!("the blob writer can't go on: phase={:?}", self.phase);
            return Err(
                Error::new(ErrorKind::Unavailable, "write", message).with_id(&self.key.object)
            );
        }
        self.phase = Phase::Broken;
        Ok(())
    }

    fn push(&mut self, block: Bytes) {
        self.hasher.block(&block);
        self.unit.push(block);
    }

    async fn write_unit(&mut self) -> Result<()> {
        let unit = Buffer::from(std::mem::take(&mut self.unit));
        // OpenDAL may keep a unit back until it has the next one: two are claimed at a time.
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
        // On fs, OpenDAL syncs the file on the thread that polls it.
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
