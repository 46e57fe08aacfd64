//! Many objects in one call: prefix deletion, batches, and atomic batches. In a batch an operation
//! fails alone; an atomic batch commits whole or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use cenotaph::{
    BatchWrite, Engine, Env, ErrorKind, Namespace, NamespaceLimits, ObjectId, Operation, Reply,
    WriteReply,
};
use cenotaph_storage::SyncPoint;
use cenotaph_tests::store::{INLINE, Store, blobs, payload};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::task::JoinHandle;

const LARGE: usize = 3 * INLINE;

#[expect(
    clippy::disallowed_methods,
    reason = "the rule applies to code under test only"
)]
fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(work)
}

/// Puts `count` objects; every hundredth is large.
async fn fill(engine: &Engine, prefix: &str, count: u64) {
    for first in (0..count).step_by(1000) {
        let keys = (first..count.min(first + 1000)).map(|number| format!("{prefix}{number:05}"));
        let (large, small): (Vec<_>, Vec<_>) = keys.partition(|key| key.ends_with("00"));
        let writes: Vec<_> = small
            .into_iter()
            .map(|key| BatchWrite::put(key, "x"))
            .collect();
        let mut answers = engine.batch(stream::iter(writes));
        while let Some((_, outcome)) = answers.next().await {
            outcome.unwrap();
        }
        for key in large {
            engine.put(key, payload(first, LARGE)).await.unwrap();
        }
    }
}

