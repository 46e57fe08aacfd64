//! The victim: a process that writes until it is killed and reports each operation (`log.rs`).
//!
//! Eight concurrent clients put small, medium and large objects (inside the row, in the payload
//! log, in the blob tier as one or several blobs), some of them in parts, overwrite them and delete
//! them. Most operations go to a few keys, so that they race. Any error ends the process: nothing
//! but the kill may fail here.

use std::cell::Cell;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use cenotaph::{Body, Config, Engine, Env, PutResult, SplitLimits, WriteOutcome};
use cenotaph_tests::store::{payload, quick};
use futures::stream;
use serde::{Deserialize, Serialize};

use super::chance::Chance;
use super::log::{Action, Answer, Line, Number};

const CLIENTS: u64 = 8;
const HOT_KEYS: u64 = 12;
const COLD_KEYS: u64 = 500;
/// Interval at which a victim reports collections.
const REPORT_INTERVAL: Duration = Duration::from_millis(10);
const KIB: usize = 1024;
/// Size of a block of content, in bytes.
const BLOCK_BYTES: usize = 4 * KIB;
/// Bytes of the head of content: its number and its length.
const HEAD_BYTES: usize = 16;

/// Kind of the writes of a victim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Load {
    /// Objects of all sizes, some in parts.
    Tiers,
    /// Inline payloads, most of them of new objects.
    Inline,
    /// Inline payloads that overwrite others beside payloads that live long, so that segments are
    /// collected all the time.
    Overwrites,
}

/// Parameters of a victim.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Orders {
    /// Directory of its engine.
    pub(crate) data: PathBuf,
    /// Number of victims that have run in this directory before.
    pub(crate) incarnation: u32,
    /// Seed of its writes.
    pub(crate) seed: u64,
    /// Kind of its writes.
    pub(crate) load: Load,
}

/// Returns the configuration of a victim: short delays, small objects up to 4 KiB, inline payloads
/// up to 640 KiB in small segments, and objects of more than 1 MiB in several blobs.
pub(crate) fn config() -> Config {
    let mut config = Config {
        inline_bytes_max: 640 * KIB,
        ..quick()
    };
    config.index.segment_bytes = 1024 * KIB as u64;
    config.limits.split = SplitLimits {
        over_bytes: KIB as u64 * 1024,
        part_bytes: 300 * KIB as u64,
        at_once: 3,
    };
    config
}

/// Opens the engine and writes until the process is killed.
pub(crate) async fn run(orders: Orders) {
    let env = Env::real().unwrap();
    let began = env.monotonic();
    Line::Opening.print();
    let engine = Engine::builder(&orders.data)
        .config(config())
        .open()
        .await
        .unwrap();
    let took = env.monotonic() - began;
    Line::Open {
        took_us: u64::try_from(took.as_micros()).unwrap(),
    }
    .print();
    let next = Cell::new(u64::from(orders.incarnation) << 32);
    let mut chance = Chance::new(orders.seed);
    let clients =
        (0..CLIENTS).map(|_| client(&engine, &next, orders.load, Chance::new(chance.number())));
    let clients = futures::future::join_all(clients);
    futures::future::join(clients, report_collections(&engine, &env)).await;
}

/// Reports the progress of collections of the payload log.
async fn report_collections(engine: &Engine, env: &Env) {
    let mut reported = 0;
    loop {
        env.sleep(REPORT_INTERVAL).await;
        let stats = engine
            .stats()
            .await
            .unwrap_or_else(|error| panic!("stats: {error:?}"));
        let copied = stats.payload_log.map_or(0, |log| log.copied_bytes);
        if copied > reported {
            Line::Collected {
                copied_bytes: copied - reported,
            }
            .print();
            reported = copied;
        }
    }
}

async fn client(engine: &Engine, next: &Cell<u64>, load: Load, mut chance: Chance) {
    loop {
        let number = Number(next.replace(next.get() + 1));
        let key = load.any_key(&mut chance);
        let action = load.any_action(&mut chance);
        let begin = Line::Begin {
            number,
            key: key.clone(),
            action,
        };
        let answer = match action {
            Action::Put { bytes } => {
                begin.print();
                let written = match chance.below(4) {
                    0 if load == Load::Tiers => {
                        in_parts(engine, &key, number, bytes, &mut chance).await
                    }
                    _ => {
                        let body = body(content(number, bytes), &mut chance);
                        engine
                            .put(&key, body)
                            .custom("number", number.to_string())
                            .await
                    }
                };
                let written =
                    written.unwrap_or_else(|error| panic!("put {number} of {key}: {error:?}"));
                match written.outcome {
                    WriteOutcome::Applied => Answer::Applied {
                        version: written.version.unwrap(),
                    },
                    WriteOutcome::Superseded => Answer::Superseded,
                }
            }
            Action::Delete => {
                begin.print();
                engine
                    .delete(&key)
                    .await
                    .unwrap_or_else(|error| panic!("delete {number} of {key}: {error:?}"));
                Answer::Deleted
            }
        };
        Line::Ack { number, answer }.print();
    }
}

