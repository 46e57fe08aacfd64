//! What the actors say to each other.
//!
//! One enum for each kind of actor, and what travels in them. They stand here, and not with their
//! actors, so that the routes can know all messages and each actor can know the routes.
//! Deliberately not here: supervision's own (`supervisor.rs`, `upload.rs`), which nobody else
//! sends.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use cenotaph_storage::decide::{
    Mend, Precondition, SessionSwap, Swap, SwapReply, UploadMend, Written,
};
use cenotaph_storage::rows::Attributes;
use cenotaph_storage::{
    Digest, Error, ObjectId, OperationId, PartEtag, PartNumber, Result, Timestamp, UploadId,
};
use futures::stream::BoxStream;
use tokio::sync::oneshot;

use crate::admission::permits::Permit;
use crate::runtime::reply::{Caller, Reply};
use crate::runtime::shard_lock::ShardLock;
use crate::runtime::timer::TimerToken;

/// What a shard is asked.
pub(crate) enum ShardMessage {
    /// Decide this swap, and commit what follows from it.
    Swap {
        swap: Box<Swap>,
        permit: Permit,
        reply: Reply<SwapReply>,
    },
    /// Decide this step of an upload, and commit what follows from it.
    Session {
        swap: Box<SessionSwap>,
        permit: Permit,
        reply: Reply<Option<Written>>,
    },
    /// Fence this change of this object, if it is still there (I6). Answers whether it was.
    Fence {
        object: ObjectId,
        change: OperationId,
        reply: Reply<bool>,
    },
    /// Read again what a scrub found wrong with this object, and mend it if asked to. Answers
    /// whether it is wrong.
    Mend {
        object: ObjectId,
        mend: Box<Mend>,
        act: Act,
        reply: Reply<bool>,
    },
    /// The same about an upload to this object.
    MendUpload {
        object: ObjectId,
        upload: UploadId,
        mend: Box<UploadMend>,
        act: Act,
        reply: Reply<bool>,
    },
    /// Lock these objects: decide nothing until the lock has ended (`lock.rs`).
    Lock {
        objects: Vec<ObjectId>,
        granted: oneshot::Sender<Result<ShardLock>>,
    },
}

/// What a shard does about damage that it confirms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Nothing: it confirms.
    Look,
    /// It mends.
    Mend,
}

impl ShardMessage {
    /// Answers that it is not taken on.
    pub(crate) fn refuse(self, error: Error) {
        match self {
            Self::Swap { reply, .. } => reply(Err(error)),
            Self::Session { reply, .. } => reply(Err(error)),
            Self::Fence { reply, .. }
            | Self::Mend { reply, .. }
            | Self::MendUpload { reply, .. } => reply(Err(error)),
            Self::Lock { granted, .. } => drop(granted.send(Err(error))),
        }
    }
}

/// What recovery is told.
pub(crate) enum RecoveryMessage {
    /// A change may have lost its owner.
    Wake,
    /// The last pass failed, and the time to try again has come.
    Again(TimerToken),
    /// Settle what is dead, then answer with how many changes were fenced.
    Pass(Reply<u64>),
}

/// What the sweeper is told.
pub(crate) enum SweeperMessage {
    /// There may be orphans, or fewer pins.
    Wake,
    /// Its alarm rings.
    Due(TimerToken),
    /// Delete what is due, then answer with what is left.
    Pass(Reply<Left>),
}

/// What the expirer is told.
pub(crate) enum ExpirerMessage {
    /// An object may be due before the expirer looks next.
    Wake,
    /// Its alarm rings.
    Due(TimerToken),
    /// Remove what is due, then answer with how many objects that were.
    Pass(Reply<u64>),
}

/// What a pass has left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// Orphans that wait for a reader, a grace time or a backoff.
    pub(crate) waiting: u64,
    /// When the next of them is due.
    pub(crate) next_due: Option<Timestamp>,
    /// True if the blob tier refused one deletion after the other, so that the pass was given up.
    pub(crate) is_refused: bool,
    /// Deletions that failed since the last one that did not.
    pub(crate) failed_in_a_row: usize,
}

/// A payload as it comes: chunks of any size, or the error that ends it.
pub type PayloadStream =
    BoxStream<'static, Result<Bytes, Box<dyn std::error::Error + Send + Sync>>>;

/// A payload that is streamed, and how long it says it is.
pub struct Source {
    /// The payload.
    pub stream: PayloadStream,
    /// Its length in bytes, if it is known beforehand. A stream that does not keep to it is
    /// [`Source`](cenotaph_storage::ErrorKind::Source).
    pub bytes: Option<u64>,
}

/// One upload.
pub(crate) struct Job {
    pub(crate) id: ObjectId,
    pub(crate) operation: OperationId,
    pub(crate) purpose: Purpose,
    pub(crate) source: Source,
    /// Resolves when the caller has dropped its future.
    pub(crate) caller_gone: oneshot::Receiver<()>,
    pub(crate) permit: Permit,
    /// Leave for what of the payload is buffered already; given back once the upload has its own
    /// share.
    pub(crate) peeked: Permit,
    /// True if the upload is bulk work, which has a share of each budget only.
    pub(crate) is_bulk: bool,
}

/// What an upload is for, and who hears what comes of it.
pub(crate) enum Purpose {
    /// A large put.
    Put {
        attributes: Attributes,
        precondition: Precondition,
        caller: Caller<Written>,
    },
    /// A part of a multipart upload, with what its caller declared about its bytes.
    Part {
        upload: UploadId,
        number: PartNumber,
        declared: Vec<Digest>,
        caller: Caller<UploadedPart>,
    },
}

impl Purpose {
    /// The way to tell the caller of a failure.
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
        }
    }
}

/// A part that is uploaded and durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadedPart {
    /// Its number.
    pub number: PartNumber,
    /// The hash of its bytes: what a completion lists it by.
    pub etag: PartEtag,
    /// Its length in bytes.
    pub bytes: u64,
}

/// What the parent of the uploads is asked.
pub(crate) enum UploadsMessage {
    /// Start an upload. It answers its caller itself. Dropped unsent, `started` tells that the
    /// message was lost.
    Start {
        job: Handover,
        started: oneshot::Sender<()>,
    },
}

/// A job on its way to its upload. Whoever sends it keeps a clone, so that a lost message does not
/// lose the payload's stream.
#[derive(Clone)]
pub(crate) struct Handover(Arc<Mutex<Option<Box<Job>>>>);

impl Handover {
    /// Offers a job.
    pub(crate) fn new(job: Job) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::new(job)))))
    }

    /// Takes it, if nobody has.
    pub(crate) fn take(&self) -> Option<Box<Job>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether somebody has taken it.
    pub(crate) fn is_taken(&self) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none()
    }
}
