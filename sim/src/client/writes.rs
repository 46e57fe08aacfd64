//! Writes of a client other than put and delete, and the mapping of their results to answers.

use std::time::Duration;

use bytes::Bytes;
use cenotaph::{
    Attributes, BatchWrite, Body, Deleted, Expiration, NamespaceLimits, NewContent, Object,
    ObjectId, Operation, Precondition, PutResult, Reply, Result, Update, Updated, WriteReply,
};
use cenotaph_storage::planted::Bug;
use futures::StreamExt;

use super::described::write_of_piece;
use super::reads::write_of;
use super::{Client, failed};
use crate::check::{AMEND, Answer, Call, Demand, Reading, SAW, SAW_IN_SOURCE, WRITE};
use crate::plan::{BatchPiece, Fate, Lifetime, Op, Span, When, object_id, other_namespace};
use crate::trace::EventKind;
use crate::world::scheduler::sleep;

/// Arguments of an update, except for its object.
#[derive(Clone, Copy)]
pub(super) struct UpdateOf {
    pub(super) write: u64,
    pub(super) bytes: u64,
    pub(super) fate: Fate,
    pub(super) pause_ms: u64,
    pub(super) lifetime: Lifetime,
}

/// Returns the attributes of a write. The number of the write is a custom entry.
pub(super) fn attributes(write: u64, lifetime: Lifetime) -> Attributes {
    let expiration = match lifetime {
        Lifetime::Forever => Expiration::Manual,
        Lifetime::Live(ms) => Expiration::TimeToLive(Duration::from_millis(ms)),
        Lifetime::Idle(ms) => Expiration::TimeToIdle(Duration::from_millis(ms)),
    };
    Attributes {
        custom: [(WRITE.to_owned(), write.to_string())].into(),
        expiration,
        ..Attributes::default()
    }
}

/// Returns the precondition of a demand.
pub(super) fn precondition(demand: &Demand) -> Precondition {
    match demand {
        Demand::Nothing => Precondition::None,
        Demand::Absent => Precondition::Absent,
        Demand::Version(version) => Precondition::Version((*version).into()),
        Demand::Etag(etag) => Precondition::Etag(etag.parse().expect("an etag of an answer")),
    }
}

/// Returns the precondition `Absent` if `if_absent`.
fn absent(if_absent: bool) -> Precondition {
    if if_absent {
        Precondition::Absent
    } else {
        Precondition::None
    }
}

impl Client {
    /// Returns the demand of an operation. For a demand with a version or etag, the client reads
    /// the head of the object first.
    pub(super) async fn demand(&self, op: &Op) -> Demand {
        let (object, when) = match op {
            Op::Put { object, when, .. }
            | Op::Delete { object, when, .. }
            | Op::Amend { object, when }
            | Op::Extend { object, when, .. } => (*object, *when),
            // Copies, renames and atomic batches demand absence by `if_absent`.
            _ => return Demand::Nothing,
        };
        self.demand_of(object, when).await
    }

    /// Returns the demand on this object. See [`demand`](Self::demand).
    pub(super) async fn demand_of(&self, object: u32, when: When) -> Demand {
        if matches!(when, When::Any) {
            return Demand::Nothing;
        }
        if matches!(when, When::Absent) {
            return Demand::Absent;
        }
        let id = object_id(object);
        let call = Call::Read {
            object: id.encoded().clone(),
            kind: Reading::Head,
            span: Span::All,
        };
        // The head is a call of its own, so that it is checked, too.
        let number = self.called(call, || format!("head {id}, to demand {when:?}"));
        let answer = self.head(id).await;
        self.answered(number, answer.clone());
        match (when, answer) {
            // No version and no etag is that of an object of the fallback.
            (_, Answer::Found(found)) if found.version == 0 => Demand::Version(1),
            (When::Version, Answer::Found(found)) => Demand::Version(found.version),
            // Version 1 has no predecessor.
            (When::Stale, Answer::Found(found)) if found.version > 1 => {
                Demand::Version(found.version - 1)
            }
            (When::Etag, Answer::Found(found)) => Demand::Etag(found.etag),
            // The object is absent, has no earlier version, or its head failed.
            _ => Demand::Absent,
        }
    }

