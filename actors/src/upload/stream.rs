//! How a payload flows into the blob tier: one blob after the other, each finished beside the next ones.
//!
//! ```text
//! caller's stream ──Pump──> blob 1 ──────┐ finishing
//!                           blob 2 ──────┼─┐            some at once; each has requests of its own under way
//!                           blob 3  <──  │ │
//!                                        v v
//!                               extents, in the order of their bytes
//! ```
//!
//! A blob takes bytes as fast as its requests have room, so that a blob that fits into them is left to itself at once, and the
//! next one begins beside it, as long as there is memory. Guards I2 (nothing leaves here that is not finished) and the promise a caller made about
//! its stream. Deliberately not here: which revisions there are (`ledger.rs`), and what names them.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use cenotaph_storage::blobs::{BlobTier, BlobWriter};
use cenotaph_storage::rows::{BlockChecksums, Extent};
use cenotaph_storage::swap;
use cenotaph_storage::{
    Checksum, Digest, Error, ErrorKind, Hasher, ObjectId, PARTS_MAX, Result, RevisionId, Seam, Verifier,
};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::oneshot;

use super::ledger::Ledger;
use super::{Finished, Upload, not_named, unless_gone};
use crate::limits::SplitLimits;
use crate::messages::{PayloadStream, Source};

/// How long a failed upload may take to tell the blob tier so.
const ABANDON_TIMEOUT: Duration = Duration::from_secs(5);
/// Blobs after which those of a stream of unknown length become twice as long.
const DOUBLE_AFTER: usize = PARTS_MAX as usize / 16;

/// How a payload is cut into blobs.
pub(super) struct Split {
    first_bytes: u64,
    part_bytes: u64,
    /// Whether the length is known, so that all blobs but the last have the same.
    is_known: bool,
    at_once: usize,
}

impl Split {
    /// For a payload of this length, if it is known; none if it is one blob.
    pub(super) fn of(limits: &SplitLimits, bytes: Option<u64>) -> Option<Self> {
        let at_once = limits.at_once.max(1);
        match bytes {
            Some(bytes) if bytes <= limits.over_bytes => None,
            Some(bytes) => {
                let part_bytes = limits.part_bytes.max(bytes.div_ceil(u64::from(PARTS_MAX))).max(1);
                Some(Self { first_bytes: part_bytes, part_bytes, is_known: true, at_once })
            }
            None if limits.over_bytes == u64::MAX => None,
            None => {
                let (first_bytes, part_bytes) = (limits.over_bytes.max(1), limits.part_bytes.max(1));
                Some(Self { first_bytes, part_bytes, is_known: false, at_once })
            }
        }
    }

    /// Bytes of the blob with this number, the last one aside.
    fn bytes(&self, number: usize) -> u64 {
        match number {
            0 => self.first_bytes,
            _ if self.is_known => self.part_bytes,
            _ => self.part_bytes.saturating_mul(1 << (number / DOUBLE_AFTER).min(32)),
        }
    }

    /// How many revisions a payload needs, as far as that is known.
    pub(super) fn revisions(&self, bytes: Option<u64>) -> usize {
        let count = bytes.map_or(1, |bytes| bytes.div_ceil(self.part_bytes).max(1));
        usize::try_from(count).unwrap_or(usize::MAX)
    }

    /// Most bytes of memory that a blob under way holds.
    pub(super) fn buffer_bytes(&self, blobs: &BlobTier) -> usize {
        blobs.upload_buffer_bytes(self.is_known.then_some(self.part_bytes))
    }
}

/// A caller's stream, held to what was promised and declared about it.
pub(super) struct Pump {
    stream: PayloadStream,
    /// What came and did not fit into the last blob.
    ahead: Bytes,
    promised: Option<u64>,
    most: u64,
    total: u64,
    whole: Hasher,
    verifiers: Vec<Verifier>,
}

