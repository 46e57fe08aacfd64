//! Uploads: one actor per large put, and their parent.
//!
//! ```text
//! 1 wait for a share of the bytes in flight        dropped caller: ends here, nothing recorded
//! 2 read the row: what this write means to replace  error, or a precondition that does not hold: the caller hears it,
//!                                                   nothing recorded
//! 3 record the change, durable (I1)                 error: NotStarted or Indeterminate; recovery settles it
//! 4 stream the payload into a fresh revision (I4)   error, dropped caller, kill: the change stays, recovery settles it
//! 5 finish the blob: closed and durable (I2)        error: it may exist all the same; recovery settles it
//! 6 compare-and-write through the shard (I3, I6)    the commit itself answers the caller (I10)
//! ```
//!
//! From step 6 on a dropped caller stops nothing. Deliberately not here: what the swap decides
//! (`cenotaph_storage::swap`), and cleaning up (recovery's).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cenotaph_storage::blobs::BlobWriter;
use cenotaph_storage::planted::Bug;
use cenotaph_storage::rows::{Attributes, BlockChecksums, Change, Extent, Manifest};
use cenotaph_storage::swap::{self, Expected, Mutation, Precondition, Swap};
use cenotaph_storage::{Error, ErrorKind, ObjectId, OperationId, Result, RevisionId, Seam};
use futures::StreamExt;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;

use crate::admission::Permit;
use crate::messages::{Job, Source, UploadsMessage};
use crate::owners::Owner;
use crate::reply::{Answer, Caller, Reply, conflict, written};
use crate::shared::Shared;

/// How long a failed upload may take to tell the blob tier so.
const ABANDON_TIMEOUT: Duration = Duration::from_secs(5);

/// The parent of the uploads: it starts them and outlives their deaths.
pub(crate) struct Uploads {
    pub(crate) shared: Shared,
}

impl Actor for Uploads {
    type Msg = UploadsMessage;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn post_start(&self, _: ActorRef<Self::Msg>, (): &mut ()) -> Result<(), ActorProcessingErr> {
        self.shared.env.actor_started("uploads", None);
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: UploadsMessage,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        let UploadsMessage::Start { job, started } = message;
        let Some(job) = job.take() else { return Ok(()) };
        let _ = started.send(());
        let upload = Upload { shared: Arc::clone(&self.shared) };
        let (child, _) = Actor::spawn_linked(None, upload, job, myself.get_cell()).await?;
        // An upload that is dead already has dropped its job, which tells its caller.
        drop(child.send_message(UploadMessage::Run));
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        // The event may carry the dead upload's state: dropping it here gives its permits back and wakes recovery.
        if let SupervisionEvent::ActorFailed(_, error) = event {
            tracing::error!(%error, "an upload died; recovery settles its change");
        }
        Ok(())
    }
}

/// What an upload is told.
pub(crate) enum UploadMessage {
    /// Do it.
    Run,
}

/// One upload.
pub(crate) struct Upload {
    shared: Shared,
}

impl Actor for Upload {
    type Msg = UploadMessage;
    type State = Option<Box<Job>>;
    type Arguments = Box<Job>;

    async fn pre_start(&self, _: ActorRef<Self::Msg>, job: Box<Job>) -> Result<Self::State, ActorProcessingErr> {
        Ok(Some(job))
    }

    async fn post_start(&self, _: ActorRef<Self::Msg>, _: &mut Self::State) -> Result<(), ActorProcessingErr> {
        self.shared.env.actor_started("upload", None);
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        _: UploadMessage,
        job: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(job) = job.take() {
            let caller = job.caller.clone();
            if let Err(error) = self.run(*job).await {
                caller.answer(Err(error));
            }
            self.shared.env.pass(Seam::UploadAfterCommit).await;
        }
        myself.stop(None);
        Ok(())
    }
}

/// A blob that is finished, and what the swap needs to name it.
struct Finished {
    extent: Extent,
    blocks: BlockChecksums,
}

impl Upload {
    async fn run(&self, job: Job) -> Result<()> {
        let Job { id, operation, attributes, precondition, source, caller, mut caller_gone, permit, peeked } = job;
        let buffer_bytes = self.shared.blobs.upload_buffer_bytes(source.bytes);
        let buffer = unless_gone(&mut caller_gone, self.shared.admission.upload_buffer(buffer_bytes)).await?;
        drop(peeked);
        self.shared.env.pass(Seam::UploadBeforeRecord).await;

        let now = self.shared.env.steady_now();
        let standing = self.shared.standing(&id).await?;
        if let Err(current) = precondition.check(standing.live(now)) {
            self.shared.counters.conflicts.fetch_add(1, Ordering::Relaxed);
            return Err(conflict("put", current));
        }
        let expected = standing.expectation(now);
        let revision = self.shared.env.revision_id();
        let owner = self.shared.owners.claim(operation);
        let planted = self.shared.env.planted(Bug::UploadWithoutChange);
        if !planted {
            self.record(&id, operation, revision, owner.clone()).await?;
        }
        self.shared.env.pass(Seam::UploadAfterRecord).await;

        let finished = self.stream(&id, revision, source, &mut caller_gone).await?;
        if planted {
            self.record(&id, operation, revision, owner.clone()).await?;
        }
        drop(buffer);
        self.shared.env.pass(Seam::UploadAfterClose).await;

        self.commit(Commit { id, operation, attributes, precondition, finished, expected, caller, owner, permit }).await
    }

