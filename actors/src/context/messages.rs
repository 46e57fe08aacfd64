//! The messages of all actors, one enum per kind of actor, and the values they carry.
//!
//! The messages are here, and not with their actors, because the registry names all messages and
//! each actor uses the registry.

use std::sync::{Arc, Mutex, PoisonError};

use cenotaph_storage::decide::{
    FallbackAnswer, Precondition, PutResult, Repair, Swap, SwapReply, UploadRepair, UploadStep,
};
use cenotaph_storage::index::Range;
use cenotaph_storage::records::Attributes;
use cenotaph_storage::{
    Checksum, Digest, Error, ObjectId, OperationId, PartEtag, PartNumber, Result, RevisionId,
    Timestamp, UploadId,
};
use tokio::sync::oneshot;

use crate::admission::payload::PayloadSource;
use crate::admission::permits::Permit;
use crate::runtime::reply::{Caller, ReplyCallback};
use crate::runtime::shard_lock::ShardLock;
use crate::runtime::timer::TimerToken;

/// A message to a shard, with the number of plans that were made for it before (`shard/again.rs`).
pub(crate) struct ShardRequest {
    pub(crate) message: ShardMessage,
    pub(crate) attempt: u32,
}

impl From<ShardMessage> for ShardRequest {
    fn from(message: ShardMessage) -> Self {
        Self {
            message,
            attempt: 0,
        }
    }
}

/// Work for a shard.
pub(crate) enum ShardMessage {
    /// Decides this swap and commits its plan.
    Swap {
        swap: Box<Swap>,
        answer: FallbackAnswer,
        permit: Permit,
        reply: ReplyCallback<SwapReply>,
    },
    /// Decides this step of a multipart upload and commits its plan.
    UploadStep {
        swap: Box<UploadStep>,
        answer: FallbackAnswer,
        permit: Permit,
        reply: ReplyCallback<Option<PutResult>>,
    },
    /// Fences this change of this object, if the change still exists (I6). Replies whether it did.
    Fence {
        object: ObjectId,
        change: OperationId,
        reply: ReplyCallback<bool>,
    },
    /// Reads again the entries that a scrub found damaged, and repairs them if `mode` requires it.
    /// Replies whether they are damaged.
    Repair {
        object: ObjectId,
        repair: Box<Repair>,
        mode: RepairMode,
        reply: ReplyCallback<bool>,
    },
    /// As [`Repair`](Self::Repair), for an upload to this object.
    RepairUpload {
        object: ObjectId,
        upload: UploadId,
        repair: Box<UploadRepair>,
        mode: RepairMode,
        reply: ReplyCallback<bool>,
    },
    /// Drops the last versions of these objects that were deleted at or before `cutoff`. Replies
    /// their number.
    Prune {
        objects: Vec<ObjectId>,
        cutoff: Timestamp,
        reply: ReplyCallback<u64>,
    },
    /// Locks these objects: the shard decides nothing until the lock has ended (`shard_lock.rs`).
    Lock {
        objects: Vec<ObjectId>,
        granted: oneshot::Sender<Result<ShardLock>>,
    },
}

/// Action of a shard on damage that it confirms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RepairMode {
    /// No action: the shard only confirms.
    Confirm,
    /// The shard repairs the damage in the same turn.
    Repair,
}

impl ShardMessage {
    /// Replies with an error, and decides nothing.
    pub(crate) fn refuse(self, error: Error) {
        match self {
            Self::Swap { reply, .. } => reply(Err(error)),
            Self::UploadStep { reply, .. } => reply(Err(error)),
            Self::Fence { reply, .. }
            | Self::Repair { reply, .. }
            | Self::RepairUpload { reply, .. } => reply(Err(error)),
            Self::Prune { reply, .. } => reply(Err(error)),
            Self::Lock { granted, .. } => drop(granted.send(Err(error))),
        }
    }
}

/// A message to a background worker whose passes have the outcome `T`.
pub(crate) enum WorkerMessage<T> {
    /// Runs a pass: there may be new work.
    Wake,
    /// Runs a pass: the timer has expired.
    Due(TimerToken),
    /// Runs a pass, and replies with its outcome.
    Pass(ReplyCallback<T>),
}

/// A message to recovery, whose outcome is the number of changes fenced.
pub(crate) type RecoveryMessage = WorkerMessage<u64>;

/// A message to the sweeper.
pub(crate) type SweeperMessage = WorkerMessage<SweepOutcome>;

