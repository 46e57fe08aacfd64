//! Tiered storage: the choice of the tier, replacement across tiers, lost races, streams and
//! metadata.

mod close;
mod failures;

use bytes::Bytes;
use cenotaph::{Body, Engine, ErrorKind, PutResult, Result, WriteOutcome};
use cenotaph_storage::SyncPoint;
use cenotaph_storage::blobs::path;
use cenotaph_tests::store::{INLINE, Store, blobs, payload, quick};
use futures::stream;
use tokio::task::JoinHandle;

const LARGE: usize = 10 * INLINE;

#[expect(
    clippy::disallowed_methods,
    reason = "the rule applies to code under test only"
)]
fn start(store: &Store, key: &str, body: Bytes) -> JoinHandle<Result<PutResult>> {
    let put = store.engine.put(key, body);
    tokio::spawn(async move { put.await })
}

async fn put(store: &Store, key: &str, seed: u64, bytes: usize) -> PutResult {
    store.engine.put(key, payload(seed, bytes)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payload_at_the_inline_limit_stays_inline() {
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
async fn default_inline_limit_is_one_mebibyte() {
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
async fn any_size_replaces_any_other_without_orphans() {
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
async fn versions_increase_across_delete_and_reopen() {
    let store = Store::new().await;
    put(&store, "k", 1, 10).await;
    put(&store, "k", 2, 10).await;
    store.engine.delete("k").await.unwrap();
    let store = store.reopen().await;
    let written = put(&store, "k", 3, 10).await;
    assert_eq!((written.version.unwrap().get(), written.created), (3, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_swap_is_superseded_and_leaves_no_orphan() {
    let store = Store::new().await;
    let mut finished = store.stage.hold(SyncPoint::UploadAfterClose);
    let loser = start(&store, "k", payload(1, LARGE));
    finished.arrived().await;
    assert_eq!(
        put(&store, "k", 2, LARGE).await.outcome,
        WriteOutcome::Applied
    );
    finished.release();
    let lost = loser.await.unwrap().unwrap();
    assert_eq!(
        (lost.outcome, lost.version, lost.etag),
        (WriteOutcome::Superseded, None, None)
    );
    assert_eq!(store.bytes("k").await, Some(payload(2, LARGE)));
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delete_or_small_put_supersedes_a_large_put() {
    for small in [false, true] {
        let store = Store::new().await;
        put(&store, "k", 1, LARGE).await;
        let mut finished = store.stage.hold(SyncPoint::UploadAfterClose);
        let loser = start(&store, "k", payload(2, LARGE));
        finished.arrived().await;
        if small {
            put(&store, "k", 3, 10).await;
        } else {
            store.engine.delete("k").await.unwrap();
        }
        finished.release();
        assert_eq!(
            loser.await.unwrap().unwrap().outcome,
            WriteOutcome::Superseded
        );
        assert_eq!(store.bytes("k").await, small.then(|| payload(3, 10)));
        store.assert_settled().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn put_whose_caller_left_commits_once() {
    for bytes in [10, LARGE] {
        let store = Store::new().await;
        let mut submitted = store.stage.hold(SyncPoint::ShardAfterSubmit);
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
            .expect("the commit does not depend on its caller");
        assert_eq!(head.version.unwrap().get(), 1);
        store.assert_settled().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn put_dropped_after_its_blob_is_written_commits() {
    let store = Store::new().await;
    let mut finished = store.stage.hold(SyncPoint::UploadAfterClose);
    let mut committed = store.stage.hold(SyncPoint::UploadAfterCommit);
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
async fn put_dropped_while_streaming_is_cancelled() {
    let store = Store::new().await;
    let (sender, receiver) = futures::channel::mpsc::unbounded::<Result<Bytes, std::io::Error>>();
    sender.unbounded_send(Ok(payload(1, LARGE))).unwrap();
    let mut streaming = store.stage.hold(SyncPoint::UploadMidStream);
    let put = store.engine.put("k", Body::stream(receiver));
    #[expect(
        clippy::disallowed_methods,
        reason = "the rule applies to code under test only"
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
        "the permit is returned"
    );
    drop(sender);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_of_a_stream_are_stored_in_order() {
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
async fn stream_that_fails_midway_stores_nothing() {
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
async fn payload_over_the_limit_is_invalid() {
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
        .atomic([cenotaph::BatchWrite::put("small", "longer")])
        .await;
    assert_eq!(together.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(store.bytes("small").await, Some("fives".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn awkward_names_of_large_objects_are_distinct_blobs() {
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
async fn memory_blob_tier_outlives_the_engine() {
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
async fn metadata_round_trips_in_both_tiers() {
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
