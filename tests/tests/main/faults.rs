//! Failing and hanging commits, scarce threads, and invalid settings: the engine returns an error
//! and never hangs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cenotaph::{Config, Engine, Env, Error, ErrorKind, Index, IndexStats, Limits, Result};
use cenotaph_storage::index::fjall::{FjallIndex, FjallOptions};
use cenotaph_storage::index::{Batch, CommitError, Completion, Snapshot, Table};
use cenotaph_tests::store::{INLINE, payload, quick};
use futures::future::BoxFuture;

const LARGE: usize = 10 * INLINE;

/// A real index whose commits a test can fail or hold, and that counts calls of `watch`.
struct Meddled {
    inner: FjallIndex,
    broken: AtomicBool,
    watches: AtomicU64,
    /// Submitted batches while commits are held, else `None`.
    waiting: Mutex<Option<Vec<(Batch, Completion)>>>,
}

impl Meddled {
    async fn open(directory: &std::path::Path) -> Arc<Self> {
        let inner = FjallIndex::open(
            &directory.join("index"),
            Env::real().unwrap(),
            FjallOptions::default(),
        )
        .unwrap();
        Arc::new(Self {
            inner,
            broken: AtomicBool::new(false),
            watches: AtomicU64::new(0),
            waiting: Mutex::new(None),
        })
    }

    /// Opens an engine over this index.
    async fn engine(self: &Arc<Self>, directory: &std::path::Path, config: Config) -> Engine {
        let index = Arc::clone(self) as Arc<dyn Index>;
        Engine::builder(directory)
            .config(config)
            .index(index)
            .open()
            .await
            .unwrap()
    }

    /// Holds all batches submitted from now on.
    fn hold(&self) {
        *self.waiting.lock().unwrap() = Some(Vec::new());
    }

    /// Returns the number of held batches, including the empty barriers of starting shards.
    fn held(&self) -> usize {
        self.waiting.lock().unwrap().as_ref().map_or(0, Vec::len)
    }

    /// Returns the number of held batches that are not empty.
    fn held_writes(&self) -> usize {
        let waiting = self.waiting.lock().unwrap();
        waiting.as_ref().map_or(0, |waiting| {
            waiting
                .iter()
                .filter(|(batch, _)| !batch.is_empty())
                .count()
        })
    }

    /// Submits the held batches in order and stops holding.
    fn release(&self) {
        let mut waiting = self.waiting.lock().unwrap();
        for (batch, completion) in waiting.take().into_iter().flatten() {
            self.inner.submit(batch, completion);
        }
    }

    /// Fails all held batches: the first write with an unknown outcome, later ones as not started.
    fn poison(&self) {
        self.broken.store(true, Ordering::SeqCst);
        let waiting = self.waiting.lock().unwrap().take().into_iter().flatten();
        let mut has_failed = false;
        for (batch, completion) in waiting {
            let error = if has_failed {
                CommitError::not_started(&Self::why())
            } else {
                CommitError::unknown(&Self::why())
            };
            has_failed |= !batch.is_empty();
            completion(Err(error));
        }
    }

    fn why() -> Error {
        Error::new(
            ErrorKind::Unavailable,
            "commit",
            "planned failure of the disk",
        )
    }
}

impl Index for Meddled {
    fn submit(&self, batch: Batch, completion: Completion) {
        if self.broken.load(Ordering::SeqCst) {
            let unknown =
                Error::new(ErrorKind::Indeterminate, "commit", "unknown").with_source(Self::why());
            return completion(Err(CommitError::Unknown(unknown)));
        }
        match &mut *self.waiting.lock().unwrap() {
            Some(waiting) => waiting.push((batch, completion)),
            None => self.inner.submit(batch, completion),
        }
    }

    fn get<'a>(&'a self, table: Table, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>>> {
        self.inner.get(table, key)
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        self.inner.snapshot()
    }

    fn watch(&self, now: Duration) {
        self.watches.fetch_add(1, Ordering::SeqCst);
        self.inner.watch(now);
    }

    fn poisoned(&self) -> Option<Error> {
        self.broken.load(Ordering::SeqCst).then(Self::why)
    }

    fn stats(&self) -> IndexStats {
        self.inner.stats()
    }