async fn count(engine: &Engine, prefix: &str) -> u64 {
    engine
        .list(prefix)
        .stream()
        .try_fold(0, |count, _| async move { Ok(count + 1) })
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interrupted_prefix_deletion_resumes_and_spares_neighbours() {
    let store = Store::new().await;
    let engine = &store.engine;
    fill(engine, "tmp/", 5000).await;
    for neighbour in ["tmp", "tmp.", "tmp0", "tm", "u"] {
        engine.put(neighbour, "x").await.unwrap();
    }
    // The deletion is dropped between two pages ..
    let mut job = engine.delete_prefix("tmp/").stream();
    let first = job.try_next().await.unwrap().unwrap();
    let second = job.try_next().await.unwrap().unwrap();
    drop(job);
    assert_eq!(
        (first.deleted, second.deleted, second.last.as_deref()),
        (1000, 2000, Some("tmp/01999"))
    );
    assert_eq!(count(engine, "tmp/").await, 3000);
    // .. and within a page, which reports no progress.
    let mut held = store.stage.hold(SyncPoint::ShardBeforeDecide);
    let job = engine.delete_prefix("tmp/").start_after("tmp/01999");
    let job = spawn(async move { job.await });
    held.arrived().await;
    job.abort();
    drop(job.await);
    held.release();
    let store = store.reopen().await;
    let engine = &store.engine;
    let left = count(engine, "tmp/").await;
    assert!(
        (2000..=3000).contains(&left),
        "at most a page of 1,000 is deleted: {left}"
    );
    let rest = engine
        .delete_prefix("tmp/")
        .start_after(second.last.unwrap())
        .await
        .unwrap();
    assert_eq!(
        (rest.deleted, rest.last.as_deref()),
        (left, Some("tmp/04999"))
    );
    assert_eq!(
        (count(engine, "tmp/").await, count(engine, "").await),
        (0, 5)
    );
    store.assert_settled().await;
    assert!(blobs(&store.blobs).await.is_empty());
    assert_eq!(
        engine.delete_prefix("tmp/").await.unwrap(),
        cenotaph::PrefixDeleted::default()
    );
}

/// Runs a batch and returns the outcome of each operation by its position.
async fn run(
    engine: &Engine,
    operations: Vec<Operation>,
) -> BTreeMap<usize, cenotaph::Result<Reply>> {
    let count = operations.len();
    let answers: Vec<_> = engine.batch(stream::iter(operations)).collect().await;
    let places = answers.len();
    let by_place: BTreeMap<_, _> = answers.into_iter().collect();
    assert_eq!(by_place.len(), places, "each operation is answered once");
    assert_eq!(by_place.len(), count.min(1001));
    by_place
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_operation_of_a_batch_fails_alone() {
    let store = Store::new().await;
    store.engine.put("k00500", "old").await.unwrap();
    let wrongs = |number: usize| match number {
        500 => BatchWrite::put("k00500", "new").if_absent(),
        501 => BatchWrite::put("k00501", payload(1, INLINE + 1)),
        502 => BatchWrite::put("", "x"),
        503 => BatchWrite::put("k00503", "x").custom("a", "v".repeat(20_000)),
        _ => BatchWrite::put(format!("k{number:05}"), "new"),
    };
    let mut answers = run(
        &store.engine,
        (0..1000).map(|number| wrongs(number).into()).collect(),
    )
    .await;
    let failed: Vec<_> = (500..504)
        .map(|place| answers.remove(&place).unwrap().unwrap_err().kind())
        .collect();
    assert!(
        matches!(failed[0], ErrorKind::Conflict { current: Some(_) }),
        "{failed:?}"
    );
    assert_eq!(failed[1..], [ErrorKind::Invalid; 3]);
    assert!(
        answers
            .values()
            .all(|outcome| matches!(outcome, Ok(Reply::Written(written)) if written.created))
    );
    assert_eq!(
        (count(&store.engine, "k").await, store.bytes("k00500").await),
        (997, Some("old".into()))
    );

    let reads = (0..1000).map(|number| match number % 3 {
        0 => Operation::get(format!("k{number:05}")),
        1 => Operation::head(format!("k{number:05}")),
        _ => BatchWrite::delete(format!("k{number:05}")).into(),
    });
    for (place, outcome) in run(&store.engine, reads.collect()).await {
        let there = !(501..504).contains(&place);
        match outcome.unwrap() {
            Reply::Object(object) => {
                assert_eq!((place % 3, object.is_some()), (0, there), "{place}")
            }
            Reply::Head(head) => assert_eq!((place % 3, head.is_some()), (1, there), "{place}"),
            Reply::Deleted(deleted) => {
                assert_eq!((place % 3, deleted.existed), (2, there), "{place}")
            }
            Reply::Written(written) => panic!("unexpected put: {written:?}"),
        }
    }
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operation_over_the_limit_is_refused_and_ends_the_batch() {
    let store = Store::new().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&asked);
    let endless = stream::iter(0..).map(move |number| {
        counting.fetch_add(1, Ordering::SeqCst);
        BatchWrite::put(format!("k{number:05}"), "x")
    });
    let answers: BTreeMap<_, _> = store.engine.batch(endless).collect().await;
    assert_eq!((answers.len(), asked.load(Ordering::SeqCst)), (1001, 1001));
    for (place, outcome) in &answers {
        match outcome {
            Ok(_) => assert!(*place < 1000),
            Err(error) => assert_eq!((*place, error.kind()), (1000, ErrorKind::Invalid)),
        }
    }
    assert_eq!(count(&store.engine, "").await, 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousand_writes_in_all_shards_become_visible_at_once() {
    let store = Store::new().await;
    let engine = &store.engine;
    let env = Env::new(store.stage.clone());
    let keys: Vec<String> = (0..1000).map(|number| format!("all/{number:03}")).collect();
    let shards: BTreeSet<_> = keys
        .iter()
        .map(|key| engine.shard_of(key).unwrap())
        .collect();
    assert_eq!(
        shards.len(),
        engine.config().limits.shards,
        "the batch covers every shard"
    );
    let over = Arc::new(AtomicBool::new(false));
    let reader = engine.clone();
    let ended = Arc::clone(&over);
    let listings = spawn(async move {
        let mut listings = 0;
        while !ended.load(Ordering::SeqCst) {
            let sizes: BTreeSet<u64> = match reader.list("all/").await.unwrap().entries {
                entries if entries.is_empty() => BTreeSet::new(),
                entries => {
                    assert_eq!(entries.len(), 1000, "part of a batch is visible");
                    let size = |entry: &cenotaph::Entry| match entry {
                        cenotaph::Entry::Object(head) => head.metadata.size,
                        cenotaph::Entry::Prefix(_) => {
                            unreachable!("a flat listing has no prefixes")
                        }
                    };
                    entries.iter().map(size).collect()
                }
            };
            assert!(sizes.len() <= 1, "parts of two batches: {sizes:?}");
            listings += 1;
        }
        listings
    });
    let began = env.monotonic();
    for round in 1..=10 {
        let writes = keys.iter().map(|key| {
            if round % 5 == 0 {
                BatchWrite::delete(key)
            } else {
                BatchWrite::put(key, vec![7; round])
            }
        });
        let replies = engine.atomic(writes).await.unwrap();
        assert_eq!(replies.len(), 1000);
        assert!(replies.iter().all(|reply| match reply {
            WriteReply::Written(written) => written.created == (round % 5 == 1),
            WriteReply::Deleted(deleted) => deleted.existed,
        }));
    }
    let took = env.monotonic() - began;
    over.store(true, Ordering::SeqCst);
    println!(
        "1000 writes in one commit: {:?} each time, {} listings meanwhile",
        took / 10,
        listings.await.unwrap()
    );
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_atomic_batch_is_refused_whole() {
    let store = Store::new().await;
    let engine = &store.engine;
    let many = |count: usize| (0..count).map(|number| BatchWrite::put(format!("k{number}"), "x"));
    let mut refused = vec![
        engine.atomic(many(1001)).await.unwrap_err(),
        engine
            .atomic([
                BatchWrite::put("k", "1"),
                BatchWrite::delete("other"),
                BatchWrite::put("k", "2"),
            ])
            .await
            .unwrap_err(),
        engine
            .atomic([
                BatchWrite::put("k", "x"),
                BatchWrite::put("l", payload(1, INLINE + 1)),
            ])
            .await
            .unwrap_err(),
        engine
            .atomic([
                BatchWrite::put("k", "x"),
                BatchWrite::put("l", "x").custom("a", "v".repeat(20_000)),
            ])
            .await
            .unwrap_err(),
    ];
    let filled = (0..900).map(|number| BatchWrite::put(format!("k{number}"), payload(1, INLINE)));
    engine.atomic(filled).await.unwrap();
    engine.delete_prefix("").await.unwrap();
    let mut config = cenotaph_tests::store::quick();
    config.limits.atomic_bytes_max = 900 * INLINE - 1;
    let strict = Store::with(config).await;
    let too_long = (0..900).map(|number| BatchWrite::put(format!("k{number}"), payload(1, INLINE)));
    refused.push(strict.engine.atomic(too_long).await.unwrap_err());
    for error in refused {
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    }
    assert_eq!(
        (count(engine, "").await, count(&strict.engine, "").await),
        (0, 0)
    );
    assert!(engine.atomic([]).await.unwrap().is_empty());
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batch_polls_no_more_operations_than_run_at_once() {
    let store = Store::new().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&asked);
    let writes = stream::iter(0..1000).map(move |number| {
        counting.fetch_add(1, Ordering::SeqCst);
        BatchWrite::put(format!("k{number:05}"), "x")
    });
    let mut answers = store.engine.batch(writes);
    answers.next().await.unwrap().1.unwrap();
    let first = asked.load(Ordering::SeqCst);
    assert!(
        first <= 256,
        "operations polled before the first answer was taken: {first}"
    );
    assert_eq!(answers.count().await, 999);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prefix_deletion_retries_after_overload() {
    let store = Store::new().await;
    let namespace: Namespace = "limited".parse().unwrap();
    for number in 0..30 {
        store
            .engine
            .put(
                ObjectId::new(&namespace, &format!("k{number}")).unwrap(),
                "x",
            )
            .await
            .unwrap();
    }
    let one = NamespaceLimits {
        operations_at_once: Some(1),
        ..NamespaceLimits::default()
    };
    store.engine.limit_namespace(&namespace, one).unwrap();
    assert_eq!(
        store
            .engine
            .delete_prefix("")
            .namespace(namespace)
            .await
            .unwrap()
            .deleted,
        30
    );
}
