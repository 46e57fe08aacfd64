//! A part: steps 1 and 5 of an upload whose revision becomes a part of a multipart upload.

use cenotaph_storage::decide::{FallbackAnswer, PutResult, UploadMutation, UploadStep};
use cenotaph_storage::records::Part;
use cenotaph_storage::{Digest, ObjectId, OperationId, PartNumber, Result, SyncPoint, UploadId};
use tokio::sync::oneshot;

use super::change_recorder::ChangeRecorder;
use super::memory::BlobMemory;
use super::source_reader::{SourceReader, check_promised_length};
use super::{BlobUpload, Finished};
use crate::admission::payload::PayloadSource;
use crate::admission::permits::Permit;
use crate::context::messages::UploadedPart;
use crate::runtime::reply::{Caller, ReplyCallback};

/// A part without its payload.
pub(super) struct PartUpload {
    pub(super) id: ObjectId,
    pub(super) operation: OperationId,
    pub(super) upload: UploadId,
    pub(super) number: PartNumber,
    pub(super) declared: Vec<Digest>,
    pub(super) caller: Caller<UploadedPart>,
    pub(super) permit: Permit,
}

impl BlobUpload {
    /// Uploads a part.
    pub(super) async fn part(
        &self,
        part: PartUpload,
        source: PayloadSource,
        mut caller_gone: oneshot::Receiver<()>,
    ) -> Result<()> {
        let context = &self.context;
        let most = context.limits.multipart.part_bytes_max;
        check_promised_length(&source, most)?;
        let memory = BlobMemory::new(
            context,
            context.blobs.current().upload_buffer_bytes(source.bytes),
            Permit::free(),
            false,
        );
        context.env.pass(SyncPoint::UploadBeforeRecord).await;

        // Checked before the first byte is uploaded, and again by the shard in step 5.
        context.check_upload(&part.id, &part.upload).await?;
        let mut recorder =
            ChangeRecorder::open(context.clone(), part.id.clone(), part.operation, 1).await?;
        context.env.pass(SyncPoint::UploadAfterRecord).await;

        let mut reader = SourceReader::new(source, most, &part.declared);
        let revision = recorder.next().await?;
        let finished = self
            .stream_one(&part.id, revision, &mut reader, memory, &mut caller_gone)
            .await?;
        context.env.pass(SyncPoint::UploadAfterClose).await;

        self.file(part, finished, recorder).await
    }

    /// Step 5: delivers the step that adds the part to the upload.
    async fn file(
        &self,
        part: PartUpload,
        finished: Finished,
        recorder: ChangeRecorder,
    ) -> Result<()> {
        let PartUpload {
            id,
            operation,
            upload,
            number,
            caller,
            permit,
            ..
        } = part;
        let Finished {
            extent,
            blocks,
            etag,
        } = finished;
        let uploaded = UploadedPart {
            number,
            etag,
            bytes: extent.bytes,
        };
        let part = Part {
            extent,
            etag,
            uploaded: self.context.env.steady_now(),
        };
        let swap = UploadStep {
            id,
            upload,
            operation,
            mutation: UploadMutation::Part {
                number,
                part,
                blocks,
            },
        };
        let guard = recorder.guard();
        // Every delivery carries the caller and the guard, as the commit of a put.
        let wrap =
            move |reply: ReplyCallback<Option<PutResult>>| -> ReplyCallback<Option<PutResult>> {
                let caller = caller.clone();
                let guard = guard.clone();
                Box::new(move |answer: Result<Option<PutResult>>| {
                    caller.answer(answer.clone().map(|_| uploaded));
                    drop(guard);
                    reply(answer);
                })
            };
        let filed = self
            .context
            .step(swap, FallbackAnswer::NotAsked, &permit, wrap);
        filed.await.map(drop)
    }
}
