//! A client: performs the operations of its plan in sequence, and records its calls and answers for
//! the checks.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cenotaph::{Engine, Error, ErrorKind, ObjectId, PutResult, Result, WriteOutcome};

use crate::check::{Answer, Call, Demand, Reading};
use crate::plan::{Lifetime, Op, Shape, Span, object_id};
use crate::sim::Controls;
use crate::trace::EventKind;
use crate::world::durable_state::DurableState;
use crate::world::scheduler::sleep;

mod body;
mod described;
mod migrations;
mod reads;
mod relocations;
mod selection;
mod uploads;
mod writes;

use body::{DropWatch, body};
use described::{answer_name, call_of, described};
use reads::{ReadPace, range, write_of};
use uploads::Handles;
pub(crate) use uploads::Slots;
use writes::{UpdateOf, attributes, precondition};

/// Longest time until an answer, in virtual time. Longer than all stalls of a blob tier together.
const PATIENCE: Duration = Duration::from_secs(6 * 3600);

/// Arguments of a put, except for its object.
#[derive(Clone, Copy)]
struct PutOf {
    write: u64,
    bytes: u64,
    shape: Shape,
    lifetime: Lifetime,
}

/// A client of an engine in a single incarnation.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) world: Controls,
    pub(crate) durable_state: Arc<DurableState>,
    pub(crate) engine: Engine,
    /// Multipart uploads, shared by all clients in all incarnations.
    slots: Slots,
    /// Open handles of this client.
    handles: Handles,
}

impl Client {
    /// Creates a client.
    pub(crate) fn new(world: &Controls, engine: &Engine, slots: &Slots) -> Self {
        Self {
            durable_state: world.durable_state(),
            world: world.clone(),
            engine: engine.clone(),
            slots: slots.clone(),
            handles: Handles::default(),
        }
    }

    /// Performs an operation and returns its answer. `write` is a number that no other call has.
    pub(crate) async fn perform(&self, op: &Op, write: u64) -> Answer {
        // A batch and a step of an upload record their own calls.
        if let Op::Batch { puts } = op {
            return self.batch(puts, write).await;
        }
        if let Op::Multipart { slot, step } = op {
            return self.step(*slot, step, write).await;
        }
        // Reading the head for the demand is a call, too, and must end before this call starts.
        let demand = self.demand(op).await;
        let inline_bytes_max = self.engine.config().inline_bytes_max as u64;
        let call = call_of(op, write, demand.clone(), inline_bytes_max);
        let number = self.called(call, || described(op, write, &demand));
        let answer = pin!(self.ask(op, write, &demand, number));
        self.receive(number, op, answer).await
    }

    /// Waits for the answer to a call and records it. A call without an answer violates liveness.
    /// The caller pins the future: it is large, and each move would copy it.
    async fn receive(
        &self,
        number: usize,
        call: &impl std::fmt::Debug,
        answer: Pin<&mut impl Future<Output = Answer>>,
    ) -> Answer {
        let answer = match self.world.env().deadline(PATIENCE, answer).await {
            Some(answer) => answer,
            None => {
                let mut state = self.durable_state.state();
                state.model.violated(
                    "liveness",
                    format!("no answer after {PATIENCE:?}: call={call:?}"),
                );
                state.report_violations();
                // Like a dropped call, it may or may not take effect.
                Answer::Cancelled
            }
        };
        self.answered(number, answer.clone());
        answer
    }

    /// Reads an object after the end of the workload.
    pub(crate) async fn read_again(&self, object: &[u8]) {
        let Ok(id) = ObjectId::decode(object) else {
            return;
        };
        let call = Call::Read {
            object: Bytes::copy_from_slice(object),
            kind: Reading::Bytes,
            span: Span::All,
        };
        let number = self.called(call, || format!("get {id} for the last time"));
        let answer = self.get(id, Span::All, ReadPace::default(), number).await;
        self.answered(number, answer);
    }

    /// Returns the payload of a write. The model keeps it for its checks.
    fn payload(&self, write: u64, bytes: u64) -> Bytes {
        self.durable_state.state().model.puts.keep(write, bytes)
    }

