//! Multipart uploads of a client, and the state of uploads that all clients share in all
//! incarnations.
//!
//! A client without a handle on an upload, as after a crash, first resumes the upload by its id,
//! which is a separate call.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cenotaph::{
    Digest, Error, ErrorKind, MultipartUpload, Namespace, PartEtag, UploadId, UploadedPart,
};
use futures::TryStreamExt;

use super::selection::listed;
use super::writes::{attributes, precondition};
use super::{Client, DropWatch, body, failed};
use crate::check::{About, Answer, Asked, Call, Demand};
use crate::plan::{
    Choice, Declared, Lifetime, Shape, UploadAction, When, Which, object_id, other_namespace,
};

/// Started uploads by slot, shared by all clients.
#[derive(Clone, Default)]
pub(crate) struct Slots(Arc<Mutex<BTreeMap<u32, StartedUpload>>>);

/// Open handles of a client.
pub(super) type Handles = Arc<Mutex<BTreeMap<UploadId, MultipartUpload>>>;

/// A started upload.
#[derive(Clone)]
struct StartedUpload {
    object: u32,
    id: UploadId,
    /// Number of the call that started the upload.
    of: u64,
    /// Acknowledged parts.
    parts: BTreeMap<u32, PartEtag>,
}

impl Slots {
    /// Returns the upload in a slot.
    fn of(&self, slot: u32) -> Option<StartedUpload> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&slot)
            .cloned()
    }

    /// Stores a started upload in a slot, in place of any earlier upload.
    fn begun(&self, slot: u32, known: StartedUpload) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            // The replaced upload stays open until it expires or the run aborts it.
            .insert(slot, known);
    }

    /// Records an acknowledged part.
    fn filed(&self, id: UploadId, part: &UploadedPart) {
        // Another client may have replaced the upload in the slot, so that the upload is searched
        // by its id.
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for known in slots.values_mut().filter(|known| known.id == id) {
            known.parts.insert(part.number.into(), part.etag);
        }
    }
}

/// An upload and the handle of the client.
struct InHand {
    known: StartedUpload,
    upload: MultipartUpload,
}

/// Arguments of a part, except for its number.
#[derive(Clone, Copy)]
struct PartOf {
    write: u64,
    bytes: u64,
    shape: Shape,
    declared: Declared,
}

impl Client {
    /// Performs a step of the upload in a slot. Does nothing if the slot is empty.
    pub(super) async fn step(&self, slot: u32, step: &UploadAction, write: u64) -> Answer {
        match step {
            UploadAction::Initiate {
                object,
                when,
                lifetime,
            } => {
                self.initiate(slot, (*object, *when, *lifetime), write)
                    .await
            }
            UploadAction::Uploads { hot, limit } => self.uploads(*hot, *limit).await,
            UploadAction::Resume { which } => match self.slots.of(slot) {
                Some(known) => self.resume(&known, *which).await,
                None => Answer::Done,
            },
            UploadAction::Part { .. }
            | UploadAction::CopyPart { .. }
            | UploadAction::Parts { .. }
            | UploadAction::Complete { .. }
            | UploadAction::Abort => match self.in_hand(slot).await {
                Some(in_hand) => self.step_with_handle(&in_hand, step, write).await,
                None => Answer::Done,
            },
        }
    }

    /// Performs a step that needs a handle.
    async fn step_with_handle(&self, in_hand: &InHand, step: &UploadAction, write: u64) -> Answer {
        let InHand { known, upload } = in_hand;
        match step {
            UploadAction::Part {
                number,
                bytes,
                shape,
                declared,
            } => {
                let part = PartOf {
                    write,
                    bytes: *bytes,
                    shape: *shape,
                    declared: *declared,
                };
                // Bytes that do not have the declared checksum are refused like a failed stream.
                let fails = shape.fails() || *declared == Declared::Wrong;
                let about = About::Part {
                    number: *number,
                    write,
                    bytes: *bytes,
                    fails,
                };
                self.about(known, about, self.part(upload, *number, part))
                    .await
            }
            UploadAction::CopyPart { number, from, span } => {
                let from = object_id(*from);
                let about = About::PartOf {
                    number: *number,
                    from: from.encoded().clone(),
                    span: *span,
                };
                let copy = upload.part_copy(*number, from).range(super::range(*span));
                let copied = async { self.filed(upload, copy.await) };
                self.about(known, about, copied).await
            }
            UploadAction::Parts { after, limit } => {
                let about = About::Parts {
                    after: *after,
                    limit: *limit,
                };
                self.about(known, about, self.parts(upload, *after, *limit))
                    .await
            }
            UploadAction::Complete { choice, when } => {
                let demand = self.demand_of(known.object, *when).await;
                self.complete(in_hand, *choice, demand).await
            }
            UploadAction::Abort => {
                let aborted = async {
                    upload
                        .abort()
                        .await
                        .map_or_else(|error| failed(&error), |()| Answer::Done)
                };
                self.about(known, About::Abort, aborted).await
            }
            UploadAction::Initiate { .. }
            | UploadAction::Uploads { .. }
            | UploadAction::Resume { .. } => {
                unreachable!("these steps need no handle")
            }
        }
    }

