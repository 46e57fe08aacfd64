//! Kills of every kind of actor at every sync point: callers receive the right outcome, the engine
//! continues, and I5 holds.

use bytes::Bytes;
use cenotaph::{ActorKind, ErrorKind, Limits, PutResult, RestartLimits, Result, WriteOutcome};
use cenotaph_storage::SyncPoint;
use cenotaph_storage::index::{Batch, Range, Table};
use cenotaph_tests::stage::Held;
use cenotaph_tests::store::{INLINE, Store, named, payload, quick};
use tokio::task::JoinHandle;

const LARGE: usize = 10 * INLINE;

/// Starts a put in a task of its own.
#[expect(
    clippy::disallowed_methods,
    reason = "the rule applies to code under test only"
)]
fn start(store: &Store, key: &str, body: Bytes) -> JoinHandle<Result<PutResult>> {
    let put = store.engine.put(key, body);
    tokio::spawn(async move { put.await })
}

/// Kills an actor that is held at a sync point. The caller keeps the returned hold: the supervisor
/// may need a moment to stop the actor, which must not run meanwhile.
async fn kill_at(store: &Store, mut held: Held, kind: ActorKind) -> Held {
    held.arrived().await;
    assert!(store.engine.kill(kind), "no {kind:?} to kill");
    held
}

