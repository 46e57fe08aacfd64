//! A client: asks what its plan says, one thing after the other, and writes down what it asked and
//! heard.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cenotaph::{
    Body, ByteRange, Engine, Entry, Error, ErrorKind, Object, ObjectId, Outcome, Written,
};
use futures::{StreamExt, TryStreamExt};

use crate::check::{Answer, Call, Content, Demand, Found, Listed, Reading, WRITE};
use crate::gate::sleep;
use crate::machine::Machine;
use crate::payload::payload;
use crate::plan::{Lifetime, Op, Shape, Span, object_id};
use crate::sim::Controls;
use crate::trace::Kind;

mod described;
mod uploads;
mod writes;

use described::{answer_name, described};
use uploads::Handles;
pub(crate) use uploads::Slots;
use writes::{UpdateOf, attributes, precondition};

/// How long an answer may take, in virtual time. Longer than all stalls of a blob tier together.
const PATIENCE: Duration = Duration::from_secs(6 * 3600);

/// How fast an object is read.
#[derive(Clone, Copy, Default)]
struct Pace {
    /// Between two chunks.
    pause_ms: u64,
    /// Not to its end.
    leave: bool,
}

/// A put, but for its object.
#[derive(Clone, Copy)]
struct PutOf {
    write: u64,
    bytes: u64,
    shape: Shape,
    lifetime: Lifetime,
}

/// One client of one life.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) world: Controls,
    pub(crate) machine: Arc<Machine>,
    pub(crate) engine: Engine,
    /// The uploads that all clients know, in all lives.
    slots: Slots,
    /// What this one has in hand of them.
    handles: Handles,
}

impl Client {
    pub(crate) fn new(world: &Controls, engine: &Engine, slots: &Slots) -> Self {
        let (world, engine, slots) = (world.clone(), engine.clone(), slots.clone());
        Self {
            machine: world.machine(),
            world,
            engine,
            slots,
            handles: Handles::default(),
        }
    }

    /// Asks, and waits for the answer. `write` is a number that no other call has.
    pub(crate) async fn perform(&self, op: &Op, write: u64) -> Answer {
        if let Op::Batch { puts } = op {
            return self.batch(puts, write).await;
        }
        if let Op::Multipart { slot, step } = op {
            return self.step(*slot, step, write).await;
        }
        let demand = self.demand(op).await;
        let (call, text) = described(
            op,
            write,
            demand.clone(),
            self.engine.config().inline_bytes_max as u64,
        );
        let number = self.called(call, text);
        self.hear(number, op, self.ask(op, write, &demand, number))
            .await
    }

    /// Waits for the answer to a call, and writes it down.
    async fn hear(
        &self,
        number: usize,
        what: &impl std::fmt::Debug,
        answer: impl Future<Output = Answer>,
    ) -> Answer {
        let answer = match self.world.env().deadline(PATIENCE, answer).await {
            Some(answer) => answer,
            None => {
                let mut state = self.machine.state();
                state.monitor.violated(
                    "liveness",
                    format!("no answer after {PATIENCE:?}: {what:?}"),
                );
                state.report_violations();
                Answer::Cancelled
            }
        };
        self.answered(number, answer.clone());
        answer
    }

    /// Reads an object of a finished workload.
    pub(crate) async fn read_again(&self, object: &[u8]) {
        let Ok(id) = ObjectId::decode(object) else {
            return;
        };
        let call = Call::Read {
            object: Bytes::copy_from_slice(object),
            kind: Reading::Bytes,
            span: Span::All,
        };
        let number = self.called(call, format!("get {id} for the last time"));
        let answer = self.get(id, Span::All, Pace::default(), number).await;
        self.answered(number, answer);
    }

    fn called(&self, call: Call, text: String) -> usize {
        let mut state = self.machine.state();
        let tick = state.note(Kind::Call, "asks", text);
        state.monitor.called(tick, call)
    }