    /// Updates an object with a function that may pause, decide anything, or fail.
    pub(super) async fn update(&self, id: ObjectId, update: UpdateOf) -> Answer {
        let payload = self.payload(update.write, update.bytes);
        let is_blind = matches!(update.fate, Fate::Put | Fate::Delete)
            && self
                .durable_state
                .is_planted(Bug::UpdateWithoutPrecondition);
        let updated = if is_blind {
            self.read_then_write(id, update, payload).await
        } else {
            let runs_once = self.durable_state.is_planted(Bug::UpdateRunsOnce);
            let mut first = None;
            let decide = |current: Option<Object>| {
                let payload = payload.clone();
                // 0 if the object is absent.
                let mut saw = current.as_ref().map_or(0, version_of);
                if runs_once {
                    saw = *first.get_or_insert(saw);
                }
                async move {
                    if update.pause_ms > 0 {
                        sleep(Duration::from_millis(update.pause_ms)).await;
                    }
                    decided(update, payload, saw)
                }
            };
            self.engine.update(id, decide).await
        };
        match updated {
            Ok(Updated::Written(written)) => self.written(written),
            Ok(Updated::Deleted(Deleted { existed })) => Answer::Deleted { existed },
            Ok(Updated::Kept) => Answer::Kept,
            Err(error) => failed(&error),
        }
    }

    /// Updates an object with a planted bug: the write overwrites any version.
    async fn read_then_write(
        &self,
        id: ObjectId,
        update: UpdateOf,
        payload: Bytes,
    ) -> Result<Updated> {
        let current = self.engine.get(&id).await?;
        let saw = current.as_ref().map_or(0, version_of);
        sleep(Duration::from_millis(update.pause_ms)).await;
        if update.fate == Fate::Delete {
            return self.engine.delete(id).await.map(Updated::Deleted);
        }
        let put = self.engine.put(id, payload);
        let put = put.attributes(attributes_of_update(update, saw));
        put.await.map(Updated::Written)
    }

    /// Amends the metadata of an object with a number that no other call has.
    pub(super) async fn amend(&self, id: ObjectId, number: u64, demand: &Demand) -> Answer {
        let amend = self.engine.amend(id).custom(AMEND, number.to_string());
        self.changed(amend.precondition(precondition(demand)).await)
    }

    /// Changes the deadline of an object.
    pub(super) async fn extend(
        &self,
        id: ObjectId,
        ms: u64,
        may_shorten: bool,
        demand: &Demand,
    ) -> Answer {
        let extend = self
            .engine
            .extend_expiry(id)
            .after_now(Duration::from_millis(ms));
        let extend = if may_shorten {
            extend.may_shorten()
        } else {
            extend
        };
        self.changed(extend.precondition(precondition(demand)).await)
    }

    /// Copies an object.
    pub(super) async fn copy(&self, from: ObjectId, to: ObjectId, if_absent: bool) -> Answer {
        self.changed(
            self.engine
                .copy(from, to)
                .precondition(absent(if_absent))
                .await,
        )
    }

    /// Renames an object.
    pub(super) async fn rename(&self, from: ObjectId, to: ObjectId, if_absent: bool) -> Answer {
        self.changed(
            self.engine
                .rename(from, to)
                .precondition(absent(if_absent))
                .await,
        )
    }

    /// Maps the result of a write that needs an existing object.
    fn changed(&self, outcome: Result<Option<PutResult>>) -> Answer {
        match outcome {
            Ok(Some(written)) => self.written(written),
            Ok(None) => Answer::Absent,
            Err(error) => failed(&error),
        }
    }

    /// Commits an atomic batch.
    pub(super) async fn atomic(&self, pieces: &[BatchPiece], write: u64) -> Answer {
        let writes = pieces.iter().enumerate().map(|(place, piece)| {
            let id = object_id(piece.object);
            match piece.bytes {
                Some(bytes) => self
                    .put_of(id, write_of_piece(write, place), bytes)
                    .precondition(absent(piece.if_absent)),
                None => BatchWrite::delete(id),
            }
        });
        match self.engine.atomic(writes.collect::<Vec<_>>()).await {
            Ok(replies) => Answer::Together(
                replies
                    .into_iter()
                    .map(|reply| self.replied(reply))
                    .collect(),
            ),
            Err(error) => failed(&error),
        }
    }

