//! Closing and opening: running work, time limits, permits, repeated calls.

use std::time::Duration;

use cenotaph::{Engine, Env, ErrorKind, Limits, WriteOutcome};
use cenotaph_storage::SyncPoint;
use cenotaph_tests::faulty::Op;
use cenotaph_tests::store::{Store, blobs, named, payload, quick};

use super::{LARGE, put, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_waits_for_uploads_and_cleanup() {
    let store = Store::new().await;
    put(&store, "k", 1, LARGE).await;
    let deleting = store.faults.hold(Op::Delete);
    store.engine.delete("k").await.unwrap();
    let mut streaming = store.stage.hold(SyncPoint::UploadMidStream);
    let upload = start(&store, "other", payload(2, LARGE));
    streaming.arrived().await;
    let engine = store.engine.clone();
    #[expect(
        clippy::disallowed_methods,
        reason = "the rule applies to code under test only"
    )]
    let closing = tokio::spawn(async move { engine.close().await });
    // Puts are refused from the moment the close begins.
    let is_closed = |error: cenotaph::Error| error.kind() == ErrorKind::Closed;
    while !store.engine.put("late", "x").await.is_err_and(is_closed) {}
    assert!(
        !closing.is_finished(),
        "an upload and a deletion are still running"
    );
    streaming.release();
    drop(deleting);
    closing.await.unwrap().unwrap();
    assert_eq!(
        upload.await.unwrap().unwrap().outcome,
        WriteOutcome::Applied,
        "an upload that had begun ends normally"
    );
    let store = store.reopen().await;
    assert_eq!(blobs(&store.blobs).await, named(&*store.index).await);
    assert_eq!(
        store.engine.stats().await.unwrap().actors.swept,
        0,
        "nothing remained for the next open"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_is_bounded_and_the_next_open_settles_the_rest() {
    let mut config = quick();
    config.limits = Limits {
        close_timeout: Duration::from_millis(50),
        ..config.limits
    };
    let store = Store::with(config).await;
    put(&store, "k", 1, LARGE).await;
    let _deleting = store.faults.hold(Op::Delete);
    store.engine.delete("k").await.unwrap();
    let mut streaming = store.stage.hold(SyncPoint::UploadMidStream);
    let upload = start(&store, "other", payload(2, LARGE));
    streaming.arrived().await;
    // 50 ms for running work, and one second for the actors.
    let closed = Env::real()
        .unwrap()
        .deadline(Duration::from_secs(10), store.engine.close())
        .await;
    closed.expect("closing is bounded").unwrap();
    assert_eq!(
        upload.await.unwrap().unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    let store = store.reopen().await;
    assert_eq!(store.bytes("k").await, None);
    assert_eq!(store.bytes("other").await, None);
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_close_waits_for_the_first() {
    let store = Store::new().await;
    put(&store, "k", 1, LARGE).await;
    let deleting = store.faults.hold(Op::Delete);
    store.engine.delete("k").await.unwrap();
    let closing = [store.engine.clone(), store.engine.clone()].map(|engine| {
        #[expect(
            clippy::disallowed_methods,
            reason = "the rule applies to code under test only"
        )]
        tokio::spawn(async move { engine.close().await })
    });
    while store.faults.held(Op::Delete) == 0 {
        tokio::task::yield_now().await;
    }
    assert!(
        store
            .index
            .get(cenotaph_storage::index::Table::Meta, b"epoch")
            .await
            .is_ok(),
        "the index is still open"
    );
    drop(deleting);
    for closing in closing {
        closing.await.unwrap().unwrap();
    }
    let store = store.reopen().await;
    assert!(blobs(&store.blobs).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upload_over_the_limit_is_overloaded_at_once() {
    let mut config = quick();
    config.limits.uploads_at_once = 1;
    let store = Store::with(config).await;
    let mut streaming = store.stage.hold(SyncPoint::UploadMidStream);
    let first = start(&store, "a", payload(1, LARGE));
    streaming.arrived().await;
    let error = store.engine.put("b", payload(2, LARGE)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    streaming.release();
    first.await.unwrap().unwrap();
    // The permit is returned after the reply, so the first attempts may still be refused.
    while let Err(error) = store.engine.put("b", payload(2, LARGE)).await {
        assert_eq!(error.kind(), ErrorKind::Overloaded);
        tokio::task::yield_now().await;
    }
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opening_an_open_index_is_already_open() {
    let store = Store::new().await;
    let error = Engine::builder(store.path()).open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyOpen);
    store.engine.close().await.unwrap();
    let again = Engine::builder(store.path()).open().await.unwrap();
    again.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_on_a_closed_engine_is_closed() {
    let store = Store::new().await;
    put(&store, "k", 1, 10).await;
    store.engine.close().await.unwrap();
    store.engine.close().await.unwrap();
    let kinds = [
        store.engine.put("k", "x").await.unwrap_err().kind(),
        store.engine.get("k").await.unwrap_err().kind(),
        store.engine.head("k").await.unwrap_err().kind(),
        store.engine.delete("k").await.unwrap_err().kind(),
        store.engine.list("").await.unwrap_err().kind(),
        store.engine.stats().await.unwrap_err().kind(),
    ];
    assert_eq!(kinds, [ErrorKind::Closed; 6]);
}