    fn answered(&self, number: usize, answer: Answer) {
        let mut state = self.machine.state();
        state.coverage.count(answer_name(&answer));
        let tick = state.note(Kind::Answer, "hears", format!("{answer:?}"));
        state.monitor.answered(tick, number, answer);
    }

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
            Op::Batch { .. } => Answer::Done,
            Op::Copy {
                from,
                to,
                if_absent,
            } => {
                self.copy(object_id(*from), object_id(*to), *if_absent)
                    .await
            }
            Op::Rename {
                from,
                to,
                if_absent,
            } => {
                self.rename(object_id(*from), object_id(*to), *if_absent)
                    .await
            }
            Op::DeletePrefix { prefix } => {
                let deleted = self.engine.delete_prefix(prefix.clone()).await;
                deleted.map_or_else(|error| failed(&error), |_| Answer::Done)
            }
            Op::Switch { off } => self.switch(*off),
            Op::Scrub => self.scrub().await,
            Op::Usage => self
                .engine
                .usage()
                .await
                .map_or_else(|error| failed(&error), |_| Answer::Done),
            Op::Get {
                object,
                span,
                pause_ms,
                leave,
            } => {
                let pace = Pace {
                    pause_ms: *pause_ms,
                    leave: *leave,
                };
                self.get(object_id(*object), *span, pace, number).await
            }
            Op::Head { object } => self.head(object_id(*object)).await,
            Op::Delete {
                object,
                dropped_after_ms,
                ..
            } => {
                self.delete(object_id(*object), *dropped_after_ms, demand)
                    .await
            }
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
            Op::Settle => self
                .engine
                .settle()
                .await
                .map_or_else(|error| failed(&error), |_| Answer::Done),
            Op::Stats => self
                .engine
                .stats()
                .await
                .map_or_else(|error| failed(&error), |_| Answer::Done),
            Op::Pause { ms } => {
                sleep(Duration::from_millis(*ms)).await;
                Answer::Done
            }
            Op::Reopen { .. } | Op::Multipart { .. } => Answer::Done,
            Op::OpenAnother => self.open_another(),
        }
    }

    async fn put(&self, id: ObjectId, put: PutOf, demand: &Demand) -> Answer {
        let PutOf {
            write,
            bytes,
            shape,
            lifetime,
        } = put;
        let watch = Watch::new(&self.machine);
        let put = self
            .engine
            .put(id, body(write, bytes, shape, watch.clone()))
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
            | Shape::Failing(_) => put.await,
        };
        match outcome {
            Ok(written) => self.written(written),
            Err(error) => failed(&error),
        }
    }

    fn written(&self, written: Written) -> Answer {
        match written {
            Written {
                outcome: Outcome::Applied,
                version: Some(version),
                etag: Some(etag),
                created,
            } => Answer::Applied {
                version: version.get(),
                etag: etag.to_string(),
                created,
            },
            Written {
                outcome: Outcome::Superseded,
                version: None,
                etag: None,
                created: false,
            } => Answer::Superseded,
            written => self.nonsense(format!("a write answers {written:?}")),
        }
    }

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
            None => Answer::Cancelled,
        }
    }

    async fn get(&self, id: ObjectId, span: Span, pace: Pace, number: usize) -> Answer {
        let mut object = match self.engine.get(&id).range(range(span)).await {
            Ok(Some(object)) => object,
            Ok(None) => return Answer::Absent,
            Err(error) => return failed(&error),
        };
        let opened = {
            let mut state = self.machine.state();
            state.monitor.reads(
                number,
                id.encoded().clone(),
                object.version().get(),
                object.range(),
            );
            state.trace.tick()
        };
        let write = write_of(&object.metadata().attributes.custom);
        let size = object.metadata().size;
        let content = self.read(&mut object, write, span, pace).await;
        let (version, etag) = (object.version().get(), object.etag().to_string());
        Answer::Found(Found {
            version,
            etag,
            size,
            write,
            opened,
            content,
        })
    }

    /// Reads to the end, and compares with what was put.
    async fn read(
        &self,
        object: &mut Object,
        write: Option<u64>,
        span: Span,
        pace: Pace,
    ) -> Content {
        let (range, size) = (object.range(), object.metadata().size);
        // Which bytes were asked for is ours to say, and not the engine's.
        let asked = span.of(size);
        if range != asked {
            return Content::Wrong;
        }
        let mut bytes = Vec::new();
        loop {
            match object.chunk().await {
                Ok(Some(_)) if pace.leave => return Content::Left,
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(error) => {
                    // A stream that failed never looks like one that ended.
                    return match object.chunk().await {
                        Err(again) if again.kind() == error.kind() => Content::Failed(error.kind()),
                        Ok(_) | Err(_) => Content::Wrong,
                    };
                }
            }
            if pace.pause_ms > 0 {
                sleep(Duration::from_millis(pace.pause_ms)).await;
            }
        }
        let to_usize = |at: u64| usize::try_from(at).expect("payloads fit into memory");
        let all = write.and_then(|write| self.machine.state().monitor.content(write, size));
        match all {
            Some(all) if all[to_usize(range.start)..to_usize(range.end)] == bytes => Content::AsPut,
            Some(_) | None => Content::Wrong,
        }
    }

    async fn head(&self, id: ObjectId) -> Answer {
        match self.engine.head(id).await {
            Ok(Some(head)) => Answer::Found(Found {
                version: head.version.get(),
                etag: head.etag.to_string(),
                size: head.metadata.size,
                write: write_of(&head.metadata.attributes.custom),
                opened: self.machine.state().trace.tick(),
                content: Content::NotAsked,
            }),
            Ok(None) => Answer::Absent,
            Err(error) => failed(&error),
        }
    }

    async fn list(&self, hot: bool, limit: usize, after: Option<u32>) -> Answer {
        let mut list = self.engine.list(if hot { "hot/" } else { "" }).limit(limit);
        if let Some(after) = after {
            list = list.start_after(object_id(after).key());
        }
        match list.await {
            Ok(page) => Answer::Listed(Listed {
                entries: page.entries.iter().filter_map(listed).collect(),
                has_next: page.next.is_some(),
            }),
            Err(error) => failed(&error),
        }
    }

    async fn list_groups(
        &self,
        prefix: &str,
        delimiter: char,
        limit: usize,
        after: Option<&str>,
    ) -> Answer {
        let mut list = self.engine.list(prefix).delimiter(delimiter).limit(limit);
        if let Some(after) = after {
            list = list.start_after(after);
        }
        match list.await {
            Ok(page) => {
                let last = page.entries.last().map(|entry| entry.name().to_owned());
                if page.next.is_some() && page.next != last {
                    return self.nonsense(format!(
                        "the next page begins at {:?}, behind {last:?}",
                        page.next
                    ));
                }
                let name = |entry: &Entry| match entry {
                    Entry::Object(head) => (head.id.encoded().clone(), head.version.get()),
                    Entry::Prefix(prefix) => (Bytes::from(format!("default\0{prefix}")), 0),
                };
                let entries = page.entries.iter().map(name).collect();
                Answer::Listed(Listed {
                    entries,
                    has_next: page.next.is_some(),
                })
            }
            Err(error) => failed(&error),
        }
    }

    async fn list_all(&self) -> Answer {
        match self
            .engine
            .list("")
            .limit(3)
            .stream()
            .try_collect::<Vec<_>>()
            .await
        {
            Ok(entries) => Answer::Listed(Listed {
                entries: entries.iter().filter_map(listed).collect(),
                has_next: false,
            }),
            Err(error) => failed(&error),
        }
    }

    /// A second engine on an index that is in use must be refused.
    fn open_another(&self) -> Answer {
        match self.world.open_index() {
            Err(error) if error.kind() == ErrorKind::AlreadyOpen => Answer::Done,
            outcome => self.nonsense(format!(
                "a second engine is not refused: {:?}",
                outcome.err()
            )),
        }
    }

    fn nonsense(&self, message: String) -> Answer {
        let mut state = self.machine.state();
        state.monitor.violated("I10", message);
        state.report_violations();
        Answer::Done
    }
}

