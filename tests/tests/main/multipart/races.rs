//! Parts, completions and aborts that race each other and newer writes, with actors killed at every
//! sync point: all callers receive one outcome, and nothing remains.

use std::time::Duration;

use cenotaph::{
    ActorKind, ErrorKind, MultipartUpload, PutResult, Reason, Result, UploadedPart, WriteOutcome,
};
use cenotaph_storage::SyncPoint;
use cenotaph_tests::store::{Store, blobs, payload, quick};
use tokio::task::JoinHandle;

const BYTES: usize = 5000;
/// Time limit of a wait.
const PATIENCE: Duration = Duration::from_secs(20);

#[expect(
    clippy::disallowed_methods,
    reason = "the rule applies to code under test only"
)]
fn start_part(upload: &MultipartUpload, number: u32) -> JoinHandle<Result<UploadedPart>> {
    let part = upload.part(number, payload(u64::from(number), BYTES));
    tokio::spawn(async move { part.await })
}

#[expect(
    clippy::disallowed_methods,
    reason = "the rule applies to code under test only"
)]
fn start_completion(upload: &MultipartUpload) -> JoinHandle<Result<PutResult>> {
    let complete = upload.complete();
    tokio::spawn(async move { complete.await })
}

/// Creates a store with an open upload of one part.
async fn begun() -> (Store, MultipartUpload) {
    let store = Store::new().await;
    let begun = store.engine.multipart("k").await.unwrap();
    begun.part(1, payload(1, BYTES)).await.unwrap();
    (store, begun)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn part_that_loses_to_the_end_of_its_upload_leaves_no_blob() {
    for is_abort in [true, false] {
        let (store, begun) = begun().await;
        let mut finished = store.stage.hold(SyncPoint::UploadAfterClose);
        let late = start_part(&begun, 2);
        finished.arrived().await;
        let expected = if is_abort {
            begun.abort().await.unwrap();
            None
        } else {
            begun.complete().await.unwrap();
            Some(payload(1, BYTES))
        };
        finished.release();
        let error = late.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(store.bytes("k").await == expected);
        store.assert_settled().await;
        assert_eq!(blobs(&store.blobs).await.len(), usize::from(!is_abort));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_completions_get_one_outcome() {
    let (store, begun) = begun().await;
    let mut deciding = store.stage.hold(SyncPoint::ShardBeforeDecide);
    let first = start_completion(&begun);
    deciding.arrived().await;
    let rivals: Vec<_> = (0..8).map(|_| start_completion(&begun)).collect();
    deciding.release();
    let written = first.await.unwrap().unwrap();
    for rival in rivals {
        assert_eq!(rival.await.unwrap().unwrap(), written);
    }
    assert_eq!(
        store
            .engine
            .head("k")
            .await
            .unwrap()
            .unwrap()
            .version
            .unwrap()
            .get(),
        1,
        "a single commit"
    );
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completion_that_loses_to_a_newer_write_is_superseded() {
    let (store, begun) = begun().await;
    let mut read = store.stage.hold(SyncPoint::CompleteBeforeSwap);
    let losing = start_completion(&begun);
    read.arrived().await;
    store.engine.put("k", payload(9, BYTES)).await.unwrap();
    read.release();
    let written = losing.await.unwrap().unwrap();
    assert_eq!(
        (written.outcome, written.version, written.etag),
        (WriteOutcome::Superseded, None, None)
    );
    assert!(store.bytes("k").await.unwrap() == payload(9, BYTES));
    assert_eq!(
        begun.complete().await.unwrap(),
        written,
        "a repeated completion gives the same answer"
    );
    store.assert_settled().await;
    assert_eq!(blobs(&store.blobs).await.len(), 1);
    assert_eq!(store.engine.stats().await.unwrap().actors.superseded, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completion_overwrites_earlier_writes() {
    let (store, begun) = begun().await;
    store.engine.put("k", payload(9, BYTES)).await.unwrap();
    assert_eq!(
        begun.complete().await.unwrap().outcome,
        WriteOutcome::Applied
    );
    assert!(store.bytes("k").await.unwrap() == payload(1, BYTES));
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn part_killed_before_its_commit_changes_nothing() {
    let sync_points = [
        SyncPoint::UploadBeforeRecord,
        SyncPoint::UploadAfterRecord,
        SyncPoint::UploadMidStream,
        SyncPoint::UploadBeforeClose,
        SyncPoint::UploadAfterBlob,
        SyncPoint::UploadAfterClose,
    ];
    for sync_point in sync_points {
        let (store, begun) = begun().await;
        let before = begun.parts().await.unwrap();
        let mut held = store.stage.hold(sync_point);
        let part = start_part(&begun, 1);
        held.arrived().await;
        assert!(store.engine.kill(ActorKind::EveryUpload));
        assert_eq!(
            part.await.unwrap().unwrap_err().kind(),
            ErrorKind::Unavailable,
            "{sync_point:?}"
        );
        assert_eq!(begun.parts().await.unwrap(), before, "{sync_point:?}");
        begun.complete().await.unwrap();
        assert!(store.bytes("k").await.unwrap() == payload(1, BYTES));
        store.assert_settled().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn step_of_a_killed_shard_takes_effect_once() {
    for sync_point in [SyncPoint::ShardBeforeDecide, SyncPoint::ShardAfterSubmit] {
        let (store, begun) = begun().await;
        let shard = ActorKind::Shard(store.engine.shard_of("k").unwrap());
        let mut held = store.stage.hold(sync_point);
        let part = start_part(&begun, 2);
        held.arrived().await;
        assert!(store.engine.kill(shard));
        part.await.unwrap().unwrap();
        let mut held = store.stage.hold(sync_point);
        let completion = start_completion(&begun);
        held.arrived().await;
        assert!(store.engine.kill(shard));
        let written = completion.await.unwrap().unwrap();
        assert_eq!(
            (written.outcome, written.version.unwrap().get()),
            (WriteOutcome::Applied, 1),
            "{sync_point:?}"
        );
        assert!(store.bytes("k").await.unwrap() == [payload(1, BYTES), payload(2, BYTES)].concat());
        store.assert_settled().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_caller_cancels_a_part_but_no_completion() {
    let (store, begun) = begun().await;
    let mut streaming = store.stage.hold(SyncPoint::UploadMidStream);
    let part = start_part(&begun, 2);
    streaming.arrived().await;
    part.abort();
    assert!(part.await.unwrap_err().is_cancelled());
    streaming.release();
    store.assert_settled().await;
    let mut deciding = store.stage.hold(SyncPoint::ShardBeforeDecide);
    let completion = start_completion(&begun);
    deciding.arrived().await;
    completion.abort();
    assert!(completion.await.unwrap_err().is_cancelled());
    deciding.release();
    let env = cenotaph::Env::new(store.stage.clone());
    let committed = env.deadline(PATIENCE, async {
        while store.bytes("k").await.is_none() {
            env.sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(committed.await.is_some(), "the completion continues");
    assert!(store.bytes("k").await.unwrap() == payload(1, BYTES));
    assert_eq!(
        begun.complete().await.unwrap().version.unwrap().get(),
        1,
        "a repeated completion gives the answer"
    );
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_different_concurrent_completions_wins() {
    let (store, begun) = begun().await;
    let second = begun.part(2, payload(2, BYTES)).await.unwrap();
    let mut deciding = store.stage.hold(SyncPoint::ShardBeforeDecide);
    let first = start_completion(&begun);
    deciding.arrived().await;
    let other = begun.complete().part(2, second.etag);
    #[expect(
        clippy::disallowed_methods,
        reason = "the rule applies to code under test only"
    )]
    let other = tokio::spawn(async move { other.await });
    deciding.release();
    let first = first.await.unwrap();
    let other = other.await.unwrap();
    let (won, lost) = if first.is_ok() {
        (first, other)
    } else {
        (other, first)
    };
    assert_eq!(won.unwrap().version.unwrap().get(), 1);
    assert_eq!(lost.unwrap_err().reason(), Some(Reason::OtherParts));
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upload_that_expires_during_a_step_leaves_nothing() {
    for completes in [false, true] {
        let (store, begun) = begun().await;
        store.stage.stop_clock();
        let sync_point = if completes {
            SyncPoint::CompleteBeforeSwap
        } else {
            SyncPoint::UploadAfterClose
        };
        let mut held = store.stage.hold(sync_point);
        let part = (!completes).then(|| start_part(&begun, 2));
        let completion = completes.then(|| start_completion(&begun));
        held.arrived().await;
        store.stage.advance(Duration::from_secs(8 * 24 * 3600));
        store.engine.settle().await.unwrap();
        held.release();
        let reason = match (part, completion) {
            (Some(part), _) => part.await.unwrap().unwrap_err().reason(),
            (None, Some(completion)) => completion.await.unwrap().unwrap_err().reason(),
            (None, None) => unreachable!("a part or a completion was started"),
        };
        assert_eq!(reason, Some(Reason::NoSuchUpload), "completes={completes}");
        assert_eq!(store.bytes("k").await, None);
        store.assert_settled().await;
        assert!(blobs(&store.blobs).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrently_ending_uploads_take_turns() {
    let mut config = quick();
    config.limits.multipart.parts_ending_at_once = 2;
    let store = Store::with(config).await;
    let ends = (0..20u32).map(|nth| {
        let engine = store.engine.clone();
        async move {
            let upload = engine.multipart(format!("k/{nth}")).await.unwrap();
            for number in 1..=nth % 5 {
                upload.part(number, payload(1, 10)).await.unwrap();
            }
            match nth % 5 {
                0 | 1 => upload.abort().await.unwrap(),
                _ => drop(upload.complete().await.unwrap()),
            }
        }
    });
    futures::future::join_all(ends).await;
    store.assert_settled().await;
    assert_eq!(store.engine.list("k/").await.unwrap().entries.len(), 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upload_continues_after_a_crash() {
    let (store, begun) = begun().await;
    let mut finished = store.stage.hold(SyncPoint::UploadAfterClose);
    let _part = start_part(&begun, 2);
    finished.arrived().await;
    let id = begun.upload_id().to_string();
    drop(begun);
    let store = store.crash().await;
    drop(finished);
    let resumed = store.engine.resume("k", &id).await.unwrap();
    assert_eq!(
        resumed.parts().await.unwrap().parts.len(),
        1,
        "exactly the acknowledged part remains"
    );
    resumed.part(2, "again").await.unwrap();
    resumed.complete().await.unwrap();
    assert!(store.bytes("k").await.unwrap() == [&payload(1, BYTES)[..], b"again"].concat());
    store.assert_settled().await;
}
