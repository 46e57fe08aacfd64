//! Runtimes that end before the engine, that have no timers, or whose blocking threads are all
//! busy, and the environment of a closed engine.

use std::sync::{Arc, Barrier};
use std::time::Duration;

use cenotaph::{Engine, Env, ErrorKind, Result};
use cenotaph_tests::stage::Stage;
use tokio::runtime::{Builder, Runtime};

fn open(runtime: &Runtime) -> (tempfile::TempDir, Engine) {
    let dir = tempfile::tempdir().unwrap();
    let engine = runtime.block_on(async { Engine::builder(dir.path()).open().await.unwrap() });
    (dir, engine)
}

#[test]
fn calls_after_the_end_of_the_runtime_are_errors() {
    let first = Runtime::new().unwrap();
    let (dir, engine) = open(&first);
    first.block_on(async { engine.put("k", "v").await.unwrap() });
    drop(first);
    assert_eq!(engine.health().unwrap_err().kind(), ErrorKind::Unavailable);
    let second = Runtime::new().unwrap();
    let call = async |call: &str| -> Result<()> {
        match call {
            "put" => engine.put("a", "b").await.map(drop),
            "put large" => engine.put("a", vec![0u8; 2 << 20]).await.map(drop),
            "delete" => engine.delete("k").await.map(drop),
            "update" => engine
                .update("k", |_| async {
                    Ok::<_, cenotaph::Error>(cenotaph::Update::Keep)
                })
                .await
                .map(drop),
            "settle" => engine.settle().await.map(drop),
            "multipart" => engine.multipart("k").await.map(drop),
            "scrub" => engine.scrub().await.map(drop),
            _ => engine.close().await,
        }
    };
    second.block_on(async {
        let env = Env::real().unwrap();
        for name in ["put", "put large", "delete", "settle", "multipart"] {
            let answer = env.deadline(Duration::from_secs(30), call(name)).await;
            let error = answer
                .unwrap_or_else(|| panic!("{name} hangs"))
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{name}: {error:?}");
        }
        for name in ["update", "scrub", "close"] {
            let answer = env.deadline(Duration::from_secs(40), call(name)).await;
            println!(
                "{name}: {:?}",
                answer.unwrap_or_else(|| panic!("{name} hangs"))
            );
        }
    });
    drop(engine);
    second.block_on(async {
        let engine = Engine::builder(dir.path()).open().await.unwrap();
        assert_eq!(
            engine
                .get("k")
                .await
                .unwrap()
                .unwrap()
                .bytes()
                .await
                .unwrap(),
            "v"
        );
        engine.close().await.unwrap();
    });
}

#[test]
fn runtime_without_timers_is_refused() {
    let runtime = Builder::new_current_thread().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let error = runtime.block_on(async { Engine::builder(dir.path()).open().await.unwrap_err() });
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
}

#[test]
fn callers_on_every_blocking_thread_do_not_wait_for_each_other() {
    const THREADS: usize = 8;
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(THREADS)
        .enable_all()
        .build()
        .unwrap();
    let (_dir, engine) = open(&runtime);
    runtime.block_on(async { engine.put("k", vec![1u8; 10_000]).await.unwrap() });
    let barrier = Arc::new(Barrier::new(THREADS));
    let gets: Vec<_> = (0..THREADS)
        .map(|_| {
            let engine = engine.clone();
            let barrier = Arc::clone(&barrier);
            let handle = runtime.handle().clone();
            runtime.spawn_blocking(move || {
                barrier.wait();
                handle.block_on(async {
                    engine
                        .get("k")
                        .await
                        .unwrap()
                        .unwrap()
                        .bytes()
                        .await
                        .unwrap()
                        .len()
                })
            })
        })
        .collect();
    runtime.block_on(async {
        let all = Env::real()
            .unwrap()
            .deadline(Duration::from_secs(30), futures::future::join_all(gets))
            .await;
        for got in all.expect("the readers wait for each other") {
            assert_eq!(got.unwrap(), 10_000);
        }
        engine.close().await.unwrap();
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_reopens_right_after_its_last_clone_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let engine = Engine::builder(dir.path())
            .open()
            .await
            .unwrap_or_else(|error| panic!("{round}: {error:?}"));
        engine.put("k", round.to_string()).await.unwrap();
    }
    let engine = Engine::builder(dir.path()).open().await.unwrap();
    let error = Engine::builder(dir.path()).open().await.unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::AlreadyOpen,
        "an engine that is not dropped stays open"
    );
    assert_eq!(
        engine
            .get("k")
            .await
            .unwrap()
            .unwrap()
            .bytes()
            .await
            .unwrap(),
        "19"
    );
    engine.close().await.unwrap();
}

/// The expirer of the engine waits a day for the deadline of an object. A service that reopens
/// stores must not keep the environment of each engine until then.
#[tokio::test]
async fn engine_that_ends_releases_its_environment() {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    for is_closed in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let stage = Stage::new();
        let engine = Engine::builder(dir.path())
            .env(Env::new(stage.clone()))
            .open()
            .await
            .unwrap();
        engine.put("k", "v").time_to_live(DAY).await.unwrap();
        engine.settle().await.unwrap();
        if is_closed {
            engine.close().await.unwrap();
        }
        drop(engine);
        let env = Env::real().unwrap();
        let released = env.deadline(Duration::from_secs(30), async {
            while stage.is_shared() {
                env.sleep(Duration::from_millis(1)).await;
            }
        });
        let released = released.await;
        assert!(
            released.is_some(),
            "the environment is in use: is_closed={is_closed}"
        );
    }
}
