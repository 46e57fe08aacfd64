//! Uploads: one actor per large put, part or relocation, and their parent.
//!
//! ```text
//! 1 read the row, or the upload record of the part   error, or a failed precondition:
//!                                                    the caller receives it, nothing is recorded
//! 2 record the change, durable (I1)                  error: nothing is named; recovery settles
//! 3 stream the payload into fresh revisions (I4),    error, dropped caller, kill, no memory in
//!   each chunk once memory is granted                time: recovery settles the change
//! 4 finish the blobs: closed and durable (I2)        error: the blobs may exist; recovery settles
//! 5 compare-and-write through the shard (I3, I6)     the commit itself answers the caller (I10)
//! ```
//!
//! Steps 1 and 5 are in `put.rs`, `part.rs` and `relocation.rs`, step 2 in `change_recorder.rs`,
//! steps 3 and 4 in `stream.rs`. The outcomes of dead actors and dropped callers are in
//! `runtime/reply.rs`. A relocation reads no row: the engine has read it, and the shard compares.

use std::sync::Arc;

use cenotaph_storage::records::{BlockChecksums, Extent};
use cenotaph_storage::{Error, ErrorKind, ObjectId, PartEtag, Reason, Result, SyncPoint};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;

use crate::context::SharedContext;
use crate::context::messages::{Purpose, UploadJob, UploadsMessage};

mod change_recorder;
mod memory;
mod part;
mod put;
mod relocation;
mod source_reader;
mod split;
mod stream;

use split::Split;

/// The parent of the uploads. It starts them and survives their deaths.
pub(crate) struct Uploads {
    pub(crate) context: SharedContext,
}

impl Actor for Uploads {
    type Msg = UploadsMessage;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn post_start(
        &self,
        _: ActorRef<Self::Msg>,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        self.context.env.actor_started("uploads", None);
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
        // Before the spawn: from here on the job is not offered again.
        let _ = started.send(());
        let upload = BlobUpload {
            context: Arc::clone(&self.context),
        };
        let (child, _) = Actor::spawn_linked(None, upload, job, myself.get_cell()).await?;
        // An upload that is dead already has dropped its job, and with it the caller's answer.
        drop(child.send_message(UploadMessage::Run));
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        // The event may carry the dead upload's state. Dropping it here returns the permits and
        // wakes recovery.
        if let SupervisionEvent::ActorFailed(_, error) = event {
            tracing::error!(%error, "an upload died; recovery settles its change");
        }
        Ok(())
    }
}

/// A message to an upload.
pub(crate) enum UploadMessage {
    /// Runs the job.
    Run,
}

/// The actor of a large put or part.
pub(crate) struct BlobUpload {
    context: SharedContext,
}

impl Actor for BlobUpload {
    type Msg = UploadMessage;
    type State = Option<Box<UploadJob>>;
    type Arguments = Box<UploadJob>;

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        job: Box<UploadJob>,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(Some(job))
    }

    async fn post_start(
        &self,
        _: ActorRef<Self::Msg>,
        _: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        self.context.env.actor_started("upload", None);
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        _: UploadMessage,
        job: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(job) = job.take() {
            // Made before the job is consumed. After a commit it has no effect: the first answer
            // counts.
            let refuse = job.purpose.refusal();
            // In a box: the layers around a handler move its state, which is of several kilobytes.
            if let Err(error) = Box::pin(self.run(*job)).await {
                refuse(error);
                if self.context.blobs.trouble().is_some() {
                    // The sweeper checks the blob tier again until the tier is available.
                    self.context.wake_sweeper();
                }
            }
            self.context.env.pass(SyncPoint::UploadAfterCommit).await;
        }
        myself.stop(None);
        Ok(())
    }
}

/// A finished blob, with the values that name it.
struct Finished {
    extent: Extent,
    blocks: BlockChecksums,
    etag: PartEtag,
}

impl BlobUpload {
    /// Returns the maximum number of bytes that a blob of a payload holds in memory.
    fn buffer_bytes(&self, split: Option<&Split>, bytes: Option<u64>) -> usize {
        let tier = self.context.blobs.current();
        match split {
            Some(split) => split.buffer_bytes(tier),
            None => tier.upload_buffer_bytes(bytes),
        }
    }

    async fn run(&self, job: UploadJob) -> Result<()> {
        let UploadJob {
            id,
            operation,
            purpose,
            source,
            caller_gone,
            permit,
            peeked,
            is_bulk,
        } = job;
        match purpose {
            Purpose::Put {
                attributes,
                precondition,
                answer,
                caller,
            } => {
                let put = put::LargePut {
                    id,
                    operation,
                    attributes,
                    precondition,
                    answer,
                    caller,
                    permit,
                };
                self.put(put, source, caller_gone, (peeked, is_bulk)).await
            }
            Purpose::Part {
                upload,
                number,
                declared,
                caller,
            } => {
                let part = part::PartUpload {
                    id,
                    operation,
                    upload,
                    number,
                    declared,
                    caller,
                    permit,
                };
                self.part(part, source, caller_gone).await
            }
            Purpose::Relocate {
                copied,
                checksum,
                caller,
            } => {
                let relocation = relocation::Relocation {
                    id,
                    operation,
                    copied,
                    checksum,
                    caller,
                    permit,
                };
                let bulk = (peeked, is_bulk);
                self.relocate(relocation, source, caller_gone, bulk).await
            }
        }
    }
}

/// Returns the result of `work`, or an error if the caller drops its future first.
async fn unless_gone<T>(
    caller_gone: &mut oneshot::Receiver<()>,
    work: impl Future<Output = T>,
) -> Result<T> {
    tokio::select! {
        // Not in random order: a simulated run is a function of its seed.
        biased;
        _ = caller_gone => Err(Error::new(
            ErrorKind::Unavailable,
            "put",
            "the caller is gone; nothing was committed",
        )),
        value = work => Ok(value),
    }
}

/// Maps an error that came before anything could name the revision. Nothing was committed, so that
/// `Indeterminate` about the change or the blob becomes `Unavailable`.
fn nothing_named(error: &Error, id: &ObjectId) -> Error {
    // Passed through: the caller must see that space is the reason.
    if error.reason() == Some(Reason::NoSpace) {
        return error.clone().with_id(id);
    }
    let kind = match error.kind() {
        ErrorKind::Indeterminate => ErrorKind::Unavailable,
        kind => kind,
    };
    Error::new(kind, "put", "the upload failed; nothing was committed")
        .with_id(id)
        .with_source(error.clone())
}
