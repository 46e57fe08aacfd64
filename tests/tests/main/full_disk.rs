//! Full disks: puts fail, everything else works, and freed space is used without a reopen. The
//! tests use real files on a tmpfs of a few MiB; they are SKIPPED without the right to mount it.

use std::time::Duration;

use cenotaph::{Config, Engine, Env, Error, ErrorKind, Reason};
use cenotaph_tests::small_disk::SmallDisk;

/// Returns an incompressible payload that differs for each number.
fn payload(number: usize, bytes: usize) -> Vec<u8> {
    let mut state = number as u64 + 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

async fn open(disk: &SmallDisk) -> Engine {
    let mut config = Config::default();
    config.limits.heartbeat = Duration::from_millis(20);
    config.limits.sweep.grace = Duration::from_millis(20);
    Engine::builder(disk.store())
        .config(config)
        .open()
        .await
        .unwrap()
}

fn assert_no_space(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert_eq!(error.reason(), Some(Reason::NoSpace), "{error:?}");
    assert!(error.to_string().contains("no space"), "{error:?}");
}

/// Puts objects of this size until one is refused. Returns the number of objects.
async fn fill(engine: &Engine, prefix: &str, bytes: usize) -> usize {
    for number in 0..10_000 {
        match engine
            .put(format!("{prefix}{number:05}"), payload(number, bytes))
            .await
        {
            Ok(_) => {}
            Err(error) => {
                assert_no_space(&error);
                return number;
            }
        }
    }
    panic!("the disk never becomes full");
}

async fn assert_reads(
    engine: &Engine,
    prefix: &str,
    numbers: std::ops::Range<usize>,
    bytes: usize,
) {
    for number in numbers {
        let object = engine
            .get(format!("{prefix}{number:05}"))
            .await
            .unwrap()
            .expect("the put was acknowledged");
        assert_eq!(
            object.bytes().await.unwrap(),
            payload(number, bytes),
            "number={number}"
        );
    }
}

/// Asserts that everything but puts works: listings, usage, scrub, statistics, health.
async fn assert_serves(engine: &Engine, objects: usize) {
    engine.health().unwrap();
    assert_eq!(
        engine.list("").limit(1000).await.unwrap().entries.len(),
        objects.min(1000)
    );
    assert_eq!(engine.usage().await.unwrap().objects, objects as u64);
    let report = engine.scrub().await.unwrap();
    assert_eq!(report.found, 0, "{:?}", report.findings);
    engine.settle().await.unwrap();
    engine
        .stats()
        .await
        .unwrap()
        .space
        .expect("fjall measures its disk");
}

/// Waits until every orphan is deleted, including those of failed puts.
async fn assert_settles(engine: &Engine) {
    for _ in 0..500 {
        if engine.settle().await.unwrap() == 0 {
            return;
        }
        Env::real().unwrap().sleep(Duration::from_millis(10)).await;
    }
    panic!("orphans remain: {:?}", engine.stats().await.unwrap().actors);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_accepts_deletes_and_loses_nothing() {
    const BYTES: usize = 60_000;
    let Some(disk) = SmallDisk::new(96) else {
        return;
    };
    let engine = open(&disk).await;
    let count = fill(&engine, "k", BYTES).await;
    assert!(count > 400, "half of the disk is usable: count={count}");
    assert_serves(&engine, count).await;
    assert_reads(&engine, "k", 0..3, BYTES).await;
    assert!(engine.delete("k00000").await.unwrap().existed);
    engine.close().await.unwrap();
    for number in [1, 2] {
        let engine = open(&disk).await;
        assert_serves(&engine, count - number).await;
        assert!(
            engine
                .delete(format!("k{number:05}"))
                .await
                .unwrap()
                .existed
        );
        engine.close().await.unwrap();
    }
    let engine = open(&disk).await;
    assert_eq!(engine.delete_prefix("k0000").await.unwrap().deleted, 7);
    engine.close().await.unwrap();
    disk.resize(400);
    let engine = open(&disk).await;
    assert_reads(&engine, "k", 10..count, BYTES).await;
    engine.put("new", "x").await.unwrap();
    assert_serves(&engine, count - 10 + 1).await;
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_everything_makes_room_for_the_next_put() {
    const BYTES: usize = 600_000;
    let Some(disk) = SmallDisk::new(24) else {
        return;
    };
    for round in 0..3 {
        let engine = open(&disk).await;
        let count = fill(&engine, "k", BYTES).await;
        assert!(count >= 5, "round={round} count={count}");
        assert_eq!(
            engine.delete_prefix("k").await.unwrap().deleted,
            count as u64
        );
        // The next put on the same engine succeeds.
        engine.put("next", payload(round, BYTES)).await.unwrap();
        assert!(engine.delete("next").await.unwrap().existed);
        engine.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_open_of_a_small_disk_frees_space() {
    const BYTES: usize = 600_000;
    let Some(disk) = SmallDisk::new(24) else {
        return;
    };
    let mut count = 0;
    loop {
        let engine = open(&disk).await;
        let put = engine
            .put(format!("k{count:05}"), payload(count, BYTES))
            .await;
        engine.close().await.unwrap();
        match put {
            Ok(_) => count += 1,
            Err(error) => break assert_no_space(&error),
        }
    }
    assert!(count > 20, "24 MiB must hold more: count={count}");
    let engine = open(&disk).await;
    assert_reads(&engine, "k", 0..count, BYTES).await;
    engine.delete_prefix("k").await.unwrap();
    engine.close().await.unwrap();
    let engine = open(&disk).await;
    engine.put("new", payload(0, BYTES)).await.unwrap();
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_puts_without_space_leave_no_orphan() {
    const BYTES: usize = 9_000_000;
    let Some(disk) = SmallDisk::new(60) else {
        return;
    };
    for round in 0..2 {
        let engine = open(&disk).await;
        engine.put("small", "x").await.unwrap();
        let body = payload(round, BYTES);
        let puts = (0..20).map(|number| {
            engine
                .put(format!("b{number:05}"), body.clone())
                .into_future()
        });
        let outcomes = futures::future::join_all(puts).await;
        let refused: Vec<_> = outcomes
            .iter()
            .filter_map(|outcome| outcome.as_ref().err())
            .collect();
        assert!(
            refused.len() > 10,
            "180 MB do not fit: refused={}",
            refused.len()
        );
        refused.iter().for_each(|error| assert_no_space(error));
        engine.close().await.unwrap();

        let engine = open(&disk).await;
        assert_serves(&engine, 1 + outcomes.len() - refused.len()).await;
        assert_eq!(
            engine
                .get("small")
                .await
                .unwrap()
                .unwrap()
                .bytes()
                .await
                .unwrap(),
            "x"
        );
        engine.delete_prefix("b").await.unwrap();
        engine.put("again", body).await.unwrap();
        assert!(engine.delete("again").await.unwrap().existed);
        assert_settles(&engine).await;
        assert_serves(&engine, 1).await;
        engine.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_filled_by_others_accepts_deletes_and_recovers() {
    const BYTES: usize = 100_000;
    let Some(disk) = SmallDisk::new(64) else {
        return;
    };
    let engine = open(&disk).await;
    for number in 0..40 {
        engine
            .put(format!("k{number:05}"), payload(number, BYTES))
            .await
            .unwrap();
    }
    let reserve = engine.stats().await.unwrap().space.unwrap().reserve_bytes;
    assert_eq!(reserve, 4 << 20, "a sixteenth of the disk");
    disk.fill();
    assert_no_space(&engine.put("refused", payload(0, BYTES)).await.unwrap_err());
    for number in 0..10 {
        assert!(
            engine
                .delete(format!("k{number:05}"))
                .await
                .unwrap()
                .existed
        );
    }
    assert!(engine.stats().await.unwrap().space.unwrap().is_low);
    engine.close().await.unwrap();

    // Only the reserve is left.
    disk.fill();
    let engine = open(&disk).await;
    assert_serves(&engine, 30).await;
    assert_reads(&engine, "k", 10..40, BYTES).await;
    assert!(engine.delete("k00010").await.unwrap().existed);

    disk.empty();
    engine.put("taken", payload(0, BYTES)).await.unwrap();
    for _ in 0..500 {
        let space = engine.stats().await.unwrap().space.unwrap();
        if !space.is_low && space.reserve_bytes == reserve {
            return engine.close().await.unwrap();
        }
        Env::real().unwrap().sleep(Duration::from_millis(20)).await;
    }
    panic!(
        "the reserve is not restored: {:?}",
        engine.stats().await.unwrap().space
    );
}

#[tokio::test]
async fn new_store_on_a_full_disk_is_refused_and_leaves_nothing() {
    let Some(disk) = SmallDisk::new(4) else {
        return;
    };
    disk.fill();
    let error = Engine::builder(disk.store()).open().await.unwrap_err();
    assert_no_space(&error);
    assert!(!disk.store().exists());
    disk.empty();
    let engine = Engine::builder(disk.store()).open().await.unwrap();
    engine.put("a", "b").await.unwrap();
    engine.close().await.unwrap();
}