/// Whether a payload is asked for although its put was dropped.
#[derive(Clone)]
struct Watch {
    dropped: Arc<AtomicBool>,
    machine: Arc<Machine>,
}

impl Watch {
    fn new(machine: &Arc<Machine>) -> Self {
        Self {
            dropped: Arc::default(),
            machine: Arc::clone(machine),
        }
    }

    /// The call is dropped.
    fn drop_it(&self) {
        self.dropped.store(true, Ordering::SeqCst);
    }

    fn asked(&self) {
        if self.dropped.load(Ordering::SeqCst) {
            let mut state = self.machine.state();
            state
                .monitor
                .violated("cancel", "a put was dropped, and its stream is read on");
            state.report_violations();
        }
    }
}

fn range(span: Span) -> ByteRange {
    match span {
        Span::All => ByteRange::Full,
        Span::Between(start, end) => (start..end).into(),
        Span::From(start) => (start..).into(),
        Span::Last(bytes) => ByteRange::Last(bytes),
    }
}

fn body(write: u64, bytes: u64, shape: Shape, watch: Watch) -> Body {
    let all = payload(write, bytes);
    match shape {
        Shape::Bytes => all.into(),
        Shape::Stream(chunk) => chunks(&all, chunk, 0, false, watch),
        Shape::Slow(chunk, pause_ms) => chunks(&all, chunk, pause_ms, false, watch),
        Shape::Promised(chunk) => chunks(&all, chunk, 0, false, watch).promise(bytes),
        Shape::Broken(chunk) => chunks(&all, chunk, 0, false, watch).promise(bytes + 1),
        Shape::Failing(chunk) => chunks(&all, chunk, 1, true, watch),
        Shape::Dropped(chunk, _) => chunks(&all, chunk, 5, false, watch),
    }
}

fn chunks(all: &Bytes, chunk: u64, pause_ms: u64, fails: bool, watch: Watch) -> Body {
    let chunk = usize::try_from(chunk).unwrap_or(usize::MAX).max(1);
    let mut parts: Vec<std::io::Result<Bytes>> = (0..all.len())
        .step_by(chunk)
        .map(|at| Ok(all.slice(at..all.len().min(at + chunk))))
        .collect();
    if fails {
        parts.push(Err(std::io::Error::other(
            "a planned failure of the stream",
        )));
    }
    Body::stream(futures::stream::iter(parts).then(move |part| {
        let watch = watch.clone();
        async move {
            watch.asked();
            if pause_ms > 0 {
                sleep(Duration::from_millis(pause_ms)).await;
            }
            watch.asked();
            part
        }
    }))
}

fn write_of(custom: &std::collections::BTreeMap<String, String>) -> Option<u64> {
    custom.get(WRITE).and_then(|text| text.parse().ok())
}

fn listed(entry: &Entry) -> Option<(Bytes, u64)> {
    match entry {
        Entry::Object(head) => Some((head.id.encoded().clone(), head.version.get())),
        Entry::Prefix(_) => None,
    }
}

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
