//! Expiry: an expired object is absent to every operation at once, before the expirer removes it.
//! The expirer removes exactly what is due, despite kills and clock jumps.

use std::time::Duration;

use cenotaph::{
    ActorKind, BatchWrite, Config, Engine, Env, ErrorKind, Etag, Operation, PutResult, Reply,
    Result, Timestamp, Update, Updated, WriteReply,
};
use cenotaph_storage::SyncPoint;
use cenotaph_storage::index::Table;
use cenotaph_tests::stage::Held;
use cenotaph_tests::store::{Store, blobs, payload, quick};
use futures::StreamExt;
use tokio::task::JoinHandle;

mod scale;

const HOUR: Duration = Duration::from_secs(3600);
const INSTANT: Duration = Duration::from_millis(1);
/// Payload sizes, in bytes: inside the row, as a separate payload, in the blob tier.
const KINDS: [usize; 3] = [10, 6000, 20_000];

/// Creates a store with a stopped clock and an expirer that removes objects one by one.
async fn store() -> Store {
    let mut config = Config {
        inline_bytes_max: 8192,
        ..quick()
    };
    config.limits.expiry.removals_at_once = 1;
    let store = Store::with(config).await;
    store.stage.stop_clock();
    store
}

/// Advances the clock and holds the expirer before the first due object.
async fn later(store: &Store, time: Duration) -> (Held, JoinHandle<Result<u64>>) {
    let mut held = store.stage.hold(SyncPoint::ExpirerBeforeRemove);
    store.stage.advance(time);
    let engine = store.engine.clone();
    #[expect(
        clippy::disallowed_methods,
        reason = "the rule applies to code under test only"
    )]
    let settling = tokio::spawn(async move { engine.settle().await });
    held.arrived().await;
    (held, settling)
}

/// Kills the held expirer. Its successor removes everything that is due.
async fn kill_expirer(store: &Store, (held, settling): (Held, JoinHandle<Result<u64>>)) {
    assert!(store.engine.kill(ActorKind::Expirer));
    settling.await.unwrap().unwrap();
    store.assert_settled().await;
    drop(held);
}

async fn names(engine: &Engine, delimiter: Option<char>) -> Vec<String> {
    let list = engine.list("");
    let list = if let Some(delimiter) = delimiter {
        list.delimiter(delimiter)
    } else {
        list
    };
    list.await
        .unwrap()
        .entries
        .iter()
        .map(|entry| entry.name().to_owned())
        .collect()
}

