//! Last versions of deleted objects: old ones are dropped, and no version is ever reused.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cenotaph::{ActorKind, Config, LastVersionLimits, RepairOutcome, Version};
use cenotaph_storage::ObjectId;
use cenotaph_storage::SyncPoint;
use cenotaph_storage::index::{Batch, Range, Table};
use cenotaph_storage::records::{
    BASE_VERSION_KEY, BaseVersion, LastVersion, last_version_key, last_versions_prefix,
};
use cenotaph_tests::store::{INLINE, Store, payload, quick};
use tokio::task::JoinHandle;

const HOUR: Duration = Duration::from_secs(3600);
const INSTANT: Duration = Duration::from_millis(1);

fn config(limits: LastVersionLimits) -> Config {
    let mut config = quick();
    config.limits.last_versions = limits;
    config
}

/// Limits by which every last version is old at once.
fn nothing_kept() -> LastVersionLimits {
    LastVersionLimits {
        kept_for: Duration::ZERO,
        page: 4,
        page_interval: INSTANT,
        ..LastVersionLimits::default()
    }
}

async fn put(store: &Store, key: &str, bytes: usize) -> u64 {
    let put = store.engine.put(key, payload(1, bytes)).await.unwrap();
    put.version.unwrap().get()
}

/// Puts an object until it has this version, and deletes it.
async fn delete_at(store: &Store, key: &str, version: u64) {
    while put(store, key, 1).await < version {}
    assert!(store.engine.delete(key).await.unwrap().existed);
}

/// Returns the number of stored last versions.
async fn kept(store: &Store) -> usize {
    let snapshot = store.index.snapshot().unwrap();
    let all = Range::prefix(&last_versions_prefix(), 1_000_000);
    snapshot.scan(Table::Meta, all).await.unwrap().len()
}

async fn commit(store: &Store, batch: Batch) {
    store
        .index
        .submit(batch, Box::new(|outcome| outcome.unwrap()));
    store.index.barrier().await.unwrap();
}

