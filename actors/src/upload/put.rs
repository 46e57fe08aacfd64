//! A large put: steps 1 and 5 of an upload whose revisions become an object.

use std::sync::atomic::Ordering;

use cenotaph_storage::decide::{
    ExpectedRow, FallbackAnswer, Mutation, Precondition, PutResult, RowState, Swap, SwapReply,
    conflict,
};
use cenotaph_storage::records::{Attributes, Manifest};
use cenotaph_storage::{Checksum, ErrorKind, ObjectId, OperationId, Result, SyncPoint, Version};
use tokio::sync::oneshot;

use super::change_recorder::ChangeRecorder;
use super::source_reader::check_promised_length;
use super::split::Split;
use super::stream::PayloadSplit;
use super::{BlobUpload, Finished};
use crate::admission::payload::PayloadSource;
use crate::admission::permits::Permit;
use crate::runtime::live_writes::WriteGuard;
use crate::runtime::reply::{Caller, ReplyCallback};

/// A large put without its payload.
pub(super) struct LargePut {
    pub(super) id: ObjectId,
    pub(super) operation: OperationId,
    pub(super) attributes: Attributes,
    pub(super) precondition: Precondition,
    pub(super) answer: FallbackAnswer,
    pub(super) caller: Caller<PutResult>,
    pub(super) permit: Permit,
}

impl BlobUpload {
    /// Runs a large put.
    pub(super) async fn put(
        &self,
        put: LargePut,
        source: PayloadSource,
        mut caller_gone: oneshot::Receiver<()>,
        (peeked, is_bulk): (Permit, bool),
    ) -> Result<()> {
        let context = &self.context;
        check_promised_length(&source, context.limits.payload_bytes_max)?;
        let split = Split::of(&context.limits.split, source.bytes);
        let buffer_bytes = self.buffer_bytes(split.as_ref(), source.bytes);
        context.env.pass(SyncPoint::UploadBeforeRecord).await;

        let now = context.env.steady_now();
        let row_state = match context.row_state_at(&put.id, now).await {
            // Without a precondition the swap replaces an unreadable row.
            Err(error)
                if error.kind() == ErrorKind::Corrupt && put.precondition == Precondition::None =>
            {
                RowState::New(Version::NONE)
            }
            row_state => row_state?,
        };
        // Checked here to fail early, and again by the shard, which decides.
        let row_state = row_state.answered(put.answer);
        if let Err(unmet) = row_state.check(put.precondition, now) {
            context.counters.conflicts.fetch_add(1, Ordering::Relaxed);
            return Err(conflict("put", unmet));
        }
        // The swap compares with this row: a write that commits while bytes flow supersedes the
        // put.
        let expected = row_state.expectation(now);
        let most = split
            .as_ref()
            .map_or(1, |split| split.blobs_max(source.bytes));
        let mut recorder =
            ChangeRecorder::open(context.clone(), put.id.clone(), put.operation, most).await?;
        context.env.pass(SyncPoint::UploadAfterRecord).await;

        let cut = PayloadSplit {
            split: split.as_ref(),
            buffer_bytes,
            peeked,
            is_bulk,
        };
        let (parts, checksum) = self
            .stream(&put.id, &mut recorder, source, cut, &mut caller_gone)
            .await?;
        context.env.pass(SyncPoint::UploadAfterClose).await;

        self.commit(put, parts, checksum, expected, recorder.guard())
            .await
    }

    /// Step 5: delivers the swap that names the revisions.
    async fn commit(
        &self,
        put: LargePut,
        parts: Vec<Finished>,
        checksum: Option<Checksum>,
        expected: ExpectedRow,
        guard: WriteGuard,
    ) -> Result<()> {
        let LargePut {
            id,
            operation,
            attributes,
            precondition,
            answer,
            caller,
            permit,
        } = put;
        let (extents, blocks) = parts
            .into_iter()
            .map(|part| (part.extent, part.blocks))
            .unzip();
        let manifest = Manifest::of_parts(extents);
        let mutation = Mutation::Tombstone {
            manifest,
            checksum,
            blocks,
            attributes,
            expected,
        };
        // Every delivery carries the caller and the guard. If this actor dies, the commit still
        // answers the caller, and recovery still waits for the guard.
        let wrap = move |reply: ReplyCallback<SwapReply>| -> ReplyCallback<SwapReply> {
            let caller = caller.clone();
            let guard = guard.clone();
            Box::new(move |answer: Result<SwapReply>| {
                caller.answer(answer.clone().map(SwapReply::written));
                // The answer comes first: recovery may run as soon as the guard is dropped.
                drop(guard);
                reply(answer);
            })
        };
        let swap = Swap {
            id,
            operation,
            precondition,
            mutation,
        };
        self.context
            .compare_and_write(swap, answer, &permit, wrap)
            .await
            .map(drop)
    }
}
