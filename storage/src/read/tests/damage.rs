//! Tests of reads of damaged stores: missing and damaged payloads, checksums and blobs.

use std::time::Duration;

use futures::StreamExt;

use super::*;
use crate::index::Batch;
use crate::types::BLOCK_BYTES;

#[tokio::test]
async fn damaged_inline_payload_is_corrupt_and_names_the_object() {
    let store = Store::new(ReadLimits::default());
    store.apply(&id("a"), inline(payload(9000, 1)));
    let operation = store.row(&id("a")).unwrap().operation;
    for damaged in [payload(9000, 2), payload(8999, 1), payload(0, 1)] {
        let mut batch = Batch::new();
        batch.put(Table::Payloads, operation.as_bytes().to_vec(), damaged);
        store.index.apply(batch);
        let error = read(&store, "a", 0..1).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.id()),
            (ErrorKind::Corrupt, Some(&id("a")))
        );
    }
    assert_eq!(store.reads.stats().corrupt_blocks, 3);
}

#[tokio::test]
async fn payload_or_checksums_missing_in_the_index_is_corrupt() {
    let store = Store::new(ReadLimits::default());
    store.apply(&id("inline"), inline(payload(9000, 1)));
    let revision = store.put_parts(&id("large"), &[payload(9000, 1)]).await[0];
    let mut batch = Batch::new();
    batch.remove(
        Table::Payloads,
        store
            .row(&id("inline"))
            .unwrap()
            .operation
            .as_bytes()
            .to_vec(),
    );
    batch.put(
        Table::Payloads,
        revision.as_bytes().to_vec(),
        BlockChecksums::default().encode(),
    );
    store.index.apply(batch);
    assert_eq!(
        read(&store, "inline", ..).await.unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    assert_eq!(
        read(&store, "large", ..).await.unwrap_err().kind(),
        ErrorKind::Corrupt,
        "too few checksums"
    );
    let mut batch = Batch::new();
    batch.remove(Table::Payloads, revision.as_bytes().to_vec());
    store.index.apply(batch);
    assert_eq!(
        read(&store, "large", ..).await.unwrap_err().kind(),
        ErrorKind::Corrupt,
        "no checksums"
    );
    assert!(store.pins.is_empty());
}

#[tokio::test]
async fn missing_blob_is_corrupt_and_is_counted() {
    let store = Store::new(ReadLimits::default());
    let revision = store.put_parts(&id("a"), &[payload(10, 1)]).await[0];
    store.lose_blob(&id("a"), revision).await;
    let error = read(&store, "a", ..).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.id()),
        (ErrorKind::Corrupt, Some(&id("a")))
    );
    assert!(error.to_string().contains(&format!(
        "missing blob: the row names it, but it is not in the blob tier: revision={revision}"
    )));
    let row = store.row(&id("a")).unwrap();
    let current = crate::ObjectVersion {
        version: row.version,
        etag: row.etag(),
    };
    assert_eq!(error.reason(), Some(crate::Reason::MissingBlob { current }));
    assert_eq!(
        store.reads.stats(),
        ReadStats {
            missing_blobs: 1,
            corrupt_blocks: 0
        }
    );
    assert!(store.pins.is_empty());
}

#[tokio::test]
async fn missing_blob_of_a_replaced_row_is_read_again() {
    let store = Store::new(ReadLimits::default());
    let revision = store.put_parts(&id("a"), &[payload(10, 1)]).await[0];
    store.lose_blob(&id("a"), revision).await;
    let mut batch = Some(store.batch(&id("a"), inline("new")));
    store
        .index
        .intrude(move |nth| if nth == 2 { batch.take() } else { None });
    assert_eq!(read(&store, "a", ..).await.unwrap().unwrap(), "new");
    assert_eq!(store.reads.stats(), ReadStats::default());
}

#[tokio::test]
async fn blob_missing_midway_fails_the_stream_for_good() {
    let store = Store::new(one_by_one());
    let revisions = store
        .put_parts(&id("a"), &[payload(10, 1), payload(10, 2)])
        .await;
    store.lose_blob(&id("a"), revisions[1]).await;
    let mut object = store
        .reads
        .open(&id("a"), ByteRange::Full)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(object.next().await.unwrap().unwrap(), payload(10, 1));
    for _ in 0..2 {
        let error = object.next().await.unwrap_err();
        assert_eq!(
            (error.kind(), error.id()),
            (ErrorKind::Corrupt, Some(&id("a")))
        );
        assert!(
            error.to_string().contains(&revisions[1].to_string()),
            "the error names the revision: {error}"
        );
    }
    assert!(store.pins.is_empty(), "a failed read holds no pin");
    assert_eq!(store.reads.stats().missing_blobs, 1);

    let object = store
        .reads
        .open(&id("a"), ByteRange::Full)
        .await
        .unwrap()
        .unwrap();
    let items: Vec<_> = object.into_stream().collect().await;
    assert_eq!(
        items.iter().map(Result::is_ok).collect::<Vec<_>>(),
        [true, false]
    );
}

