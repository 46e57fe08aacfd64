//! I8: a reader sees a single version from beginning to end, even if the object changes meanwhile.

use bytes::Bytes;
use cenotaph::Body;
use cenotaph_tests::store::{Store, blobs, payload, quick};
use futures::stream;

const MIB: usize = 1024 * 1024;

/// Returns a stream of `mebibytes` MiB, generated chunk by chunk, and its checksum.
fn large(seed: u64, mebibytes: usize) -> (Body, u64) {
    let block = move |number: usize| payload(seed * 10_000 + number as u64, MIB);
    let mut whole = xxhash_rust::xxh3::Xxh3Default::new();
    (0..mebibytes).for_each(|number| whole.update(&block(number)));
    let chunks =
        stream::iter((0..mebibytes).map(move |number| Ok::<Bytes, std::io::Error>(block(number))));
    (Body::stream(chunks), whole.digest())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_reader_of_256_mib_sees_one_version() {
    let store = Store::with(quick()).await;
    let (body, expected) = large(1, 256);
    store.engine.put("k", body).await.unwrap();
    let mut object = store.engine.get("k").await.unwrap().unwrap();

    let mut whole = xxhash_rust::xxh3::Xxh3Default::new();
    let mut bytes = 0u64;
    let mut chunks = 0;
    while let Some(chunk) = object.chunk().await.unwrap() {
        whole.update(&chunk);
        bytes += chunk.len() as u64;
        chunks += 1;
        match chunks {
            // Between two chunks the object is replaced by a large one, replaced by a small one,
            // and deleted. After each of these all orphans without a reader are deleted.
            2 => drop(store.engine.put("k", large(2, 3).0).await.unwrap()),
            4 => drop(store.engine.put("k", "small").await.unwrap()),
            6 => drop(store.engine.delete("k").await.unwrap()),
            8 => assert_eq!(store.bytes("k").await, None),
            _ => {}
        }
        if chunks < 10 {
            store.engine.settle().await.unwrap();
            assert_eq!(
                blobs(&store.blobs)
                    .await
                    .iter()
                    .filter(|key| key.object.key() == "k")
                    .count(),
                if chunks == 2 || chunks == 3 { 2 } else { 1 }
            );
        }
    }
    assert_eq!((bytes, whole.digest()), (256 * MIB as u64, expected));
    drop(object);
    store.assert_settled().await;
    assert!(
        blobs(&store.blobs).await.is_empty(),
        "the last blob is deleted after its last reader"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_reader_lets_the_sweeper_continue() {
    let store = Store::with(quick()).await;
    store.engine.put("k", large(1, 20).0).await.unwrap();
    let mut object = store.engine.get("k").await.unwrap().unwrap();
    object.chunk().await.unwrap().unwrap();
    store.engine.delete("k").await.unwrap();
    assert_eq!(
        store.engine.settle().await.unwrap(),
        1,
        "an orphan waits for its reader"
    );
    drop(object);
    while !blobs(&store.blobs).await.is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_racing_overwrites_see_whole_versions_only() {
    let store = Store::with(quick()).await;
    let sizes = [10, 900, 5_000, 1_500_000];
    store.engine.put("k", payload(0, sizes[0])).await.unwrap();
    let writing = async {
        for round in 1..120u64 {
            store
                .engine
                .put("k", payload(round, sizes[round as usize % sizes.len()]))
                .await
                .unwrap();
        }
    };
    let reading = async {
        let mut last = 0;
        loop {
            let object = store
                .engine
                .get("k")
                .await
                .unwrap()
                .expect("the object is never absent");
            let version = object.version().unwrap().get();
            assert!(version >= last, "versions never decrease");
            last = version;
            let seed = version - 1;
            assert_eq!(
                object.bytes().await.unwrap(),
                payload(seed, sizes[seed as usize % sizes.len()])
            );
            if version == 120 {
                return;
            }
        }
    };
    futures::join!(writing, reading);
    store.assert_settled().await;
}
