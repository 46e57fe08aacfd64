//! Large puts that are cut into several blobs: the same object, and as little left of one that
//! fails.

use bytes::Bytes;
use cenotaph::{ActorKind, Body, Checksum, ErrorKind, Outcome, SplitLimits};
use cenotaph_storage::Seam;
use cenotaph_storage::index::Table;
use cenotaph_storage::rows::{Body as RowBody, Row};
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

/// How long the blobs of an object are.
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
        panic!("it is large")
    };
    manifest
        .extents()
        .iter()
        .map(|extent| extent.bytes)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_over_the_limit_becomes_several_blobs_and_reads_as_one() {
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
                    "of the whole, although it is in parts"
                );
            }
        }
    }
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_stream_of_unknown_length_names_more_revisions_as_it_goes() {
    let store = store().await;
    let whole = payload(1, OVER + 60 * PART);
    store
        .engine
        .put("k", streamed(&whole, 10_000))
        .await
        .unwrap();
    assert_eq!(extents(&store, "k").await.len(), 61);
    assert!(store.bytes("k").await.unwrap() == whole);
    // 1, then 8 more, 9, 18 and 36: each recorded before it is written to (I1).
    assert_eq!(store.counts.put(Table::Changes), 5);
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_or_is_killed_between_two_blobs_leaves_the_old_object_and_nothing_else() {
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
    for seam in [
        Seam::UploadMidStream,
        Seam::UploadBeforeClose,
        Seam::UploadAfterBlob,
        Seam::UploadAfterClose,
    ] {
        let mut held = store.stage.hold(seam);
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
            "{seam:?}"
        );
    }
    assert!(store.bytes("k").await.unwrap() == old);
    store.assert_settled().await;
    assert_eq!(blobs(&store.blobs).await.len(), 12);
    assert_eq!(
        store.engine.put("k", new.clone()).await.unwrap().outcome,
        Outcome::Applied
    );
    assert!(store.bytes("k").await.unwrap() == new);
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_was_begun_is_closed_or_given_up_whatever_fails_beside_it() {
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
            "at_once={at_once}: each of these blobs takes one write"
        );
        store.assert_settled().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_promises_much_and_breaks_off_leaves_few_orphans() {
    let store = store().await;
    let promised = 10_000 * PART as u64;
    let body = streamed(&payload(1, OVER), 1000).promise(promised);
    assert_eq!(
        store.engine.put("k", body).await.unwrap_err().kind(),
        ErrorKind::Source
    );
    store.assert_settled().await;
    // 1, then 8: an orphan each, put again when it is deleted for the first time.
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
        "it can't be kept"
    );
    assert_eq!(
        store.counts.put(Table::Changes),
        changes,
        "nothing was begun"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_puts_that_share_little_memory_do_not_wait_for_each_other() {
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
