//! An upload of 10,000 parts: one commit makes the object.

use std::sync::Arc;

use cenotaph::{Config, Engine, Operator};
use cenotaph_storage::Env;
use cenotaph_storage::index::fjall::{FjallIndex, FjallOptions};
use cenotaph_storage::index::{Index, Table};
use cenotaph_tests::counting::Counting;
use cenotaph_tests::store::payload;
use futures::{StreamExt, TryStreamExt, stream};

const PARTS: u32 = 10_000;
const PART: usize = 32;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_parts_complete_in_one_commit() {
    let directory = tempfile::tempdir().unwrap();
    let env = Env::real().unwrap();
    let fjall = FjallIndex::open(
        &directory.path().join("index"),
        env.clone(),
        FjallOptions::default(),
    )
    .unwrap();
    let index = Counting::new(Arc::new(fjall));
    let counts = index.counts();
    let index: Arc<dyn Index> = Arc::new(index);
    let blobs = Operator::new(opendal::services::Memory::default()).unwrap();
    let engine = Engine::builder(directory.path())
        .config(Config::default())
        .env(env)
        .index(Arc::clone(&index))
        .blobs(blobs)
        .open()
        .await
        .unwrap();
    let upload = engine.multipart("k").await.unwrap();
    let whole = payload(1, PARTS as usize * PART);
    let parts = stream::iter(1..=PARTS).map(|number| {
        let at = (number as usize - 1) * PART;
        let part = upload.part(number, whole.slice(at..at + PART));
        async move { part.await }
    });
    let parts: Vec<_> = parts.buffer_unordered(128).try_collect().await.unwrap();
    assert_eq!(parts.len(), PARTS as usize);

    let before = index.stats().batches;
    let mut listed: Vec<_> = parts
        .iter()
        .map(|part| (u32::from(part.number), part.etag))
        .collect();
    listed.sort_unstable();
    let written = upload.complete().parts(listed.clone()).await.unwrap();
    assert_eq!(index.stats().batches - before, 1, "a single commit");
    assert_eq!(counts.put(Table::Orphans), 0, "no orphan is added");
    assert_eq!(upload.complete().parts(listed).await.unwrap(), written);

    let some = engine
        .get("k")
        .range(123_456..123_556)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(some.bytes().await.unwrap(), whole.slice(123_456..123_556));
    assert!(
        engine
            .get("k")
            .await
            .unwrap()
            .unwrap()
            .bytes()
            .await
            .unwrap()
            == whole
    );
    engine.delete("k").await.unwrap();
    while engine.settle().await.unwrap() > 0 {}
    engine.close().await.unwrap();
}
