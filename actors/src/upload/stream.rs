//! How a payload flows into the blob tier: one blob after the other, each finished beside the next
//! ones.
//!
//! ```text
//! caller's stream ──SourceReader──> blob 1 ──────┐ finishing
//!                           blob 2 ──────┼─┐            some at once; each has requests of its own under way
//!                           blob 3  <──  │ │
//!                                        v v
//!                               extents, in the order of their bytes
//! ```
//!
//! A blob takes bytes as fast as its requests have room. One that has all of its bytes is finished
//! beside the next ones. Guards I2 (nothing leaves here that is not finished) and the promise a
//! caller made about its stream. Deliberately not here: which revisions there are (`ledger.rs`),
//! and what names them.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use cenotaph_storage::blobs::BlobWriter;
use cenotaph_storage::decide;
use cenotaph_storage::rows::{BlockChecksums, Extent};
use cenotaph_storage::{Checksum, Error, ErrorKind, ObjectId, Reason, Result, RevisionId, Seam};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::oneshot;

use super::change_recorder::ChangeRecorder;
use super::memory::BlobMemory;
use super::source_reader::SourceReader;
use super::split::Split;
use super::{Finished, Upload, not_named, unless_gone};
use crate::admission::permits::Permit;
use crate::runtime::messages::Source;

/// How long a failed upload may take to tell the blob tier so.
const ABANDON_TIMEOUT: Duration = Duration::from_secs(5);

impl Upload {
    /// Steps 3 and 4 of a put: the whole payload, and its checksum.
    pub(super) async fn stream(
        &self,
        id: &ObjectId,
        recorder: &mut ChangeRecorder,
        source: Source,
        cut: Cut<'_>,
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
            // What is let end leaves nothing with a remote tier that nobody can delete; but nobody
            // waits for it for ever.
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

    /// Steps 3 and 4 for one blob: all that the pump brings.
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
        let filled = unless_gone(
            caller_gone,
            self.fill(&mut writer, &mut memory, reader, u64::MAX),
        )
        .await
        .flatten();
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
            let is_over = match in_flight.go_on_while(filling).await.flatten().flatten() {
                Ok(Filled::Whole) => Ok(false),
                Ok(Filled::Over) => reader.check().map(|()| true),
                Err(error) => Err(error),
            };
            match is_over {
                Ok(is_over) => {
                    let next = memory.next(split.buffer_bytes(&self.context.blobs));
                    let memory = std::mem::replace(&mut memory, next);
                    // It holds its memory until it is finished. From here on it is let end whatever
                    // happens: a blob that is dropped half-way stays with a remote tier.
                    in_flight.finishing.push(
                        async move {
                            let _memory = memory;
                            Ok((number, self.finish(id, revision, writer).await?))
                        }
                        .boxed(),
                    );
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

    /// Writes this much of what the pump brings.
    async fn fill(
        &self,
        writer: &mut BlobWriter,
        memory: &mut BlobMemory,
        reader: &mut SourceReader,
        mut room: u64,
    ) -> Result<Filled> {
        loop {
            let held = usize::try_from(writer.bytes_so_far()).unwrap_or(usize::MAX);
            memory.before_read(held).await?;
            let Some(chunk) = reader.next(room).await? else {
                return Ok(Filled::Over);
            };
            room -= chunk.len() as u64;
            memory.make_room(held.saturating_add(chunk.len())).await?;
            writer.write(chunk).await.map_err(|error| {
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
            self.context.env.pass(Seam::UploadMidStream).await;
            if room == 0 {
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
        self.context.env.pass(Seam::UploadBeforeClose).await;
        let blob = writer
            .finish()
            .await
            .map_err(|error| not_named(&error, id))?;
        self.context.env.pass(Seam::UploadAfterBlob).await;
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

    /// Frees what a remote tier keeps of an unfinished blob, if it can; recovery sees to the rest.
    async fn abandon<T>(&self, writer: BlobWriter, error: Error) -> Result<T> {
        self.context
            .env
            .deadline(ABANDON_TIMEOUT, writer.abandon())
            .await;
        Err(error)
    }
}

/// Why a blob takes no more bytes.
enum Filled {
    /// It has all that it is to have, and there is more to come.
    Whole,
    /// The stream is over.
    Over,
}

/// The cut of a payload, the most bytes that a blob of it holds in memory, the leave for what was
/// peeked at of it, and whether it is bulk work.
pub(super) struct Cut<'a> {
    pub(super) split: Option<&'a Split>,
    pub(super) buffer_bytes: usize,
    pub(super) peeked: Permit,
    pub(super) is_bulk: bool,
}

/// A blob that takes no more bytes, with its number.
type Finishing<'a> = BoxFuture<'a, Result<(usize, Finished)>>;

/// The blobs of a payload that are being finished, and those that are.
struct InFlightBlobs<'a> {
    finishing: FuturesUnordered<Finishing<'a>>,
    finished: BTreeMap<usize, Finished>,
}

impl InFlightBlobs<'_> {
    /// What `work` gives, unless one of the blobs fails first.
    async fn go_on_while<T>(&mut self, work: impl Future<Output = T>) -> Result<T> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                Some(finished) = self.finishing.next() => self.note(finished)?,
                value = &mut work => return Ok(value),
            }
        }
    }

    /// Waits until fewer than `at_once` are under way.
    async fn make_room(&mut self, at_once: usize) -> Result<()> {
        while self.finishing.len() >= at_once
            && let Some(finished) = self.finishing.next().await
        {
            self.note(finished)?;
        }
        Ok(())
    }

    /// Waits for all of them; the first error.
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
