//! Streaming of a payload into the blob tier: blob after blob, each finished in the background.
//!
//! ```text
//! caller's stream ──SourceReader──> blob 1 ──────┐ finishing
//!                           blob 2 ──────┼─┐            some at once, each with its own requests
//!                           blob 3  <──  │ │
//!                                        v v
//!                               extents, in the order of their bytes
//! ```
//!
//! A blob takes bytes as fast as its requests have room. A blob that has all of its bytes is
//! finished while the next blobs are filled. Guards I2 (only finished blobs are returned) and the
//! length that the caller promised.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use cenotaph_storage::blobs::BlobWriter;
use cenotaph_storage::decide;
use cenotaph_storage::records::{BlockChecksums, Extent};
use cenotaph_storage::{
    Checksum, Error, ErrorKind, ObjectId, Reason, Result, RevisionId, SyncPoint,
};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::oneshot;

use super::change_recorder::ChangeRecorder;
use super::memory::BlobMemory;
use super::source_reader::SourceReader;
use super::split::Split;
use super::{BlobUpload, Finished, nothing_named, unless_gone};
use crate::admission::payload::PayloadSource;
use crate::admission::permits::Permit;

/// Time limit for aborting the blobs of a failed upload.
const ABANDON_TIMEOUT: Duration = Duration::from_secs(5);

impl BlobUpload {
    /// Streams the whole payload of a put (steps 3 and 4). Returns its blobs and its checksum.
    pub(super) async fn stream(
        &self,
        id: &ObjectId,
        recorder: &mut ChangeRecorder,
        source: PayloadSource,
        cut: PayloadSplit<'_>,
        caller_gone: &mut oneshot::Receiver<()>,
    ) -> Result<(Vec<Finished>, Option<Checksum>)> {
        let mut reader = SourceReader::new(source, self.context.limits.payload_bytes_max, &[]);
        let Some(split) = cut.split else {
            let memory = BlobMemory::new(&self.context, cut.buffer_bytes, cut.peeked, cut.is_bulk);
            let finished = self
                .stream_one(id, recorder.next().await?, &mut reader, memory, caller_gone)
                .await?;
            let checksum = finished.extent.checksum;
            return Ok((vec![finished], Some(checksum)));
        };
        let mut reader = reader.hashing();
        let mut in_flight = InFlightBlobs {
            finishing: FuturesUnordered::new(),
            finished: BTreeMap::new(),
        };
        let memory = BlobMemory::new(&self.context, cut.buffer_bytes, cut.peeked, cut.is_bulk);
        let streamed = self
            .stream_many(
                id,
                recorder,
                &mut reader,
                (split, memory),
                caller_gone,
                &mut in_flight,
            )
            .await;
        if let Err(error) = streamed {
            // Blobs that finish leave no open parts behind in a remote tier, which nobody could
            // delete. The time limit bounds the wait.
            self.context
                .env
                .deadline(ABANDON_TIMEOUT, in_flight.end())
                .await;
            return Err(error);
        }
        in_flight.end().await?;
        let parts = in_flight.finished.into_values().collect();
        Ok((parts, reader.checksum()))
    }

    /// Streams a blob to the end of the stream (steps 3 and 4).
    pub(super) async fn stream_one(
        &self,
        id: &ObjectId,
        revision: RevisionId,
        reader: &mut SourceReader,
        mut memory: BlobMemory,
        caller_gone: &mut oneshot::Receiver<()>,
    ) -> Result<Finished> {
        let mut writer = self
            .context
            .blobs
            .writer(&decide::revision_key(id, revision));
        // The caller can cancel only while its bytes flow. A blob that is complete is finished
        // without it.
        let filled = unless_gone(
            caller_gone,
            self.fill(&mut writer, &mut memory, reader, u64::MAX),
        )
        .await
        .flatten();
        // Checked before the blob is finished: a payload of the wrong length or digest is never
        // closed.
        match filled.and_then(|_| reader.check()) {
            Ok(()) => self.finish(id, revision, writer).await,
            Err(error) => self
                .abandon(writer, error)
                .await
                .map_err(|error| error.with_id(id)),
        }
    }

