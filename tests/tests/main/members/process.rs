//! A member in a process of its own, which its test kills or stops.
//!
//! It prints a line before each operation and after each answer, as the victims of the crash test do.
//! Every content consists of the number of its operation, so that a reader can tell a whole object from
//! wrong bytes.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use cenotaph::{
    BatchWrite, Body, Engine, Entry, Env, Error, ErrorKind, Object, Update, Updated, Version,
    WriteOutcome, WriteReply,
};
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::{config, options};
use crate::crash::chance::Chance;

/// Keys that all members write.
pub(super) const HOT_KEYS: u64 = 8;
/// Object that all members count up.
pub(super) const COUNTER: &str = "counter";
/// Objects that are always written together.
pub(super) const PAIR: [&str; 2] = ["pair/a", "pair/b"];
/// Places of the one object that all members rename.
pub(super) const PLACES: [&str; 3] = ["place/a", "place/b", "place/c"];
/// Bytes of a number in a content.
const WORD: usize = 20;
/// Longest content, in bytes.
const CONTENT_MAX: usize = 20_000;
/// Bytes of the chunks of a slow put, and their number before and after its pause.
const CHUNK: usize = 1024 * 1024;
const CHUNKS: usize = 4;

/// Work of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Work {
    /// Writes and reads until the process is killed.
    Load,
    /// A large put that pauses in its middle until a line arrives on the standard input.
    SlowPut,
}

/// Parameters of a member.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Orders {
    /// Connection string of the index.
    pub(super) url: String,
    /// Directory of the blob tier.
    pub(super) data: PathBuf,
    /// Number of this process among all of a test.
    pub(super) process: u64,
    /// Seed of its operations.
    pub(super) seed: u64,
    /// Its work.
    pub(super) work: Work,
}

/// Kind of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Action {
    Put,
    Delete,
    Count,
    Pair,
}

/// A line that a member prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Line {
    /// The engine is open.
    Open,
    /// An operation is about to begin.
    Begin {
        number: u64,
        key: String,
        action: Action,
    },
    /// The operation was acknowledged: a put with its version, unless it was superseded; a count with
    /// the new value.
    Ack { number: u64, value: Option<u64> },
    /// The operation was refused, and nothing was committed.
    Refused { number: u64 },
    /// Something is wrong.
    Fault { what: String },
    /// A slow put has written its first half.
    Half,
    /// A slow put has ended with this error, and the health is this one.
    Ended {
        error: Option<String>,
        health: Option<String>,
    },
    /// A member that was declared dead was opened again and has written.
    Reopened,
}

impl Line {
    fn print(&self) {
        let line = format!("\n{}\n", serde_json::to_string(self).unwrap());
        let mut out = std::io::stdout().lock();
        out.write_all(line.as_bytes())
            .expect("the test reads the pipe");
    }

    /// Parses a line, or returns `None` if the test harness printed it.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let line = line.trim();
        line.starts_with(['{', '"'])
            .then(|| serde_json::from_str(line).expect("lines arrive whole"))
    }
}

/// Returns the content of an operation.
fn content(number: u64, bytes: usize) -> Bytes {
    let word = format!("{number:0WORD$}");
    let mut content = word.repeat(bytes / WORD + 1);
    content.truncate(bytes.max(WORD));
    content.into()
}

/// Returns the number of the operation that has written these bytes, or `None` if they are not of a
/// single one.
pub(super) fn number_of(bytes: &[u8]) -> Option<u64> {
    let number = std::str::from_utf8(bytes.get(..WORD)?).ok()?.parse().ok()?;
    (content(number, bytes.len()) == bytes).then_some(number)
}

/// Runs a member until it is killed, or its work has ended.
pub(super) async fn run(orders: Orders) {
    let engine = open(&orders).await.expect("the member opens");
    Line::Open.print();
    match orders.work {
        Work::Load => load(engine, &orders).await,
        Work::SlowPut => slow_put(engine, &orders).await,
    }
}

async fn open(orders: &Orders) -> cenotaph::Result<Engine> {
    let builder = Engine::builder(&orders.data).config(config());
    builder.shared_with(&orders.url, options()).open().await
}

/// A member under load.
#[derive(Clone)]
struct Member {
    engine: Engine,
    process: u64,
    last: Arc<AtomicU64>,
}

async fn load(engine: Engine, orders: &Orders) {
    let member = Member {
        engine,
        process: orders.process,
        last: Arc::default(),
    };
    let mut chance = Chance::new(orders.seed);
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        tasks.spawn(member.clone().write(Chance::new(chance.number())));
        tasks.spawn(member.clone().count());
    }
    for _ in 0..2 {
        tasks.spawn(member.clone().write_pairs());
        tasks.spawn(member.clone().rename(Chance::new(chance.number())));
        tasks.spawn(member.clone().read(Chance::new(chance.number())));
    }
    // They end only with a panic.
    tasks.join_next().await;
}

impl Member {
    fn begin(&self, key: &str, action: Action) -> u64 {
        let sequence = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let number = (self.process << 32) | sequence;
        let key = key.to_owned();
        let line = Line::Begin {
            number,
            key,
            action,
        };
        line.print();
        number
    }