/// A message to the expirer.
pub(crate) type ExpirerMessage = WorkerMessage<ExpiryOutcome>;

/// A message to the pruner.
pub(crate) type PrunerMessage = WorkerMessage<PruneOutcome>;

/// Outcome of a pass of the pruner.
#[derive(Clone, Debug)]
pub(crate) struct PruneOutcome {
    /// Time at which the walk began.
    pub(crate) begun: Timestamp,
    /// Number of last versions dropped.
    pub(crate) pruned: u64,
    /// Times of deletion of the last versions that the page leaves.
    pub(crate) kept: Vec<Timestamp>,
    /// The range behind the page; `None` at the end of the walk.
    pub(crate) rest: Option<Range>,
}

/// Outcome of a pass of the sweeper.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SweepOutcome {
    /// Orphans that wait for the end of a read, a grace time or a backoff.
    pub(crate) waiting: u64,
    /// Time at which the next of them is due.
    pub(crate) next_due: Option<Timestamp>,
    /// True if the pass ended early because the blob tier refused deletion after deletion.
    pub(crate) is_refused: bool,
    /// Failed deletions since the last successful deletion.
    pub(crate) failed_in_a_row: usize,
}

/// Outcome of a pass of the expirer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ExpiryOutcome {
    /// Objects removed.
    pub(crate) removed: u64,
    /// Time at which the next entry is due.
    pub(crate) next_due: Option<Timestamp>,
}

/// An upload to the blob tier: a large put, a part or a relocation.
pub(crate) struct UploadJob {
    pub(crate) id: ObjectId,
    pub(crate) operation: OperationId,
    pub(crate) purpose: Purpose,
    pub(crate) source: PayloadSource,
    /// Resolves when the caller has dropped its future.
    pub(crate) caller_gone: oneshot::Receiver<()>,
    pub(crate) permit: Permit,
    /// Permit for the bytes of the payload that are buffered already. Returned once the upload
    /// holds memory of its own.
    pub(crate) peeked: Permit,
    /// True if the upload is bulk work, which may use only a share of each budget.
    pub(crate) is_bulk: bool,
}

/// Purpose of an upload, with the caller that receives its result.
pub(crate) enum Purpose {
    /// A large put.
    Put {
        attributes: Attributes,
        precondition: Precondition,
        answer: FallbackAnswer,
        caller: Caller<PutResult>,
    },
    /// A part of a multipart upload, with the checksums that its caller declared.
    Part {
        upload: UploadId,
        number: PartNumber,
        declared: Vec<Digest>,
        caller: Caller<UploadedPart>,
    },
    /// A copy of a payload from an older blob tier.
    Relocate {
        copied: Vec<RevisionId>,
        checksum: Option<Checksum>,
        caller: Caller<bool>,
    },
}

impl Purpose {
    /// Returns a function that fails the caller with an error.
    pub(crate) fn refusal(&self) -> Box<dyn FnOnce(Error) + Send> {
        match self {
            Self::Put { caller, .. } => {
                let caller = caller.clone();
                Box::new(move |error| caller.answer(Err(error)))
            }
            Self::Part { caller, .. } => {
                let caller = caller.clone();
                Box::new(move |error| caller.answer(Err(error)))
            }
            Self::Relocate { caller, .. } => {
                let caller = caller.clone();
                Box::new(move |error| caller.answer(Err(error)))
            }
        }
    }
}

/// A durable part of a multipart upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadedPart {
    /// Number of the part.
    pub number: PartNumber,
    /// Hash of its bytes. A completion lists the part by this etag.
    pub etag: PartEtag,
    /// Length in bytes.
    pub bytes: u64,
}

/// A message to the parent of the uploads.
pub(crate) enum UploadsMessage {
    /// Starts an upload, which answers its caller itself. `started` is dropped unsent if the
    /// message is lost.
    Start {
        job: Handover,
        started: oneshot::Sender<()>,
    },
}

/// A job on its way to its upload actor. The sender keeps a clone, so that a lost message does not
/// lose the payload's stream.
#[derive(Clone)]
pub(crate) struct Handover(Arc<Mutex<Option<Box<UploadJob>>>>);

impl Handover {
    /// Creates a handover that holds the job.
    pub(crate) fn new(job: UploadJob) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::new(job)))))
    }

    /// Takes the job, or returns `None` if it is taken already.
    pub(crate) fn take(&self) -> Option<Box<UploadJob>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Returns whether the job has been taken.
    pub(crate) fn is_taken(&self) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none()
    }
}
