//! Long puts, which the engine splits into several blobs, some of them uploaded concurrently: the
//! whole object is stored, or nothing.

use cenotaph::{Body, Engine, ErrorKind, WriteOutcome};
use cenotaph_storage::BLOCK_BYTES;
use cenotaph_tests::store::payload;
use futures::channel::oneshot;
use futures::future::{self, Either};
use futures::{StreamExt, stream};
use xxhash_rust::xxh3::xxh3_64;

use super::{LARGE, SPLIT_BYTES, assert_holds, assert_ranges, blobs, bytes, put, streamed};

/// Payload of more than three blobs. A stream of unknown length has a first blob of `LARGE` bytes
/// and two more.
const LONG: usize = 3 * SPLIT_BYTES + BLOCK_BYTES + 7;

pub(super) async fn long_put_is_split_and_reads_as_one_object(engine: &Engine) {
    let whole = payload(1, LONG);
    for (key, promised, cut) in [("known", true, SPLIT_BYTES), ("unknown", false, LARGE)] {
        let body = streamed(&whole, 700_001);
        let body = if promised {
            body.promise(LONG as u64)
        } else {
            body
        };
        let written = engine.put(key, body).await.unwrap();
        assert_eq!(
            (written.outcome, written.created),
            (WriteOutcome::Applied, true)
        );
        assert_holds(engine, key, 1, LONG).await;
        let metadata = engine.head(key).await.unwrap().unwrap().metadata;
        assert_eq!(
            (metadata.size, metadata.checksum.unwrap().get()),
            (LONG as u64, xxh3_64(&whole))
        );
        let borders = (cut..LONG).step_by(SPLIT_BYTES).chain([LONG]);
        assert_ranges(engine, key, &whole, borders).await;
    }
    assert_eq!(blobs(engine).await, 4 + 3);
    engine.rename("known", "renamed").await.unwrap().unwrap();
    put(engine, "known", 2, LARGE).await;
    assert_eq!(blobs(engine).await, 4 + 3 + 1);
    put(engine, "unknown", 3, LONG).await;
    assert!(engine.delete("known").await.unwrap().existed);
    assert_eq!(
        blobs(engine).await,
        4 + 4,
        "I5: neither the replaced nor the deleted object"
    );
    assert_holds(engine, "renamed", 1, LONG).await;
    assert_holds(engine, "unknown", 3, LONG).await;
}

pub(super) async fn failed_long_put_leaves_nothing(engine: &Engine) {
    put(engine, "there", 1, LONG).await;
    let error = || std::io::Error::other("the client hung up");
    // The stream fails within the first blob, between two blobs, and before the last byte. The
    // number of its blobs depends on the promise.
    for good in [SPLIT_BYTES - 1, LARGE, LARGE + BLOCK_BYTES, LONG - 1] {
        for promised in [true, false] {
            let body = Body::stream(stream::iter([Ok(payload(2, good)), Err(error())]));
            let body = if promised {
                body.promise(LONG as u64)
            } else {
                body
            };
            for (key, body) in [
                ("there", body),
                (
                    "absent",
                    streamed(&payload(2, good), 700_001).promise(LONG as u64),
                ),
            ] {
                let error = engine.put(key, body).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Source, "after {good} bytes");
            }
        }
    }
    assert_eq!(blobs(engine).await, 4, "I5: the old object only");
    assert_holds(engine, "there", 1, LONG).await;
    assert_eq!(bytes(engine, "absent").await, None);
}

pub(super) async fn dropped_long_put_stores_nothing(engine: &Engine) {
    put(engine, "there", 1, LONG).await;
    for promised in [true, false] {
        let (arrived, arrival) = oneshot::channel();
        let good = stream::iter([Ok::<_, std::io::Error>(payload(2, LONG - 1))]);
        // The second poll reports its arrival and never yields a chunk.
        let waits = stream::once(async move {
            let _ = arrived.send(());
            future::pending().await
        });
        let body = Body::stream(good.chain(waits));
        let body = if promised {
            body.promise(LONG as u64)
        } else {
            body
        };
        match future::select(engine.put("there", body).into_future(), arrival).await {
            Either::Left((outcome, _)) => panic!("the stream never ends: {outcome:?}"),
            Either::Right((arrived, put)) => drop((arrived.unwrap(), put)),
        }
    }
    assert_eq!(blobs(engine).await, 4, "I5: the old object only");
    assert_holds(engine, "there", 1, LONG).await;
}
