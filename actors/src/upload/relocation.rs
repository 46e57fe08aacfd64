//! A relocation: an upload whose revisions replace those of a payload in an older blob tier.
//!
//! The copy goes through the steps of every upload, so that a kill leaves a change behind, which
//! recovery settles. The shard commits it only if the object still has the revisions that were
//! copied (docs/adr/0030).

use cenotaph_storage::decide::{
    FallbackAnswer, Mutation, Precondition, Swap, SwapReply, WriteOutcome,
};
use cenotaph_storage::records::Manifest;
use cenotaph_storage::{
    Checksum, Error, ErrorKind, ObjectId, OperationId, Result, RevisionId, SyncPoint,
};
use tokio::sync::oneshot;

use super::BlobUpload;
use super::change_recorder::ChangeRecorder;
use super::split::Split;
use super::stream::PayloadSplit;
use crate::admission::payload::PayloadSource;
use crate::admission::permits::Permit;
use crate::runtime::reply::{Caller, ReplyCallback};

/// A relocation without the payload.
pub(super) struct Relocation {
    pub(super) id: ObjectId,
    pub(super) operation: OperationId,
    /// Revisions that are copied.
    pub(super) copied: Vec<RevisionId>,
    /// Checksum of the payload, if the row has one.
    pub(super) checksum: Option<Checksum>,
    /// Receives true if the row names the copies.
    pub(super) caller: Caller<bool>,
    pub(super) permit: Permit,
}

impl BlobUpload {
    /// Runs a relocation.
    pub(super) async fn relocate(
        &self,
        relocation: Relocation,
        source: PayloadSource,
        mut caller_gone: oneshot::Receiver<()>,
        (peeked, is_bulk): (Permit, bool),
    ) -> Result<()> {
        let Relocation {
            id,
            operation,
            copied,
            checksum,
            caller,
            permit,
        } = relocation;
        let split = Split::of(&self.context.limits.split, source.bytes);
        let cut = PayloadSplit {
            split: split.as_ref(),
            buffer_bytes: self.buffer_bytes(split.as_ref(), source.bytes),
            peeked,
            is_bulk,
        };
        let most = split
            .as_ref()
            .map_or(1, |split| split.blobs_max(source.bytes));
        self.context.env.pass(SyncPoint::UploadBeforeRecord).await;
        let mut recorder =
            ChangeRecorder::open(self.context.clone(), id.clone(), operation, most).await?;
        self.context.env.pass(SyncPoint::UploadAfterRecord).await;
        let (parts, found) = self
            .stream(&id, &mut recorder, source, cut, &mut caller_gone)
            .await?;
        self.context.env.pass(SyncPoint::UploadAfterClose).await;
        if checksum.is_some() && found.is_some() && checksum != found {
            let message = "the copied bytes do not match the checksum of the object";
            return Err(Error::new(ErrorKind::Corrupt, "relocate", message).with_id(&id));
        }
        let (extents, blocks) = parts
            .into_iter()
            .map(|part| (part.extent, part.blocks))
            .unzip();
        let swap = Swap {
            id,
            operation,
            precondition: Precondition::None,
            mutation: Mutation::Relocate {
                manifest: Manifest::of_parts(extents),
                blocks,
                copied,
            },
        };
        let guard = recorder.guard();
        // As for a put: the commit answers the caller even if this actor dies.
        let wrap = move |reply: ReplyCallback<SwapReply>| -> ReplyCallback<SwapReply> {
            let caller = caller.clone();
            let guard = guard.clone();
            Box::new(move |answer: Result<SwapReply>| {
                let is_relocated = |reply: SwapReply| reply.outcome == WriteOutcome::Applied;
                caller.answer(answer.clone().map(is_relocated));
                drop(guard);
                reply(answer);
            })
        };
        self.context
            .compare_and_write(swap, FallbackAnswer::NotAsked, &permit, wrap)
            .await
            .map(drop)
    }
}
