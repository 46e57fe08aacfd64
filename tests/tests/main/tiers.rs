//! Every case of tiered storage: which tier, what replaces what, who loses a race, and what is left
//! when the blob tier fails.

use std::time::Duration;

use bytes::Bytes;
use cenotaph::{Body, Engine, Env, ErrorKind, Limits, Outcome, Result, Written};
use cenotaph_storage::Seam;
use cenotaph_storage::blobs::path;
use cenotaph_tests::faulty::{Fault, Op};
use cenotaph_tests::store::{INLINE, Store, blobs, named, payload, quick};
use futures::stream;
use tokio::task::JoinHandle;

const LARGE: usize = 10 * INLINE;

#[expect(
    clippy::disallowed_methods,
    reason = "the test itself is not part of the world under test"
)]
fn start(store: &Store, key: &str, body: Bytes) -> JoinHandle<Result<Written>> {
    let put = store.engine.put(key, body);
    tokio::spawn(async move { put.await })
}

async fn put(store: &Store, key: &str, seed: u64, bytes: usize) -> Written {
    store.engine.put(key, payload(seed, bytes)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_the_limit_stays_inline_and_one_byte_more_goes_to_the_blob_tier() {
    let store = Store::new().await;
    for (bytes, expected) in [(0, 0), (INLINE, 0), (INLINE + 1, 1)] {
        let key = format!("k{bytes}");
        put(&store, &key, 1, bytes).await;
        assert_eq!(store.bytes(&key).await, Some(payload(1, bytes)));
        assert_eq!(blobs(&store.blobs).await.len(), expected, "{bytes} bytes");
    }
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_default_limit_is_one_mebibyte() {
    let config = cenotaph::Config {
        inline_bytes_max: cenotaph::INLINE_BYTES_MAX,
        ..quick()
    };
    let store = Store::with(config).await;
    for (bytes, expected) in [(1 << 20, 0), ((1 << 20) + 1, 1)] {
        let key = format!("k{bytes}");
        put(&store, &key, 1, bytes).await;
        assert_eq!(store.bytes(&key).await, Some(payload(1, bytes)));
        assert_eq!(blobs(&store.blobs).await.len(), expected, "{bytes} bytes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_size_replaces_any_other_and_leaves_nothing_behind() {
    let store = Store::new().await;
    let sizes = [10, 5000.min(INLINE), LARGE, 3 * LARGE];
    let mut version = 0;
    for (from, to) in sizes
        .iter()
        .flat_map(|&from| sizes.iter().map(move |&to| (from, to)))
    {
        for (seed, bytes) in [(1, from), (2, to)] {
            version += 1;
            let written = put(&store, "k", seed, bytes).await;
            assert_eq!(
                (written.version.unwrap().get(), written.created),
                (version, version == 1)
            );
            assert_eq!(
                store.bytes("k").await,
                Some(payload(seed, bytes)),
                "{from} -> {to}"
            );
        }
    }
    store.assert_settled().await;
    assert!(store.engine.delete("k").await.unwrap().existed);
    assert_eq!(store.bytes("k").await, None);
    store.assert_settled().await;
    assert!(blobs(&store.blobs).await.is_empty());
    assert_eq!(
        put(&store, "k", 1, LARGE).await.version.unwrap().get(),
        version + 1,
        "a version is never reused"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_go_on_across_delete_and_reopen() {
    let store = Store::new().await;
    put(&store, "k", 1, 10).await;
    put(&store, "k", 2, 10).await;
    store.engine.delete("k").await.unwrap();
    let store = store.reopen().await;
    let written = put(&store, "k", 3, 10).await;
    assert_eq!((written.version.unwrap().get(), written.created), (3, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loser_of_a_race_hears_superseded_and_leaves_nothing() {
    let store = Store::new().await;
    let mut finished = store.stage.hold(Seam::UploadAfterClose);
    let loser = start(&store, "k", payload(1, LARGE));
    finished.arrived().await;
    assert_eq!(put(&store, "k", 2, LARGE).await.outcome, Outcome::Applied);
    finished.release();
    let lost = loser.await.unwrap().unwrap();
    assert_eq!(
        (lost.outcome, lost.version, lost.etag),
        (Outcome::Superseded, None, None)
    );
    assert_eq!(store.bytes("k").await, Some(payload(2, LARGE)));
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_or_a_small_put_over_the_replaced_tombstone_supersedes_a_large_put() {
    for small in [false, true] {
        let store = Store::new().await;
        put(&store, "k", 1, LARGE).await;
        let mut finished = store.stage.hold(Seam::UploadAfterClose);
        let loser = start(&store, "k", payload(2, LARGE));
        finished.arrived().await;
        if small {
            put(&store, "k", 3, 10).await;
        } else {
            store.engine.delete("k").await.unwrap();
        }
        finished.release();
        assert_eq!(loser.await.unwrap().unwrap().outcome, Outcome::Superseded);
        assert_eq!(store.bytes("k").await, small.then(|| payload(3, 10)));
        store.assert_settled().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_reply_is_lost_has_committed_once() {
    for bytes in [10, LARGE] {
        let store = Store::new().await;
        let mut submitted = store.stage.hold(Seam::ShardAfterSubmit);
        let put = start(&store, "k", payload(1, bytes));
        submitted.arrived().await;
        put.abort();
        drop(put.await);
        submitted.release();
        store.index.barrier().await.unwrap();
        let head = store
            .engine
            .head("k")
            .await
            .unwrap()
            .expect("the commit went on without its caller");
        assert_eq!(head.version.get(), 1);
        store.assert_settled().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_leaves_after_its_blob_is_written_does_not_stop_the_commit() {
    let store = Store::new().await;
    let mut finished = store.stage.hold(Seam::UploadAfterClose);
    let mut committed = store.stage.hold(Seam::UploadAfterCommit);
    let put = start(&store, "k", payload(1, LARGE));
    finished.arrived().await;
    put.abort();
    drop(put.await);
    finished.release();
    committed.arrived().await;
    assert_eq!(store.bytes("k").await, Some(payload(1, LARGE)));
    committed.release();
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_leaves_while_its_payload_streams_cancels_the_put() {
    let store = Store::new().await;
    let (sender, receiver) = futures::channel::mpsc::unbounded::<Result<Bytes, std::io::Error>>();
    sender.unbounded_send(Ok(payload(1, LARGE))).unwrap();
    let mut streaming = store.stage.hold(Seam::UploadMidStream);
    let put = store.engine.put("k", Body::stream(receiver));
    #[expect(
        clippy::disallowed_methods,
        reason = "the test itself is not part of the world under test"
    )]
    let put = tokio::spawn(async move { put.await });
    streaming.arrived().await;
    put.abort();
    drop(put.await);
    streaming.release();
    store.assert_settled().await;
    assert_eq!(store.bytes("k").await, None);
    assert_eq!(
        store.engine.stats().await.unwrap().actors.uploads_live,
        0,
        "its permit is given back"
    );
    drop(sender);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_tier_that_fails_at_write_or_close_commits_nothing_and_keeps_the_old_object() {
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
async fn a_failing_blob_delete_never_fails_a_delete_and_is_made_good_later() {
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
async fn one_blob_that_cannot_be_deleted_blocks_no_other() {
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
async fn a_missing_blob_counts_as_deleted() {
    let store = Store::new().await;
    put(&store, "k", 1, LARGE).await;
    let key = blobs(&store.blobs).await.pop_first().unwrap();
    store.blobs.delete(&key).await.unwrap();
    store.engine.delete("k").await.unwrap();
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tombstone_whose_blob_is_gone_is_corrupt_and_is_counted() {
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
        "the row is still there for a scrub to find"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_is_an_error_and_never_wrong_bytes() {
    let store = Store::new().await;
    put(&store, "k", 1, LARGE).await;
    store.faults.flip(true);
    let error = store.engine.get("k").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("object=k"), "{error}");
    store.faults.flip(false);
    assert_eq!(store.bytes("k").await, Some(payload(1, LARGE)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_of_a_stream_are_stored_in_their_order() {
    let store = Store::new().await;
    let whole = payload(7, 3_000_000);
    for chunk_bytes in [999, 65_536, 1 << 20] {
        let chunks: Vec<_> = whole
            .chunks(chunk_bytes)
            .map(|chunk| Ok::<_, std::io::Error>(whole.slice_ref(chunk)))
            .collect();
        store
            .engine
            .put("k", Body::stream(stream::iter(chunks)))
            .await
            .unwrap();
        assert_eq!(
            store.bytes("k").await,
            Some(whole.clone()),
            "chunks of {chunk_bytes}"
        );
    }
    let some = store
        .engine
        .get("k")
        .range(1_500_000..2_500_000)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        some.bytes().await.unwrap(),
        whole.slice(1_500_000..2_500_000)
    );
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_fails_midway_stores_nothing() {
    let store = Store::new().await;
    for good in [0, INLINE / 2, LARGE] {
        let chunks = [
            Ok(payload(1, good)),
            Err(std::io::Error::other("the client hung up")),
        ];
        let error = store
            .engine
            .put("k", Body::stream(stream::iter(chunks)))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Source, "after {good} bytes");
        assert!(
            format!("{error:?}").contains("the client hung up"),
            "{error:?}"
        );
    }
    for promised in [LARGE as u64 - 1, LARGE as u64 + 1] {
        let chunks = [Ok::<_, std::io::Error>(payload(1, LARGE))];
        let error = store
            .engine
            .put("k", Body::stream(stream::iter(chunks)).promise(promised))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Source, "promised {promised}");
    }
    assert_eq!(store.bytes("k").await, None);
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_over_the_limit_is_invalid_and_stores_nothing() {
    let mut config = quick();
    config.limits.payload_bytes_max = LARGE as u64;
    let store = Store::with(config).await;
    put(&store, "k", 1, LARGE).await;
    let error = store
        .engine
        .put("k", payload(2, LARGE + 1))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(store.bytes("k").await, Some(payload(1, LARGE)));
    store.assert_settled().await;

    let mut config = quick();
    config.limits.payload_bytes_max = 5;
    let store = Store::with(config).await;
    store.engine.put("small", "fives").await.unwrap();
    assert_eq!(
        store
            .engine
            .put("small", "longer")
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::Invalid
    );
    let together = store
        .engine
        .atomic([cenotaph::Write::put("small", "longer")])
        .await;
    assert_eq!(together.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(store.bytes("small").await, Some("fives".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_waits_for_uploads_and_cleanup() {
    let store = Store::new().await;
    put(&store, "k", 1, LARGE).await;
    let deleting = store.faults.hold(Op::Delete);
    store.engine.delete("k").await.unwrap();
    let mut streaming = store.stage.hold(Seam::UploadMidStream);
    let upload = start(&store, "other", payload(2, LARGE));
    streaming.arrived().await;
    let engine = store.engine.clone();
    #[expect(
        clippy::disallowed_methods,
        reason = "the test itself is not part of the world under test"
    )]
    let closing = tokio::spawn(async move { engine.close().await });
    while !matches!(store.engine.put("late", "x").await, Err(error) if error.kind() == ErrorKind::Closed)
    {
    }
    assert!(
        !closing.is_finished(),
        "an upload and a deletion are under way"
    );
    streaming.release();
    drop(deleting);
    closing.await.unwrap().unwrap();
    assert_eq!(
        upload.await.unwrap().unwrap().outcome,
        Outcome::Applied,
        "what had begun could end"
    );
    let store = store.reopen().await;
    assert_eq!(blobs(&store.blobs).await, named(&*store.index).await);
    assert_eq!(
        store.engine.stats().await.unwrap().actors.swept,
        0,
        "nothing was left to the next open"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_is_bounded_and_leaves_the_rest_to_the_next_open() {
    let mut config = quick();
    config.limits = Limits {
        close_timeout: Duration::from_millis(50),
        ..config.limits
    };
    let store = Store::with(config).await;
    put(&store, "k", 1, LARGE).await;
    let _deleting = store.faults.hold(Op::Delete);
    store.engine.delete("k").await.unwrap();
    let mut streaming = store.stage.hold(Seam::UploadMidStream);
    let upload = start(&store, "other", payload(2, LARGE));
    streaming.arrived().await;
    // 50 ms for what is under way, and a second for the actors.
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
async fn a_second_close_waits_for_the_first() {
    let store = Store::new().await;
    put(&store, "k", 1, LARGE).await;
    let deleting = store.faults.hold(Op::Delete);
    store.engine.delete("k").await.unwrap();
    let closing = [store.engine.clone(), store.engine.clone()].map(|engine| {
        #[expect(
            clippy::disallowed_methods,
            reason = "the test itself is not part of the world under test"
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
async fn over_a_limit_is_overloaded_at_once_and_passes_again_later() {
    let mut config = quick();
    config.limits.uploads_at_once = 1;
    let store = Store::with(config).await;
    let mut streaming = store.stage.hold(Seam::UploadMidStream);
    let first = start(&store, "a", payload(1, LARGE));
    streaming.arrived().await;
    let error = store.engine.put("b", payload(2, LARGE)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    streaming.release();
    first.await.unwrap().unwrap();
    // The permit follows the answer.
    while let Err(error) = store.engine.put("b", payload(2, LARGE)).await {
        assert_eq!(error.kind(), ErrorKind::Overloaded);
        tokio::task::yield_now().await;
    }
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opening_the_same_index_twice_is_a_clear_error() {
    let store = Store::new().await;
    let error = Engine::builder(store.path()).open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyOpen);
    store.engine.close().await.unwrap();
    let again = Engine::builder(store.path()).open().await.unwrap();
    again.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_engine_says_so_and_closing_twice_is_fine() {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn awkward_names_of_large_objects_are_all_different_blobs() {
    let store = Store::new().await;
    let long = "x".repeat(1024);
    let keys = [
        "a",
        "A",
        "a/",
        "/a",
        "..",
        "../a",
        "a//b",
        "a\\b",
        "\u{0}",
        "con",
        "é",
        "a b",
        "%61",
        "a@b",
        long.as_str(),
    ];
    for (seed, key) in keys.iter().enumerate() {
        put(&store, key, seed as u64, LARGE).await;
    }
    for (seed, key) in keys.iter().enumerate() {
        assert_eq!(
            store.bytes(key).await,
            Some(payload(seed as u64, LARGE)),
            "{key:?}"
        );
    }
    store.assert_settled().await;
    let paths: Vec<_> = blobs(&store.blobs).await.iter().map(path::path).collect();
    assert_eq!(paths.len(), keys.len());
    let store = store.crash().await;
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tier_that_is_no_file_system_serves_as_well_and_survives_the_engine() {
    let directory = tempfile::tempdir().unwrap();
    let operator = cenotaph::Operator::new(opendal::services::Memory::default()).unwrap();
    let open = || {
        Engine::builder(directory.path())
            .config(quick())
            .blobs(operator.clone())
            .open()
    };
    let engine = open().await.unwrap();
    for (seed, bytes) in [(1, 10), (2, LARGE), (3, 3_000_000)] {
        engine
            .put(format!("k{seed}"), payload(seed, bytes))
            .await
            .unwrap();
    }
    engine.put("k2", payload(4, LARGE)).await.unwrap();
    engine.close().await.unwrap();
    let engine = open().await.unwrap();
    for (key, seed, bytes) in [("k1", 1, 10), ("k2", 4, LARGE), ("k3", 3, 3_000_000)] {
        assert_eq!(
            engine
                .get(key)
                .await
                .unwrap()
                .unwrap()
                .bytes()
                .await
                .unwrap(),
            payload(seed, bytes)
        );
    }
    engine.settle().await.unwrap();
    let left = operator.list_with("").recursive(true).await.unwrap();
    let is_blob = |entry: &&opendal::Entry| {
        entry.metadata().is_file() && entry.path() != cenotaph::MARKER_PATH
    };
    assert_eq!(
        left.iter().filter(is_blob).count(),
        2,
        "one blob for each large object"
    );
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_comes_back_as_it_was_stated_from_either_tier() {
    let store = Store::new().await;
    for bytes in [10, LARGE] {
        let put = store
            .engine
            .put("k", payload(1, bytes))
            .content_type("image/png")
            .compression("zstd")
            .origin("10.0.0.1");
        put.filename("cat.png")
            .custom("b", "2")
            .custom("a", "1")
            .await
            .unwrap();
        let head = store.engine.head("k").await.unwrap().unwrap();
        let attributes = &head.metadata.attributes;
        assert_eq!(attributes.content_type.as_deref(), Some("image/png"));
        assert_eq!(attributes.compression.as_deref(), Some("zstd"));
        assert_eq!(attributes.origin.as_deref(), Some("10.0.0.1"));
        assert_eq!(attributes.filename.as_deref(), Some("cat.png"));
        assert_eq!(
            attributes
                .custom
                .iter()
                .map(|(k, v)| (k.as_str(), v.as_str()))
                .collect::<Vec<_>>(),
            [("a", "1"), ("b", "2")]
        );
        assert_eq!(head.metadata.size, bytes as u64);
        assert_eq!(
            head.metadata.checksum.unwrap().get(),
            xxhash_rust::xxh3::xxh3_64(&payload(1, bytes))
        );
    }
    let error = store
        .engine
        .put("k", "x")
        .custom("k", "v".repeat(20_000))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}
