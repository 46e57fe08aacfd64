//! A contended counter: many tasks update one object while shards are killed, and every increment
//! counts once.
//!
//! `CENOTAPH_COUNTER_INCREMENTS` sets the increments of each task; 40 by default, 2,000 to measure.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cenotaph::{ActorKind, Engine, Env, Error, ErrorKind, Update};
use cenotaph_tests::store::{Store, quick};

const TASKS: u64 = 16;

fn increments() -> u64 {
    std::env::var("CENOTAPH_COUNTER_INCREMENTS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(40)
}

/// Counters of all tasks of a run.
#[derive(Default)]
struct Tally {
    /// Calls of the update function.
    asked: AtomicU64,
    /// Updates that lost to other writers in every attempt.
    conflicts: AtomicU64,
    /// Updates that were refused because a shard was down too long.
    refused: AtomicU64,
}

/// Result of a run.
struct Run {
    per_second: f64,
    /// Lost attempts per increment.
    lost: f64,
    /// Conflicts returned per increment.
    conflicts: f64,
    refused: u64,
}

async fn value(engine: &Engine, key: &str) -> u64 {
    let object = engine.get(key).await.unwrap().unwrap();
    u64::from_le_bytes(object.bytes().await.unwrap()[..].try_into().unwrap())
}

/// Adds 1 and repeats the update until it succeeds.
async fn increment(engine: &Engine, key: &str, tally: &Tally) {
    let most = engine.config().limits.update_attempts;
    loop {
        let mut asked = 0;
        let outcome = engine
            .update(key, |current| {
                asked += 1;
                async move {
                    let count = match current {
                        Some(object) => {
                            u64::from_le_bytes(object.bytes().await?[..].try_into().unwrap())
                        }
                        None => 0,
                    };
                    Ok::<_, Error>(Update::put((count + 1).to_le_bytes().to_vec()))
                }
            })
            .await;
        assert!(
            (1..=most).contains(&asked),
            "{asked} attempts in one update"
        );
        tally.asked.fetch_add(u64::from(asked), Ordering::Relaxed);
        match outcome {
            Ok(_) => return,
            Err(error) if matches!(error.kind(), ErrorKind::Conflict { .. }) => {
                assert_eq!(
                    asked, most,
                    "a conflict follows the last attempt: {error:?}"
                );
                tally.conflicts.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                assert!(error.is_retryable(), "{error:?}");
                tally.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Runs all tasks, each on the key that `key` returns for it.
#[expect(
    clippy::disallowed_methods,
    reason = "the tasks run on several threads"
)]
async fn run(engine: &Engine, env: &Env, tasks: u64, key: impl Fn(u64) -> String) -> Run {
    let tally = Arc::new(Tally::default());
    let began = env.monotonic();
    let running = (0..tasks).map(|task| {
        let engine = engine.clone();
        let key = key(task);
        let tally = Arc::clone(&tally);
        tokio::spawn(async move {
            for _ in 0..increments() {
                increment(&engine, &key, &tally).await;
            }
        })
    });
    for task in running.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let committed = tasks * increments();
    let took = env.monotonic() - began;
    let [asked, given_up, refused] =
        [&tally.asked, &tally.conflicts, &tally.refused].map(|count| count.load(Ordering::Relaxed));
    let each = |count: u64| count as f64 / committed as f64;
    let per_second = committed as f64 / took.as_secs_f64();
    Run {
        per_second,
        lost: each(asked - committed),
        conflicts: each(given_up),
        refused,
    }
}

fn print(name: &str, run: &Run) {
    let Run {
        per_second,
        lost,
        conflicts,
        refused,
    } = run;
    println!(
        "{name:<28} {per_second:>7.0}/s, per increment {lost:.3} attempts lost and \
         {conflicts:.4} conflicts, {refused} refused"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "a task kills actors meanwhile")]
async fn each_increment_counts_once_while_shards_die() {
    let mut config = quick();
    config.limits.restarts.max = usize::MAX;
    let store = Store::with(config).await;
    let engine = &store.engine;
    let env = Env::new(store.stage.clone());
    println!("{TASKS} tasks, {} updates each", increments());
    print(
        "each its own object",
        &run(engine, &env, TASKS, |task| format!("own/{task}")).await,
    );
    print(
        "one task alone",
        &run(engine, &env, 1, |_| "alone".to_owned()).await,
    );
    print(
        "all one object",
        &run(engine, &env, TASKS, |_| "one".to_owned()).await,
    );

    let over = Arc::new(AtomicBool::new(false));
    let killer = engine.killer();
    let killing = env.clone();
    let ended = Arc::clone(&over);
    let shards = engine.config().limits.shards as u64;
    let hot = engine.shard_of("dying").unwrap();
    let kills = tokio::spawn(async move {
        let mut kills = 0u64;
        while !ended.load(Ordering::SeqCst) {
            let shard = if kills.is_multiple_of(2) {
                hot
            } else {
                (killing.random_u64() % shards) as usize
            };
            kills += u64::from(killer(ActorKind::Shard(shard)));
            killing
                .sleep(killing.jitter(Duration::from_millis(40)))
                .await;
        }
        kills
    });
    let dying = run(engine, &env, TASKS, |_| "dying".to_owned()).await;
    over.store(true, Ordering::SeqCst);
    let kills = kills.await.unwrap();
    print(&format!("all one object, {kills} kills"), &dying);

    for key in (0..TASKS).map(|task| format!("own/{task}")) {
        assert_eq!(value(engine, &key).await, increments());
    }
    for key in ["one", "dying"] {
        assert_eq!(value(engine, key).await, TASKS * increments(), "{key}");
        let head = engine.head(key).await.unwrap().unwrap();
        assert_eq!(
            head.version.unwrap().get(),
            TASKS * increments(),
            "{key}: each increment is a version"
        );
    }
    assert!(kills > 3, "{kills} kills");
    store.assert_settled().await;
}