fn assert_conflict_with_none<T: std::fmt::Debug>(outcome: Result<T>) {
    assert_eq!(
        outcome.unwrap_err().kind(),
        ErrorKind::Conflict { current: None }
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_object_is_absent_to_every_read() {
    for bytes in KINDS {
        let store = store().await;
        let engine = &store.engine;
        for key in ["alone", "gone/1", "mixed/1"] {
            engine
                .put(key, payload(1, bytes))
                .time_to_live(HOUR)
                .await
                .unwrap();
        }
        engine.put("mixed/2", payload(2, bytes)).await.unwrap();
        store.stage.advance(HOUR - INSTANT);
        assert_eq!(names(engine, Some('/')).await, ["alone", "gone/", "mixed/"]);
        let expirer = later(&store, INSTANT).await;
        for key in ["alone", "gone/1", "mixed/1"] {
            assert!(
                engine.get(key).await.unwrap().is_none()
                    && engine.head(key).await.unwrap().is_none(),
                "{key}"
            );
        }
        assert_eq!(names(engine, None).await, ["mixed/2"]);
        assert_eq!(names(engine, Some('/')).await, ["mixed/"]);
        let reads = [Operation::get("alone"), Operation::head("gone/1")];
        let answers: Vec<_> = engine.batch(futures::stream::iter(reads)).collect().await;
        let absent =
            |reply: &Result<Reply>| matches!(reply, Ok(Reply::Object(None) | Reply::Head(None)));
        assert!(
            answers.iter().all(|(_, reply)| absent(reply)),
            "{answers:?}"
        );
        let usage = engine.usage().await.unwrap();
        assert_eq!(
            (usage.objects, usage.expired),
            (1, 3),
            "expired objects are still stored"
        );
        assert_eq!(engine.delete_prefix("gone/").await.unwrap().deleted, 0);
        kill_expirer(&store, expirer).await;
        assert_eq!(
            (
                engine.usage().await.unwrap().expired,
                names(engine, None).await
            ),
            (0, vec!["mixed/2".to_owned()])
        );
        assert_eq!(
            blobs(&store.blobs).await.len(),
            usize::from(bytes == 20_000)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_object_is_absent_to_every_write() {
    for bytes in KINDS {
        let store = store().await;
        let engine = &store.engine;
        let keys = [
            "absent", "amend", "atomic/1", "atomic/2", "batch", "copy", "delete", "large", "put",
            "rename", "to/1",
        ];
        for key in keys.into_iter().chain(["to/2", "update", "version"]) {
            engine
                .put(key, payload(1, bytes))
                .time_to_live(HOUR)
                .await
                .unwrap();
        }
        let head = engine.head("version").await.unwrap().unwrap();
        let etag = head.etag.unwrap();
        engine.put("live/1", payload(2, bytes)).await.unwrap();
        engine.put("live/2", payload(3, bytes)).await.unwrap();
        let expirer = later(&store, HOUR).await;

        assert_conditions_conflict(engine, etag).await;
        assert_nothing_to_change(engine).await;
        for written in write_over_expired(engine).await {
            assert_eq!(
                (written.created, written.version.unwrap().get()),
                (true, 2),
                "created with the next version"
            );
        }
        let remaining = [
            "absent", "atomic/1", "large", "live/2", "put", "to/1", "to/2", "update",
        ];
        assert_eq!(names(engine, None).await, remaining);
        kill_expirer(&store, expirer).await;
        assert_eq!(
            names(engine, None).await,
            remaining,
            "the new objects have no deadline"
        );
    }
}

/// Asserts that every conditional write on the expired object `version` is a conflict.
async fn assert_conditions_conflict(engine: &Engine, etag: Etag) {
    assert_conflict_with_none(engine.put("version", "x").if_version(1).await);
    assert_conflict_with_none(
        engine
            .put("version", payload(1, 20_000))
            .if_version(1)
            .await,
    );
    assert_conflict_with_none(engine.put("version", "x").if_etag(etag).await);
    assert_conflict_with_none(engine.delete("version").if_version(1).await);
    assert_conflict_with_none(engine.amend("version").filename("x").if_etag(etag).await);
    assert_conflict_with_none(engine.extend_expiry("version").never().if_version(1).await);
    assert_conflict_with_none(
        engine
            .atomic([BatchWrite::put("version", "x").if_version(1)])
            .await,
    );
    assert_conflict_with_none(engine.rename("version", "other").if_source_version(1).await);
    assert_conflict_with_none(engine.copy("version", "other").if_source_version(1).await);
    assert_conflict_with_none(engine.rename("live/1", "version").if_version(1).await);
}

/// Asserts that every change of an expired object finds it absent.
async fn assert_nothing_to_change(engine: &Engine) {
    assert_eq!(engine.amend("amend").filename("x").await.unwrap(), None);
    assert_eq!(engine.extend_expiry("amend").never().await.unwrap(), None);
    assert_eq!(engine.copy("copy", "other").await.unwrap(), None);
    assert_eq!(engine.rename("rename", "other").await.unwrap(), None);
    assert!(!engine.delete("delete").await.unwrap().existed);
    assert!(!engine.delete("delete").await.unwrap().existed);
    let batch: Vec<_> = engine
        .batch(futures::stream::iter([BatchWrite::delete("batch")]))
        .collect()
        .await;
    assert!(
        matches!(&batch[0].1, Ok(Reply::Deleted(deleted)) if !deleted.existed),
        "{batch:?}"
    );
}

/// Writes over expired objects by every operation that creates an object.
async fn write_over_expired(engine: &Engine) -> Vec<PutResult> {
    let mut written = vec![
        engine.put("put", "x").await.unwrap(),
        engine.put("absent", "x").if_absent().await.unwrap(),
        engine
            .put("large", payload(4, 20_000))
            .if_absent()
            .await
            .unwrap(),
        engine
            .rename("live/1", "to/1")
            .if_absent()
            .await
            .unwrap()
            .unwrap(),
        engine
            .copy("live/2", "to/2")
            .if_absent()
            .await
            .unwrap()
            .unwrap(),
    ];
    let updated = engine.update("update", async |current| {
        assert!(current.is_none());
        Ok::<_, cenotaph::Error>(Update::put("x"))
    });
    match updated.await.unwrap() {
        Updated::Written(updated) => written.push(updated),
        other => panic!("{other:?}"),
    }
    let replies = engine
        .atomic([
            BatchWrite::put("atomic/1", "x").if_absent(),
            BatchWrite::delete("atomic/2"),
        ])
        .await
        .unwrap();
    let [WriteReply::Written(put), WriteReply::Deleted(deleted)] = &replies[..] else {
        panic!("{replies:?}")
    };
    assert!(!deleted.existed);
    written.push(put.clone());
    written
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn object_written_during_its_removal_stays() {
    for bytes in KINDS {
        let store = store().await;
        store
            .engine
            .put("k", payload(1, bytes))
            .time_to_live(HOUR)
            .await
            .unwrap();
        let (held, settling) = later(&store, HOUR).await;
        let written = store
            .engine
            .put("k", payload(2, bytes))
            .time_to_live(HOUR)
            .await
            .unwrap();
        assert_eq!(written.version.unwrap().get(), 2);
        held.release();
        settling.await.unwrap().unwrap();
        assert_eq!(store.bytes("k").await, Some(payload(2, bytes)));
        store.assert_settled().await;
        store.stage.advance(HOUR);
        store.assert_settled().await;
        assert_eq!(
            store.engine.usage().await.unwrap(),
            cenotaph::Usage::default(),
            "the new object is removed at its own deadline"
        );
        assert!(blobs(&store.blobs).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clock_set_back_revives_and_delays_nothing() {
    let store = store().await;
    let began = store.stage.stop_clock();
    store.engine.put("k", "x").time_to_live(HOUR).await.unwrap();
    let (held, settling) = later(&store, HOUR).await;
    assert!(store.engine.get("k").await.unwrap().is_none());
    store.stage.set_clock(began);
    for attempt in 0..3 {
        assert!(
            store.engine.head("k").await.unwrap().is_none(),
            "attempt {attempt}"
        );
        assert_conflict_with_none(store.engine.delete("k").if_version(1).await);
        assert!(names(&store.engine, None).await.is_empty());
    }
    let written = store
        .engine
        .put("k", "y")
        .if_absent()
        .time_to_live(HOUR)
        .await
        .unwrap();
    assert_eq!((written.created, written.version.unwrap().get()), (true, 2));
    held.release();
    settling.await.unwrap().unwrap();
    assert_eq!(
        store.bytes("k").await,
        Some("y".into()),
        "the lifetime counts from the latest time ever read"
    );
    store.stage.advance(HOUR - 3 * INSTANT);
    assert_eq!(store.bytes("k").await, Some("y".into()));
    store.stage.advance(5 * INSTANT);
    assert_eq!(
        store.stage.stop_clock(),
        began.after(HOUR + 2 * INSTANT),
        "the clock is still behind the latest time"
    );
    assert_eq!(
        store.bytes("k").await,
        None,
        "expiry does not wait for the clock"
    );
    store.assert_settled().await;
    assert_eq!(store.engine.usage().await.unwrap().expired, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_deadline_removes_the_object_behind_the_cursor() {
    let store = store().await;
    store
        .engine
        .put("other", "x")
        .time_to_live(HOUR)
        .await
        .unwrap();
    store.stage.advance(HOUR);
    store.assert_settled().await;
    for bytes in KINDS {
        store.engine.put("k", payload(1, bytes)).await.unwrap();
        let past = Timestamp::from_millis(1);
        store
            .engine
            .extend_expiry("k")
            .at(past)
            .may_shorten()
            .await
            .unwrap()
            .unwrap();
        assert_eq!(store.bytes("k").await, None);
        store.assert_settled().await;
        assert_eq!(
            store.engine.usage().await.unwrap().expired,
            0,
            "the {bytes} bytes are freed"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_with_one_deadline_leave_listings_together() {
    let store = store().await;
    let writes = (0..50).map(|n| BatchWrite::put(format!("k{n}"), "x").time_to_live(HOUR));
    store.engine.atomic(writes).await.unwrap();
    store.stage.advance(HOUR - 120 * INSTANT);
    store.stage.tick(INSTANT);
    let mut pages = 0;
    let mut left = 50;
    while left > 0 {
        left = names(&store.engine, None).await.len();
        assert!(
            left == 50 || left == 0,
            "{left} of 50 objects with the same deadline"
        );
        pages += 1;
    }
    assert!(pages > 1, "the first page precedes the deadline");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expirer_removes_objects_soon_after_their_deadlines() {
    let store = Store::new().await;
    let env = Env::new(store.stage.clone());
    for (key, millis) in [("later", 150), ("sooner", 50), ("latest", 250)] {
        store
            .engine
            .put(key, payload(1, 20_000))
            .time_to_live(Duration::from_millis(millis))
            .await
            .unwrap();
    }
    let gone = env.deadline(Duration::from_secs(20), async {
        while store.engine.stats().await.unwrap().actors.expired < 3
            || !blobs(&store.blobs).await.is_empty()
        {
            env.sleep(INSTANT).await;
        }
    });
    gone.await.expect("the expirer wakes on its own");
    assert!(
        store.counts.scanned(Table::Expiry) < 20,
        "the expirer scans due entries only: {}",
        store.counts.scanned(Table::Expiry)
    );
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_after_creation_counts_from_the_first_write() {
    let store = store().await;
    store.engine.put("k", "first").await.unwrap();
    let created = store
        .engine
        .head("k")
        .await
        .unwrap()
        .unwrap()
        .metadata
        .created;
    store.stage.advance(HOUR);
    store.engine.put("k", "second").await.unwrap();
    store
        .engine
        .extend_expiry("k")
        .after_creation(3 * HOUR)
        .may_shorten()
        .await
        .unwrap();
    let metadata = store.engine.head("k").await.unwrap().unwrap().metadata;
    assert_eq!(
        (metadata.created, metadata.modified),
        (created, created.after(HOUR))
    );
    assert_eq!(metadata.expires_at, Some(created.after(3 * HOUR)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rename_keeps_the_deadline_and_copy_restarts_it() {
    for bytes in KINDS {
        let store = store().await;
        store
            .engine
            .put("old", payload(1, bytes))
            .time_to_live(2 * HOUR)
            .await
            .unwrap();
        let deadline = store
            .engine
            .head("old")
            .await
            .unwrap()
            .unwrap()
            .metadata
            .expires_at
            .unwrap();
        store.stage.advance(HOUR);
        store.engine.copy("old", "copy").await.unwrap();
        store.engine.rename("old", "new").await.unwrap();
        let expires_at = async |key| {
            store
                .engine
                .head(key)
                .await
                .unwrap()
                .unwrap()
                .metadata
                .expires_at
        };
        assert_eq!(expires_at("new").await, Some(deadline));
        assert_eq!(expires_at("copy").await, Some(deadline.after(HOUR)));
    }
}