    async fn stream_many<'a>(
        &'a self,
        id: &'a ObjectId,
        recorder: &mut ChangeRecorder,
        reader: &mut SourceReader,
        (split, mut memory): (&Split, BlobMemory),
        caller_gone: &mut oneshot::Receiver<()>,
        in_flight: &mut InFlightBlobs<'a>,
    ) -> Result<()> {
        for number in 0.. {
            let revision = recorder.next().await?;
            let mut writer = self
                .context
                .blobs
                .writer(&decide::revision_key(id, revision));
            let filling = unless_gone(
                caller_gone,
                self.fill(&mut writer, &mut memory, reader, split.bytes(number)),
            );
            // A failed blob of this put ends the put at once, not at the end of its stream.
            let is_over = match in_flight.run_alongside(filling).await.flatten().flatten() {
                Ok(Filled::Whole) => Ok(false),
                Ok(Filled::Over) => reader.check().map(|()| true),
                Err(error) => Err(error),
            };
            match is_over {
                Ok(is_over) => {
                    // Each blob has its own memory, because this one holds its own until it is
                    // finished.
                    let next = memory.next(split.buffer_bytes(self.context.blobs.current()));
                    let memory = std::mem::replace(&mut memory, next);
                    // The blob keeps its memory until it is finished. It is finished even if the
                    // put fails: a dropped blob would leave open parts in a remote tier.
                    in_flight.finishing.push(
                        async move {
                            let _memory = memory;
                            Ok((number, self.finish(id, revision, writer).await?))
                        }
                        .boxed(),
                    );
                    // Bounds the blobs of this put that are finished in parallel.
                    in_flight.make_room(split.at_once).await?;
                    if is_over {
                        break;
                    }
                }
                Err(error) => {
                    return self
                        .abandon(writer, error)
                        .await
                        .map_err(|error| error.with_id(id));
                }
            }
        }
        Ok(())
    }

    /// Writes bytes of the stream until the blob has `room` of them or the stream ends.
    async fn fill(
        &self,
        writer: &mut BlobWriter,
        memory: &mut BlobMemory,
        reader: &mut SourceReader,
        mut room: u64,
    ) -> Result<Filled> {
        loop {
            let held = usize::try_from(writer.bytes_so_far()).unwrap_or(usize::MAX);
            // Before the read: a chunk that has no memory must not be taken from the caller.
            memory.before_read(held).await?;
            let Some(chunk) = reader.next(room).await? else {
                return Ok(Filled::Over);
            };
            room -= chunk.len() as u64;
            memory.make_room(held.saturating_add(chunk.len())).await?;
            writer.write(chunk).await.map_err(|error| {
                // Passed through: the caller must see that space is the reason.
                if error.reason() == Some(Reason::NoSpace) {
                    return error;
                }
                Error::new(
                    ErrorKind::Unavailable,
                    "put",
                    "the blob tier failed; nothing was committed",
                )
                .with_source(error)
            })?;
            self.context.env.pass(SyncPoint::UploadMidStream).await;
            if room == 0 {
                // Read ahead: a payload that ends here must not get an empty blob after this one.
                return Ok(if reader.has_more().await? {
                    Filled::Whole
                } else {
                    Filled::Over
                });
            }
        }
    }

    async fn finish(
        &self,
        id: &ObjectId,
        revision: RevisionId,
        writer: BlobWriter,
    ) -> Result<Finished> {
        self.context.env.pass(SyncPoint::UploadBeforeClose).await;
        let blob = writer
            .finish()
            .await
            .map_err(|error| nothing_named(&error, id))?;
        self.context.env.pass(SyncPoint::UploadAfterBlob).await;
        let extent = Extent {
            revision,
            bytes: blob.bytes,
            checksum: blob.checksum,
        };
        Ok(Finished {
            extent,
            blocks: BlockChecksums(blob.blocks),
            etag: blob.etag,
        })
    }

    /// Aborts an unfinished blob to free its open parts in a remote tier. Recovery handles the
    /// rest, so a failed abort is ignored.
    async fn abandon<T>(&self, writer: BlobWriter, error: Error) -> Result<T> {
        self.context
            .env
            .deadline(ABANDON_TIMEOUT, writer.abandon())
            .await;
        Err(error)
    }
}

/// Reason for the end of a blob.
enum Filled {
    /// The blob has all of its bytes, and the stream has more.
    Whole,
    /// The stream has ended.
    Over,
}

/// Division of a payload into blobs, the memory per blob, the permit for bytes buffered already,
/// and whether the put is bulk work.
pub(super) struct PayloadSplit<'a> {
    pub(super) split: Option<&'a Split>,
    pub(super) buffer_bytes: usize,
    pub(super) peeked: Permit,
    pub(super) is_bulk: bool,
}

/// A blob being finished, with its number.
type Finishing<'a> = BoxFuture<'a, Result<(usize, Finished)>>;

/// Blobs of a payload that are being finished, and finished blobs.
struct InFlightBlobs<'a> {
    finishing: FuturesUnordered<Finishing<'a>>,
    finished: BTreeMap<usize, Finished>,
}

impl InFlightBlobs<'_> {
    /// Returns the result of `work`, or the error of a blob that fails first.
    async fn run_alongside<T>(&mut self, work: impl Future<Output = T>) -> Result<T> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                Some(finished) = self.finishing.next() => self.note(finished)?,
                value = &mut work => return Ok(value),
            }
        }
    }

    /// Waits until fewer than `at_once` blobs are being finished.
    async fn make_room(&mut self, at_once: usize) -> Result<()> {
        while self.finishing.len() >= at_once
            && let Some(finished) = self.finishing.next().await
        {
            self.note(finished)?;
        }
        Ok(())
    }

    /// Waits for all blobs, and returns the first error.
    async fn end(&mut self) -> Result<()> {
        let mut ended = Ok(());
        while let Some(finished) = self.finishing.next().await {
            ended = ended.and(self.note(finished));
        }
        ended
    }

    fn note(&mut self, finished: Result<(usize, Finished)>) -> Result<()> {
        let (number, finished) = finished?;
        self.finished.insert(number, finished);
        Ok(())
    }
}
