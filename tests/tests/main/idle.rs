//! Idle refresh: reads extend a time to idle, rarely, and never for an object that was deleted or
//! overwritten meanwhile.

use std::time::Duration;

use cenotaph::{BatchWrite, Config, Engine, Env};
use cenotaph_storage::SyncPoint;
use cenotaph_storage::index::Table;
use cenotaph_tests::store::{Store, blobs, payload, quick};
use tokio::task::JoinHandle;

const HOUR: Duration = Duration::from_secs(3600);
const INSTANT: Duration = Duration::from_millis(1);
/// Payload sizes, in bytes: inside the row, as a separate payload, in the blob tier.
const KINDS: [usize; 3] = [10, 6000, 20_000];

async fn store() -> Store {
    let store = Store::with(Config {
        inline_bytes_max: 8192,
        ..quick()
    })
    .await;
    store.stage.stop_clock();
    store
}

#[expect(
    clippy::disallowed_methods,
    reason = "the rule applies to code under test only"
)]
fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(work)
}

/// Starts `count` concurrent readers.
fn readers(engine: &Engine, key: &str, count: usize) -> Vec<JoinHandle<()>> {
    let reader = |_| {
        let get = engine.get(key);
        spawn(async move { drop(get.await.unwrap()) })
    };
    (0..count).map(reader).collect()
}

/// Waits until no write is running: all idle refreshes that reads have requested are decided.
async fn wait_for_refreshes(store: &Store) {
    let env = Env::new(store.stage.clone());
    let drained = env.deadline(Duration::from_secs(20), async {
        while store.engine.stats().await.unwrap().actors.writes_live > 0 {
            env.sleep(INSTANT).await;
        }
    });
    drained.await.expect("idle refreshes are decided soon");
}