    /// Step 3. The commit itself keeps the owner alive: a change that becomes durable after its upload has died still
    /// finds recovery awake.
    async fn record(&self, id: &ObjectId, operation: OperationId, revision: RevisionId, owner: Owner) -> Result<()> {
        let change = Change {
            epoch: self.shared.epoch,
            started: self.shared.env.now(),
            object: id.clone(),
            revisions: vec![revision],
        };
        self.shared.commit(swap::record(operation, &change), owner).await.map_err(|error| not_named(&error, id))
    }

    /// Steps 4 and 5.
    async fn stream(
        &self,
        id: &ObjectId,
        revision: RevisionId,
        source: Source,
        caller_gone: &mut oneshot::Receiver<()>,
    ) -> Result<Finished> {
        let key = swap::revision_key(id, revision);
        let mut writer = self.shared.blobs.writer(&key);
        if let Err(error) = self.pump(&mut writer, source, caller_gone).await {
            // Frees what a remote tier keeps of an unfinished upload, if it can; recovery sees to the rest.
            self.shared.env.deadline(ABANDON_TIMEOUT, writer.abandon()).await;
            return Err(error.with_id(id));
        }
        self.shared.env.pass(Seam::UploadBeforeClose).await;
        let blob = writer.finish().await.map_err(|error| not_named(&error, id))?;
        let extent = Extent { revision, bytes: blob.bytes, checksum: blob.checksum };
        Ok(Finished { extent, blocks: BlockChecksums(blob.blocks) })
    }

    async fn pump(
        &self,
        writer: &mut BlobWriter,
        source: Source,
        caller_gone: &mut oneshot::Receiver<()>,
    ) -> Result<()> {
        let Source { mut stream, bytes: promised } = source;
        let mut total: u64 = 0;
        while let Some(chunk) = unless_gone(caller_gone, stream.next()).await? {
            let chunk = chunk.map_err(|error| source_error("the stream failed").with_source(error))?;
            total = total.saturating_add(chunk.len() as u64);
            if promised.is_some_and(|promised| total > promised) {
                return Err(source_error("the stream is longer than it said"));
            }
            if total > self.shared.limits.payload_bytes_max {
                let message = format!("the payload is too long: bytes_max={}", self.shared.limits.payload_bytes_max);
                return Err(Error::new(ErrorKind::Invalid, "put", message));
            }
            let written = unless_gone(caller_gone, writer.write(chunk)).await?;
            written.map_err(|error| {
                Error::new(ErrorKind::Unavailable, "put", "the blob tier failed; nothing was committed")
                    .with_source(error)
            })?;
            self.shared.env.pass(Seam::UploadMidStream).await;
        }
        match promised {
            Some(promised) if total != promised => Err(source_error("the stream is shorter than it said")),
            _ => Ok(()),
        }
    }

    /// Step 6.
    async fn commit(&self, commit: Commit) -> Result<()> {
        let Commit { id, operation, attributes, precondition, finished, expected, caller, owner, permit } = commit;
        if self.shared.env.planted(Bug::BlobDeletedBeforeSwap)
            && let Expected::Tombstone { first: Some(old), .. } = expected
        {
            drop(self.shared.blobs.delete(&swap::revision_key(&id, old)).await);
        }
        let mutation = Mutation::Tombstone {
            manifest: Manifest::of(finished.extent),
            checksum: Some(finished.extent.checksum),
            blocks: vec![finished.blocks],
            attributes,
            expected,
        };
        // Every delivery carries the caller and the owner: whatever happens to this actor, the commit answers the
        // one, and recovery waits for the other.
        let listen = move |ours: Reply<Answer>| -> Reply<Answer> {
            let (caller, owner) = (caller.clone(), owner.clone());
            Box::new(move |answer: Result<Answer>| {
                caller.answer(answer.clone().and_then(written));
                drop(owner);
                ours(answer);
            })
        };
        let unminded = self.shared.env.planted(Bug::PreconditionAtBeginOnly);
        let precondition = if unminded { Precondition::None } else { precondition };
        let swap = Swap { id, operation, precondition, mutation };
        self.shared.compare_and_write(swap, &permit, listen).await.map(drop)
    }
}

struct Commit {
    id: ObjectId,
    operation: OperationId,
    attributes: Attributes,
    precondition: Precondition,
    finished: Finished,
    expected: Expected,
    caller: Caller,
    owner: Owner,
    permit: Permit,
}

/// What `work` gives, unless the caller drops its future first.
async fn unless_gone<T>(caller_gone: &mut oneshot::Receiver<()>, work: impl Future<Output = T>) -> Result<T> {
    tokio::select! {
        biased;
        _ = caller_gone => Err(Error::new(ErrorKind::Unavailable, "put", "the caller is gone; nothing was committed")),
        value = work => Ok(value),
    }
}

fn source_error(why: &str) -> Error {
    Error::new(ErrorKind::Source, "put", why)
}

/// What failed before any row could name the revision: nothing was committed, whatever became of the change or the
/// blob.
fn not_named(error: &Error, id: &ObjectId) -> Error {
    let kind = match error.kind() {
        ErrorKind::Indeterminate => ErrorKind::Unavailable,
        kind => kind,
    };
    Error::new(kind, "put", "the upload failed; nothing was committed").with_id(id).with_source(error.clone())
}
