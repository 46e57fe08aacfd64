//! Scrubs during uploads: an upload held at any of its steps is no damage, and no repair harms it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cenotaph::{Error, ErrorKind, MultipartUpload, ScrubReport};
use cenotaph_storage::SyncPoint;
use cenotaph_tests::faulty::{Hold, Op};
use cenotaph_tests::stage::Held;
use cenotaph_tests::store::{Store, blobs, payload};
use tokio::task::JoinHandle;

use super::{LARGE, Mode, assert_clean, file, flip, scrub};

const PART: usize = 60_000;

#[expect(
    clippy::disallowed_methods,
    reason = "the rule applies to code under test only"
)]
fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(work)
}

/// Begins an upload and uploads two parts.
async fn begun(store: &Store, key: &str) -> MultipartUpload {
    let upload = store.engine.multipart(key).await.unwrap();
    upload.part(1, payload(1, PART)).await.unwrap();
    upload.part(2, payload(2, PART)).await.unwrap();
    upload
}

/// Asserts that a scrub with all permissions finds nothing.
async fn assert_harmless(store: &Store) {
    let report = scrub(store, Mode::Drop).await;
    assert!(report.is_clean(), "{report:?}");
}

async fn assert_whole(store: &Store, key: &str, seeds: &[u64]) {
    let whole: Vec<u8> = seeds.iter().flat_map(|&seed| payload(seed, PART)).collect();
    assert!(
        store.bytes(key).await.unwrap() == whole,
        "{key} has the wrong content"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploading_part_is_no_damage_at_any_step() {
    let sync_points = [
        SyncPoint::UploadBeforeRecord,
        SyncPoint::UploadAfterRecord,
        SyncPoint::UploadMidStream,
        SyncPoint::UploadBeforeClose,
        SyncPoint::UploadAfterBlob,
        SyncPoint::UploadAfterClose,
        SyncPoint::UploadAfterCommit,
    ];
    for sync_point in sync_points {
        let store = Store::new().await;
        let upload = begun(&store, "film").await;
        // A new part, and a part that replaces another.
        for number in [3, 2] {
            let mut held = store.stage.hold(sync_point);
            let part = upload.clone();
            let uploading =
                spawn(async move { part.part(number, payload(7, PART)).await.map(drop) });
            held.arrived().await;
            assert_harmless(&store).await;
            held.release();
            uploading
                .await
                .unwrap()
                .unwrap_or_else(|error| panic!("{sync_point:?} {number}: {error}"));
        }
        assert_harmless(&store).await;
        upload.complete().await.unwrap();
        assert_whole(&store, "film", &[1, 7, 7]).await;
        assert_clean(&store).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completion_or_abort_is_no_damage_at_any_step() {
    for sync_point in [
        SyncPoint::CompleteBeforeSwap,
        SyncPoint::ShardBeforeDecide,
        SyncPoint::ShardAfterSubmit,
    ] {
        let store = Store::new().await;
        let upload = begun(&store, "film").await;
        let mut held = store.stage.hold(sync_point);
        let completing = upload.clone();
        let completing = spawn(async move { completing.complete().await });
        held.arrived().await;
        assert_harmless(&store).await;
        held.release();
        completing.await.unwrap().unwrap();
        assert_whole(&store, "film", &[1, 2]).await;
        assert_clean(&store).await;
    }
    for sync_point in [
        SyncPoint::ShardBeforeDecide,
        SyncPoint::ShardAfterSubmit,
        SyncPoint::SweeperBeforeDelete,
    ] {
        let store = Store::new().await;
        let upload = begun(&store, "film").await;
        let mut held = store.stage.hold(sync_point);
        let aborting = spawn(async move { upload.abort().await });
        held.arrived().await;
        assert_harmless(&store).await;
        held.release();
        aborting.await.unwrap().unwrap();
        assert_clean(&store).await;
    }
}

/// Starts a scrub and holds it while it reads the blob of the only part of an upload.
async fn reading(store: &Store) -> (JoinHandle<ScrubReport>, Hold) {
    let reading = store.faults.hold(Op::Read);
    let engine = store.engine.clone();
    let scrub = engine.scrub().grace(Duration::ZERO).drop_damaged();
    let scrubbing = spawn(async move { scrub.await.unwrap() });
    while store.faults.held(Op::Read) < 1 {
        tokio::task::yield_now().await;
    }
    (scrubbing, reading)
}

/// Change of a part while a scrub reads its blob.
#[derive(Clone, Copy, Debug)]
enum Meanwhile {
    Replaced,
    Completed,
    Aborted,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn part_ended_during_its_scrub_stays_until_it_is_read() {
    for meanwhile in [
        Meanwhile::Replaced,
        Meanwhile::Completed,
        Meanwhile::Aborted,
    ] {
        for is_damaged in [false, true] {
            let store = Store::new().await;
            let upload = store.engine.multipart("film").await.unwrap();
            upload.part(1, payload(1, PART)).await.unwrap();
            let blob = blobs(&store.blobs).await.pop_first().unwrap();
            if is_damaged {
                let file = file(&store, &blob);
                std::fs::write(&file, flip(&std::fs::read(&file).unwrap(), 9)).unwrap();
            }
            let (scrubbing, held) = reading(&store).await;
            match meanwhile {
                Meanwhile::Replaced => drop(upload.part(1, payload(3, PART)).await.unwrap()),
                Meanwhile::Completed => drop(upload.complete().await.unwrap()),
                Meanwhile::Aborted => upload.abort().await.unwrap(),
            }
            let pinned = u64::from(!matches!(meanwhile, Meanwhile::Completed));
            assert_eq!(
                store.engine.settle().await.unwrap(),
                pinned,
                "the scrub reads the blob (I8)"
            );
            assert!(blobs(&store.blobs).await.contains(&blob));
            drop(held);
            let report = scrubbing.await.unwrap();
            assert!(report.is_clean(), "{meanwhile:?} {is_damaged}: {report:?}");
            store.assert_settled().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_repair_spares_the_replacing_part() {
    let store = Store::new().await;
    let upload = begun(&store, "film").await;
    std::fs::remove_file(file(
        &store,
        &blobs(&store.blobs).await.pop_first().unwrap(),
    ))
    .unwrap();
    store.engine.put("kept", payload(9, LARGE)).await.unwrap();
    let mut filing = store.stage.hold(SyncPoint::ShardBeforeDecide);
    let part = upload.clone();
    let again = spawn(async move { part.part(1, payload(1, PART)).await.map(drop) });
    filing.arrived().await;
    // The shard decides about the new part first, and about any repair after that.
    let (sender, found) = tokio::sync::oneshot::channel();
    let sender = std::sync::Mutex::new(Some(sender));
    let scrub = store
        .engine
        .scrub()
        .grace(Duration::ZERO)
        .drop_damaged()
        .on_progress(move |at| {
            if at.looked.bytes == (PART + LARGE) as u64
                && let Some(sender) = sender.lock().unwrap().take()
            {
                sender.send(()).unwrap();
            }
        });
    let scrubbing = spawn(async move { scrub.await.unwrap() });
    found.await.unwrap();
    filing.release();
    again.await.unwrap().unwrap();
    let report = scrubbing.await.unwrap();
    assert!(
        report.is_clean(),
        "a finding that the shard does not confirm is not reported: {report:?}"
    );
    upload.complete().await.unwrap();
    assert_whole(&store, "film", &[1, 2]).await;
    assert_clean(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shard_killed_while_dropping_a_part_drops_it_later() {
    for sync_point in [SyncPoint::ShardBeforeDecide, SyncPoint::ShardAfterSubmit] {
        let store = Store::new().await;
        let upload = begun(&store, "film").await;
        std::fs::remove_file(file(
            &store,
            &blobs(&store.blobs).await.pop_first().unwrap(),
        ))
        .unwrap();
        let mut repairing: Held = store.stage.hold(sync_point);
        let scrub = store.engine.scrub().grace(Duration::ZERO).drop_damaged();
        let scrubbing = spawn(async move { scrub.await.unwrap() });
        repairing.arrived().await;
        assert!(store.engine.kill(cenotaph::ActorKind::Shard(
            store.engine.shard_of("film").unwrap()
        )));
        repairing.release();
        let report = scrubbing.await.unwrap();
        assert_eq!(
            (report.found, report.left()),
            (1, 0),
            "{sync_point:?} {report:?}"
        );
        assert_eq!(upload.parts().await.unwrap().parts.len(), 1);
        assert_clean(&store).await;
    }
}

/// Runs one upload: some parts are uploaded twice; then the upload is aborted, completed, or
/// completed with a subset of its parts.
async fn round(engine: &cenotaph::Engine, key: &str, round: u64) -> Result<(), Error> {
    let upload = engine.multipart(key).await?;
    for number in [2, 1, 2] {
        upload
            .part(number, payload(round + u64::from(number), PART))
            .await?;
    }
    match round % 3 {
        0 => upload.abort().await,
        1 => {
            upload.complete().await?;
            let whole: Vec<u8> = (1..=2)
                .flat_map(|number| payload(round + number, PART))
                .collect();
            let object = engine
                .get(key)
                .await?
                .expect("no other task writes the key");
            assert!(
                object.bytes().await? == whole,
                "{key} has the wrong content"
            );
            Ok(())
        }
        _ => {
            upload
                .complete()
                .part(2, cenotaph::PartEtag::of(&payload(round + 2, PART)))
                .await?;
            engine.delete(key).await.map(drop)
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_uploads_cause_no_false_finding() {
    let store = Store::new().await;
    store.engine.put("kept", payload(9, LARGE)).await.unwrap();
    let stops = Arc::new(AtomicBool::new(false));
    let uploaders: Vec<_> = (0..4)
        .map(|uploader| {
            let engine = store.engine.clone();
            let stops = Arc::clone(&stops);
            spawn(async move {
                let mut rounds = 0;
                while !stops.load(Ordering::Relaxed) {
                    match round(&engine, &format!("film{uploader}"), rounds).await {
                        Ok(()) => rounds += 1,
                        Err(error) if error.kind() == ErrorKind::Overloaded => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                rounds
            })
        })
        .collect();
    for round in 0..25 {
        let report = scrub(&store, Mode::Drop).await;
        assert!(report.is_clean(), "round {round}: {report:?}");
    }
    stops.store(true, Ordering::Relaxed);
    for uploader in uploaders {
        assert!(uploader.await.unwrap() > 3, "too few rounds");
    }
    assert_clean(&store).await;
}
