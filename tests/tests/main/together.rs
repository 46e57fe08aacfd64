//! Commits of several objects with shards killed at every sync point: all of a batch commits or
//! nothing does, the caller receives the outcome, no listing shows a part, and everything settles
//! (I3, I5, I10).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cenotaph::{ActorKind, BatchWrite, Engine, Entry, Env, ErrorKind, Result, WriteReply};
use cenotaph_storage::SyncPoint;
use cenotaph_tests::store::{INLINE, Store, payload, quick};
use tokio::task::JoinHandle;

const LARGE: usize = 10 * INLINE;

/// Spawns a task.
#[expect(
    clippy::disallowed_methods,
    reason = "the rule applies to code under test only"
)]
fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(work)
}

async fn store() -> Store {
    let mut config = quick();
    config.limits.restarts.max = usize::MAX;
    Store::with(config).await
}

/// Returns two new keys of different shards, ordered by shard: the first shard is locked first.
fn apart(store: &Store, prefix: &str) -> [(String, ActorKind); 2] {
    let shard = |key: &String| store.engine.shard_of(key).unwrap();
    let first = format!("{prefix}/0");
    let second = (1..)
        .map(|n| format!("{prefix}/{n}"))
        .find(|key| shard(key) != shard(&first))
        .unwrap();
    let mut keys = [first, second];
    keys.sort_by_key(shard);
    keys.map(|key| (key.clone(), ActorKind::Shard(shard(&key))))
}

fn atomic(store: &Store, keys: [&str; 2], value: u64) -> JoinHandle<Result<Vec<WriteReply>>> {
    let engine = store.engine.clone();
    let writes = keys.map(|key| BatchWrite::put(key, value.to_string()));
    spawn(async move { engine.atomic(writes).await })
}

fn versions(replies: &[WriteReply]) -> Vec<u64> {
    let version = |reply: &WriteReply| match reply {
        WriteReply::Written(written) => written.version.unwrap().get(),
        WriteReply::Deleted(_) => panic!("unexpected delete"),
    };
    replies.iter().map(version).collect()
}