    /// Records a call and returns its number. `text` describes the call in the timeline.
    fn called(&self, call: Call, text: impl FnOnce() -> String) -> usize {
        // Timeline and model are changed under a single lock, so that both have the same order.
        let mut state = self.durable_state.state();
        let tick = state.note(EventKind::Call, "calls", text);
        state.model.called(tick, call)
    }

    /// Records the answer to the call with this number.
    fn answered(&self, number: usize, answer: Answer) {
        let mut state = self.durable_state.state();
        state.coverage.count(answer_name(&answer));
        let tick = state.note(EventKind::Answer, "receives", || format!("{answer:?}"));
        state.model.answered(tick, number, answer);
    }

    /// Performs an operation that writes objects, and any other operation through
    /// [`ask_read`](Self::ask_read).
    async fn ask(&self, op: &Op, write: u64, demand: &Demand, number: usize) -> Answer {
        match op {
            Op::Put {
                object,
                bytes,
                shape,
                lifetime,
                ..
            } => {
                let put = PutOf {
                    write,
                    bytes: *bytes,
                    shape: *shape,
                    lifetime: *lifetime,
                };
                self.put(object_id(*object), put, demand).await
            }
            Op::Update {
                object,
                bytes,
                fate,
                pause_ms,
                lifetime,
            } => {
                let update = UpdateOf {
                    write,
                    bytes: *bytes,
                    fate: *fate,
                    pause_ms: *pause_ms,
                    lifetime: *lifetime,
                };
                self.update(object_id(*object), update).await
            }
            Op::Amend { object, .. } => self.amend(object_id(*object), write, demand).await,
            Op::Extend {
                object,
                ms,
                may_shorten,
                ..
            } => {
                self.extend(object_id(*object), *ms, *may_shorten, demand)
                    .await
            }
            Op::Atomic { pieces } => self.atomic(pieces, write).await,
            &Op::Copy {
                from,
                to,
                if_absent,
            } => self.copy(object_id(from), object_id(to), if_absent).await,
            &Op::Rename {
                from,
                to,
                if_absent,
            } => self.rename(object_id(from), object_id(to), if_absent).await,
            Op::Delete {
                object,
                dropped_after_ms,
                ..
            } => {
                self.delete(object_id(*object), *dropped_after_ms, demand)
                    .await
            }
            op => self.ask_read(op, number).await,
        }
    }

    /// Performs an operation that reads objects, and any other operation through
    /// [`ask_engine`](Self::ask_engine).
    async fn ask_read(&self, op: &Op, number: usize) -> Answer {
        match op {
            Op::Get {
                object,
                span,
                pause_ms,
                leave,
            } => {
                let pace = ReadPace {
                    pause_ms: *pause_ms,
                    leave: *leave,
                };
                self.get(object_id(*object), *span, pace, number).await
            }
            Op::Head { object } => self.head(object_id(*object)).await,
            Op::List { hot, limit, after } => self.list(*hot, *limit, *after).await,
            Op::ListGroups {
                prefix,
                delimiter,
                limit,
                after,
            } => {
                self.list_groups(prefix, *delimiter, *limit, after.as_deref())
                    .await
            }
            Op::ListAll => self.list_all().await,
            op => self.ask_engine(op).await,
        }
    }

    /// Performs an operation on the engine as a whole.
    async fn ask_engine(&self, op: &Op) -> Answer {
        match op {
            Op::DeletePrefix { prefix } => done(self.engine.delete_prefix(prefix.clone()).await),
            Op::Switch { off } => self.switch(*off),
            Op::Scrub => self.scrub().await,
            Op::Usage => done(self.engine.usage().await),
            Op::Migrate { dropped_after_ms } => self.migrate(*dropped_after_ms).await,
            Op::Relocate { dropped_after_ms } => self.relocate(*dropped_after_ms).await,
            Op::WriteSource { object, bytes } => {
                self.durable_state.write_source(*object, *bytes);
                Answer::Done
            }
            Op::Settle => done(self.engine.settle().await),
            Op::Stats => done(self.engine.stats().await),
            Op::Pause { ms } => {
                sleep(Duration::from_millis(*ms)).await;
                Answer::Done
            }
            Op::OpenAnother => self.open_another().await,
            // The run reopens the engine, `perform` handles batches and multipart uploads, and the
            // callers of this function handle all others.
            Op::Reopen { .. }
            | Op::NextTier
            | Op::Batch { .. }
            | Op::Multipart { .. }
            | Op::Put { .. }
            | Op::Update { .. }
            | Op::Amend { .. }
            | Op::Extend { .. }
            | Op::Atomic { .. }
            | Op::Copy { .. }
            | Op::Rename { .. }
            | Op::Delete { .. }
            | Op::Get { .. }
            | Op::Head { .. }
            | Op::List { .. }
            | Op::ListGroups { .. }
            | Op::ListAll => Answer::Done,
        }
    }

