//! Budgets: a caller that sends nothing holds up nobody, and every wait for a share is bounded.

use std::time::Duration;

use cenotaph::{Body, Config, Engine, Env, ErrorKind, Operator};
use futures::{StreamExt, stream};
use tempfile::TempDir;
use tokio::task::JoinSet;

const MIB: usize = 1 << 20;

/// Remote as far as budgets go: OpenDAL holds several requests of a blob in memory.
async fn open(config: Config) -> (TempDir, Engine) {
    let dir = tempfile::tempdir().unwrap();
    let operator = Operator::new(opendal::services::Memory::default()).unwrap();
    let engine = Engine::builder(dir.path()).config(config).blobs(operator).open().await.unwrap();
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

/// So many chunks of 1 MiB, then nothing for ever.
fn stalled(sent: usize) -> Body {
    let sent = stream::iter((0..sent).map(|_| Ok::<_, std::io::Error>(vec![0u8; MIB])));
    Body::stream(sent.chain(stream::pending()))
}

fn chunks(count: usize) -> Body {
    Body::stream(stream::iter((0..count).map(|_| Ok::<_, std::io::Error>(vec![1u8; MIB]))))
}

/// Puts whose callers have sent so many MiB and stalled, when all of them have begun.
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
    let put = env.deadline(Duration::from_secs(20), async { engine.put("healthy", chunks(12)).await });
    put.await.expect("a share is 49 MiB, the budget is 128 MiB, and nobody holds a share of it").unwrap();
    drop(stalled);
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_wait_for_each_other_all_end() {
    let minute = Duration::from_secs(60);
    let (_dir, engine) = open(config(4 * MIB, minute, minute)).await;
    let mut puts = JoinSet::new();
    for number in 0..16 {
        let put = engine.put(format!("{number}"), chunks(10));
        puts.spawn(async move { put.await.map(drop) });
    }
    let ended = Env::real().unwrap().deadline(Duration::from_secs(50), puts.join_all()).await;
    for put in ended.expect("nobody waits who holds a share") {
        put.unwrap();
    }
    assert_eq!(engine.stats().await.unwrap().actors.upload_bytes.bytes, 0);
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_for_memory_ends_as_overloaded_and_an_idle_stream_as_source() {
    let (_dir, engine) = open(config(4 * MIB, Duration::from_millis(300), Duration::from_secs(5))).await;
    // The share of one is all there is; the others wait for it, and give up.
    let stalled = stall(&engine, 3, 3).await;
    while engine.stats().await.unwrap().actors.upload_bytes.bytes < 4 * MIB {
        tokio::task::yield_now().await;
    }
    let error = engine.put("healthy", chunks(3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded, "{error:?}");
    for kind in stalled.join_all().await {
        assert!(matches!(kind, ErrorKind::Source | ErrorKind::Overloaded), "{kind:?}");
    }
    engine.put("healthy", chunks(3)).await.unwrap();
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_panics_fails_its_put_alone() {
    let (_dir, engine) = open(Config::default()).await;
    for sent in [0, 3] {
        let begun = stream::iter((0..sent).map(|_| Ok::<_, std::io::Error>(vec![0u8; MIB])));
        let panics = stream::once(async { panic!("a bug of the caller") });
        let error = engine.put("a", Body::stream(begun.chain(panics))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Source, "{error:?}");
    }
    let stats = engine.stats().await.unwrap().actors;
    assert_eq!((stats.restarts, stats.uploads_live), (0, 0), "no actor has died");
    engine.close().await.unwrap();
}
