//! The sweeper when deletions hang or fail.

use std::time::Duration;

use cenotaph::{ActorKind, Config, Env};
use cenotaph_storage::SyncPoint;
use cenotaph_tests::faulty::{Fault, Op};
use cenotaph_tests::store::{INLINE, Store, payload, quick};

const LARGE: usize = 2 * INLINE;
const PATIENCE: Duration = Duration::from_secs(30);

/// Writes and deletes `count` large objects.
async fn orphan(store: &Store, count: u64) {
    for number in 0..count {
        store
            .engine
            .put(format!("{number}"), payload(number, LARGE))
            .await
            .unwrap();
    }
    store.engine.delete_prefix("").await.unwrap();
}

/// Waits until exactly `orphans` orphans remain.
async fn wait_for_orphans(store: &Store, orphans: u64) {
    let env = Env::new(store.stage.clone());
    let left = async {
        while store.engine.stats().await.unwrap().actors.orphans != orphans {
            env.sleep(Duration::from_millis(2)).await;
        }
    };
    let stats = store.engine.stats().await;
    assert!(
        env.deadline(PATIENCE, left).await.is_some(),
        "{orphans} orphans: {stats:?}"
    );
}

/// Waits until sweeping is paused, or no longer paused.
async fn wait_for_pause(store: &Store, paused: bool) {
    let env = Env::new(store.stage.clone());
    let turns = async {
        while store.engine.stats().await.unwrap().actors.sweep_paused != paused {
            env.sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(
        env.deadline(PATIENCE, turns).await.is_some(),
        "paused={paused}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_deletion_blocks_no_other() {
    let store = Store::new().await;
    let mut hanging = store.stage.hold(SyncPoint::SweeperBeforeDelete);
    orphan(&store, 40).await;
    hanging.arrived().await;
    wait_for_orphans(&store, 1).await;
    hanging.release();
    wait_for_orphans(&store, 0).await;
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_deletions_pause_the_whole_tier() {
    let mut config: Config = quick();
    config.limits.sweep.deletes_at_once = 4;
    config.limits.sweep.backoff_min = Duration::from_secs(2);
    config.limits.sweep.backoff_max = Duration::from_secs(2);
    let store = Store::with(config).await;
    store.faults.fail_always(Op::Delete, Fault::Before);
    orphan(&store, 100).await;
    wait_for_pause(&store, true).await;
    let attempts = store.faults.count(Op::Delete);
    assert!(
        attempts <= 8,
        "one pass of 4 concurrent deletions: attempts={attempts}"
    );
    // More orphans do not end the pause.
    store
        .engine
        .put("another", payload(1, LARGE))
        .await
        .unwrap();
    store.engine.delete("another").await.unwrap();
    let stats = store.engine.stats().await.unwrap().actors;
    assert!(stats.sweep_paused && stats.orphans == 101, "{stats:?}");
    store.faults.heal();
    wait_for_orphans(&store, 0).await;
    wait_for_pause(&store, false).await;
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swept_blobs_are_counted() {
    let store = Store::new().await;
    orphan(&store, 7).await;
    store.assert_settled().await;
    assert_eq!(store.engine.stats().await.unwrap().actors.swept, 7);
    assert_eq!(
        store.faults.count(Op::Delete),
        7,
        "the blob was finished, so a single deletion is enough"
    );
}

/// A write of the dead upload may still arrive after the first deletion.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fenced_blob_is_deleted_twice() {
    let store = Store::new().await;
    let mut streaming = store.stage.hold(SyncPoint::UploadAfterBlob);
    let put = store.engine.put("k", payload(1, LARGE)).into_future();
    #[expect(
        clippy::disallowed_methods,
        reason = "the rule applies to code under test only"
    )]
    let put = tokio::spawn(put);
    streaming.arrived().await;
    assert!(store.engine.kill(ActorKind::EveryUpload));
    put.await.unwrap().unwrap_err();
    drop(streaming);
    store.assert_settled().await;
    assert_eq!(store.faults.count(Op::Delete), 2);
    assert_eq!(store.engine.stats().await.unwrap().actors.fenced, 1);
}

/// Each pause is twice as long as the one before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pauses_of_a_failing_tier_grow() {
    let mut config: Config = quick();
    config.limits.sweep.deletes_at_once = 1;
    config.limits.sweep.backoff_min = Duration::from_millis(10);
    config.limits.sweep.backoff_max = Duration::from_secs(3600);
    let store = Store::with(config).await;
    store.faults.fail_always(Op::Delete, Fault::Before);
    let env = Env::new(store.stage.clone());
    orphan(&store, 1).await;
    let mut attempts = Vec::new();
    let six = async {
        while attempts.len() < 6 {
            if store.faults.count(Op::Delete) > attempts.len() as u64 {
                attempts.push(env.monotonic());
            }
            env.sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(
        env.deadline(PATIENCE, six).await.is_some(),
        "the deletion is repeated"
    );
    // Pauses of at least 10, 20, 40, 80 and 160 ms; without growth they would be 10 ms each.
    let first = attempts[0];
    let last = attempts[5];
    assert!(last - first >= Duration::from_millis(300), "{attempts:?}");
    store.faults.heal();
}