impl Pump {
    pub(super) fn new(source: Source, bytes_max: u64, declared: &[Digest]) -> Self {
        Self {
            stream: source.stream,
            ahead: Bytes::new(),
            promised: source.bytes,
            most: bytes_max,
            total: 0,
            whole: Hasher::default(),
            verifiers: declared.iter().copied().map(Verifier::new).collect(),
        }
    }

    /// The next bytes, `most` at the most; none at the end.
    async fn next(&mut self, most: u64) -> Result<Option<Bytes>> {
        if self.ahead.is_empty() {
            match self.stream.next().await {
                Some(Ok(chunk)) => self.take(chunk)?,
                Some(Err(error)) => return Err(source_error("the stream failed").with_source(error)),
                None => return Ok(None),
            }
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Ok(Some(self.ahead.split_to(most.min(self.ahead.len()))))
    }

    fn take(&mut self, chunk: Bytes) -> Result<()> {
        self.total = self.total.saturating_add(chunk.len() as u64);
        if self.promised.is_some_and(|promised| self.total > promised) {
            return Err(source_error("the stream is longer than it said"));
        }
        if self.total > self.most {
            let message = format!("the payload is too long: bytes_max={}", self.most);
            return Err(Error::new(ErrorKind::Invalid, "put", message));
        }
        self.whole.update(&chunk);
        self.verifiers.iter_mut().for_each(|verifier| verifier.update(&chunk));
        self.ahead = chunk;
        Ok(())
    }

    /// Whether there are more bytes.
    async fn has_more(&mut self) -> Result<bool> {
        while self.ahead.is_empty() {
            match self.next(0).await? {
                Some(_) => {}
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Whether all that was said about the stream has come true.
    fn check(&mut self) -> Result<()> {
        match self.promised {
            Some(promised) if self.total != promised => Err(source_error("the stream is shorter than it said")),
            _ => self.verifiers.drain(..).try_for_each(Verifier::verify),
        }
    }
}

impl Upload {
    /// Steps 4 and 5 of a put: the whole payload, and its checksum.
    pub(super) async fn stream(
        &self,
        id: &ObjectId,
        ledger: &mut Ledger,
        source: Source,
        split: Option<&Split>,
        caller_gone: &mut oneshot::Receiver<()>,
    ) -> Result<(Vec<Finished>, Checksum)> {
        let mut pump = Pump::new(source, self.shared.limits.payload_bytes_max, &[]);
        let Some(split) = split else {
            let finished = self.stream_one(id, ledger.next().await?, &mut pump, caller_gone).await?;
            return Ok((vec![finished], pump.whole.finish()));
        };
        let mut beside = Beside { finishing: FuturesUnordered::new(), finished: BTreeMap::new() };
        let streamed = self.stream_many(id, ledger, &mut pump, split, caller_gone, &mut beside).await;
        // Also after an error: what is let end leaves nothing with a remote tier that nobody can delete.
        let ended = beside.end().await;
        streamed.and(ended)?;
        let parts = beside.finished.into_values().collect();
        Ok((parts, pump.whole.finish()))
    }

    /// Steps 4 and 5 for one blob: all that the pump brings.
    pub(super) async fn stream_one(
        &self,
        id: &ObjectId,
        revision: RevisionId,
        pump: &mut Pump,
        caller_gone: &mut oneshot::Receiver<()>,
    ) -> Result<Finished> {
        let mut writer = self.shared.blobs.writer(&swap::revision_key(id, revision));
        let filled = unless_gone(caller_gone, self.fill(&mut writer, pump, u64::MAX)).await.flatten();
        match filled.and_then(|_| pump.check()) {
            Ok(()) => self.finish(id, revision, writer).await,
            Err(error) => self.abandon(writer, error).await.map_err(|error| error.with_id(id)),
        }
    }

    async fn stream_many<'a>(
        &'a self,
        id: &'a ObjectId,
        ledger: &mut Ledger,
        pump: &mut Pump,
        split: &Split,
        caller_gone: &mut oneshot::Receiver<()>,
        beside: &mut Beside<'a>,
    ) -> Result<()> {
        for number in 0.. {
            let revision = ledger.next().await?;
            let mut writer = self.shared.blobs.writer(&swap::revision_key(id, revision));
            let filling = unless_gone(caller_gone, self.fill(&mut writer, pump, split.bytes(number)));
            let is_over = match beside.go_on_while(filling).await.flatten().flatten() {
                Ok(Filled::Whole) => Ok(false),
                Ok(Filled::Over) => pump.check().map(|()| true),
                Err(error) => Err(error),
            };
            match is_over {
                Ok(is_over) => {
                    let finish = async move { Ok((number, self.finish(id, revision, writer).await?)) };
                    self.leave(finish.boxed(), split, beside).await?;
                    if is_over {
                        break;
                    }
                }
                Err(error) => return self.abandon(writer, error).await.map_err(|error| error.with_id(id)),
            }
        }
        Ok(())
    }

    /// Leaves a blob to itself, if there is memory for one more beside it; otherwise waits until it is finished. The share that
    /// was waited for stays with whichever blob takes bytes, so that no two uploads wait for each other.
    async fn leave<'a>(&self, finish: Finishing<'a>, split: &Split, beside: &mut Beside<'a>) -> Result<()> {
        beside.make_room(split.at_once.saturating_sub(1)).await?;
        let share = (split.at_once > 1)
            .then(|| self.shared.admission.try_upload_buffer(split.buffer_bytes(&self.shared.blobs)));
        match share.flatten() {
            Some(share) => beside.finishing.push(
                async move {
                    let finished = finish.await;
                    drop(share);
                    finished
                }
                .boxed(),
            ),
            None => {
                let finished = beside.go_on_while(finish).await?;
                beside.note(finished)?;
            }
        }
        Ok(())
    }

    /// Writes this much of what the pump brings.
    async fn fill(&self, writer: &mut BlobWriter, pump: &mut Pump, mut room: u64) -> Result<Filled> {
        while let Some(chunk) = pump.next(room).await? {
            room -= chunk.len() as u64;
            writer.write(chunk).await.map_err(|error| {
                Error::new(ErrorKind::Unavailable, "put", "the blob tier failed; nothing was committed")
                    .with_source(error)
            })?;
            self.shared.env.pass(Seam::UploadMidStream).await;
            if room == 0 {
                return Ok(if pump.has_more().await? { Filled::Whole } else { Filled::Over });
            }
        }
        Ok(Filled::Over)
    }

    async fn finish(&self, id: &ObjectId, revision: RevisionId, writer: BlobWriter) -> Result<Finished> {
        self.shared.env.pass(Seam::UploadBeforeClose).await;
        let blob = writer.finish().await.map_err(|error| not_named(&error, id))?;
        self.shared.env.pass(Seam::UploadAfterBlob).await;
        let extent = Extent { revision, bytes: blob.bytes, checksum: blob.checksum };
        Ok(Finished { extent, blocks: BlockChecksums(blob.blocks), etag: blob.etag })
    }

    /// Frees what a remote tier keeps of an unfinished blob, if it can; recovery sees to the rest.
    async fn abandon<T>(&self, writer: BlobWriter, error: Error) -> Result<T> {
        self.shared.env.deadline(ABANDON_TIMEOUT, writer.abandon()).await;
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

/// A blob that takes no more bytes, with its number.
type Finishing<'a> = BoxFuture<'a, Result<(usize, Finished)>>;

/// The blobs of a payload that are being finished, and those that are.
struct Beside<'a> {
    finishing: FuturesUnordered<Finishing<'a>>,
    finished: BTreeMap<usize, Finished>,
}

impl Beside<'_> {
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

    /// Waits until fewer than `most` are under way.
    async fn make_room(&mut self, most: usize) -> Result<()> {
        while self.finishing.len() >= most {
            match self.finishing.next().await {
                Some(finished) => self.note(finished)?,
                None => return Ok(()),
            }
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

fn source_error(why: &str) -> Error {
    Error::new(ErrorKind::Source, "put", why)
}
