//! Durable swaps of one key by many tasks: read, add one, write if nothing has changed.
//!
//! The final value is compared with the number of swaps.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cenotaph::{Engine, ErrorKind, Update};
use fjall::{Database, Keyspace, PersistMode};
use tokio::runtime::Runtime;

use crate::contenders::{CenotaphStore, Contender, open_fjall};
use crate::disk::Scratch;
use crate::drive::{self, Limit, Sample};
use crate::options::{Options, Workload};
use crate::results::Report;
use crate::rotated;

pub(crate) const TASKS: usize = 16;
const KEY: &str = "counter";

pub(crate) const FJALL: &str = "fjall, mutex";
pub(crate) const IF_VERSION: &str = "Cenotaph, if_version";
pub(crate) const UPDATE: &str = "Cenotaph, update";

/// Measures each way to swap.
pub(crate) fn measure(
    options: &Options,
    runtime: &Runtime,
    scratch: &Scratch,
    round: usize,
    report: &mut Report,
) {
    let limit = Limit {
        length: Duration::from_secs_f64(options.seconds * 2.0),
        ops_max: u64::MAX,
    };
    let all = [
        (FJALL, Contender::Fjall),
        (IF_VERSION, Contender::Cenotaph),
        (UPDATE, Contender::Cenotaph),
    ];
    for (contender, of) in rotated(&all, round) {
        if !options.contenders().contains(&of) {
            continue;
        }
        let dir = scratch.dir(contender);
        let sample = if contender == FJALL {
            drop(open_fjall(&dir));
            let (database, keyspace) = open_fjall(&dir);
            by_fjall(&database, &keyspace, limit)
        } else {
            runtime.block_on(async {
                let store = CenotaphStore::create(&dir).await;
                let sample = by_cenotaph(&store.0, contender, limit).await;
                store.0.close().await.expect("the disk works");
                sample
            })
        };
        report.add(Workload::Swaps, 8, TASKS, contender, sample);
    }
    scratch.clear();
}

/// Swaps under a mutex, by threads: no task could hold a lock that blocks.
fn by_fjall(database: &Database, keyspace: &Keyspace, limit: Limit) -> Sample {
    let lock = Mutex::new(());
    let read = || {
        let value = keyspace.get(KEY).expect("the disk works");
        value.map_or(0, |value| number(&value))
    };
    let sample = drive::by_threads(TASKS, limit, || {
        let _guard = lock.lock().expect("no swap fails");
        let value = read();
        let mut batch = database.batch().durability(Some(PersistMode::SyncData));
        batch.insert(keyspace, KEY, (value + 1).to_le_bytes());
        batch.commit().expect("the disk works");
    });
    assert_eq!(read(), sample.ops, "a swap was lost");
    sample
}

async fn by_cenotaph(engine: &Engine, contender: &str, limit: Limit) -> Sample {
    let zero = engine.put(KEY, 0u64.to_le_bytes().to_vec());
    zero.await.expect("no put fails");
    let attempts = Arc::new(AtomicU64::new(0));
    let is_update = contender == UPDATE;
    let mut sample = drive::by_tasks(TASKS, limit, {
        let engine = engine.clone();
        let attempts = attempts.clone();
        move |_| {
            let engine = engine.clone();
            let attempts = attempts.clone();
            async move {
                if is_update {
                    update(&engine, &attempts).await;
                } else {
                    swap(&engine, &attempts).await;
                }
            }
        }
    })
    .await;
    let object = engine.get(KEY).await.expect("no get fails");
    let bytes = object.expect("the object exists").bytes().await;
    let value = number(&bytes.expect("no get fails"));
    assert_eq!(value, sample.ops, "a swap was lost");
    sample.attempts = Some(attempts.load(Ordering::Relaxed) as f64 / sample.ops as f64);
    sample
}

/// Reads and swaps until no other swap comes in between.
async fn swap(engine: &Engine, attempts: &AtomicU64) {
    loop {
        attempts.fetch_add(1, Ordering::Relaxed);
        let object = engine.get(KEY).await.expect("no get fails");
        let object = object.expect("the object exists");
        let version = object.version().expect("the store has no fallback");
        let value = number(&object.bytes().await.expect("no get fails"));
        let next = (value + 1).to_le_bytes().to_vec();
        match engine.put(KEY, next).if_version(version).await {
            Ok(_) => return,
            Err(error) if matches!(error.kind(), ErrorKind::Conflict { .. }) => {}
            Err(error) => panic!("a put failed: {error}"),
        }
    }
}

/// Updates until it succeeds: an update returns a conflict after a few attempts.
async fn update(engine: &Engine, attempts: &AtomicU64) {
    loop {
        let updated = engine.update(KEY, |object| {
            attempts.fetch_add(1, Ordering::Relaxed);
            async {
                let value = number(&object.expect("the object exists").bytes().await?);
                Ok::<_, cenotaph::Error>(Update::put((value + 1).to_le_bytes().to_vec()))
            }
        });
        match updated.await {
            Ok(_) => return,
            Err(error) if matches!(error.kind(), ErrorKind::Conflict { .. }) => {}
            Err(error) => panic!("an update failed: {error}"),
        }
    }
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("8 bytes"))
}
