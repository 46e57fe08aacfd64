//! Objects that are overwritten, deleted, updated and copied while others read and list them, on
//! real fjall and real files: no read fails, none is absent that always exists, none mixes two
//! versions.
//!
//! `CENOTAPH_OVERWRITE_SECONDS` sets how long each load runs; 2 seconds by default. The sizes make
//! the index flush and compact often.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cenotaph::{Engine, Env, Error, ErrorKind, Update};
use tokio::task::JoinSet;

const OBJECTS: usize = 4;
const WRITERS: usize = 2;
const READERS: usize = 3;
const KIB: usize = 1024;

/// Operations of the writers and sizes of the objects.
#[derive(Clone, Copy)]
struct Load {
    sizes: &'static [usize],
    /// Writers also delete, update and copy.
    is_mixed: bool,
}

fn seconds() -> u64 {
    let set = std::env::var("CENOTAPH_OVERWRITE_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    set.unwrap_or(2)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overwritten_objects_of_5_000_bytes_read_whole() {
    run(Load {
        sizes: &[5000],
        is_mixed: false,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overwritten_objects_of_300_000_bytes_read_whole() {
    run(Load {
        sizes: &[300_000],
        is_mixed: false,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overwritten_objects_of_a_mebibyte_read_whole() {
    run(Load {
        sizes: &[KIB * KIB],
        is_mixed: false,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_of_every_tier_deleted_updated_and_copied_read_whole() {
    run(Load {
        sizes: &[100, 5000, 300_000, KIB * KIB, 2 * KIB * KIB],
        is_mixed: true,
    })
    .await;
}

/// Clients of one engine.
struct World {
    engine: Engine,
    load: Load,
    has_ended: AtomicBool,
    reads: AtomicU64,
    writes: AtomicU64,
}

async fn run(load: Load) {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::builder(dir.path()).open().await.unwrap();
    let world = Arc::new(World {
        engine,
        load,
        has_ended: AtomicBool::new(false),
        reads: AtomicU64::new(0),
        writes: AtomicU64::new(0),
    });
    for object in 0..OBJECTS {
        world
            .engine
            .put(steady(object), world.body(object))
            .await
            .unwrap();
    }
    let mut clients = JoinSet::new();
    for number in 0..WRITERS {
        clients.spawn(Arc::clone(&world).write(number));
    }
    for number in 0..READERS {
        clients.spawn(Arc::clone(&world).read(number));
    }
    Env::real()
        .unwrap()
        .sleep(Duration::from_secs(seconds()))
        .await;
    world.has_ended.store(true, Ordering::Relaxed);
    let wrong = clients.join_all().await.concat();
    let reads = world.reads.load(Ordering::Relaxed);
    let writes = world.writes.load(Ordering::Relaxed);
    println!(
        "sizes={:?} mixed={} reads={reads} writes={writes}",
        load.sizes, load.is_mixed
    );
    assert!(
        wrong.is_empty(),
        "{} of {reads} reads and {writes} writes: {:?}",
        wrong.len(),
        &wrong[..wrong.len().min(5)]
    );
    assert!(reads > 0 && writes > 0, "no read or no write was done");
    world.engine.close().await.unwrap();
}

/// Returns a key whose object always exists.
fn steady(object: usize) -> String {
    format!("steady/{}", object % OBJECTS)
}

/// Returns a key whose object is deleted at times.
fn fleeting(object: usize) -> String {
    format!("fleeting/{}", object % OBJECTS)
}

impl World {
    fn is_running(&self) -> bool {
        !self.has_ended.load(Ordering::Relaxed)
    }

    /// Returns a payload of equal bytes with one of the sizes.
    fn body(&self, turn: usize) -> Vec<u8> {
        vec![turn.to_le_bytes()[0]; self.load.sizes[turn % self.load.sizes.len()]]
    }

    async fn write(self: Arc<Self>, number: usize) -> Vec<String> {
        let mut wrong = Vec::new();
        for turn in (number..)
            .step_by(WRITERS)
            .take_while(|_| self.is_running())
        {
            self.writes.fetch_add(1, Ordering::Relaxed);
            let written = match turn / WRITERS % 6 {
                1 if self.load.is_mixed => self.engine.delete(fleeting(turn)).await.map(drop),
                2 if self.load.is_mixed => self
                    .engine
                    .copy(steady(turn), fleeting(turn))
                    .await
                    .and_then(|copied| {
                        let absent =
                            || Error::new(ErrorKind::Corrupt, "copy", "the source is absent");
                        copied.map(drop).ok_or_else(absent)
                    }),
                3 if self.load.is_mixed => self.update(turn).await,
                4 if self.load.is_mixed => self
                    .engine
                    .put(fleeting(turn), self.body(turn))
                    .await
                    .map(drop),
                _ => self
                    .engine
                    .put(steady(turn), self.body(turn))
                    .await
                    .map(drop),
            };
            if let Err(error) = written {
                wrong.push(format!("turn {turn}: {error:?}"));
            }
        }
        wrong
    }

    /// Updates an object. A conflict is a valid outcome: other writers were faster each time.
    async fn update(&self, turn: usize) -> Result<(), Error> {
        let updated = self.engine.update(steady(turn), |current| {
            let body = self.body(turn);
            async move {
                let absent = || Error::new(ErrorKind::Corrupt, "update", "the object is absent");
                check(
                    current.ok_or_else(absent)?.bytes().await?.as_ref(),
                    self.load.sizes,
                )?;
                Ok::<_, Error>(Update::put(body))
            }
        });
        match updated.await {
            Err(error) if matches!(error.kind(), ErrorKind::Conflict { .. }) => Ok(()),
            updated => updated.map(drop),
        }
    }

    async fn read(self: Arc<Self>, number: usize) -> Vec<String> {
        let mut wrong = Vec::new();
        for turn in (number..).take_while(|_| self.is_running()) {
            self.reads.fetch_add(1, Ordering::Relaxed);
            let read = match turn % 8 {
                7 => self.list().await,
                6 if self.load.is_mixed => self.get(&fleeting(turn / 8)).await.map(drop),
                _ => self.get(&steady(turn)).await.and_then(|found| {
                    let absent = || Error::new(ErrorKind::Corrupt, "get", "the object is absent");
                    found.then_some(()).ok_or_else(absent)
                }),
            };
            if let Err(error) = read {
                wrong.push(format!("{error:?}"));
            }
        }
        wrong
    }

    async fn get(&self, key: &str) -> Result<bool, Error> {
        let Some(object) = self.engine.get(key).await? else {
            return Ok(false);
        };
        check(&object.bytes().await?, self.load.sizes)?;
        Ok(true)
    }

    async fn list(&self) -> Result<(), Error> {
        let listed = self.engine.list("steady/").await?;
        let names: Vec<_> = listed
            .entries
            .iter()
            .map(|entry| entry.name().to_owned())
            .collect();
        let expected: Vec<_> = (0..OBJECTS).map(steady).collect();
        if names == expected {
            Ok(())
        } else {
            Err(Error::new(ErrorKind::Corrupt, "list", format!("{names:?}")))
        }
    }
}

/// Checks that the bytes are of a single version: a valid size, and the same byte throughout.
fn check(bytes: &[u8], sizes: &[usize]) -> Result<(), Error> {
    let is_whole = sizes.contains(&bytes.len()) && bytes.iter().all(|byte| *byte == bytes[0]);
    let mixed = || {
        Error::new(
            ErrorKind::Corrupt,
            "check",
            format!("two versions in one: bytes={}", bytes.len()),
        )
    };
    is_whole.then_some(()).ok_or_else(mixed)
}