/// Asserts that both objects were written exactly once: the next batch gets the next version.
async fn assert_committed_once(store: &Store, keys: [&str; 2], value: u64, case: &str) {
    for key in keys {
        assert_eq!(store.bytes(key).await.unwrap(), value.to_string(), "{case}");
    }
    let next = atomic(store, keys, value + 1).await.unwrap().unwrap();
    assert_eq!(versions(&next), [value + 1; 2], "{case}: committed once");
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batch_commits_once_although_its_shard_is_killed() {
    let store = store().await;
    for sync_point in [
        SyncPoint::ShardLent,
        SyncPoint::AtomicBeforeDecide,
        SyncPoint::AtomicAfterSubmit,
    ] {
        for victim in [0, 1] {
            let case = format!("shard {victim} killed at {sync_point:?}");
            let [(a, first), (b, second)] = apart(&store, &case);
            let keys = [a.as_str(), b.as_str()];
            atomic(&store, keys, 1).await.unwrap().unwrap();
            let mut held = store.stage.hold(sync_point);
            let batch = atomic(&store, keys, 2);
            held.arrived().await;
            assert!(store.engine.kill([first, second][victim]), "{case}");
            held.release();
            assert_eq!(versions(&batch.await.unwrap().unwrap()), [2; 2], "{case}");
            assert_committed_once(&store, keys, 2, &case).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shard_killed_after_lending_keeps_the_commit() {
    let store = store().await;
    let [(a, first), (b, _)] = apart(&store, "pair");
    let keys = [a.as_str(), b.as_str()];
    // The first shard is held after it has lent its lock; the commit does not need the shard.
    let mut lent = store.stage.hold(SyncPoint::ShardLent);
    let batch = atomic(&store, keys, 1);
    lent.arrived().await;
    assert_eq!(versions(&batch.await.unwrap().unwrap()), [1; 2]);
    assert!(store.engine.kill(first));
    assert_committed_once(&store, keys, 1, "killed after the commit").await;
    drop(lent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_caller_blocks_no_shard() {
    let store = store().await;
    for sync_point in [
        SyncPoint::ShardLent,
        SyncPoint::AtomicBeforeDecide,
        SyncPoint::AtomicAfterSubmit,
    ] {
        let [(a, _), (b, _)] = apart(&store, &format!("{sync_point:?}"));
        let keys = [a.as_str(), b.as_str()];
        let mut held = store.stage.hold(sync_point);
        let batch = atomic(&store, keys, 1);
        held.arrived().await;
        batch.abort();
        drop(batch.await);
        held.release();
        let next = versions(&atomic(&store, keys, 2).await.unwrap().unwrap());
        assert!(
            next == [2; 2] || next == [1; 2],
            "{sync_point:?}: the first batch commits whole or not at all: {next:?}"
        );
        store.engine.put(&a, "x").await.unwrap();
        store.assert_settled().await;
        assert_eq!(
            store.engine.stats().await.unwrap().actors.writes_live,
            0,
            "{sync_point:?}: the permits are returned"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rename_happens_once_although_its_shard_is_killed() {
    let store = store().await;
    for sync_point in [
        SyncPoint::ShardLent,
        SyncPoint::AtomicBeforeDecide,
        SyncPoint::AtomicAfterSubmit,
    ] {
        for (victim, bytes) in [(0, 10), (1, LARGE), (0, LARGE), (1, 10)] {
            let case = format!("shard {victim} killed at {sync_point:?} renaming {bytes} bytes");
            let [(a, first), (b, second)] = apart(&store, &case);
            store.engine.put(&a, payload(1, bytes)).await.unwrap();
            store.engine.put(&b, payload(2, LARGE)).await.unwrap();
            let mut held = store.stage.hold(sync_point);
            let rename = store.engine.rename(&a, &b);
            let rename = spawn(async move { rename.await });
            held.arrived().await;
            assert!(store.engine.kill([first, second][victim]), "{case}");
            held.release();
            let renamed = rename.await.unwrap().unwrap().expect("the source exists");
            assert_eq!(
                (renamed.version.unwrap().get(), renamed.created),
                (2, false),
                "{case}"
            );
            assert_eq!(
                (store.bytes(&a).await, store.bytes(&b).await),
                (None, Some(payload(1, bytes))),
                "{case}"
            );
            store.assert_settled().await;
            assert_eq!(
                store
                    .engine
                    .put(&a, "x")
                    .await
                    .unwrap()
                    .version
                    .unwrap()
                    .get(),
                2,
                "{case}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batch_with_a_failed_condition_writes_nothing_despite_kills() {
    let store = store().await;
    for sync_point in [SyncPoint::ShardLent, SyncPoint::AtomicBeforeDecide] {
        let [(a, first), (b, _)] = apart(&store, &format!("{sync_point:?}"));
        store.engine.put(&b, "old").await.unwrap();
        let mut held = store.stage.hold(sync_point);
        let engine = store.engine.clone();
        let writes = [
            BatchWrite::put(&a, "new").if_absent(),
            BatchWrite::put(&b, "new").if_version(7),
        ];
        let batch = spawn(async move { engine.atomic(writes).await });
        held.arrived().await;
        assert!(store.engine.kill(first));
        held.release();
        let error = batch.await.unwrap().unwrap_err();
        let ErrorKind::Conflict {
            current: Some(current),
        } = error.kind()
        else {
            panic!("{error:?}")
        };
        assert_eq!(
            (current.version.get(), error.id().unwrap().key()),
            (1, b.as_str())
        );
        assert_eq!(
            (store.bytes(&a).await, store.bytes(&b).await),
            (None, Some("old".into()))
        );
        store.assert_settled().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batch_sees_writes_of_a_restarted_shard() {
    let store = store().await;
    let [(a, first), (b, _)] = apart(&store, "pair");
    let keys = [a.as_str(), b.as_str()];
    atomic(&store, keys, 1).await.unwrap().unwrap();
    let mut held = store.stage.hold(SyncPoint::AtomicBeforeDecide);
    let batch = atomic(&store, keys, 2);
    held.arrived().await;
    assert!(store.engine.kill(first));
    let between = store.engine.put(&a, "between").await.unwrap();
    assert_eq!(
        between.version.unwrap().get(),
        2,
        "the successor serves although the batch still has the old shard lock"
    );
    held.release();
    assert_eq!(
        versions(&batch.await.unwrap().unwrap()),
        [3, 2],
        "the batch starts over and sees the put"
    );

    let mut held = store.stage.hold(SyncPoint::AtomicBeforeDecide);
    let rename = store.engine.rename(&a, &b);
    let rename = spawn(async move { rename.await });
    held.arrived().await;
    assert!(store.engine.kill(first));
    store.engine.put(&a, payload(1, LARGE)).await.unwrap();
    held.release();
    rename.await.unwrap().unwrap().expect("the source exists");
    assert_eq!(
        (store.bytes(&a).await, store.bytes(&b).await),
        (None, Some(payload(1, LARGE)))
    );
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_batches_and_puts_share_no_version() {
    let store = store().await;
    let [(a, _), (b, _)] = apart(&store, "pair");
    for round in 0..20 {
        let batches = (0..10)
            .map(|value| atomic(&store, [&a, &b], value))
            .collect::<Vec<_>>();
        let puts = (0..30).map(|_| store.engine.put(&a, "x").into_future());
        let mut given: BTreeSet<u64> = BTreeSet::new();
        for put in futures::future::join_all(puts).await {
            given.insert(put.unwrap().version.unwrap().get());
        }
        for batch in batches {
            given.insert(versions(&batch.await.unwrap().unwrap())[0]);
        }
        assert!(
            given.into_iter().eq(round * 40 + 1..=round * 40 + 40),
            "round {round}: each write has its own version"
        );
    }
    store.assert_settled().await;
}

/// Objects in each batch.
const TOGETHER: u64 = 6;

fn seconds() -> Duration {
    let set = std::env::var("CENOTAPH_CHAOS_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    Duration::from_secs(set.unwrap_or(3))
}

/// State of the clients, which run until `over` is set.
struct Scene {
    engine: Engine,
    env: Env,
    over: AtomicBool,
    committed: AtomicU64,
    refused: AtomicU64,
    pages: AtomicU64,
}

impl Scene {
    fn is_running(&self) -> bool {
        !self.over.load(Ordering::SeqCst)
    }

    fn count<T>(&self, outcome: Result<T>) -> Option<T> {
        match outcome {
            Ok(value) => {
                self.committed.fetch_add(1, Ordering::SeqCst);
                Some(value)
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
                self.refused.fetch_add(1, Ordering::SeqCst);
                None
            }
        }
    }

    /// Writes the same value to all objects and checks the versions after each commit.
    async fn write_together(&self) {
        let mut value = 0u64;
        let mut version = 0;
        while self.is_running() {
            value += 1;
            let write = |n| {
                BatchWrite::put(format!("all/{n}"), value.to_string())
                    .custom("value", value.to_string())
            };
            if let Some(replies) = self.count(self.engine.atomic((0..TOGETHER).map(write)).await) {
                version += 1;
                assert_eq!(
                    versions(&replies),
                    vec![version; replies.len()],
                    "each batch commits once"
                );
            }
        }
    }

    /// Renames an object in a circle of three names.
    async fn rename_around(&self, number: u64, bytes: usize) {
        let name = |place: u64| format!("walk/{number}/{}", place % 3);
        let mut place = 0;
        while self.is_running() {
            if self
                .count(self.engine.rename(name(place), name(place + 1)).await)
                .is_some()
            {
                place += 1;
            }
            let found = self
                .engine
                .get(name(place))
                .await
                .unwrap()
                .expect("the object has its new name");
            assert!(found.bytes().await.unwrap() == payload(number, bytes));
        }
    }

    /// Checks single pages of listings: a batch is visible whole or not at all, and a renamed
    /// object under exactly one name.
    async fn check_listings(&self) {
        while self.is_running() {
            let page = self.engine.list("all/").await.unwrap();
            let values: Vec<_> = page.entries.iter().map(value).collect();
            assert!(
                values.is_empty() || values.len() == TOGETHER as usize,
                "{values:?}"
            );
            assert!(
                values.windows(2).all(|pair| pair[0] == pair[1]),
                "part of a batch is visible: {values:?}"
            );
            for number in 0..3 {
                let page = self.engine.list(format!("walk/{number}/")).await.unwrap();
                assert!(
                    page.entries.len() == 1,
                    "the renamed object is listed {} times",
                    page.entries.len()
                );
            }
            self.pages.fetch_add(1, Ordering::SeqCst);
        }
    }

    async fn kill(&self, until: Duration) -> u64 {
        let shards = self.engine.config().limits.shards as u64;
        let mut kills = 0;
        while self.env.monotonic() < until {
            let shard = usize::try_from(self.env.random_u64() % shards).unwrap();
            kills += u64::from(self.engine.kill(ActorKind::Shard(shard)));
            self.env
                .sleep(self.env.jitter(Duration::from_millis(8)))
                .await;
        }
        self.over.store(true, Ordering::SeqCst);
        kills
    }
}

fn value(entry: &Entry) -> String {
    match entry {
        Entry::Object(head) => head.metadata.attributes.custom["value"].clone(),
        Entry::Prefix(prefix) => panic!("unexpected prefix in a flat listing: {prefix}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listings_show_whole_batches_and_renames_despite_kills() {
    let store = store().await;
    let env = Env::new(store.stage.clone());
    let scene = Arc::new(Scene {
        engine: store.engine.clone(),
        env: env.clone(),
        over: AtomicBool::new(false),
        committed: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        pages: AtomicU64::new(0),
    });
    // The objects exist before the first listing.
    for (number, bytes) in [(0, 10), (1, INLINE), (2, LARGE)] {
        scene
            .engine
            .put(format!("walk/{number}/0"), payload(number, bytes))
            .await
            .unwrap();
    }
    let mut tasks = Vec::new();
    for (number, bytes) in [(0, 10), (1, INLINE), (2, LARGE)] {
        let scene = Arc::clone(&scene);
        tasks.push(spawn(
            async move { scene.rename_around(number, bytes).await },
        ));
    }
    for lists in [true, true, false] {
        let scene = Arc::clone(&scene);
        tasks.push(spawn(async move {
            if lists {
                scene.check_listings().await
            } else {
                scene.write_together().await
            }
        }));
    }
    let kills = scene.kill(env.monotonic() + seconds()).await;
    for task in tasks {
        task.await.unwrap();
    }
    let [committed, refused, pages] =
        [&scene.committed, &scene.refused, &scene.pages].map(|c| c.load(Ordering::SeqCst));
    println!("{kills} kills, {committed} commits, {refused} refused, {pages} listings");
    assert!(
        kills > 20 && committed > 20 && pages > 20,
        "{kills} kills, {committed} commits, {pages} listings"
    );
    store.assert_settled().await;
}
