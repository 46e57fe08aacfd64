//! Multipart uploads: what a client asks about them, and what all clients remember of them, over
//! all lives.
//!
//! A client that has no handle on an upload, as after a crash, takes it up again by its id first,
//! which is a call of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cenotaph::{Digest, Error, ErrorKind, Namespace, PartEtag, Upload, UploadId, UploadedPart};
use futures::TryStreamExt;

use super::writes::{attributes, precondition};
use super::{Client, Watch, body, failed};
use crate::check::{About, Answer, Asked, Call, Demand};
use crate::payload::payload;
use crate::plan::{
    Choice, Declared, Lifetime, Shape, Step, When, Which, object_id, other_namespace,
};

/// What clients know of uploads, by slot.
#[derive(Clone, Default)]
pub(crate) struct Slots(Arc<Mutex<BTreeMap<u32, Known>>>);

/// What a client has in hand.
pub(super) type Handles = Arc<Mutex<BTreeMap<UploadId, Upload>>>;

/// An upload that somebody has begun.
#[derive(Clone)]
struct Known {
    object: u32,
    id: UploadId,
    /// The number of the call that began it.
    of: u64,
    /// The parts of which somebody heard that they are filed.
    parts: BTreeMap<u32, PartEtag>,
}

impl Slots {
    fn of(&self, slot: u32) -> Option<Known> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&slot)
            .cloned()
    }

    fn begun(&self, slot: u32, known: Known) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(slot, known);
    }

    fn filed(&self, id: UploadId, part: &UploadedPart) {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for known in slots.values_mut().filter(|known| known.id == id) {
            known.parts.insert(part.number.into(), part.etag);
        }
    }
}

/// An upload, and the client's handle on it.
struct InHand {
    known: Known,
    upload: Upload,
}

/// A part, but for its number.
#[derive(Clone, Copy)]
struct PartOf {
    write: u64,
    bytes: u64,
    shape: Shape,
    declared: Declared,
}

impl Client {
    /// Does something about the upload of a slot.
    pub(super) async fn step(&self, slot: u32, step: &Step, write: u64) -> Answer {
        match step {
            Step::Initiate {
                object,
                when,
                lifetime,
            } => {
                self.initiate(slot, (*object, *when, *lifetime), write)
                    .await
            }
            Step::Uploads { hot, limit } => self.uploads(*hot, *limit).await,
            Step::Resume { which } => match self.slots.of(slot) {
                Some(known) => self.resume(&known, *which).await,
                None => Answer::Done,
            },
            Step::Part { .. }
            | Step::CopyPart { .. }
            | Step::Parts { .. }
            | Step::Complete { .. }
            | Step::Abort => match self.in_hand(slot).await {
                Some(in_hand) => self.go_on(&in_hand, step, write).await,
                None => Answer::Done,
            },
        }
    }