    fn close(&self) -> BoxFuture<'static, Result<()>> {
        self.inner.close()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_commit_is_indeterminate_and_requires_a_reopen() {
    for bytes in [10, LARGE] {
        let directory = tempfile::tempdir().unwrap();
        let index = Meddled::open(directory.path()).await;
        let engine = index.engine(directory.path(), quick()).await;
        engine.put("old", "kept").await.unwrap();
        index.broken.store(true, Ordering::SeqCst);
        let first = engine.put("k", payload(1, bytes)).await.unwrap_err();
        // A large put fails at recording its change: no row names its revision yet, so nothing was
        // committed.
        let expected = if bytes == 10 {
            ErrorKind::Indeterminate
        } else {
            ErrorKind::Unavailable
        };
        assert_eq!(first.kind(), expected, "{first:?}");
        let later = engine.put("k", payload(2, bytes)).await.unwrap_err();
        assert_eq!(later.kind(), ErrorKind::Unavailable);
        assert!(later.to_string().contains("must be reopened"), "{later}");
        assert_eq!(
            engine
                .get("old")
                .await
                .unwrap()
                .unwrap()
                .bytes()
                .await
                .unwrap(),
            "kept",
            "reads still work"
        );
        engine.close().await.unwrap();
        let engine = Engine::builder(directory.path())
            .config(quick())
            .open()
            .await
            .unwrap();
        engine.put("k", payload(3, bytes)).await.unwrap();
        engine.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_of_a_hung_commit_is_not_starved_by_readers() {
    let directory = tempfile::tempdir().unwrap();
    let index = Meddled::open(directory.path()).await;
    let mut config = quick();
    config.limits = Limits {
        heartbeat: Duration::from_millis(20),
        ..config.limits
    };
    let engine = index.engine(directory.path(), config).await;
    engine.put("k", payload(1, LARGE)).await.unwrap();
    let before = index.watches.load(Ordering::SeqCst);
    let read = || async {
        drop(
            engine
                .get("k")
                .await
                .unwrap()
                .unwrap()
                .bytes()
                .await
                .unwrap(),
        )
    };
    for _ in 0..100_000 {
        read().await;
        if index.watches.load(Ordering::SeqCst) >= before + 3 {
            return engine.close().await.unwrap();
        }
    }
    panic!("busy readers starve the watch");
}

#[test]
fn more_large_puts_than_blocking_threads_all_end() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let all_ended = runtime.block_on(async {
        let engine = Engine::builder(directory.path())
            .config(quick())
            .open()
            .await
            .unwrap();
        let puts = (0..32u64).map(|seed| {
            engine
                .put(format!("k{seed}"), payload(seed, LARGE))
                .into_future()
        });
        let ended = Env::real()
            .unwrap()
            .deadline(Duration::from_secs(60), futures::future::try_join_all(puts))
            .await;
        match ended {
            Some(outcomes) => engine.close().await.and(outcomes).map(|_| true).unwrap(),
            None => false,
        }
    });
    // A normal shutdown would wait for blocked threads forever.
    runtime.shutdown_background();
    assert!(all_ended, "the puts block each other's threads");
}

#[test]
fn engine_closes_from_outside_its_runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let open = || Engine::builder(directory.path()).config(quick()).open();
    let engine = runtime.block_on(open()).unwrap();
    futures::executor::block_on(engine.close()).unwrap();
    let engine = runtime.block_on(open()).unwrap();
    runtime.block_on(engine.close()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_setting_is_refused_before_anything_is_created() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut config = Config::default();
    config.reads.list_page_max = 0;
    let error = Engine::builder(&data)
        .config(config)
        .open()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("reads.list_page_max"), "{error}");
    assert!(!data.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_backoff_or_timeout_does_not_panic() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = quick();
    config.limits.restarts.backoff_max = Duration::MAX;
    config.limits.sweep.backoff_max = Duration::MAX;
    config.limits.sweep.grace = Duration::MAX;
    config.limits.sweep.timeout = Duration::MAX;
    config.limits.close_timeout = Duration::MAX;
    let engine = Engine::builder(directory.path())
        .config(config)
        .open()
        .await
        .unwrap();
    engine.put("k", payload(1, LARGE)).await.unwrap();
    engine.delete("k").await.unwrap();
    engine.settle().await.unwrap();
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_streams_do_not_starve_small_puts() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = quick();
    config.limits.write_bytes_in_flight = 4 * INLINE;
    let engine = Engine::builder(directory.path())
        .config(config)
        .open()
        .await
        .unwrap();
    let (senders, streams): (Vec<_>, Vec<_>) = (0..4)
        .map(|_| futures::channel::mpsc::unbounded::<Result<Bytes, std::io::Error>>())
        .unzip();
    let mut puts = Vec::new();
    for (number, (sender, stream)) in senders.iter().zip(streams).enumerate() {
        sender.unbounded_send(Ok(payload(1, LARGE))).unwrap();
        let put = engine.put(format!("slow{number}"), cenotaph::Body::stream(stream));
        #[expect(
            clippy::disallowed_methods,
            reason = "the rule applies to code under test only"
        )]
        puts.push(tokio::spawn(async move { put.await }));
    }
    // Each put returns its share of the small puts once its upload has memory of its own, which is
    // after its change is recorded.
    let returned = async {
        loop {
            let actors = engine.stats().await.unwrap().actors;
            if actors.changes == 4 && actors.write_bytes.bytes == 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let env = Env::real().unwrap();
    let is_returned = env.deadline(Duration::from_secs(60), returned).await;
    assert!(
        is_returned.is_some(),
        "slow puts hold the shares of small ones"
    );
    engine.put("small", payload(2, INLINE)).await.unwrap();
    drop(senders);
    for put in puts {
        put.await.unwrap().unwrap();
    }
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_shard_waits_for_its_predecessors_batches() {
    let directory = tempfile::tempdir().unwrap();
    let index = Meddled::open(directory.path()).await;
    let engine = index.engine(directory.path(), quick()).await;
    #[expect(
        clippy::disallowed_methods,
        reason = "the rule applies to code under test only"
    )]
    let start = |body: &'static str| {
        let put = engine.put("k", body);
        tokio::spawn(async move { put.await })
    };
    // A put in the same shard first: the shard has then started, and its own barrier is not among
    // the held batches.
    let shard = engine.shard_of("k").unwrap();
    let neighbour = (0..)
        .map(|n| n.to_string())
        .find(|key| engine.shard_of(key).unwrap() == shard)
        .unwrap();
    engine.put(neighbour, "x").await.unwrap();
    index.hold();
    let first = start("first");
    while index.held_writes() < 1 {
        tokio::task::yield_now().await;
    }
    let before = index.held();
    assert!(engine.kill(cenotaph::ActorKind::Shard(shard)));
    let second = start("second");
    // The barrier of the successor waits behind the first put. A decision made too early would be
    // held there, too.
    while index.held() == before {
        tokio::task::yield_now().await;
    }
    index.release();
    let first = first.await.unwrap().unwrap();
    let second = second.await.unwrap().unwrap();
    assert_eq!((first.version.unwrap().get(), first.created), (1, true));
    assert_eq!((second.version.unwrap().get(), second.created), (2, false));
    assert_eq!(
        engine
            .get("k")
            .await
            .unwrap()
            .unwrap()
            .bytes()
            .await
            .unwrap(),
        "second"
    );
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(
    clippy::disallowed_methods,
    reason = "the rule applies to code under test only"
)]
async fn repeated_upload_end_with_a_failed_commit_is_indeterminate() {
    for aborts in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let index = Meddled::open(directory.path()).await;
        let engine = index.engine(directory.path(), quick()).await;
        let upload = engine.multipart("k").await.unwrap();
        upload.part(1, "a part").await.unwrap();
        index.hold();
        let end = |upload: cenotaph::MultipartUpload| async move {
            if aborts {
                upload.abort().await.map(|()| None)
            } else {
                upload.complete().await.map(Some)
            }
        };
        let first = tokio::spawn(end(upload.clone()));
        while index.held_writes() < 1 {
            tokio::task::yield_now().await;
        }
        let second = tokio::spawn(end(upload.clone()));
        while index.held() < 2 {
            tokio::task::yield_now().await;
        }
        index.poison();
        for task in [first, second] {
            assert_eq!(
                task.await.unwrap().unwrap_err().kind(),
                ErrorKind::Indeterminate,
                "I10"
            );
        }
        engine.close().await.unwrap();
    }
}