/// Writes the same object as a put, in parts: from the last to the first, the first part twice.
async fn in_parts(
    engine: &Engine,
    key: &str,
    number: Number,
    bytes: usize,
    chance: &mut Chance,
) -> cenotaph::Result<PutResult> {
    let content = content(number, bytes);
    let part_bytes = content.len().div_ceil(chance.between(1, 4));
    let upload = engine
        .multipart(key)
        .custom("number", number.to_string())
        .await?;
    let parts: Vec<_> = (1..)
        .zip(
            content
                .chunks(part_bytes)
                .map(|part| content.slice_ref(part)),
        )
        .collect();
    upload.part(1, "something else").await?;
    for (number, part) in parts.into_iter().rev() {
        upload.part(number, part).await?;
    }
    if chance.below(8) == 0 {
        upload.part(9, "not listed").await?;
    }
    let listed = upload.parts().await?.parts;
    let listed = listed
        .iter()
        .map(|part| (u32::from(part.number), part.etag))
        .filter(|(number, _)| *number < 9);
    let complete = upload.complete().parts(listed);
    let written = complete.await?;
    let again = upload.complete().await?;
    assert_eq!(
        again, written,
        "a repeated completion gives the same answer"
    );
    Ok(written)
}

impl Load {
    fn any_key(self, chance: &mut Chance) -> String {
        let is_cold = match self {
            Self::Tiers | Self::Overwrites => chance.below(4) == 0,
            Self::Inline => chance.below(4) != 0,
        };
        if is_cold {
            format!("cold/{}", chance.below(COLD_KEYS))
        } else {
            format!("hot/{}", chance.below(HOT_KEYS))
        }
    }

    fn any_action(self, chance: &mut Chance) -> Action {
        let percent = chance.below(100);
        let bytes = match self {
            Self::Tiers => match percent {
                0..30 => chance.between(HEAD_BYTES, 4 * KIB),
                30..50 => chance.between(5 * KIB, 600 * KIB),
                50..80 => chance.between(100 * KIB, 3 * KIB * KIB),
                // More than a single write: a kill may leave a part of it.
                80..82 => chance.between(4 * KIB * KIB, 6 * KIB * KIB),
                _ => return Action::Delete,
            },
            Self::Inline => match percent {
                0..30 => chance.between(KIB, 16 * KIB),
                30..60 => chance.between(16 * KIB, 128 * KIB),
                60..85 => chance.between(128 * KIB, 600 * KIB),
                _ => return Action::Delete,
            },
            Self::Overwrites => match percent {
                0..25 => chance.between(KIB, 128 * KIB),
                25..85 => chance.between(128 * KIB, 600 * KIB),
                _ => return Action::Delete,
            },
        };
        Action::Put { bytes }
    }
}

/// Returns the content in memory or as a stream of chunks.
fn body(content: Bytes, chance: &mut Chance) -> Body {
    if chance.below(3) == 0 {
        return content.into();
    }
    let chunk_bytes = chance.between(KIB, 512 * KIB);
    let chunks: Vec<_> = content
        .chunks(chunk_bytes)
        .map(|chunk| content.slice_ref(chunk))
        .collect();
    Body::stream(stream::iter(
        chunks.into_iter().map(Ok::<_, std::io::Error>),
    ))
}

/// Returns the content of an operation: unique, no two blocks alike, and with the number of the
/// operation in its head.
pub(crate) fn content(number: Number, bytes: usize) -> Bytes {
    assert!(bytes >= HEAD_BYTES);
    let block = payload(number.0, BLOCK_BYTES);
    let mut whole = Vec::with_capacity(bytes + BLOCK_BYTES);
    for place in 0..bytes.div_ceil(BLOCK_BYTES) as u64 {
        whole.extend_from_slice(&place.to_le_bytes());
        whole.extend_from_slice(&block[8..]);
    }
    whole.truncate(bytes);
    whole[..8].copy_from_slice(&number.0.to_le_bytes());
    whole[8..HEAD_BYTES].copy_from_slice(&(bytes as u64).to_le_bytes());
    whole.into()
}

/// Returns the number of the operation that wrote this content, or `None` if it is not whole.
pub(crate) fn author(bytes: &Bytes) -> Option<Number> {
    let number = Number(u64::from_le_bytes(bytes.get(..8)?.try_into().unwrap()));
    (bytes.len() >= HEAD_BYTES && content(number, bytes.len()) == bytes).then_some(number)
}