    /// Puts an object, or drops the put if its shape is [`Shape::Dropped`].
    async fn put(&self, id: ObjectId, put: PutOf, demand: &Demand) -> Answer {
        let PutOf {
            write,
            bytes,
            shape,
            lifetime,
        } = put;
        let watch = DropWatch::new(&self.durable_state);
        let put = self
            .engine
            .put(id, body(&self.payload(write, bytes), shape, watch.clone()))
            .attributes(attributes(write, lifetime));
        let put = put.precondition(precondition(demand));
        let outcome = match shape {
            Shape::Dropped(_, ms) => {
                match self
                    .world
                    .env()
                    .deadline(Duration::from_millis(ms), put.into_future())
                    .await
                {
                    Some(outcome) => outcome,
                    None => {
                        // The put future is dropped. From now on, its stream must not be polled.
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
            | Shape::Failing(_) => put.await,
        };
        match outcome {
            Ok(written) => self.written(written),
            Err(error) => failed(&error),
        }
    }

    /// Maps the result of a write. A result that contradicts itself violates I10.
    fn written(&self, written: PutResult) -> Answer {
        match written {
            PutResult {
                outcome: WriteOutcome::Applied,
                version: Some(version),
                etag: Some(etag),
                created,
            } => Answer::Applied {
                version: version.get(),
                etag: etag.to_string(),
                created,
            },
            PutResult {
                outcome: WriteOutcome::Superseded,
                version: None,
                etag: None,
                created: false,
            } => Answer::Superseded,
            // `PutResult` documents no other combination.
            written => self.contradiction(format!("a write returns {written:?}")),
        }
    }

    /// Deletes an object, or drops the call after `dropped_after_ms`.
    async fn delete(&self, id: ObjectId, dropped_after_ms: Option<u64>, demand: &Demand) -> Answer {
        let delete = self
            .engine
            .delete(id)
            .precondition(precondition(demand))
            .into_future();
        let outcome = match dropped_after_ms {
            Some(ms) => {
                self.world
                    .env()
                    .deadline(Duration::from_millis(ms), delete)
                    .await
            }
            None => Some(delete.await),
        };
        match outcome {
            Some(Ok(deleted)) => Answer::Deleted {
                existed: deleted.existed,
            },
            Some(Err(error)) => failed(&error),
            // The delete may still take effect.
            None => Answer::Cancelled,
        }
    }

    /// Checks that a second engine on an index in use is refused.
    async fn open_another(&self) -> Answer {
        match self.world.open_index().await {
            Err(error) if error.kind() == ErrorKind::AlreadyOpen => Answer::Done,
            outcome => self.contradiction(format!(
                "a second engine is not refused: error={:?}",
                outcome.err()
            )),
        }
    }

    /// Records a violation of I10 by an answer that must never be given.
    fn contradiction(&self, message: String) -> Answer {
        let mut state = self.durable_state.state();
        state.model.violated("I10", message);
        state.report_violations();
        Answer::Done
    }
}

/// Maps the result of an operation whose value the checks do not use.
fn done<T>(result: Result<T>) -> Answer {
    result.map_or_else(|error| failed(&error), |_| Answer::Done)
}

/// Maps an error to an answer.
fn failed(error: &Error) -> Answer {
    match error.kind() {
        ErrorKind::RangeNotSatisfiable { total } => Answer::NotSatisfiable { size: total },
        ErrorKind::Conflict { current } => Answer::Conflict {
            of: error.id().map(|id| id.encoded().clone()),
            current: current.map(|current| (current.version.get(), current.etag.to_string())),
        },
        kind => Answer::Failed(kind),
    }
}