/// Asserts that the engine serves both tiers and that everything settles.
async fn assert_still_works(store: &Store) {
    let small = payload(91, 10);
    let large = payload(92, LARGE);
    store
        .engine
        .put("after/small", small.clone())
        .await
        .unwrap();
    store
        .engine
        .put("after/large", large.clone())
        .await
        .unwrap();
    assert_eq!(store.bytes("after/small").await, Some(small));
    assert_eq!(store.bytes("after/large").await, Some(large));
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upload_killed_before_its_commit_keeps_the_old_object() {
    let sync_points = [
        SyncPoint::UploadBeforeRecord,
        SyncPoint::UploadAfterRecord,
        SyncPoint::UploadMidStream,
        SyncPoint::UploadBeforeClose,
        SyncPoint::UploadAfterClose,
    ];
    for sync_point in sync_points {
        for kind in [ActorKind::EveryUpload, ActorKind::Uploads] {
            let store = Store::new().await;
            let old = payload(1, LARGE);
            store.engine.put("k", old.clone()).await.unwrap();
            let held = store.stage.hold(sync_point);
            let put = start(&store, "k", payload(2, LARGE));
            let _held = kill_at(&store, held, kind).await;
            let error = put.await.unwrap().unwrap_err();
            assert_eq!(
                error.kind(),
                ErrorKind::Unavailable,
                "{sync_point:?} {kind:?}"
            );
            assert_eq!(store.bytes("k").await, Some(old), "{sync_point:?} {kind:?}");
            assert_still_works(&store).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upload_killed_after_its_commit_has_committed() {
    let store = Store::new().await;
    let held = store.stage.hold(SyncPoint::UploadAfterCommit);
    let put = start(&store, "k", payload(1, LARGE));
    let _held = kill_at(&store, held, ActorKind::EveryUpload).await;
    assert_eq!(put.await.unwrap().unwrap().outcome, WriteOutcome::Applied);
    assert_eq!(store.bytes("k").await, Some(payload(1, LARGE)));
    assert_still_works(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upload_killed_while_its_shard_decides_gets_the_outcome() {
    let store = Store::new().await;
    let mut finished = store.stage.hold(SyncPoint::UploadAfterClose);
    let put = start(&store, "k", payload(1, LARGE));
    finished.arrived().await;
    let mut deciding = store.stage.hold(SyncPoint::ShardBeforeDecide);
    finished.release();
    deciding.arrived().await;
    assert!(store.engine.kill(ActorKind::EveryUpload));
    deciding.release();
    assert_eq!(
        put.await.unwrap().unwrap().outcome,
        WriteOutcome::Applied,
        "the commit answers the caller, not the upload (I10)"
    );
    assert_eq!(store.bytes("k").await, Some(payload(1, LARGE)));
    assert_still_works(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upload_and_shard_killed_before_deciding_commit_nothing() {
    let store = Store::new().await;
    let mut finished = store.stage.hold(SyncPoint::UploadAfterClose);
    let put = start(&store, "k", payload(1, LARGE));
    finished.arrived().await;
    let mut deciding = store.stage.hold(SyncPoint::ShardBeforeDecide);
    finished.release();
    deciding.arrived().await;
    assert!(store.engine.kill(ActorKind::EveryUpload));
    assert!(
        store
            .engine
            .kill(ActorKind::Shard(store.engine.shard_of("k").unwrap()))
    );
    assert_eq!(
        put.await.unwrap().unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    assert_eq!(store.bytes("k").await, None);
    assert_still_works(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upload_whose_change_is_removed_never_commits() {
    let store = Store::new().await;
    let mut finished = store.stage.hold(SyncPoint::UploadAfterClose);
    let put = start(&store, "k", payload(1, LARGE));
    finished.arrived().await;
    // Remove the change while the upload runs, as a fence does, but without adding the orphan (I6).
    let changes = store
        .index
        .snapshot()
        .unwrap()
        .scan(Table::Changes, Range::all(10))
        .await
        .unwrap();
    let mut batch = Batch::new();
    batch.remove(Table::Changes, changes[0].0.clone());
    store
        .index
        .submit(batch, Box::new(|outcome| outcome.unwrap()));
    store.index.barrier().await.unwrap();
    finished.release();
    let error = put.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(store.bytes("k").await, None);
    assert_eq!((changes.len(), named(&*store.index).await.len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shard_killed_at_any_point_commits_each_write_once() {
    for sync_point in [SyncPoint::ShardBeforeDecide, SyncPoint::ShardAfterSubmit] {
        for bytes in [10, LARGE] {
            let store = Store::new().await;
            let shard = ActorKind::Shard(store.engine.shard_of("k").unwrap());
            let held = store.stage.hold(sync_point);
            let put = start(&store, "k", payload(1, bytes));
            let _held = kill_at(&store, held, shard).await;
            let written = put.await.unwrap().unwrap();
            assert_eq!(
                (written.outcome, written.version.unwrap().get()),
                (WriteOutcome::Applied, 1),
                "{sync_point:?} {bytes}"
            );
            assert_eq!(
                store.bytes("k").await,
                Some(payload(1, bytes)),
                "{sync_point:?} {bytes}"
            );
            assert_still_works(&store).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_shard_continues_its_predecessors_versions() {
    let store = Store::new().await;
    let shard = ActorKind::Shard(store.engine.shard_of("k").unwrap());
    for round in 1..=30u64 {
        let mut held = store.stage.hold(SyncPoint::ShardAfterSubmit);
        let put = start(&store, "k", payload(round, 10));
        held.arrived().await;
        assert!(store.engine.kill(shard));
        held.release();
        assert_eq!(put.await.unwrap().unwrap().version.unwrap().get(), round);
    }
    assert_still_works(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_recovery_resumes() {
    for sync_point in [
        SyncPoint::RecoveryBeforeFence,
        SyncPoint::RecoveryAfterFence,
    ] {
        let store = Store::new().await;
        let uploading = store.stage.hold(SyncPoint::UploadAfterClose);
        let recovering = store.stage.hold(sync_point);
        let put = start(&store, "k", payload(1, LARGE));
        let _uploading = kill_at(&store, uploading, ActorKind::EveryUpload).await;
        let _recovering = kill_at(&store, recovering, ActorKind::Recovery).await;
        assert_eq!(
            put.await.unwrap().unwrap_err().kind(),
            ErrorKind::Unavailable
        );
        assert_eq!(store.bytes("k").await, None);
        assert_still_works(&store).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_sweeper_resumes() {
    for sync_point in [
        SyncPoint::SweeperBeforeDelete,
        SyncPoint::SweeperAfterDelete,
    ] {
        let store = Store::new().await;
        store.engine.put("k", payload(1, LARGE)).await.unwrap();
        let sweeping = store.stage.hold(sync_point);
        store.engine.put("k", payload(2, 10)).await.unwrap();
        let _sweeping = kill_at(&store, sweeping, ActorKind::Sweeper).await;
        assert_eq!(store.bytes("k").await, Some(payload(2, 10)));
        assert_still_works(&store).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engine_without_its_supervisor_fails_closed_until_reopen() {
    let store = Store::new().await;
    store.engine.put("k", payload(1, LARGE)).await.unwrap();
    assert!(store.engine.kill(ActorKind::Supervisor));
    let error = loop {
        match store.engine.put("other", "x").await {
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(
        store.bytes("k").await,
        Some(payload(1, LARGE)),
        "reads need no actor"
    );
    let store = store.crash().await;
    assert_eq!(store.bytes("k").await, Some(payload(1, LARGE)));
    assert_still_works(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn actor_that_dies_too_often_fails_the_engine_closed() {
    let mut config = quick();
    config.limits = Limits {
        restarts: RestartLimits {
            max: 3,
            ..config.limits.restarts
        },
        ..config.limits
    };
    let store = Store::with(config).await;
    let shard = ActorKind::Shard(store.engine.shard_of("k").unwrap());
    let error = loop {
        match store.engine.put("k", "x").await {
            Ok(_) => drop(store.engine.kill(shard)),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(store.engine.stats().await.unwrap().actors.restarts, 3);
    let store = store.crash().await;
    assert_still_works(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_during_uploads_is_settled_at_the_next_open() {
    let store = Store::new().await;
    let sync_points = [
        SyncPoint::UploadAfterRecord,
        SyncPoint::UploadMidStream,
        SyncPoint::UploadBeforeClose,
        SyncPoint::UploadAfterClose,
    ];
    let mut held = Vec::new();
    for (number, sync_point) in sync_points.into_iter().enumerate() {
        let mut at = store.stage.hold(sync_point);
        drop(start(&store, &format!("k{number}"), payload(1, LARGE)));
        at.arrived().await;
        held.push(at);
    }
    assert_eq!(
        store.engine.stats().await.unwrap().actors.changes,
        4,
        "each upload has recorded its change"
    );
    let store = store.crash().await;
    for number in 0..sync_points.len() {
        assert_eq!(store.bytes(&format!("k{number}")).await, None);
    }
    let actors = store.engine.stats().await.unwrap().actors;
    assert_eq!(
        (actors.fenced, actors.changes),
        (4, 0),
        "all changes are fenced before the engine opens"
    );
    assert_still_works(&store).await;
}