    async fn go_on(&self, in_hand: &InHand, step: &Step, write: u64) -> Answer {
        let InHand { known, upload } = in_hand;
        match step {
            Step::Part {
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
            Step::CopyPart { number, from, span } => {
                let from = object_id(*from);
                let about = About::PartOf {
                    number: *number,
                    from: from.encoded().clone(),
                    span: *span,
                };
                let copy = upload.part_copy(*number, from).range(super::range(*span));
                let ask = async { self.filed(upload, copy.await) };
                self.about(known, about, ask).await
            }
            Step::Parts { after, limit } => {
                let about = About::Parts {
                    after: *after,
                    limit: *limit,
                };
                self.about(known, about, self.parts(upload, *after, *limit))
                    .await
            }
            Step::Complete { choice, when } => {
                let demand = self.demand_of(known.object, *when).await;
                self.complete(in_hand, *choice, demand).await
            }
            Step::Abort => {
                let ask = async {
                    upload
                        .abort()
                        .await
                        .map_or_else(|error| failed(&error), |()| Answer::Done)
                };
                self.about(known, About::Abort, ask).await
            }
            Step::Initiate { .. } | Step::Uploads { .. } | Step::Resume { .. } => {
                unreachable!("these need no handle")
            }
        }
    }

    /// Asks, and writes down what it asked and heard.
    async fn about(&self, known: &Known, what: About, ask: impl Future<Output = Answer>) -> Answer {
        let text = format!(
            "upload {} to {}: {what:?}",
            known.of,
            object_id(known.object)
        );
        let object = object_id(known.object).encoded().clone();
        let number = self.called(
            Call::Multipart(Asked {
                object,
                of: known.of,
                what: what.clone(),
            }),
            text,
        );
        self.hear(number, &what, ask).await
    }

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
        let text = format!("begins an upload to {id}, write {write}, {demand:?}, {lifetime:?}");
        let number = self.called(Call::Multipart(asked), text);
        let initiate = self
            .engine
            .multipart(id)
            .attributes(attributes(write, lifetime));
        let ask = async {
            match initiate.precondition(precondition(&demand)).await {
                Ok(upload) => {
                    let id = upload.upload_id();
                    self.slots.begun(
                        slot,
                        Known {
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
        self.hear(number, &"initiate", ask).await
    }

    fn take(&self, upload: Upload) {
        self.handles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(upload.upload_id(), upload);
    }

    /// The upload of a slot, taken up again if need be; none if that can't be.
    async fn in_hand(&self, slot: u32) -> Option<InHand> {
        let known = self.slots.of(slot)?;
        let held = |id: &UploadId| {
            self.handles
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get(id)
                .cloned()
        };
        if held(&known.id).is_none() {
            self.resume(&known, Which::Ours).await;
        }
        held(&known.id).map(|upload| InHand { known, upload })
    }

    async fn resume(&self, known: &Known, which: Which) -> Answer {
        let mut spelled = known.id.to_string();
        let mut object = known.object;
        match which {
            Which::Ours => {}
            Which::Forged => {
                let last = if spelled.ends_with('0') { "1" } else { "0" };
                spelled.replace_range(spelled.len() - 1.., last);
            }
            Which::Foreign => object += 1,
        }
        let what = if which == Which::Ours {
            About::Resume
        } else {
            About::ResumeOther
        };
        let ask = async {
            match self.engine.resume(object_id(object), spelled).await {
                Ok(upload) => {
                    self.take(upload);
                    Answer::Done
                }
                Err(error) => failed(&error),
            }
        };
        self.about(known, what, ask).await
    }

    async fn part(&self, upload: &Upload, number: u32, part: PartOf) -> Answer {
        let PartOf {
            write,
            bytes,
            shape,
            declared,
        } = part;
        let watch = Watch::new(&self.machine);
        let mut asked = upload.part(number, body(write, bytes, shape, watch.clone()));
        match declared {
            Declared::Nothing => {}
            Declared::Right => asked = asked.checksum(Digest::crc32c_of(&payload(write, bytes))),
            Declared::Wrong => asked = asked.checksum(Digest::sha256_of(b"something else")),
        }
        let outcome = match shape {
            Shape::Dropped(_, ms) => {
                let asked = asked.into_future();
                match self
                    .world
                    .env()
                    .deadline(Duration::from_millis(ms), asked)
                    .await
                {
                    Some(outcome) => outcome,
                    None => {
                        watch.drop_it();
                        return Answer::Cancelled;
                    }
                }
            }
            Shape::Bytes
            | Shape::Stream(_)
            | Shape::Slow(..)
            | Shape::Promised(_)
            | Shape::Broken(_)
            | Shape::Failing(_) => asked.await,
        };
        self.filed(upload, outcome.map(Some))
    }

    fn filed(&self, upload: &Upload, outcome: Result<Option<UploadedPart>, Error>) -> Answer {
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

    async fn parts(&self, upload: &Upload, after: Option<u32>, limit: usize) -> Answer {
        let list = upload.parts().limit(limit);
        let list = match after.map(cenotaph::PartNumber::new) {
            Some(Ok(after)) => list.start_after(after),
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
                    return self.nonsense(format!(
                        "the next page of parts begins behind {:?}",
                        page.next
                    ));
                }
                Answer::Parts(parts, page.next.is_some())
            }
            Err(error) => failed(&error),
        }
    }

    async fn uploads(&self, hot: bool, limit: usize) -> Answer {
        let prefix = if hot { "hot/" } else { "" };
        let below = Bytes::from(format!("default\0{prefix}"));
        let asked = Asked {
            object: Bytes::new(),
            of: 0,
            what: About::Uploads {
                prefix: below,
                limit,
            },
        };
        let number = self.called(
            Call::Multipart(asked),
            format!("list uploads hot={hot} limit={limit}"),
        );
        let ask = async {
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
        self.hear(number, &"list uploads", ask).await
    }

    async fn complete(&self, in_hand: &InHand, choice: Choice, demand: Demand) -> Answer {
        let InHand { known, upload } = in_hand;
        let listed = listed(known, choice);
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
        let is_over = self.machine.state().monitor.was_completed(known.of);
        let ask = async {
            complete
                .await
                .map_or_else(|error| failed(&error), |written| self.written(written))
        };
        let answer = self.about(known, about, ask).await;
        let counter = match &answer {
            Answer::Applied { .. } | Answer::Superseded if is_over => "upload: completed again",
            Answer::Conflict { .. } => "upload: completed in conflict",
            Answer::Failed(ErrorKind::Invalid) if is_over => "upload: completed again, refused",
            Answer::Failed(ErrorKind::Invalid) => "upload: completion refused",
            _ => return answer,
        };
        self.machine.state().coverage.count(counter);
        answer
    }

    /// Gives up every upload that is open.
    pub(crate) async fn abort_all(&self) -> Result<(), Error> {
        for namespace in [Namespace::default_namespace(), other_namespace()] {
            let uploads = self
                .engine
                .list_uploads("")
                .namespace(namespace)
                .limit(2)
                .stream();
            for info in uploads.try_collect::<Vec<_>>().await? {
                let of = super::write_of(&info.attributes.custom).unwrap_or(0);
                let asked = Asked {
                    object: info.id.encoded().clone(),
                    of,
                    what: About::Abort,
                };
                let number = self.called(
                    Call::Multipart(asked),
                    format!("aborts upload {of} to {}", info.id),
                );
                let ask = async {
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
                self.hear(number, &"abort", ask).await;
            }
        }
        Ok(())
    }
}

/// The parts that are listed.
fn listed(known: &Known, choice: Choice) -> Option<Vec<(u32, PartEtag)>> {
    let mut all: Vec<(u32, PartEtag)> = known
        .parts
        .iter()
        .map(|(number, etag)| (*number, *etag))
        .collect();
    match choice {
        Choice::Unlisted => return None,
        Choice::Listed => {}
        Choice::Half => all = all.into_iter().step_by(2).collect(),
        Choice::WrongEtag => all
            .iter_mut()
            .rev()
            .take(1)
            .for_each(|(_, etag)| *etag = PartEtag::of(b"something else")),
        Choice::Backwards => all.reverse(),
        Choice::Missing => all.push((9_999, PartEtag::of(b"something else"))),
    }
    Some(all)
}
