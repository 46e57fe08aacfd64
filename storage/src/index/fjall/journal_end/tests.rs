//! Tests of the early end of a journal, on real files: when it is due, and that nothing is lost.

#![cfg(unix)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures::future::BoxFuture;

use super::super::{FjallIndex, FjallOptions, creation, journals};
use super::*;
use crate::env::{Env, Real, World};
use crate::index::{Index, Range};
use crate::types::WallTime;

/// The real world, with a monotonic clock that the test moves forward, and a count of the threads
/// that maintain the index.
#[derive(Clone)]
struct Skipping(Arc<Inner>);

struct Inner {
    real: Real,
    skipped_s: AtomicU64,
    tidied: AtomicU64,
}

impl Skipping {
    fn new() -> Self {
        Self(Arc::new(Inner {
            real: Real::current().unwrap(),
            skipped_s: AtomicU64::new(0),
            tidied: AtomicU64::new(0),
        }))
    }

    /// Moves the clock forward by an interval of the upkeep, and lets the index look for work.
    fn skip(&self, index: &FjallIndex) {
        index.watch(self.monotonic());
        self.0.skipped_s.fetch_add(5, Ordering::Relaxed);
        index.watch(self.monotonic());
    }

    fn tidied(&self) -> u64 {
        self.0.tidied.load(Ordering::Relaxed)
    }
}

impl World for Skipping {
    fn wall_time(&self) -> WallTime {
        self.0.real.wall_time()
    }

    fn monotonic(&self) -> Duration {
        let skipped_s = self.0.skipped_s.load(Ordering::Relaxed);
        self.0.real.monotonic() + Duration::from_secs(skipped_s)
    }

    fn random_u64(&self) -> u64 {
        self.0.real.random_u64()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.0.real.sleep(duration)
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.0.real.spawn(task);
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) {
        self.0.real.blocking(work);
    }

    fn offload(&self, task: BoxFuture<'static, ()>) {
        self.0.real.offload(task);
    }

    fn thread(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
        if name == "cenotaph-tidy" {
            self.0.tidied.fetch_add(1, Ordering::Relaxed);
        }
        self.0.real.thread(name, body)
    }
}

fn open(dir: &Path, world: &Skipping) -> FjallIndex {
    FjallIndex::open(dir, Env::new(world.clone()), FjallOptions::default()).unwrap()
}

async fn commit(index: &FjallIndex, batch: Batch) {
    index.submit(batch, Box::new(|outcome| outcome.unwrap()));
    index.barrier().await.unwrap();
}

/// Row values of 1 MiB, of which only the last 4 remain.
async fn overwrite(index: &FjallIndex, mebibytes: u8) {
    for number in 0..mebibytes {
        let mut batch = Batch::new();
        let value = vec![number; 1024 * 1024];
        batch.put(Table::Rows, format!("row{}", number % 4), value);
        batch.put(Table::Changes, format!("change{number}"), "change");
        commit(index, batch).await;
    }
}

/// Asserts that exactly the data of [`overwrite`] is present.
async fn assert_overwritten(index: &FjallIndex, mebibytes: u8) {
    for number in mebibytes - 4..mebibytes {
        let key = format!("row{}", number % 4);
        let value = index.get(Table::Rows, key.as_bytes()).await.unwrap();
        let value = value.expect("an overwritten row remains");
        assert!(value == vec![number; 1024 * 1024], "{key}");
    }
    let keys = async |table| {
        let state = index.snapshot().unwrap();
        state.keys(table, Range::all(1_000)).await.unwrap().len()
    };
    assert_eq!(keys(Table::Rows).await, 4);
    assert_eq!(
        keys(Table::Changes).await,
        usize::from(mebibytes),
        "no removed key of the filler is visible"
    );
}

/// Returns the paths of the journals, and their allocated bytes.
fn journals_of(dir: &Path) -> (Vec<PathBuf>, u64) {
    let database = creation::database(dir);
    let ids = journals::list(&database).unwrap();
    let paths = ids.into_iter().map(|id| journals::path(&database, id));
    (paths.collect(), seal::journals(&database).unwrap().1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_journal_of_a_quiet_index_is_released() {
    const MEBIBYTES: u8 = 45;
    let dir = tempfile::tempdir().unwrap();
    let world = Skipping::new();
    let index = open(dir.path(), &world);
    overwrite(&index, MEBIBYTES).await;
    let (before, bytes) = journals_of(dir.path());
    let [large] = &before[..] else {
        panic!("journals={before:?}");
    };
    assert!(bytes > 45 * MIB && bytes < JOURNAL_BYTES, "bytes={bytes}");
    index.watch(world.monotonic());
    assert_eq!(world.tidied(), 0, "the index is not quiet yet");
    let released = index.env.deadline(Duration::from_secs(60), async {
        while large.exists() {
            world.skip(&index);
            index.env.sleep(Duration::from_millis(10)).await;
        }
    });
    released.await.expect("the large journal is deleted");
    let (after, bytes) = journals_of(dir.path());
    assert!(bytes < MIB, "bytes={bytes} journals={after:?}");
    assert_overwritten(&index, MEBIBYTES).await;
    // This commit is in the new journal only.
    let mut batch = Batch::new();
    batch.put(Table::Meta, "later", "value");
    commit(&index, batch).await;
    index.close().await.unwrap();
    let index = open(dir.path(), &world);
    assert_overwritten(&index, MEBIBYTES).await;
    let later = index.get(Table::Meta, b"later").await.unwrap();
    assert_eq!(later.unwrap(), "value");
}

/// Lets a quiet index look for work, and asserts that it finds none.
fn assert_kept(dir: &Path, world: &Skipping, index: &FjallIndex) {
    let before = journals_of(dir);
    for _ in 0..5 {
        world.skip(index);
    }
    assert_eq!(world.tidied(), 0, "no work is due");
    assert_eq!(journals_of(dir), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn smaller_journal_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let world = Skipping::new();
    let index = open(dir.path(), &world);
    overwrite(&index, 35).await;
    assert_kept(dir.path(), &world, &index);
    assert_overwritten(&index, 35).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_journal_beside_more_data_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let world = Skipping::new();
    let index = open(dir.path(), &world);
    // The payload log stores these values, and the journal only their places.
    for number in 0..5_u8 {
        let mut batch = Batch::new();
        let payload = vec![number; 10 * 1024 * 1024];
        batch.put(Table::Payloads, format!("payload{number}"), payload);
        commit(&index, batch).await;
    }
    overwrite(&index, 45).await;
    assert!(journals_of(dir.path()).1 >= JOURNAL_BYTES_MIN);
    assert_kept(dir.path(), &world, &index);
    assert_overwritten(&index, 45).await;
}
