//! Scrubs during other work: writes and uploads, killed actors, dropped callers.

use std::time::Duration;

use cenotaph::Config;
use cenotaph_storage::SyncPoint;
use cenotaph_storage::index::Table;
use cenotaph_storage::records::expiry_key;
use cenotaph_tests::store::{Store, payload, quick};

use super::{
    EMBEDDED, LARGE, Mode, SEPARATE, assert_clean, id, plant, row, scrub, spawn_put, store,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_work_is_no_damage() {
    let store = store().await;
    let mut finished = store.stage.hold(SyncPoint::UploadAfterClose);
    let upload = spawn_put(&store, "uploading");
    finished.arrived().await;
    let mut expiring = store.stage.hold(SyncPoint::ExpirerBeforeRemove);
    store
        .engine
        .put("expired", payload(6, LARGE))
        .time_to_live(Duration::from_millis(1))
        .await
        .unwrap();
    expiring.arrived().await;
    let mut sweeping = store.stage.hold(SyncPoint::SweeperBeforeDelete);
    store.engine.put("large", payload(3, 10)).await.unwrap();
    sweeping.arrived().await;
    let report = scrub(&store, Mode::Drop).await;
    assert!(
        report.is_clean(),
        "an upload, an expired object and an orphan: {report:?}"
    );
    assert_eq!(report.looked.blobs, 4);
    drop((finished, expiring, sweeping));
    upload.await.unwrap();
    assert_clean(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writes_cause_no_false_finding() {
    let store = store().await;
    let mut writers = Vec::new();
    for writer in 0..4u64 {
        let engine = store.engine.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "the rule applies to code under test only"
        )]
        writers.push(tokio::spawn(async move {
            for round in 0..u64::MAX {
                let a = format!("a{writer}");
                let z = format!("z{writer}");
                let bytes = [EMBEDDED, SEPARATE, 50_000][round as usize % 3];
                let put = engine.put(a.as_str(), payload(round, bytes));
                put.time_to_live(Duration::from_secs(3600)).await.unwrap();
                engine.rename(a.as_str(), z.as_str()).await.unwrap();
                engine
                    .amend(z.as_str())
                    .custom("round", round.to_string())
                    .await
                    .unwrap();
                engine
                    .extend_expiry(z.as_str())
                    .after_now(Duration::from_secs(7200))
                    .await
                    .unwrap();
                if round % 2 == 0 {
                    engine.delete(z.as_str()).await.unwrap();
                }
            }
        }));
    }
    for round in 0..25 {
        let report = scrub(&store, Mode::Drop).await;
        assert!(report.is_clean(), "round {round}: {report:?}");
    }
    writers.iter().for_each(tokio::task::JoinHandle::abort);
    for writer in writers {
        assert!(writer.await.unwrap_err().is_cancelled(), "no write failed");
    }
    assert_clean(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shard_killed_during_a_repair_repairs_later() {
    for sync_point in [SyncPoint::ShardBeforeDecide, SyncPoint::ShardAfterSubmit] {
        for key in ["mortal", "large"] {
            let store = store().await;
            let deadline = row(&store, "mortal").await.metadata.expires_at.unwrap();
            if key == "mortal" {
                plant(&store, |batch| {
                    batch.remove(Table::Expiry, expiry_key(deadline, &id("mortal")))
                })
                .await;
            } else {
                plant(&store, |batch| {
                    batch.put(Table::Rows, id("large").encoded().clone(), "\x02")
                })
                .await;
            }
            let mut repairing = store.stage.hold(sync_point);
            let engine = store.engine.clone();
            #[expect(
                clippy::disallowed_methods,
                reason = "the rule applies to code under test only"
            )]
            let scrubbing = tokio::spawn(async move {
                engine
                    .scrub()
                    .grace(Duration::ZERO)
                    .drop_damaged()
                    .await
                    .unwrap()
            });
            repairing.arrived().await;
            assert!(store.engine.kill(cenotaph::ActorKind::Shard(
                store.engine.shard_of(key).unwrap()
            )));
            repairing.release();
            let report = scrubbing.await.unwrap();
            assert!(
                report.found >= 1 && report.left() == 0,
                "{sync_point:?} {key} {report:?}"
            );
            assert_clean(&store).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_scrub_does_no_harm() {
    let store = store().await;
    plant(&store, |batch| {
        batch.put(Table::Rows, id("large").encoded().clone(), "\x02")
    })
    .await;
    let mut repairing = store.stage.hold(SyncPoint::ShardBeforeDecide);
    let scrubbing = store.engine.scrub().grace(Duration::ZERO).drop_damaged();
    tokio::select! {
        _ = scrubbing => panic!("the shard is held"),
        () = repairing.arrived() => {}
    }
    drop(repairing);
    // The shard still repairs. Wait for its batch: a scrub that read the old row would find the
    // blob of a row that is removed meanwhile.
    drop(store.engine.amend("large").custom("a", "b").await);
    store.index.barrier().await.unwrap();
    scrub(&store, Mode::Drop).await;
    assert_clean(&store).await;
}

/// Payload sizes, in bytes, that let the index flush and compact often.
const OVERWRITTEN: [usize; 3] = [5_000, 300_000, 1 << 20];

fn sized(turn: u64) -> Vec<u8> {
    vec![turn.to_le_bytes()[0]; OVERWRITTEN[turn as usize % OVERWRITTEN.len()]]
}

/// Puts or updates an object that is never deleted.
async fn overwrite(engine: &cenotaph::Engine, turn: u64) {
    let key = format!("k{}", turn % 4);
    if !turn.is_multiple_of(5) {
        let written = engine.put(key, sized(turn)).await.unwrap();
        assert!(!written.created, "the object is never deleted");
        return;
    }
    let updated = engine.update(key, |current| async move {
        let current = current
            .expect("the object is never deleted")
            .bytes()
            .await?;
        assert!(
            current.iter().all(|byte| *byte == current[0]),
            "two versions in one"
        );
        Ok::<_, cenotaph::Error>(cenotaph::Update::put(sized(turn)))
    });
    match updated.await {
        // The other writer was faster in every attempt.
        Err(error) if matches!(error.kind(), cenotaph::ErrorKind::Conflict { .. }) => {}
        updated => drop(updated.unwrap()),
    }
}

/// Copies, puts and deletes other objects.
async fn come_and_go(engine: &cenotaph::Engine, turn: u64) {
    let key = format!("fleeting{}", turn / 3 % 4);
    match turn / 3 % 3 {
        0 => drop(
            engine
                .copy(format!("k{}", turn % 4), key)
                .await
                .unwrap()
                .expect("the source is never deleted"),
        ),
        1 => drop(engine.put(key, sized(turn)).await.unwrap()),
        _ => drop(engine.delete(key).await.unwrap()),
    }
}

/// Overwrites, updates, copies and deletes objects while the index flushes and compacts during the
/// scrub.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scrub_during_overwrites_drops_no_live_object() {
    let seconds = std::env::var("CENOTAPH_SCRUB_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(4);
    let store = Store::with(Config {
        inline_bytes_max: 1 << 20,
        ..quick()
    })
    .await;
    for key in 0..4 {
        store
            .engine
            .put(format!("k{key}"), sized(key))
            .await
            .unwrap();
    }
    let mut writers = Vec::new();
    for writer in 0..2u64 {
        let engine = store.engine.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "the rule applies to code under test only"
        )]
        writers.push(tokio::spawn(async move {
            for turn in (writer..).step_by(2) {
                overwrite(&engine, turn).await;
                if turn.is_multiple_of(3) {
                    come_and_go(&engine, turn).await;
                }
            }
        }));
    }
    let env = cenotaph::Env::real().unwrap();
    let begun = env.monotonic();
    let mut scrubs = 0;
    while scrubs < 3 || (env.monotonic() - begun).as_secs() < seconds {
        let report = scrub(&store, Mode::Drop).await;
        assert!(report.is_clean(), "scrub {scrubs}: {report:?}");
        scrubs += 1;
    }
    writers.iter().for_each(tokio::task::JoinHandle::abort);
    for writer in writers {
        assert!(writer.await.unwrap_err().is_cancelled(), "no write failed");
    }
    assert_clean(&store).await;
}