    /// Maps the result of a write of an atomic batch.
    fn replied(&self, reply: WriteReply) -> Answer {
        match reply {
            WriteReply::Written(written) => self.written(written),
            WriteReply::Deleted(Deleted { existed }) => Answer::Deleted { existed },
        }
    }

    /// Scrubs the store with all repairs that lose no data.
    pub(crate) async fn scrub(&self) -> Answer {
        match self.engine.scrub().grace(Duration::ZERO).repair().await {
            Ok(report) => Answer::Scrubbed {
                damage: report
                    .findings
                    .iter()
                    .map(|finding| finding.damage.to_string())
                    .collect(),
                unconfirmed: report.unconfirmed,
            },
            Err(error) => failed(&error),
        }
    }

    /// Disables or enables the other namespace.
    pub(crate) fn switch(&self, off: bool) -> Answer {
        let mut state = self.durable_state.state();
        let to = if off { "off" } else { "on" };
        let tick = state.note(EventKind::World, "switches a namespace", || to.to_owned());
        // There is no await between this record and the change of the engine, so that no other task
        // runs between them.
        state.model.switched(tick, off);
        drop(state);
        let limits = NamespaceLimits {
            disabled: off,
            ..NamespaceLimits::default()
        };
        self.engine
            .limit_namespace(&other_namespace(), limits)
            .map_or_else(|error| failed(&error), |()| Answer::Done)
    }

    /// Returns a put of the payload of this write, without expiration.
    fn put_of(&self, id: ObjectId, write: u64, bytes: u64) -> BatchWrite {
        BatchWrite::put(id, self.payload(write, bytes))
            .attributes(attributes(write, Lifetime::Forever))
    }

    /// Puts objects in a batch that is not atomic. Each put is a separate call.
    pub(super) async fn batch(&self, puts: &[(u32, u64)], write: u64) -> Answer {
        let mut numbers = Vec::new();
        let mut operations = Vec::new();
        for (place, &(object, bytes)) in puts.iter().enumerate() {
            let id = object_id(object);
            let write = write_of_piece(write, place);
            let key: Bytes = id.encoded().clone();
            let demand = Demand::Nothing;
            let call = Call::Put {
                object: key,
                write,
                fails: false,
                bytes,
                large: false,
                demand,
            };
            numbers.push(self.called(call, || {
                format!("put {id} {bytes} bytes, write {write}, in a batch")
            }));
            operations.push(Operation::from(self.put_of(id, write, bytes)));
        }
        let mut answers = self.engine.batch(futures::stream::iter(operations));
        while let Some((place, reply)) = answers.next().await {
            let answer = match reply {
                Ok(Reply::Written(written)) => self.written(written),
                Ok(reply) => self.contradiction(format!("a put in a batch returns {reply:?}")),
                Err(error) => failed(&error),
            };
            self.answered(numbers[place], answer);
        }
        Answer::Done
    }
}

/// Returns the version of an object, or a number of its own for an object of a fallback.
fn version_of(object: &Object) -> u64 {
    let in_source =
        || SAW_IN_SOURCE + write_of(&object.metadata().attributes.custom).unwrap_or_default();
    object
        .version()
        .map_or_else(in_source, cenotaph::Version::get)
}

/// Returns the attributes of the write of an update. A check compares the version that the update
/// received with the predecessor of the written version.
fn attributes_of_update(update: UpdateOf, saw: u64) -> Attributes {
    let mut attributes = attributes(update.write, update.lifetime);
    attributes.custom.insert(SAW.to_owned(), saw.to_string());
    attributes
}

/// Returns the result of the function of an update. `saw` is the version that it received.
fn decided(update: UpdateOf, payload: Bytes, saw: u64) -> Result<Update, std::io::Error> {
    match update.fate {
        Fate::Put => {
            let candidate = NewContent::new(Body::from(payload));
            let candidate = candidate.attributes(attributes_of_update(update, saw));
            Ok(candidate.into())
        }
        Fate::Delete => Ok(Update::Delete),
        Fate::Keep => Ok(Update::Keep),
        Fate::Fail => Err(std::io::Error::other("a planned failure of the function")),
    }
}
