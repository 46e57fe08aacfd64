//! Commits of several objects at once, with shards killed at every await boundary: all of it
//! happens or nothing does, the caller hears which, no listing shows a part, and everything settles
//! (I3, I5, I10).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cenotaph::{ActorKind, Engine, Entry, Env, ErrorKind, Result, Write, WriteReply};
use cenotaph_storage::Seam;
use cenotaph_tests::store::{INLINE, Store, payload, quick};
use tokio::task::JoinHandle;

const LARGE: usize = 10 * INLINE;

/// A task beside the test.
#[expect(
    clippy::disallowed_methods,
    reason = "the rule applies to code under test only"
)]
fn beside<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(work)
}

async fn store() -> Store {
    let mut config = quick();
    config.limits.restarts.max = usize::MAX;
    Store::with(config).await
}

/// Two fresh keys of different shards, in the order of their shards: the first shard lends first.
fn apart(store: &Store, what: &str) -> [(String, ActorKind); 2] {
    let shard = |key: &String| store.engine.shard_of(key).unwrap();
    let first = format!("{what}/0");
    let second = (1..)
        .map(|n| format!("{what}/{n}"))
        .find(|key| shard(key) != shard(&first))
        .unwrap();
    let mut keys = [first, second];
    keys.sort_by_key(shard);
    keys.map(|key| (key.clone(), ActorKind::Shard(shard(&key))))
}

fn atomic(store: &Store, keys: [&str; 2], value: u64) -> JoinHandle<Result<Vec<WriteReply>>> {
    let engine = store.engine.clone();
    let writes = keys.map(|key| Write::put(key, value.to_string()));
    beside(async move { engine.atomic(writes).await })
}

fn versions(replies: &[WriteReply]) -> Vec<u64> {
    let version = |reply: &WriteReply| match reply {
        WriteReply::Written(written) => written.version.unwrap().get(),
        WriteReply::Deleted(_) => panic!("nothing was deleted"),
    };
    replies.iter().map(version).collect()
}

