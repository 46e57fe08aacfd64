//! Failures of the blob tier: failed writes and deletes, missing blobs, flipped bits.

use cenotaph::ErrorKind;
use cenotaph_tests::faulty::{Fault, Op};
use cenotaph_tests::store::{Store, blobs, payload};

use super::{LARGE, put};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_blob_write_keeps_the_old_object() {
    let faults = [
        (Op::Write, Fault::Before),
        (Op::Write, Fault::After),
        (Op::Close, Fault::Before),
        (Op::Close, Fault::After),
    ];
    for (op, fault) in faults {
        let store = Store::new().await;
        put(&store, "k", 1, LARGE).await;
        store.faults.fail(op, fault, 1);
        let error = store.engine.put("k", payload(2, LARGE)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{op:?} {fault:?}");
        assert!(error.is_retryable());
        assert_eq!(store.bytes("k").await, Some(payload(1, LARGE)));
        store.assert_settled().await;
        put(&store, "k", 3, LARGE).await;
        assert_eq!(store.bytes("k").await, Some(payload(3, LARGE)));
        store.assert_settled().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_blob_delete_is_repeated_later() {
    let store = Store::new().await;
    put(&store, "k", 1, LARGE).await;
    put(&store, "other", 1, LARGE).await;
    store.faults.fail_always(Op::Delete, Fault::Before);
    assert!(store.engine.delete("k").await.unwrap().existed);
    assert_eq!(store.bytes("k").await, None);
    store.engine.settle().await.unwrap();
    let actors = store.engine.stats().await.unwrap().actors;
    assert_eq!(actors.orphans, 1);
    assert!(actors.sweep_failures > 0);
    store.faults.heal();
    store.assert_settled().await;
    assert_eq!(store.bytes("other").await, Some(payload(1, LARGE)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn undeletable_blob_blocks_no_other() {
    let store = Store::new().await;
    for key in ["a", "b", "c"] {
        put(&store, key, 1, LARGE).await;
    }
    store.faults.fail(Op::Delete, Fault::Before, 1);
    for key in ["a", "b", "c"] {
        store.engine.delete(key).await.unwrap();
    }
    store.assert_settled().await;
    assert!(blobs(&store.blobs).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_a_missing_blob_succeeds() {
    let store = Store::new().await;
    put(&store, "k", 1, LARGE).await;
    let key = blobs(&store.blobs).await.pop_first().unwrap();
    store.blobs.delete(&key).await.unwrap();
    store.engine.delete("k").await.unwrap();
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_blob_is_corrupt_and_counted() {
    let store = Store::new().await;
    put(&store, "k", 1, LARGE).await;
    let key = blobs(&store.blobs).await.pop_first().unwrap();
    store.blobs.delete(&key).await.unwrap();
    assert_eq!(
        store.engine.get("k").await.unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    assert_eq!(store.engine.stats().await.unwrap().reads.missing_blobs, 1);
    assert!(
        store.engine.head("k").await.unwrap().is_some(),
        "the row remains for a scrub to report"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flipped_bit_is_an_error_and_never_wrong_bytes() {
    let store = Store::new().await;
    put(&store, "k", 1, LARGE).await;
    store.faults.flip(true);
    let error = store.engine.get("k").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("object=k"), "{error}");
    store.faults.flip(false);
    assert_eq!(store.bytes("k").await, Some(payload(1, LARGE)));
}