#[expect(
    clippy::disallowed_methods,
    reason = "the rule applies to code under test only"
)]
fn spawn<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(task)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_version_is_dropped_after_its_retention() {
    let limits = LastVersionLimits {
        kept_for: HOUR,
        ..LastVersionLimits::default()
    };
    let store = Store::with(config(limits)).await;
    store.stage.stop_clock();
    delete_at(&store, "old", 3).await;
    store.stage.advance(HOUR / 2);
    delete_at(&store, "young", 5).await;
    assert_eq!(
        (store.engine.prune().await.unwrap(), kept(&store).await),
        (0, 2)
    );
    store.stage.advance(HOUR / 2);
    assert_eq!(
        (store.engine.prune().await.unwrap(), kept(&store).await),
        (1, 1)
    );
    assert_eq!(put(&store, "old", 1).await, 4);
    assert_eq!(put(&store, "new", 1).await, 4, "behind the base version");
    assert_eq!(
        put(&store, "young", 1).await,
        6,
        "its last version was kept"
    );
    let actors = store.engine.stats().await.unwrap().actors;
    assert_eq!(
        (actors.pruned, actors.base_version, actors.last_versions),
        (1, 3, 1)
    );

    let store = store.reopen().await;
    assert_eq!(
        put(&store, "newer", 1).await,
        4,
        "the base version is durable"
    );
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oldest_last_versions_over_the_count_limit_are_dropped() {
    let limits = LastVersionLimits {
        entries_max: 10,
        page: 7,
        ..LastVersionLimits::default()
    };
    let store = Store::with(config(limits)).await;
    store.stage.stop_clock();
    for number in 0..40 {
        store.stage.advance(HOUR);
        delete_at(&store, &format!("k{number:02}"), 1).await;
    }
    // One walk counts, the next one drops.
    store.engine.prune().await.unwrap();
    let left = kept(&store).await;
    assert!((5..=10).contains(&left), "{left}");
    let actors = store.engine.stats().await.unwrap().actors;
    assert_eq!(actors.pruned, 40 - left as u64);
    for number in 40 - left..40 {
        let key = last_version_key(&ObjectId::try_from(format!("k{number:02}").as_str()).unwrap());
        let value = store.index.get(Table::Meta, &key).await.unwrap();
        assert!(value.is_some(), "{number} is one of the youngest");
    }
    assert_eq!(put(&store, "k00", 1).await, 2);
}

/// An entry of an earlier build has no time: it counts from the first walk on, also after a reopen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_version_of_the_earlier_format_counts_from_the_first_walk() {
    let limits = LastVersionLimits {
        kept_for: HOUR,
        ..LastVersionLimits::default()
    };
    let store = Store::with(config(limits)).await;
    let undated = LastVersion {
        version: Version::new(7),
        deleted: None,
    };
    let mut batch = Batch::new();
    let id = ObjectId::try_from("k").unwrap();
    batch.put(Table::Meta, last_version_key(&id), undated.encode());
    commit(&store, batch).await;
    assert_eq!(store.engine.prune().await.unwrap(), 0);
    let value = store
        .index
        .get(Table::Meta, BASE_VERSION_KEY)
        .await
        .unwrap();
    let base = BaseVersion::decode(&value.unwrap()).unwrap();
    assert_eq!(base.version, Version::NONE);

    let store = store.reopen().await;
    store.stage.stop_clock();
    let minute = Duration::from_secs(60);
    for (later, pruned) in [(HOUR - minute, 0), (minute, 1)] {
        store.stage.advance(later);
        assert_eq!(store.engine.prune().await.unwrap(), pruned, "{later:?}");
    }
    assert_eq!(put(&store, "k", 1).await, 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_pruner_loses_nothing_and_continues() {
    for killed in [ActorKind::Pruner, ActorKind::Shard(0)] {
        for point in [
            SyncPoint::PrunerBeforeDrop,
            SyncPoint::ShardBeforeDecide,
            SyncPoint::ShardAfterSubmit,
        ] {
            let mut limits = config(nothing_kept());
            limits.limits.shards = 1;
            let store = Store::with(limits).await;
            for key in ["a", "b", "c", "d", "e", "f"] {
                put(&store, key, 1).await;
                put(&store, key, 1).await;
            }
            let mut held = store.stage.hold(point);
            if point == SyncPoint::PrunerBeforeDrop {
                store.engine.delete("a").await.unwrap();
            } else {
                // The hold catches the delete itself: release it, and hold the drop.
                let engine = store.engine.clone();
                let deleting = spawn(async move { engine.delete("a").await.unwrap() });
                held.arrived().await;
                let next = store.stage.hold(point);
                held.release();
                held = next;
                deleting.await.unwrap();
            }
            let engine = store.engine.clone();
            let pruning = spawn(async move { engine.prune().await });
            held.arrived().await;
            assert!(store.engine.kill(killed), "{killed:?}");
            drop(held);
            pruning.await.unwrap().unwrap();
            assert_eq!(put(&store, "a", 1).await, 3, "{killed:?} {point:?}");
            assert_eq!(kept(&store).await, 0);
            store.assert_settled().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_base_version_is_found_and_no_version_is_reused() {
    let store = Store::with(config(nothing_kept())).await;
    delete_at(&store, "k", 5).await;
    store.engine.prune().await.unwrap();
    let mut damage = Batch::new();
    damage.put(Table::Meta, BASE_VERSION_KEY, "\x01\x01");
    commit(&store, damage).await;
    assert_eq!(put(&store, "before", 1).await, 6, "the memory is intact");

    // Opened with the damage: new objects start at a version that was never reached.
    let store = store.reopen().await;
    let first = put(&store, "after", 1).await;
    assert!(first > 1 << 32);
    for outcome in [RepairOutcome::Left, RepairOutcome::Repaired] {
        let scrub = store.engine.scrub();
        let report = match outcome {
            RepairOutcome::Repaired => scrub.repair().await,
            _ => scrub.await,
        };
        let findings = report.unwrap().findings;
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(
            (findings[0].damage.name(), findings[0].fate),
            ("broken-entry", outcome)
        );
    }
    assert!(store.engine.scrub().await.unwrap().findings.is_empty());
    let store = store.reopen().await;
    assert!(put(&store, "later", 1).await >= first);
    assert!(put(&store, "k", 1).await >= first);
}

/// Numbers of a seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        // Multiplier and increment of Knuth's MMIX.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Takes the version of a write, which must be higher than all before.
fn take(highest: &mut BTreeMap<String, u64>, key: &str, version: u64) {
    let last = highest.insert(key.to_owned(), version);
    assert!(
        last.is_none_or(|last| version > last),
        "{key}: {version} after {last:?}"
    );
}

/// Makes a random step of the history of some objects.
async fn act(store: &Store, numbers: &mut Numbers, highest: &mut BTreeMap<String, u64>) {
    let engine = &store.engine;
    let key = format!("k{}", numbers.below(5));
    let other = format!("k{}", 5 + numbers.below(2));
    match numbers.below(13) {
        0..3 => {
            let bytes = if numbers.below(3) == 0 { 2 * INLINE } else { 1 };
            take(highest, &key, put(store, &key, bytes).await);
        }
        3 => {
            let lifetime = Duration::from_secs(1 + numbers.below(2));
            let put = engine
                .put(key.as_str(), "x")
                .time_to_live(lifetime)
                .await
                .unwrap();
            take(highest, &key, put.version.unwrap().get());
        }
        4..7 => drop(engine.delete(key.as_str()).await.unwrap()),
        7 => {
            if let Some(moved) = engine.rename(key.as_str(), other.as_str()).await.unwrap() {
                take(highest, &other, moved.version.unwrap().get());
            }
        }
        8 => {
            if let Some(copied) = engine.copy(key.as_str(), other.as_str()).await.unwrap() {
                take(highest, &other, copied.version.unwrap().get());
            }
        }
        9 => {
            let upload = engine.multipart(key.as_str()).await.unwrap();
            upload.part(1, payload(2, 2 * INLINE)).await.unwrap();
            let completed = upload.complete().await.unwrap();
            take(highest, &key, completed.version.unwrap().get());
        }
        10 => {
            store.stage.advance(Duration::from_secs(1));
            let _orphans = engine.settle().await.unwrap();
        }
        11 => assert!(engine.prune().await.is_ok()),
        _ => {
            // The last kill may be so recent that no pruner lives.
            let _is_alive = engine.kill(ActorKind::Pruner);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_version_is_reused_across_drops_crashes_and_reopens() {
    for seed in 0..6 {
        let mut numbers = Numbers(seed);
        let mut highest = BTreeMap::new();
        let mut store = Store::with(config(nothing_kept())).await;
        let mut pruned = 0;
        for _ in 0..4 {
            let steps = 10 + numbers.below(60);
            store.stage.stop_clock();
            for _ in 0..steps {
                act(&store, &mut numbers, &mut highest).await;
            }
            pruned += store.engine.stats().await.unwrap().actors.pruned;
            store = if numbers.below(2) == 0 {
                store.crash().await
            } else {
                store.reopen().await
            };
        }
        assert!(pruned > 0, "{seed}");
        store.assert_settled().await;
    }
}

/// Writers of the same objects, a pruner for which every last version is old, and kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_version_is_reused_while_drops_race_with_writers() {
    let store = Store::with(config(nothing_kept())).await;
    let writers = (0..4u64).map(|seed| {
        let engine = store.engine.clone();
        spawn(async move {
            let mut numbers = Numbers(seed);
            let mut versions = Vec::new();
            for _ in 0..150 {
                let key = format!("k{}", numbers.below(3));
                if numbers.below(2) == 0 {
                    drop(engine.delete(key.as_str()).await);
                } else if let Ok(put) = engine.put(key.as_str(), "x").await {
                    versions.push((key, put.version.unwrap()));
                }
            }
            versions
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut pruned = 0;
    while writers.iter().any(|writer| !writer.is_finished()) {
        pruned += store.engine.prune().await.unwrap();
        store.engine.kill(ActorKind::Pruner);
    }
    let mut all = BTreeSet::new();
    for writer in writers {
        for (key, version) in writer.await.unwrap() {
            assert!(all.insert((key.clone(), version)), "{key} {version} twice");
        }
    }
    assert!(pruned > 0);
    store.assert_settled().await;
}