    /// Waits for an answer about a started upload, and records the call and the answer.
    async fn about(
        &self,
        known: &StartedUpload,
        about: About,
        answer: impl Future<Output = Answer>,
    ) -> Answer {
        let id = object_id(known.object);
        let asked = Asked {
            object: id.encoded().clone(),
            of: known.of,
            what: about.clone(),
        };
        let number = self.called(Call::Multipart(asked), || {
            format!("upload {} to {id}: {about:?}", known.of)
        });
        self.receive(number, &about, pin!(answer)).await
    }

    /// Starts an upload and stores it in the slot.
    async fn initiate(&self, slot: u32, of: (u32, When, Lifetime), write: u64) -> Answer {
        let (object, when, lifetime) = of;
        let demand = self.demand_of(object, when).await;
        let id = object_id(object);
        let asked = Asked {
            object: id.encoded().clone(),
            of: write,
            what: About::Begin {
                demand: demand.clone(),
            },
        };
        let number = self.called(Call::Multipart(asked), || {
            format!("start an upload to {id}, write {write}, {demand:?}, {lifetime:?}")
        });
        let initiate = self
            .engine
            .multipart(id)
            .attributes(attributes(write, lifetime));
        let started = async {
            match initiate.precondition(precondition(&demand)).await {
                Ok(upload) => {
                    let id = upload.upload_id();
                    // The slot keeps no upload whose start was not acknowledged: its id is unknown.
                    self.slots.begun(
                        slot,
                        StartedUpload {
                            object,
                            id,
                            of: write,
                            parts: BTreeMap::new(),
                        },
                    );
                    self.take(upload);
                    Answer::Began {
                        upload: Bytes::copy_from_slice(id.as_bytes()),
                    }
                }
                Err(error) => failed(&error),
            }
        };
        self.receive(number, &"initiate", pin!(started)).await
    }

    /// Stores a handle.
    fn take(&self, upload: MultipartUpload) {
        self.handles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(upload.upload_id(), upload);
    }

    /// Returns the upload in a slot with a handle. Resumes the upload if there is no handle, and
    /// returns `None` if that fails.
    async fn in_hand(&self, slot: u32) -> Option<InHand> {
        let known = self.slots.of(slot)?;
        let held = |id: &UploadId| {
            self.handles
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get(id)
                .cloned()
        };
        // Handles belong to an incarnation. After a crash, no client has any.
        if held(&known.id).is_none() {
            self.resume(&known, Which::Ours).await;
        }
        held(&known.id).map(|upload| InHand { known, upload })
    }

    /// Resumes an upload, or a variation of it that must be refused.
    async fn resume(&self, known: &StartedUpload, which: Which) -> Answer {
        let mut id = known.id.to_string();
        let mut object = known.object;
        match which {
            Which::Ours => {}
            Which::Forged => {
                // The id stays well-formed and differs in its last digit.
                let last = if id.ends_with('0') { "1" } else { "0" };
                id.replace_range(id.len() - 1.., last);
            }
            Which::Foreign => object += 1,
        }
        let about = if which == Which::Ours {
            About::Resume
        } else {
            About::ResumeOther
        };
        let resumed = async {
            match self.engine.resume(object_id(object), id).await {
                Ok(upload) => {
                    self.take(upload);
                    Answer::Done
                }
                Err(error) => failed(&error),
            }
        };
        self.about(known, about, resumed).await
    }

    /// Uploads a part, or drops the call if its shape is [`Shape::Dropped`].
    async fn part(&self, upload: &MultipartUpload, number: u32, part: PartOf) -> Answer {
        let PartOf {
            write,
            bytes,
            shape,
            declared,
        } = part;
        let watch = DropWatch::new(&self.durable_state);
        let all = self.payload(write, bytes);
        let mut part = upload.part(number, body(&all, shape, watch.clone()));
        match declared {
            Declared::Nothing => {}
            Declared::Right => part = part.checksum(Digest::crc32c_of(&all)),
            Declared::Wrong => part = part.checksum(Digest::sha256_of(b"something else")),
        }
        let outcome = match shape {
            Shape::Dropped(_, ms) => {
                let part = part.into_future();
                match self
                    .world
                    .env()
                    .deadline(Duration::from_millis(ms), part)
                    .await
                {
                    Some(outcome) => outcome,
                    None => {
                        watch.mark_dropped();
                        return Answer::Cancelled;
                    }
                }
            }
            Shape::Bytes
            | Shape::Stream(_)
            | Shape::Slow(..)
            | Shape::Promised(_)
            | Shape::Broken(_)
            | Shape::Failing(_) => part.await,
        };
        self.filed(upload, outcome.map(Some))
    }