/// How the killed shard's objects stand on: both counted once, and the next write goes on from
/// there.
async fn assert_committed_once(store: &Store, keys: [&str; 2], value: u64, what: &str) {
    for key in keys {
        assert_eq!(store.bytes(key).await.unwrap(), value.to_string(), "{what}");
    }
    let next = atomic(store, keys, value + 1).await.unwrap().unwrap();
    assert_eq!(versions(&next), [value + 1; 2], "{what}: committed once");
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_atomic_batch_whose_shard_is_killed_at_any_seam_commits_once_and_whole() {
    let store = store().await;
    for seam in [
        Seam::ShardLent,
        Seam::AtomicBeforeDecide,
        Seam::AtomicAfterSubmit,
    ] {
        for victim in [0, 1] {
            let what = format!("shard {victim} killed at {seam:?}");
            let [(a, first), (b, second)] = apart(&store, &what);
            let keys = [a.as_str(), b.as_str()];
            atomic(&store, keys, 1).await.unwrap().unwrap();
            let mut held = store.stage.hold(seam);
            let batch = atomic(&store, keys, 2);
            held.arrived().await;
            assert!(store.engine.kill([first, second][victim]), "{what}");
            held.release();
            assert_eq!(versions(&batch.await.unwrap().unwrap()), [2; 2], "{what}");
            assert_committed_once(&store, keys, 2, &what).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_killed_while_it_still_holds_what_it_lent_leaves_what_was_committed() {
    let store = store().await;
    let [(a, first), (b, _)] = apart(&store, "pair");
    let keys = [a.as_str(), b.as_str()];
    // The first shard stands still behind its lease, which the commit needs nothing more of.
    let mut lent = store.stage.hold(Seam::ShardLent);
    let batch = atomic(&store, keys, 1);
    lent.arrived().await;
    assert_eq!(versions(&batch.await.unwrap().unwrap()), [1; 2]);
    assert!(store.engine.kill(first));
    assert_committed_once(&store, keys, 1, "killed after the commit").await;
    drop(lent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_leaves_holds_up_no_shard() {
    let store = store().await;
    for seam in [
        Seam::ShardLent,
        Seam::AtomicBeforeDecide,
        Seam::AtomicAfterSubmit,
    ] {
        let [(a, _), (b, _)] = apart(&store, &format!("{seam:?}"));
        let keys = [a.as_str(), b.as_str()];
        let mut held = store.stage.hold(seam);
        let batch = atomic(&store, keys, 1);
        held.arrived().await;
        batch.abort();
        drop(batch.await);
        held.release();
        let next = versions(&atomic(&store, keys, 2).await.unwrap().unwrap());
        assert!(
            next == [2; 2] || next == [1; 2],
            "{seam:?}: all of the first or nothing: {next:?}"
        );
        store.engine.put(&a, "x").await.unwrap();
        store.assert_settled().await;
        assert_eq!(
            store.engine.stats().await.unwrap().actors.writes_live,
            0,
            "{seam:?}: its permits are given back"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rename_whose_shard_is_killed_at_any_seam_happens_once() {
    let store = store().await;
    for seam in [
        Seam::ShardLent,
        Seam::AtomicBeforeDecide,
        Seam::AtomicAfterSubmit,
    ] {
        for (victim, bytes) in [(0, 10), (1, LARGE), (0, LARGE), (1, 10)] {
            let what = format!("shard {victim} killed at {seam:?} renaming {bytes} bytes");
            let [(a, first), (b, second)] = apart(&store, &what);
            store.engine.put(&a, payload(1, bytes)).await.unwrap();
            store.engine.put(&b, payload(2, LARGE)).await.unwrap();
            let mut held = store.stage.hold(seam);
            let rename = store.engine.rename(&a, &b);
            let rename = beside(async move { rename.await });
            held.arrived().await;
            assert!(store.engine.kill([first, second][victim]), "{what}");
            held.release();
            let renamed = rename.await.unwrap().unwrap().expect("it was there");
            assert_eq!(
                (renamed.version.unwrap().get(), renamed.created),
                (2, false),
                "{what}"
            );
            assert_eq!(
                (store.bytes(&a).await, store.bytes(&b).await),
                (None, Some(payload(1, bytes))),
                "{what}"
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
                "{what}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_atomic_batch_with_one_failing_demand_writes_nothing_whoever_dies() {
    let store = store().await;
    for seam in [Seam::ShardLent, Seam::AtomicBeforeDecide] {
        let [(a, first), (b, _)] = apart(&store, &format!("{seam:?}"));
        store.engine.put(&b, "old").await.unwrap();
        let mut held = store.stage.hold(seam);
        let engine = store.engine.clone();
        let writes = [
            Write::put(&a, "new").if_absent(),
            Write::put(&b, "new").if_version(7),
        ];
        let batch = beside(async move { engine.atomic(writes).await });
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
async fn what_the_successor_of_a_killed_shard_decides_meanwhile_is_never_overwritten_unseen() {
    let store = store().await;
    let [(a, first), (b, _)] = apart(&store, "pair");
    let keys = [a.as_str(), b.as_str()];
    atomic(&store, keys, 1).await.unwrap().unwrap();
    let mut held = store.stage.hold(Seam::AtomicBeforeDecide);
    let batch = atomic(&store, keys, 2);
    held.arrived().await;
    assert!(store.engine.kill(first));
    let between = store.engine.put(&a, "between").await.unwrap();
    assert_eq!(
        between.version.unwrap().get(),
        2,
        "the successor serves while the batch still believes in its lease"
    );
    held.release();
    assert_eq!(
        versions(&batch.await.unwrap().unwrap()),
        [3, 2],
        "it begins again, and sees what was put between"
    );

    let mut held = store.stage.hold(Seam::AtomicBeforeDecide);
    let rename = store.engine.rename(&a, &b);
    let rename = beside(async move { rename.await });
    held.arrived().await;
    assert!(store.engine.kill(first));
    store.engine.put(&a, payload(1, LARGE)).await.unwrap();
    held.release();
    rename.await.unwrap().unwrap().expect("it is there");
    assert_eq!(
        (store.bytes(&a).await, store.bytes(&b).await),
        (None, Some(payload(1, LARGE)))
    );
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_and_puts_of_one_object_that_are_under_way_at_once_share_no_version() {
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
            "round {round}: one for each, and none twice"
        );
    }
    store.assert_settled().await;
}

/// Objects that are written together.
const TOGETHER: u64 = 6;

fn seconds() -> Duration {
    let told = std::env::var("CENOTAPH_CHAOS_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    Duration::from_secs(told.unwrap_or(3))
}

/// What happens until it is told to stop.
struct Scene {
    engine: Engine,
    env: Env,
    over: AtomicBool,
    committed: AtomicU64,
    refused: AtomicU64,
    pages: AtomicU64,
}

impl Scene {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::SeqCst)
    }

    fn heard<T>(&self, outcome: Result<T>) -> Option<T> {
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

    /// Writes the same value to all objects, and knows after each answer what all must be.
    async fn write_together(&self) {
        let mut value = 0u64;
        let mut stands = 0;
        while self.goes_on() {
            value += 1;
            let write = |n| {
                Write::put(format!("all/{n}"), value.to_string()).custom("value", value.to_string())
            };
            if let Some(replies) = self.heard(self.engine.atomic((0..TOGETHER).map(write)).await) {
                stands += 1;
                assert_eq!(
                    versions(&replies),
                    vec![stands; replies.len()],
                    "each commits once, all at once"
                );
            }
        }
    }

    /// Moves one object from name to name, over another that stands in its way now and then.
    async fn rename_around(&self, number: u64, bytes: usize) {
        let name = |place: u64| format!("walk/{number}/{}", place % 3);
        let mut place = 0;
        while self.goes_on() {
            if self
                .heard(self.engine.rename(name(place), name(place + 1)).await)
                .is_some()
            {
                place += 1;
            }
            let found = self
                .engine
                .get(name(place))
                .await
                .unwrap()
                .expect("it is where it was renamed to");
            assert!(found.bytes().await.unwrap() == payload(number, bytes));
        }
    }

    /// Looks at single pages: all or nothing of a batch, one and only one of a renamed object.
    async fn look(&self) {
        while self.goes_on() {
            let page = self.engine.list("all/").await.unwrap();
            let values: Vec<_> = page.entries.iter().map(value).collect();
            assert!(
                values.is_empty() || values.len() == TOGETHER as usize,
                "{values:?}"
            );
            assert!(
                values.windows(2).all(|pair| pair[0] == pair[1]),
                "a part of a batch is visible: {values:?}"
            );
            for number in 0..3 {
                let page = self.engine.list(format!("walk/{number}/")).await.unwrap();
                assert!(
                    page.entries.len() == 1,
                    "a rename shows {} objects",
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
        Entry::Prefix(prefix) => panic!("nobody has asked for prefixes: {prefix}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_shards_die_no_listing_shows_a_part_of_a_batch_nor_two_nor_none_of_a_renamed_object()
{
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
    // The walkers stand somewhere before anybody looks.
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
        tasks.push(beside(
            async move { scene.rename_around(number, bytes).await },
        ));
    }
    for looks in [true, true, false] {
        let scene = Arc::clone(&scene);
        tasks.push(beside(async move {
            if looks {
                scene.look().await
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
    println!("{kills} kills, {committed} commits, {refused} refused, {pages} looks");
    assert!(
        kills > 20 && committed > 20 && pages > 20,
        "{kills} kills, {committed} commits, {pages} looks"
    );
    store.assert_settled().await;
}
