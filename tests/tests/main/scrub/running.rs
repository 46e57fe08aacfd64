//! Scrubs beside uploads that go on: each step of one, held wherever it can be held, is no damage,
//! and no repair harms it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cenotaph::{Error, ErrorKind, Upload};
use cenotaph_tests::faulty::Hold;
use cenotaph_tests::stage::Held;
use tokio::task::JoinHandle;

use super::*;

const PART: usize = 60_000;

#[expect(
    clippy::disallowed_methods,
    reason = "the rule applies to code under test only"
)]
fn beside<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(work)
}

/// An upload with two parts.
async fn begun(store: &Store, key: &str) -> Upload {
    let upload = store.engine.multipart(key).await.unwrap();
    upload.part(1, payload(1, PART)).await.unwrap();
    upload.part(2, payload(2, PART)).await.unwrap();
    upload
}

/// Every scrub that may do everything finds nothing to do.
async fn assert_harmless(store: &Store) {
    let report = scrub(store, May::Drop).await;
    assert!(report.is_clean(), "{report:?}");
}

async fn assert_whole(store: &Store, key: &str, seeds: &[u64]) {
    let whole: Vec<u8> = seeds.iter().flat_map(|&seed| payload(seed, PART)).collect();
    assert!(
        store.bytes(key).await.unwrap() == whole,
        "{key} has other bytes"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_at_each_of_its_steps_is_no_damage() {
    let seams = [
        Seam::UploadBeforeRecord,
        Seam::UploadAfterRecord,
        Seam::UploadMidStream,
        Seam::UploadBeforeClose,
        Seam::UploadAfterBlob,
        Seam::UploadAfterClose,
        Seam::UploadAfterCommit,
    ];
    for seam in seams {
        let store = Store::new().await;
        let upload = begun(&store, "film").await;
        // One that is new, and one that replaces another.
        for number in [3, 2] {
            let mut held = store.stage.hold(seam);
            let part = upload.clone();
            let uploading =
                beside(async move { part.part(number, payload(7, PART)).await.map(drop) });
            held.arrived().await;
            assert_harmless(&store).await;
            held.release();
            uploading
                .await
                .unwrap()
                .unwrap_or_else(|error| panic!("{seam:?} {number}: {error}"));
        }
        assert_harmless(&store).await;
        upload.complete().await.unwrap();
        assert_whole(&store, "film", &[1, 7, 7]).await;
        assert_clean(&store).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_or_abort_at_each_of_its_steps_is_no_damage() {
    for seam in [
        Seam::CompleteBeforeSwap,
        Seam::ShardBeforeDecide,
        Seam::ShardAfterSubmit,
    ] {
        let store = Store::new().await;
        let upload = begun(&store, "film").await;
        let mut held = store.stage.hold(seam);
        let completing = upload.clone();
        let completing = beside(async move { completing.complete().await });
        held.arrived().await;
        assert_harmless(&store).await;
        held.release();
        completing.await.unwrap().unwrap();
        assert_whole(&store, "film", &[1, 2]).await;
        assert_clean(&store).await;
    }
    for seam in [
        Seam::ShardBeforeDecide,
        Seam::ShardAfterSubmit,
        Seam::SweeperBeforeDelete,
    ] {
        let store = Store::new().await;
        let upload = begun(&store, "film").await;
        let mut held = store.stage.hold(seam);
        let aborting = beside(async move { upload.abort().await });
        held.arrived().await;
        assert_harmless(&store).await;
        held.release();
        aborting.await.unwrap().unwrap();
        assert_clean(&store).await;
    }
}

/// A scrub that is reading the blob of the only part of an upload, and what lets it read on.
async fn reading(store: &Store) -> (JoinHandle<ScrubReport>, Hold) {
    let reading = store.faults.hold(Op::Read);
    let engine = store.engine.clone();
    let scrub = engine.scrub().grace(Duration::ZERO).drop_damaged();
    let scrubbing = beside(async move { scrub.await.unwrap() });
    while store.faults.held(Op::Read) < 1 {
        tokio::task::yield_now().await;
    }
    (scrubbing, reading)
}

/// What may become of a part while a scrub reads its blob.
#[derive(Clone, Copy, Debug)]
enum Meanwhile {
    Replaced,
    Completed,
    Aborted,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_goes_while_a_scrub_reads_it_stays_until_it_is_read_and_is_no_damage() {
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
                "its blob is being read (I8)"
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
async fn a_repair_that_comes_too_late_for_its_part_leaves_the_new_one_alone() {
    let store = Store::new().await;
    let upload = begun(&store, "film").await;
    std::fs::remove_file(file(
        &store,
        &blobs(&store.blobs).await.pop_first().unwrap(),
    ))
    .unwrap();
    store.engine.put("kept", payload(9, LARGE)).await.unwrap();
    let mut filing = store.stage.hold(Seam::ShardBeforeDecide);
    let part = upload.clone();
    let again = beside(async move { part.part(1, payload(1, PART)).await.map(drop) });
    filing.arrived().await;
    // The shard has the new part before it, and decides about any repair after that.
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
    let scrubbing = beside(async move { scrub.await.unwrap() });
    found.await.unwrap();
    filing.release();
    again.await.unwrap().unwrap();
    let report = scrubbing.await.unwrap();
    assert!(
        report.is_clean(),
        "what its shard does not confirm is not reported: {report:?}"
    );
    upload.complete().await.unwrap();
    assert_whole(&store, "film", &[1, 2]).await;
    assert_clean(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_is_killed_while_it_gives_a_part_up_gives_it_up_after_all() {
    for seam in [Seam::ShardBeforeDecide, Seam::ShardAfterSubmit] {
        let store = Store::new().await;
        let upload = begun(&store, "film").await;
        std::fs::remove_file(file(
            &store,
            &blobs(&store.blobs).await.pop_first().unwrap(),
        ))
        .unwrap();
        let mut repairing: Held = store.stage.hold(seam);
        let scrub = store.engine.scrub().grace(Duration::ZERO).drop_damaged();
        let scrubbing = beside(async move { scrub.await.unwrap() });
        repairing.arrived().await;
        assert!(store.engine.kill(cenotaph::ActorKind::Shard(
            store.engine.shard_of("film").unwrap()
        )));
        repairing.release();
        let report = scrubbing.await.unwrap();
        assert_eq!((report.found, report.left()), (1, 0), "{seam:?} {report:?}");
        assert_eq!(upload.parts().await.unwrap().parts.len(), 1);
        assert_clean(&store).await;
    }
}

/// One round of uploads: begun, uploaded, some parts twice, then completed, aborted, or left for a
/// while.
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
            let object = engine.get(key).await?.expect("nobody else writes it");
            assert!(object.bytes().await? == whole, "{key} has other bytes");
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
async fn beside_running_uploads_there_is_no_false_alarm_and_no_harm() {
    let store = Store::new().await;
    store.engine.put("kept", payload(9, LARGE)).await.unwrap();
    let stops = Arc::new(AtomicBool::new(false));
    let uploaders: Vec<_> = (0..4)
        .map(|uploader| {
            let engine = store.engine.clone();
            let stops = Arc::clone(&stops);
            beside(async move {
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
        let report = scrub(&store, May::Drop).await;
        assert!(report.is_clean(), "round {round}: {report:?}");
    }
    stops.store(true, Ordering::Relaxed);
    for uploader in uploaders {
        assert!(uploader.await.unwrap() > 3, "it got somewhere");
    }
    assert_clean(&store).await;
}