/// Returns the number of rows written while `count` readers read an object.
async fn written_by_reading(store: &Store, count: usize) -> u64 {
    let before = store.counts.put(Table::Rows);
    for reader in readers(&store.engine, "k", count) {
        reader.await.unwrap();
    }
    wait_for_refreshes(store).await;
    store.counts.put(Table::Rows) - before
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_refresh_an_object_once_per_quarter_of_its_idle_time() {
    for bytes in KINDS {
        let store = store().await;
        store
            .engine
            .put("k", payload(1, bytes))
            .time_to_idle(4 * HOUR)
            .await
            .unwrap();
        let put = store.engine.head("k").await.unwrap().unwrap();
        for round in 1..=6 {
            store.stage.advance(HOUR - INSTANT);
            assert_eq!(
                written_by_reading(&store, 40).await,
                0,
                "round {round}: before a quarter has passed"
            );
            store.stage.advance(INSTANT);
            assert_eq!(written_by_reading(&store, 40).await, 1, "round {round}");
            assert_eq!(
                written_by_reading(&store, 40).await,
                0,
                "round {round}: refreshed just now"
            );
        }
        let read = store.engine.head("k").await.unwrap().unwrap();
        assert_eq!(
            (read.version, read.etag),
            (put.version, put.etag),
            "a refresh changes neither version nor etag"
        );
        assert_eq!(
            read.metadata.expires_at,
            put.metadata
                .expires_at
                .map(|deadline| deadline.after(6 * HOUR))
        );
        // Heads and listings do not refresh.
        store.stage.advance(4 * HOUR - INSTANT);
        assert!(store.engine.head("k").await.unwrap().is_some());
        assert_eq!(store.engine.list("").await.unwrap().entries.len(), 1);
        wait_for_refreshes(&store).await;
        store.stage.advance(INSTANT);
        assert_eq!(store.bytes("k").await, None);
        store.assert_settled().await;
        assert!(blobs(&store.blobs).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_idle_time_is_refreshed_once_a_day() {
    let store = store().await;
    let day = 24 * HOUR;
    store
        .engine
        .put("k", "x")
        .time_to_idle(40 * day)
        .await
        .unwrap();
    for _ in 0..3 {
        store.stage.advance(day - INSTANT);
        assert_eq!(written_by_reading(&store, 10).await, 0);
        store.stage.advance(INSTANT);
        assert_eq!(written_by_reading(&store, 10).await, 1);
    }
}

/// Change of an object during reads.
#[derive(Clone, Copy, Debug)]
enum End {
    Deleted,
    Overwritten,
    Renamed,
    DeletedTogether,
    Amended,
}
const ENDS: [End; 5] = [
    End::Deleted,
    End::Overwritten,
    End::Renamed,
    End::DeletedTogether,
    End::Amended,
];

async fn end(engine: Engine, end: End) {
    match end {
        End::Deleted => drop(engine.delete("k").await.unwrap()),
        End::Overwritten => drop(engine.put("k", "new").await.unwrap()),
        End::Renamed => drop(
            engine
                .rename("k", "other")
                .await
                .unwrap()
                .expect("the object exists"),
        ),
        End::DeletedTogether => drop(
            engine
                .atomic([BatchWrite::delete("k"), BatchWrite::put("l", "x")])
                .await
                .unwrap(),
        ),
        End::Amended => drop(
            engine
                .extend_expiry("k")
                .never()
                .await
                .unwrap()
                .expect("the object exists"),
        ),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_refresh_never_revives_a_replaced_object() {
    let store = store().await;
    let mut rounds = 0;
    let mut refreshes = 0;
    for round in 0..24 {
        for how in ENDS {
            let bytes = KINDS[round % 3];
            store
                .engine
                .put("k", payload(1, bytes))
                .time_to_idle(4 * HOUR)
                .await
                .unwrap();
            // From now on a read requests a refresh.
            store.stage.advance(HOUR);
            let before = store.engine.stats().await.unwrap().actors.touches;
            let mut tasks = readers(&store.engine, "k", 3);
            tasks.push(spawn(end(store.engine.clone(), how)));
            tasks.extend(readers(&store.engine, "k", 3));
            for task in tasks {
                task.await.unwrap();
            }
            wait_for_refreshes(&store).await;
            refreshes += store.engine.stats().await.unwrap().actors.touches - before;
            let found = store
                .engine
                .head("k")
                .await
                .unwrap()
                .map(|head| (head.metadata.size, head.metadata.expires_at));
            let expected = match how {
                End::Deleted | End::Renamed | End::DeletedTogether => None,
                End::Overwritten => Some((3, None)),
                End::Amended => Some((bytes as u64, None)),
            };
            assert_eq!(found, expected, "round {round}: {how:?} {bytes} bytes");
            rounds += 1;
        }
        if round % 8 == 0 {
            store.assert_settled().await;
        }
    }
    println!("{rounds} rounds, {refreshes} refreshes requested");
    assert!(
        refreshes > rounds / 4,
        "too few refreshes for a race: {refreshes} in {rounds} rounds"
    );
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_refresh_applies_to_the_version_that_was_read() {
    let store = store().await;
    let shard = store.engine.shard_of("k").unwrap();
    let other = (0..)
        .map(|n| format!("other/{n}"))
        .find(|key| store.engine.shard_of(key).unwrap() == shard)
        .unwrap();
    for how in ["deleted", "shortened", "overwritten"] {
        store
            .engine
            .put("k", "x")
            .time_to_idle(4 * HOUR)
            .await
            .unwrap();
        store.stage.advance(2 * HOUR);
        // The shard is held; it handles its messages in the order of their arrival.
        let mut held = store.stage.hold(SyncPoint::ShardBeforeDecide);
        let engine = store.engine.clone();
        let key = other.clone();
        let held_put = spawn(async move { engine.put(&key, "x").await });
        held.arrived().await;
        let engine = store.engine.clone();
        let mut write = std::pin::pin!(async move {
            match how {
                "deleted" => drop(engine.delete("k").await.unwrap()),
                "shortened" => drop(
                    engine
                        .extend_expiry("k")
                        .after_now(HOUR / 2)
                        .may_shorten()
                        .await
                        .unwrap(),
                ),
                _ => drop(engine.put("k", "y").time_to_idle(HOUR / 2).await.unwrap()),
            }
        });
        assert!(
            futures::poll!(write.as_mut()).is_pending(),
            "the message is sent"
        );
        assert_eq!(
            store.bytes("k").await,
            Some("x".into()),
            "the read precedes the decision; its refresh follows it"
        );
        held.release();
        write.await;
        held_put.await.unwrap().unwrap();
        wait_for_refreshes(&store).await;
        let deadline = store
            .engine
            .head("k")
            .await
            .unwrap()
            .map(|head| head.metadata.expires_at.unwrap());
        let expected = (how != "deleted").then(|| store.stage.stop_clock().after(HOUR / 2));
        assert_eq!(deadline, expected, "{how}");
    }
    store.assert_settled().await;
}