    /// Maps the result of uploading or copying a part, and records an acknowledged part.
    fn filed(
        &self,
        upload: &MultipartUpload,
        outcome: Result<Option<UploadedPart>, Error>,
    ) -> Answer {
        match outcome {
            Ok(Some(part)) => {
                self.slots.filed(upload.upload_id(), &part);
                Answer::Filed {
                    etag: part.etag.get(),
                    bytes: part.bytes,
                }
            }
            Ok(None) => Answer::Absent,
            Err(error) => failed(&error),
        }
    }

    /// Lists a page of parts.
    async fn parts(&self, upload: &MultipartUpload, after: Option<u32>, limit: usize) -> Answer {
        let list = upload.parts().limit(limit);
        let list = match after.map(cenotaph::PartNumber::new) {
            Some(Ok(after)) => list.start_after(after),
            // A number out of range lists from the first part.
            Some(Err(_)) | None => list,
        };
        match list.await {
            Ok(page) => {
                let parts = page
                    .parts
                    .iter()
                    .map(|part| (part.number.into(), part.etag.get(), part.bytes))
                    .collect();
                if page.next.is_some() && page.next != page.parts.last().map(|part| part.number) {
                    return self.contradiction(format!(
                        "the next page does not start after the last part: next={:?}",
                        page.next
                    ));
                }
                Answer::Parts(parts, page.next.is_some())
            }
            Err(error) => failed(&error),
        }
    }

    /// Lists a page of open uploads.
    async fn uploads(&self, hot: bool, limit: usize) -> Answer {
        let prefix = if hot { "hot/" } else { "" };
        let asked = Asked {
            object: Bytes::new(),
            of: 0,
            what: About::Uploads {
                prefix: Bytes::from(format!("default\0{prefix}")),
                limit,
            },
        };
        let number = self.called(Call::Multipart(asked), || {
            format!("list uploads hot={hot} limit={limit}")
        });
        let listed = async {
            match self.engine.list_uploads(prefix).limit(limit).await {
                Ok(page) => {
                    let upload = |id: &UploadId| Bytes::copy_from_slice(id.as_bytes());
                    let uploads = page.uploads.iter();
                    let uploads =
                        uploads.map(|info| (info.id.encoded().clone(), upload(&info.upload_id)));
                    Answer::Uploads(uploads.collect(), page.next.is_some())
                }
                Err(error) => failed(&error),
            }
        };
        self.receive(number, &"list uploads", pin!(listed)).await
    }

    /// Completes an upload and counts repeated, refused and conflicting completions.
    async fn complete(&self, in_hand: &InHand, choice: Choice, demand: Demand) -> Answer {
        let InHand { known, upload } = in_hand;
        let listed = listed(&known.parts, choice);
        let etags = |listed: &Vec<(u32, PartEtag)>| {
            listed
                .iter()
                .map(|(number, etag)| (*number, etag.get()))
                .collect()
        };
        let about = About::Complete {
            listed: listed.as_ref().map(etags),
            demand: demand.clone(),
        };
        let complete = upload.complete().precondition(precondition(&demand));
        let complete = match listed {
            Some(listed) => complete.parts(listed),
            None => complete,
        };
        // Before the call, because the call itself may complete the upload.
        let is_over = self.durable_state.state().model.was_completed(known.of);
        let completed = async {
            complete
                .await
                .map_or_else(|error| failed(&error), |written| self.written(written))
        };
        let answer = self.about(known, about, completed).await;
        let counter = match &answer {
            Answer::Applied { .. } | Answer::Superseded if is_over => "upload: completed again",
            Answer::Conflict { .. } => "upload: completed in conflict",
            Answer::Failed(ErrorKind::Invalid) if is_over => "upload: completed again, refused",
            Answer::Failed(ErrorKind::Invalid) => "upload: completion refused",
            _ => return answer,
        };
        self.durable_state.state().coverage.count(counter);
        answer
    }

    /// Aborts every open upload.
    pub(crate) async fn abort_all(&self) -> Result<(), Error> {
        // The engine is asked for all uploads, because no slot holds a replaced upload.
        for namespace in [Namespace::default_namespace(), other_namespace()] {
            let uploads = self
                .engine
                .list_uploads("")
                .namespace(namespace)
                // Small pages, so that aborts change the listing between them.
                .limit(2)
                .stream();
            for info in uploads.try_collect::<Vec<_>>().await? {
                // The attributes contain the number of the call that started the upload.
                let of = super::write_of(&info.attributes.custom).unwrap_or(0);
                let asked = Asked {
                    object: info.id.encoded().clone(),
                    of,
                    what: About::Abort,
                };
                let number = self.called(Call::Multipart(asked), || {
                    format!("abort upload {of} to {}", info.id)
                });
                let answer = async {
                    let aborted = match self
                        .engine
                        .resume(info.id, info.upload_id.to_string())
                        .await
                    {
                        Ok(upload) => upload.abort().await,
                        Err(error) => Err(error),
                    };
                    aborted.map_or_else(|error| failed(&error), |()| Answer::Done)
                };
                self.receive(number, &"abort", pin!(answer)).await;
            }
        }
        Ok(())
    }
}
