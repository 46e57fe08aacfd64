//! Memory budgets: a stalled caller blocks no other, and every wait for a share is bounded.

use std::time::Duration;

use cenotaph::{BatchWrite, Body, Config, Engine, Env, ErrorKind, Operator};
use futures::{StreamExt, stream};
use tempfile::TempDir;
use tokio::task::JoinSet;

const MIB: usize = 1 << 20;

/// Opens an engine whose blob tier counts as remote: OpenDAL buffers several requests of a blob.
async fn open(config: Config) -> (TempDir, Engine) {
    let dir = tempfile::tempdir().unwrap();
    let operator = Operator::new(opendal::services::Memory::default()).unwrap();
    let engine = Engine::builder(dir.path())
        .config(config)
        .blobs(operator)
        .open()
        .await
        .unwrap();
    (dir, engine)
}

fn config(budget: usize, wait: Duration, idle: Duration) -> Config {
    let mut config = Config::default();
    config.limits.upload_bytes_in_flight = budget;
    config.limits.budget_wait = wait;
    config.limits.source_idle = idle;
    config.limits.close_timeout = Duration::from_secs(1);
    config
}

/// Returns a stream of `sent` chunks of 1 MiB that never ends.
fn stalled(sent: usize) -> Body {
    let sent = stream::iter((0..sent).map(|_| Ok::<_, std::io::Error>(vec![0u8; MIB])));
    Body::stream(sent.chain(stream::pending()))
}

fn chunks(count: usize) -> Body {
    Body::stream(stream::iter(
        (0..count).map(|_| Ok::<_, std::io::Error>(vec![1u8; MIB])),
    ))
}

/// Starts puts that stall after `sent` MiB, and waits until all of them have begun.
async fn stall(engine: &Engine, count: usize, sent: usize) -> JoinSet<ErrorKind> {
    let mut puts = JoinSet::new();
    for number in 0..count {
        let put = engine.put(format!("stalled/{number}"), stalled(sent));
        puts.spawn(async move { put.await.unwrap_err().kind() });
    }
    while engine.stats().await.unwrap().actors.uploads_live < count {
        tokio::task::yield_now().await;
    }
    puts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_uploads_that_sent_little_hold_no_share() {
    let minute = Duration::from_secs(60);
    let (_dir, engine) = open(config(128 * MIB, minute, minute)).await;
    let stalled = stall(&engine, 20, 2).await;
    let env = Env::real().unwrap();
    let put = env.deadline(Duration::from_secs(20), async {
        engine.put("healthy", chunks(12)).await
    });
    put.await
        .expect("no share is held: a share is 49 MiB of the budget of 128 MiB")
        .unwrap();
    drop(stalled);
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_bulk_uploads_leave_a_share_to_others() {
    let minute = Duration::from_secs(60);
    let (_dir, engine) = open(config(128 * MIB, minute, minute)).await;
    let mut bulk = JoinSet::new();
    for number in 0..4 {
        let put = engine.put(format!("stalled/{number}"), stalled(5)).bulk();
        bulk.spawn(put.into_future());
    }
    while engine.stats().await.unwrap().actors.upload_bytes.bytes < 49 * MIB {
        tokio::task::yield_now().await;
    }
    let env = Env::real().unwrap();
    let put = env.deadline(Duration::from_secs(20), async {
        engine.put("healthy", chunks(12)).await
    });
    put.await
        .expect("bulk work may use half of the budget; a share is 49 of 128 MiB")
        .unwrap();
    drop(bulk);
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_bulk_puts_leave_payload_bytes_to_single_puts() {
    let mut config = Config::default();
    config.limits.write_bytes_in_flight = 4 * MIB;
    let (_dir, engine) = open(config).await;
    // The length is unknown, so each put reserves the largest inline size.
    let mut bulk: Vec<_> = (0..4)
        .map(|n| {
            engine
                .put(format!("bulk/{n}"), stalled(0))
                .bulk()
                .into_future()
        })
        .collect();
    for put in &mut bulk {
        assert!(futures::poll!(put).is_pending());
    }
    engine.put("single", "x").await.unwrap();
    drop(bulk);
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batch_and_deletion_leave_room_for_single_requests() {
    let mut config = Config::default();
    config.limits.writes_at_once = 8;
    let (_dir, engine) = open(config).await;
    let bulk = async {
        let writes = (0..800).map(|n| BatchWrite::put(format!("bulk/{n:03}"), "value"));
        let mut answers = engine.batch(stream::iter(writes));
        while let Some((_, outcome)) = answers.next().await {
            outcome.expect("bulk work waits for its turn");
        }
        engine.delete_prefix("bulk/").await.unwrap().deleted
    };
    let single = async |name: usize| {
        for n in 0..50 {
            engine
                .put(format!("single/{name}/{n}"), "value")
                .await
                .expect("bulk work may use half of the writes");
        }
    };
    let (deleted, ..) = futures::join!(bulk, single(0), single(1), single(2), single(3));
    assert_eq!(deleted, 800);
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn competing_uploads_all_end() {
    let minute = Duration::from_secs(60);
    let (_dir, engine) = open(config(4 * MIB, minute, minute)).await;
    let mut puts = JoinSet::new();
    for number in 0..16 {
        let put = engine.put(format!("{number}"), chunks(10));
        puts.spawn(async move { put.await.map(drop) });
    }
    let ended = Env::real()
        .unwrap()
        .deadline(Duration::from_secs(50), puts.join_all())
        .await;
    for put in ended.expect("an upload with a share does not wait") {
        put.unwrap();
    }
    assert_eq!(engine.stats().await.unwrap().actors.upload_bytes.bytes, 0);
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_wait_ends_overloaded_and_idle_stream_as_source() {
    let (_dir, engine) = open(config(
        4 * MIB,
        Duration::from_millis(300),
        Duration::from_secs(5),
    ))
    .await;
    // One upload gets the only share; the others wait for it and time out.
    let stalled = stall(&engine, 3, 3).await;
    while engine.stats().await.unwrap().actors.upload_bytes.bytes < 4 * MIB {
        tokio::task::yield_now().await;
    }
    let error = engine.put("healthy", chunks(3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded, "{error:?}");
    for kind in stalled.join_all().await {
        assert!(
            matches!(kind, ErrorKind::Source | ErrorKind::Overloaded),
            "{kind:?}"
        );
    }
    engine.put("healthy", chunks(3)).await.unwrap();
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panicking_stream_fails_its_put_alone() {
    let (_dir, engine) = open(Config::default()).await;
    for sent in [0, 3] {
        let begun = stream::iter((0..sent).map(|_| Ok::<_, std::io::Error>(vec![0u8; MIB])));
        let panics = stream::once(async { panic!("a bug of the caller") });
        let error = engine
            .put("a", Body::stream(begun.chain(panics)))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Source, "{error:?}");
    }
    let stats = engine.stats().await.unwrap().actors;
    assert_eq!(
        (stats.restarts, stats.uploads_live),
        (0, 0),
        "no actor died"
    );
    engine.close().await.unwrap();
}