#[tokio::test]
async fn blob_missing_midway_of_a_replaced_object_is_unavailable() {
    let store = Store::new(one_by_one());
    let revisions = store
        .put_parts(&id("a"), &[payload(10, 1), payload(10, 2)])
        .await;
    store.lose_blob(&id("a"), revisions[1]).await;
    let mut object = store
        .reads
        .open(&id("a"), ByteRange::Full)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(object.next().await.unwrap().unwrap(), payload(10, 1));
    store.apply(&id("a"), inline("new"));
    let error = object.next().await.unwrap_err();
    assert_eq!(
        (error.kind(), error.id()),
        (ErrorKind::Unavailable, Some(&id("a"))),
        "reading again succeeds"
    );
    assert_eq!(store.reads.stats(), ReadStats::default());
}

#[tokio::test]
async fn wrong_bytes_are_never_returned() {
    let store = Store::new(ReadLimits {
        unit_blocks: 1,
        ..ReadLimits::default()
    });
    let good = payload(2 * BLOCK_BYTES + 5, 1);
    let revision = store.put_parts(&id("a"), std::slice::from_ref(&good)).await[0];
    let mut damaged = good.to_vec();
    damaged[BLOCK_BYTES + 7] ^= 1;
    store.write_blob(&id("a"), revision, damaged.into()).await;
    assert_eq!(
        read(&store, "a", ..BLOCK).await.unwrap().unwrap(),
        good[..BLOCK_BYTES]
    );
    assert_eq!(
        read(&store, "a", 2 * BLOCK..).await.unwrap().unwrap(),
        good[2 * BLOCK_BYTES..]
    );
    for range in [
        ByteRange::from(BLOCK..BLOCK + 1),
        ByteRange::Full,
        ByteRange::Last(6),
    ] {
        let error = read(&store, "a", range).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.id()),
            (ErrorKind::Corrupt, Some(&id("a"))),
            "{range:?}"
        );
    }
    assert_eq!(
        store.reads.stats(),
        ReadStats {
            missing_blobs: 0,
            corrupt_blocks: 3
        }
    );
}

#[tokio::test]
async fn blob_that_is_too_short_is_corrupt() {
    let store = Store::new(ReadLimits::default());
    let revision = store
        .put_parts(&id("a"), &[payload(BLOCK_BYTES + 5, 1)])
        .await[0];
    for bytes in [BLOCK_BYTES + 4, BLOCK_BYTES, 0] {
        store
            .write_blob(&id("a"), revision, payload(bytes, 1))
            .await;
        assert_eq!(
            read(&store, "a", ..).await.unwrap_err().kind(),
            ErrorKind::Corrupt,
            "bytes={bytes}"
        );
    }
}

/// Any poll of a read may be the last poll before the future is dropped.
#[tokio::test]
async fn dropped_call_does_not_skip_a_missing_blob() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::on(crate::blobs::local(dir.path()).unwrap(), one_by_one());
    let owner = store.env.store_id().into();
    let tier = store.reads.blobs().current();
    tier.write_marker(owner).await.unwrap();
    tier.belongs_to(owner);
    let revisions = store
        .put_parts(&id("a"), &[payload(10, 1), payload(10, 2), payload(10, 3)])
        .await;
    store.lose_blob(&id("a"), revisions[1]).await;
    let mut object = store
        .reads
        .open(&id("a"), ByteRange::Full)
        .await
        .unwrap()
        .unwrap();
    let mut read = 0;
    let mut dropped = 0;
    while dropped < 10 {
        match futures::poll!(Box::pin(object.next())) {
            std::task::Poll::Pending => {
                dropped += 1;
                store.env.sleep(Duration::from_millis(5)).await;
            }
            std::task::Poll::Ready(Ok(Some(block))) => read += block.len(),
            std::task::Poll::Ready(Ok(None)) => panic!("success with {read} of 30 bytes"),
            std::task::Poll::Ready(Err(_)) => break,
        }
    }
    assert_eq!(object.next().await.unwrap_err().kind(), ErrorKind::Corrupt);
}