    async fn write(self, mut chance: Chance) {
        loop {
            let key = format!("hot/{}", chance.below(HOT_KEYS));
            if chance.below(6) == 0 {
                let number = self.begin(&key, Action::Delete);
                end(number, self.engine.delete(&key).await.map(|_| None));
                continue;
            }
            let number = self.begin(&key, Action::Put);
            let bytes = if chance.below(3) == 0 {
                CONTENT_MAX
            } else {
                500
            };
            let bytes = chance.between(WORD, bytes);
            let put = self.engine.put(&key, content(number, bytes)).await;
            end(
                number,
                put.map(|put| {
                    let is_applied = put.outcome == WriteOutcome::Applied;
                    put.version.filter(|_| is_applied).map(Version::get)
                }),
            );
        }
    }

    async fn count(self) {
        loop {
            let number = self.begin(COUNTER, Action::Count);
            let counted = self
                .engine
                .update(COUNTER, |found: Option<Object>| async move {
                    let last = match found {
                        Some(object) => number_of(&object.bytes().await?).expect("a count"),
                        None => 0,
                    };
                    Ok::<_, Error>(Update::put(content(last + 1, WORD)))
                })
                .await;
            // Nothing but counts has written it, so that its version is the count.
            let version = |updated| match updated {
                Updated::Written(written) => written.version.map(Version::get),
                other => panic!("unexpected: {other:?}"),
            };
            end(number, counted.map(version));
        }
    }

    async fn write_pairs(self) {
        loop {
            let number = self.begin(PAIR[0], Action::Pair);
            let writes = PAIR.map(|key| {
                BatchWrite::put(key, content(number, 100)).content_type(number.to_string())
            });
            let written = self.engine.atomic(writes).await;
            end(
                number,
                written.map(|replies| match replies.first() {
                    Some(WriteReply::Written(written)) => written.version.map(Version::get),
                    Some(WriteReply::Deleted(_)) | None => None,
                }),
            );
        }
    }

    async fn rename(self, mut chance: Chance) {
        loop {
            let [from, to] = [(); 2].map(|()| PLACES[chance.between(0, PLACES.len() - 1)]);
            if from == to {
                continue;
            }
            match self.engine.rename(from, to).if_absent().await {
                Ok(_) => {}
                Err(error) if is_refusal(&error) => {}
                Err(error) => fault(format!("rename: {error:?}")),
            }
        }
    }

    async fn read(self, mut chance: Chance) {
        loop {
            let key = format!("hot/{}", chance.below(HOT_KEYS));
            match self.engine.get(&key).await {
                Ok(Some(object)) => match object.bytes().await {
                    Ok(bytes) if number_of(&bytes).is_some() => {}
                    Ok(bytes) => fault(format!("wrong bytes of {key}: {}", bytes.len())),
                    Err(error) => fault(format!("bytes of {key}: {error:?}")),
                },
                Ok(None) => {}
                Err(error) => fault(format!("get of {key}: {error:?}")),
            }
            let pair = self.engine.list("pair/").await;
            let pair = pair.map(|page| {
                let types = page.entries.into_iter().map(|entry| match entry {
                    Entry::Object(head) => head.metadata.attributes.content_type,
                    Entry::Prefix(_) => None,
                });
                types.collect::<Vec<_>>()
            });
            match pair {
                Ok(types) if types.windows(2).all(|pair| pair[0] == pair[1]) => {}
                other => fault(format!("half of a batch: {other:?}")),
            }
        }
    }
}

/// Returns whether nothing was committed for a reason that contention explains.
fn is_refusal(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Conflict { .. } | ErrorKind::Overloaded
    )
}

fn end(number: u64, outcome: cenotaph::Result<Option<u64>>) {
    match outcome {
        Ok(value) => Line::Ack { number, value }.print(),
        Err(error) if is_refusal(&error) => Line::Refused { number }.print(),
        Err(error) => fault(format!("operation {number}: {error:?}")),
    }
}

fn fault(what: String) {
    Line::Fault { what }.print();
}

/// Puts a large object whose stream pauses in its middle, and opens the engine again if that failed.
async fn slow_put(engine: Engine, orders: &Orders) {
    let chunk = content(orders.process, CHUNK);
    let env = Env::real().expect("within a runtime");
    let stream = stream::iter(0..2 * CHUNKS).then(move |number| {
        let (chunk, env) = (chunk.clone(), env.clone());
        async move {
            if number == CHUNKS {
                Line::Half.print();
                let read = || std::io::stdin().lock().read_line(&mut String::new());
                env.blocking(read).await.map_err(std::io::Error::other)??;
            }
            std::io::Result::Ok(chunk)
        }
    });
    let put = engine.put("slow", Body::stream(stream)).await;
    let text = |outcome: Result<(), Error>| outcome.err().map(|error| format!("{error:?}"));
    let ended = Line::Ended {
        error: text(put.map(drop)),
        health: text(engine.health()),
    };
    ended.print();
    // A member that was declared dead has nothing to leave.
    drop(engine.close().await);
    let again = open(orders).await.expect("it opens as a new member");
    again.put("reopened", "again").await.expect("it writes");
    again.close().await.expect("it closes");
    Line::Reopened.print();
}
