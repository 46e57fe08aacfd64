//! Missing blobs: every read that needs the bytes of the object is an error, or, if configured so,
//! every read finds it absent.

use cenotaph::{
    BatchWrite, Config, Engine, Error, ErrorKind, MissingBlob, Operation, Reason, Reply, Update,
    Updated, WriteOutcome,
};
use cenotaph_tests::store::{Store, blobs, payload, quick};
use futures::{StreamExt, stream};

const LARGE: usize = 20_000;

/// Creates a store with a single object, `k`, whose blob is missing.
async fn store(missing_blob: MissingBlob) -> Store {
    let store = Store::with(Config {
        missing_blob,
        ..quick()
    })
    .await;
    store.engine.put("k", payload(1, LARGE)).await.unwrap();
    lose(&store).await;
    store
}

/// Deletes every blob.
async fn lose(store: &Store) {
    for key in blobs(&store.blobs).await {
        store.blobs.delete(&key).await.unwrap();
    }
}

fn assert_missing<T: std::fmt::Debug>(operation: &str, outcome: Result<T, Error>) {
    let error = outcome.expect_err(operation);
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{operation}: {error}");
    assert!(
        matches!(error.reason(), Some(Reason::MissingBlob { .. })),
        "{operation}: {error}"
    );
    assert!(
        error.to_string().contains("missing blob") && error.to_string().contains("revision="),
        "{operation}: {error}"
    );
    assert!(
        error.to_string().contains("object=k"),
        "{operation}: {error}"
    );
    assert!(!error.is_retryable(), "{operation}");
}

async fn part_copy(engine: &Engine) -> Result<Option<cenotaph::UploadedPart>, Error> {
    engine.multipart("m").await.unwrap().part_copy(1, "k").await
}

async fn one_of_a_batch(engine: &Engine, operation: Operation) -> Result<Reply, Error> {
    engine
        .batch(stream::iter([operation]))
        .next()
        .await
        .unwrap()
        .1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_blob_is_corrupt_to_every_read() {
    let store = store(MissingBlob::Corrupt).await;
    let engine = &store.engine;
    assert_missing("get", engine.get("k").await);
    assert_missing("get of a range", engine.get("k").range(5..7).await);
    assert_missing("copy", engine.copy("k", "copy").await);
    assert_missing("part_copy", part_copy(engine).await);
    assert!(matches!(
        one_of_a_batch(engine, Operation::head("k")).await,
        Ok(Reply::Head(Some(_)))
    ));
    assert_missing("batch", one_of_a_batch(engine, Operation::get("k")).await);
    let asked = std::sync::atomic::AtomicBool::new(false);
    let updated = engine.update("k", |_| {
        asked.store(true, std::sync::atomic::Ordering::SeqCst);
        async { Ok::<_, Error>(Update::put("x")) }
    });
    assert_missing("update", updated.await);
    assert!(
        !asked.into_inner(),
        "the function of the update is not called"
    );

    assert!(engine.head("k").await.unwrap().is_some());
    let refused = engine.put("k", "x").if_absent().await.unwrap_err();
    assert!(
        matches!(refused.kind(), ErrorKind::Conflict { current: Some(_) }),
        "the condition uses the row, as head does: {refused}"
    );
    assert_eq!(engine.stats().await.unwrap().reads.missing_blobs, 6);
    assert_eq!(
        engine.put("k", payload(2, LARGE)).await.unwrap().outcome,
        WriteOutcome::Applied,
        "a put replaces the object"
    );
    assert_eq!(store.bytes("k").await, Some(payload(2, LARGE)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_blob_is_absent_to_every_read_if_configured() {
    let store = store(MissingBlob::Absent).await;
    let engine = &store.engine;
    assert!(engine.get("k").await.unwrap().is_none());
    assert!(engine.get("k").range(5..7).await.unwrap().is_none());
    assert!(engine.copy("k", "copy").await.unwrap().is_none());
    assert!(part_copy(engine).await.unwrap().is_none());
    assert!(matches!(
        one_of_a_batch(engine, Operation::get("k")).await,
        Ok(Reply::Object(None))
    ));
    let kept = engine.update("k", async |object| {
        assert!(object.is_none());
        Ok::<_, Error>(Update::Keep)
    });
    assert_eq!(kept.await.unwrap(), Updated::Kept);
    // Operations that do not read the blob tier use the row.
    let head = engine.head("k").await.unwrap().unwrap();
    assert_eq!(engine.list("k").await.unwrap().entries.len(), 1);
    let refused = engine.put("k", "x").if_absent().await.unwrap_err();
    assert!(matches!(
        refused.kind(),
        ErrorKind::Conflict { current: Some(current) } if Some(current.version) == head.version
    ));

    let updated = engine.update("k", async |object| {
        assert!(object.is_none());
        Ok::<_, Error>(Update::put("fresh"))
    });
    let Updated::Written(written) = updated.await.unwrap() else {
        panic!("not written")
    };
    assert_eq!(
        written.version,
        head.version.map(cenotaph::Version::next),
        "the put replaces the row"
    );
    assert_eq!(store.bytes("k").await.unwrap(), "fresh");

    engine.put("k", payload(3, LARGE)).await.unwrap();
    lose(&store).await;
    let deleted = engine
        .update("k", async |_| Ok::<_, Error>(Update::Delete))
        .await
        .unwrap();
    assert!(matches!(deleted, Updated::Deleted(deleted) if deleted.existed));
    assert!(engine.head("k").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unavailable_tier_is_not_absence() {
    let store = store(MissingBlob::Absent).await;
    let blobs = store.path().join("blobs");
    let away = store.path().join("away");
    std::fs::rename(&blobs, &away).unwrap();
    assert_eq!(
        store.engine.get("k").await.unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    assert_eq!(
        store.engine.copy("k", "l").await.unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    std::fs::rename(&away, &blobs).unwrap();
    assert!(store.engine.get("k").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_without_bytes_ignore_a_missing_blob() {
    let store = store(MissingBlob::Corrupt).await;
    let engine = &store.engine;
    engine.amend("k").filename("f").await.unwrap().unwrap();
    engine.rename("k", "l").await.unwrap().unwrap();
    assert_eq!(
        engine.get("l").await.unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    engine.atomic([BatchWrite::delete("l")]).await.unwrap();
    store.assert_settled().await;
}
