//! Large puts that are split into several blobs: they read as one object, and a failed put leaves
//! little behind.

use bytes::Bytes;
use cenotaph::{ActorKind, Body, Checksum, ErrorKind, SplitLimits, WriteOutcome};
use cenotaph_storage::SyncPoint;
use cenotaph_storage::index::Table;
use cenotaph_storage::records::{Row, RowBody};
use cenotaph_tests::faulty::{Fault, Op};
use cenotaph_tests::store::{Store, blobs, payload, quick};
use futures::stream;

const OVER: usize = 20_000;
const PART: usize = 3000;

async fn store() -> Store {
    let mut config = quick();
    config.limits.split = SplitLimits {
        over_bytes: OVER as u64,
        part_bytes: PART as u64,
        at_once: 3,
    };
    Store::with(config).await
}

fn streamed(whole: &Bytes, chunk: usize) -> Body {
    let chunks: Vec<_> = whole
        .chunks(chunk)
        .map(|chunk| Ok::<_, std::io::Error>(whole.slice_ref(chunk)))
        .collect();
    Body::stream(stream::iter(chunks))
}

/// Returns the lengths of the blobs of an object.
async fn extents(store: &Store, key: &str) -> Vec<u64> {
    let id = cenotaph::ObjectId::try_from(key).unwrap();
    let row = Row::decode(
        &store
            .index
            .get(Table::Rows, id.encoded())
            .await
            .unwrap()
            .unwrap(),
    )
    .unwrap();
    let RowBody::Tombstone(manifest) = row.body else {
        panic!("the object is not in the blob tier")
    };
    manifest
        .extents()
        .iter()
        .map(|extent| extent.bytes)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payload_over_the_split_limit_reads_as_one_object() {
    let store = store().await;
    let part = PART as u64;
    for (bytes, known, unknown) in [
        (OVER, vec![OVER as u64], vec![OVER as u64]),
        (
            OVER + 1,
            vec![part, part, part, part, part, part, 2001],
            vec![OVER as u64, 1],
        ),
        (7 * PART, vec![part; 7], vec![OVER as u64, 1000]),
        (
            OVER + 2 * PART,
            vec![part, part, part, part, part, part, part, part, 2000],
            vec![OVER as u64, part, part],
        ),
    ] {
        let whole = payload(bytes as u64, bytes);
        for chunk in [1000, PART, 100_000] {
            for (promised, expected) in [(true, &known), (false, &unknown)] {
                let body = streamed(&whole, chunk);
                let body = if promised {
                    body.promise(bytes as u64)
                } else {
                    body
                };
                store.engine.put("k", body).await.unwrap();
                assert_eq!(
                    extents(&store, "k").await,
                    *expected,
                    "{bytes} in chunks of {chunk}"
                );
                assert!(store.bytes("k").await.unwrap() == whole);
                let head = store.engine.head("k").await.unwrap().unwrap();
                assert_eq!(
                    head.metadata.checksum,
                    Some(Checksum::of(&whole)),
                    "the checksum covers the whole object"
                );
            }
        }
    }
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_stream_records_more_revisions_as_it_grows() {
    let store = store().await;
    let whole = payload(1, OVER + 60 * PART);
    store
        .engine
        .put("k", streamed(&whole, 10_000))
        .await
        .unwrap();
    assert_eq!(extents(&store, "k").await.len(), 61);
    assert!(store.bytes("k").await.unwrap() == whole);
    // 1, then 8, 9, 18 and 36 more revisions: each is recorded before its blob is written (I1).
    assert_eq!(store.counts.put(Table::Changes), 5);
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failure_between_two_blobs_keeps_the_old_object() {
    let store = store().await;
    let old = payload(1, OVER + 5 * PART);
    let new = payload(2, OVER + 5 * PART);
    store.engine.put("k", old.clone()).await.unwrap();
    let promised = new.len() as u64;
    let cut_short = streamed(&new.slice(..OVER + PART), 1000).promise(promised);
    let breaks = stream::iter([Ok(new.clone()), Err("it breaks off")]);
    for body in [cut_short, Body::stream(breaks)] {
        assert_eq!(
            store.engine.put("k", body).await.unwrap_err().kind(),
            ErrorKind::Source
        );
    }
    for (op, fault) in [
        (Op::Write, Fault::Before),
        (Op::Close, Fault::Before),
        (Op::Close, Fault::After),
    ] {
        store.faults.fail(op, fault, 1);
        let error = store.engine.put("k", new.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{op:?} {fault:?}");
    }
    for sync_point in [
        SyncPoint::UploadMidStream,
        SyncPoint::UploadBeforeClose,
        SyncPoint::UploadAfterBlob,
        SyncPoint::UploadAfterClose,
    ] {
        let mut held = store.stage.hold(sync_point);
        let put = store.engine.put("k", new.clone());
        #[expect(
            clippy::disallowed_methods,
            reason = "the rule applies to code under test only"
        )]
        let put = tokio::spawn(async move { put.await });
        held.arrived().await;
        assert!(store.engine.kill(ActorKind::EveryUpload));
        assert_eq!(
            put.await.unwrap().unwrap_err().kind(),
            ErrorKind::Unavailable,
            "{sync_point:?}"
        );
    }
    assert!(store.bytes("k").await.unwrap() == old);
    store.assert_settled().await;
    assert_eq!(blobs(&store.blobs).await.len(), 12);
    assert_eq!(
        store.engine.put("k", new.clone()).await.unwrap().outcome,
        WriteOutcome::Applied
    );
    assert!(store.bytes("k").await.unwrap() == new);
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_begun_blob_is_closed_or_aborted() {
    for at_once in [1, 2, 3] {
        let mut config = quick();
        config.limits.split = SplitLimits {
            over_bytes: OVER as u64,
            part_bytes: PART as u64,
            at_once,
        };
        let store = Store::with(config).await;
        store.faults.fail(Op::Close, Fault::Before, 1);
        store
            .engine
            .put("k", payload(1, OVER + 20 * PART))
            .await
            .unwrap_err();
        let [begun, closed, given_up] =
            [Op::Write, Op::Close, Op::Abort].map(|op| store.faults.count(op));
        assert_eq!(
            begun,
            closed + given_up,
            "at_once={at_once}: each of these blobs takes a single write"
        );
        store.assert_settled().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_promise_leaves_few_orphans() {
    let store = store().await;
    let promised = 10_000 * PART as u64;
    let body = streamed(&payload(1, OVER), 1000).promise(promised);
    assert_eq!(
        store.engine.put("k", body).await.unwrap_err().kind(),
        ErrorKind::Source
    );
    store.assert_settled().await;
    // 1, then 8 revisions. Each becomes an orphan and is written again after its first deletion.
    assert!(
        store.counts.put(Table::Orphans) <= 2 * 9,
        "{}",
        store.counts.put(Table::Orphans)
    );
    let body = Body::stream(stream::empty::<Result<Bytes, std::io::Error>>()).promise(u64::MAX);
    let changes = store.counts.put(Table::Changes);
    assert_eq!(
        store.engine.put("k", body).await.unwrap_err().kind(),
        ErrorKind::Invalid,
        "a promise over the limit"
    );
    assert_eq!(
        store.counts.put(Table::Changes),
        changes,
        "no upload was begun"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn split_puts_with_little_memory_do_not_deadlock() {
    let mut config = quick();
    config.limits.split = SplitLimits {
        over_bytes: OVER as u64,
        part_bytes: PART as u64,
        at_once: 4,
    };
    config.limits.upload_bytes_in_flight = 1;
    let store = Store::with(config).await;
    let whole = payload(1, OVER + 30 * PART);
    let puts = (0..6).map(|nth| {
        let body = streamed(&whole, 1000);
        let body = if nth % 2 == 0 {
            body.promise(whole.len() as u64)
        } else {
            body
        };
        let put = store.engine.put(format!("k/{nth}"), body);
        async move { put.await }
    });
    futures::future::try_join_all(puts).await.unwrap();
    for nth in 0..6 {
        assert!(store.bytes(&format!("k/{nth}")).await.unwrap() == whole);
    }
    store.assert_settled().await;
}
