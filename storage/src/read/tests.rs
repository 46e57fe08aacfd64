//! Tests of reads: returned bytes, pins, and reads of a store that changes concurrently.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;

use super::fixture::{Store, id, inline, payload};
use super::*;
use crate::checksum::BLOCK_BYTES;
use crate::index::Batch;
use crate::swap::Mutation;

pub(super) const BLOCK: u64 = BLOCK_BYTES as u64;

/// Returns limits with a block per unit and a single unit under way.
fn one_by_one() -> ReadLimits {
    ReadLimits {
        read_ahead: 1,
        unit_blocks: 1,
        ..ReadLimits::default()
    }
}

pub(super) async fn read(
    store: &Store,
    key: &str,
    range: impl Into<ByteRange>,
) -> Result<Option<Bytes>> {
    match store.reads.open(&id(key), range.into()).await? {
        Some(object) => object.bytes(usize::MAX).await.map(Some),
        None => Ok(None),
    }
}

#[tokio::test]
async fn every_range_of_every_kind_of_body_is_read() {
    let plenty = ReadLimits::default().bytes_in_flight;
    for (read_ahead, unit_blocks, bytes_in_flight) in [
        (0, 1, plenty),
        (1, 1, plenty),
        (2, 4, plenty),
        (5, 2, plenty),
        (5, 1, 2 * BLOCK),
        (5, 2, 3 * BLOCK),
        (3, 1, 1),
    ] {
        let store = Store::new(ReadLimits {
            read_ahead,
            unit_blocks,
            bytes_in_flight,
            ..ReadLimits::default()
        });
        let parts = [
            payload(BLOCK_BYTES + 9, 1),
            payload(1, 2),
            Bytes::new(),
            payload(3 * BLOCK_BYTES, 3),
        ];
        let whole = payload(2 * BLOCK_BYTES + 1, 4);
        let stored = [
            ("empty", payload(0, 5)),
            ("embedded", payload(4096, 6)),
            ("separate", payload(4097, 7)),
        ];
        stored
            .iter()
            .for_each(|(key, payload)| store.apply(&id(key), inline(payload.clone())));
        store
            .put_parts(&id("one"), std::slice::from_ref(&whole))
            .await;
        store.put_parts(&id("many"), &parts).await;
        let objects = stored
            .into_iter()
            .chain([("one", whole), ("many", parts.concat().into())]);
        for (key, bytes) in objects {
            let total = bytes.len() as u64;
            let edges = [
                0,
                1,
                4095,
                BLOCK - 1,
                BLOCK,
                BLOCK + 9,
                BLOCK + 10,
                BLOCK + 11,
                2 * BLOCK,
                total,
            ];
            let ranges = edges
                .into_iter()
                .flat_map(|a| edges.into_iter().map(move |b| a..b))
                .map(ByteRange::from);
            for range in ranges.chain([
                ByteRange::Full,
                ByteRange::Last(7),
                ByteRange::Last(BLOCK + 3),
            ]) {
                let expected = range.resolve(total).map(|range| {
                    bytes.slice(
                        usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap(),
                    )
                });
                match (read(&store, key, range).await, expected) {
                    (Ok(read), Ok(expected)) => {
                        assert!(read.unwrap() == expected, "{key} {range:?}");
                    }
                    (read, expected) => {
                        assert_eq!(
                            read.unwrap_err().kind(),
                            expected.unwrap_err().kind(),
                            "{key} {range:?}"
                        );
                    }
                }
            }
        }
        assert_eq!(
            (store.reads.stats(), store.pins.len()),
            (ReadStats::default(), 0)
        );
    }
}

#[tokio::test]
async fn absent_object_is_none() {
    let store = Store::new(ReadLimits::default());
    assert_eq!(store.reads.head(&id("a")).await.unwrap(), None);
    assert_eq!(read(&store, "a", 3..9).await.unwrap(), None);
}

#[tokio::test]
async fn head_needs_no_blob_tier() {
    let store = Store::new(ReadLimits::default());
    let revisions = store.put_parts(&id("a"), &[payload(77, 1)]).await;
    store.lose_blob(&id("a"), revisions[0]).await;
    let head = store.reads.head(&id("a")).await.unwrap().unwrap();
    let row = store.row(&id("a")).unwrap();
    assert_eq!(
        head,
        Head {
            id: id("a"),
            version: Version::new(1),
            etag: row.etag(),
            metadata: row.metadata
        }
    );
    assert_eq!(head.metadata.size, 77);
}

#[tokio::test]
async fn inline_payload_is_returned_without_a_copy() {
    let store = Store::new(ReadLimits::default());
    store.apply(&id("a"), inline(payload(9000, 1)));
    let row = store.row(&id("a")).unwrap();
    let stored = store
        .index
        .get(Table::Payloads, row.operation.as_bytes())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        read(&store, "a", 10..20).await.unwrap().unwrap().as_ptr(),
        stored[10..].as_ptr()
    );
}

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

/// For all kinds of old and new bodies, a write between any two reads of the index yields either
/// the old or the new bytes.
#[tokio::test]
async fn write_between_two_index_reads_is_seen_wholly_or_not() {
    let store = Store::new(ReadLimits::default());
    let object = id("a");
    let bodies = [
        payload(10, 1),
        payload(9000, 2),
        payload(BLOCK_BYTES + 1, 3),
    ];
    let put = async |body: &Bytes| match body.len() {
        0..=9000 => inline(body.clone()),
        _ => store.parts(&object, std::slice::from_ref(body)).await,
    };
    for old in &bodies {
        for new in bodies
            .iter()
            .map(|body| body.slice(1..))
            .chain([Bytes::new()])
        {
            for moment in 0..6 {
                store.apply(&object, Mutation::Delete);
                store.apply(&object, put(old).await);
                let mutation = if new.is_empty() {
                    Mutation::Delete
                } else {
                    put(&new).await
                };
                let mut batch = Some(store.batch(&object, mutation));
                store
                    .index
                    .intrude(move |nth| if nth == moment { batch.take() } else { None });
                let found = read(&store, "a", ..).await.unwrap().unwrap_or_default();
                store.index.intrude(|_| None);
                assert!(
                    found == old || found == new,
                    "old={} new={} moment={moment}",
                    old.len(),
                    new.len()
                );
            }
        }
    }
    assert_eq!(
        (store.reads.stats(), store.pins.len()),
        (ReadStats::default(), 0)
    );
}

/// I8: the sweeper checks the pins after the row is replaced. So either the sweeper finds the pin,
/// or the reader finds the new row.
#[tokio::test]
async fn revisions_are_pinned_before_the_row_is_read_again() {
    let store = Store::new(ReadLimits::default());
    let revisions = store
        .put_parts(&id("a"), &[payload(10, 1), payload(10, 2)])
        .await;
    let pins = store.pins.clone();
    let named = revisions.clone();
    store.index.intrude(move |nth| {
        assert_eq!(
            named.iter().all(|&revision| pins.is_pinned(revision)),
            nth == 1,
            "read {nth}"
        );
        None
    });
    let object = store
        .reads
        .open(&id("a"), ByteRange::Full)
        .await
        .unwrap()
        .unwrap();
    assert!(
        revisions
            .iter()
            .all(|&revision| store.pins.is_pinned(revision))
    );
    drop(object);
    assert!(store.pins.is_empty());
}

/// I8, for a sweeper that deletes every unpinned revision as soon as the row is replaced.
#[tokio::test]
async fn open_object_sees_one_revision_to_its_end() {
    let store = Store::new(one_by_one());
    let old = payload(5 * BLOCK_BYTES, 1);
    let revision = store.put_parts(&id("a"), std::slice::from_ref(&old)).await[0];
    let mut object = store
        .reads
        .open(&id("a"), ByteRange::Full)
        .await
        .unwrap()
        .unwrap();
    let mut read = object.next().await.unwrap().unwrap().to_vec();
    store.apply(&id("a"), inline("new"));
    assert!(store.pins.is_pinned(revision), "the sweeper skips the revision");
    while let Some(bytes) = object.next().await.unwrap() {
        read.extend_from_slice(&bytes);
    }
    assert!(
        read == old && !store.pins.is_pinned(revision),
        "a completed read holds no pin"
    );
    assert_eq!(object.next().await.unwrap(), None);
}

#[tokio::test]
async fn object_replaced_at_every_attempt_is_unavailable() {
    let store = Store::new(ReadLimits {
        attempts: 3,
        ..ReadLimits::default()
    });
    store.put_parts(&id("a"), &[payload(10, 1)]).await;
    let mutation = store.parts(&id("a"), &[payload(10, 2)]).await;
    let writer = store.clone();
    store.index.intrude(move |nth| {
        assert!(nth < 6, "the read ends after 3 attempts");
        let Mutation::Tombstone {
            manifest,
            checksum,
            blocks,
            attributes,
            ..
        } = mutation.clone()
        else {
            unreachable!()
        };
        let standing = crate::swap::Standing::Present(Box::new(writer.row(&id("a")).unwrap()));
        let expected = standing.expectation(writer.env.now());
        Some(writer.batch(
            &id("a"),
            Mutation::Tombstone {
                manifest,
                checksum,
                blocks,
                attributes,
                expected,
            },
        ))
    });
    let error = read(&store, "a", ..).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.id()),
        (ErrorKind::Unavailable, Some(&id("a")))
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
    let current = crate::Current {
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
    let owner = store.env.store_id();
    store.reads.blobs().write_marker(owner).await.unwrap();
    store.reads.blobs().belongs_to(owner);
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

#[tokio::test]
async fn collecting_more_than_the_limit_is_invalid() {
    let store = Store::new(ReadLimits::default());
    store.apply(&id("a"), inline(payload(10, 1)));
    let open = async || {
        store
            .reads
            .open(&id("a"), ByteRange::Full)
            .await
            .unwrap()
            .unwrap()
    };
    assert_eq!(
        open().await.bytes(9).await.unwrap_err().kind(),
        ErrorKind::Invalid
    );
    assert_eq!(open().await.bytes(10).await.unwrap(), payload(10, 1));
}

#[tokio::test]
async fn open_object_can_be_sent_to_another_task() {
    let store = Store::new(ReadLimits::default());
    store.put_parts(&id("a"), &[payload(10, 1)]).await;
    let object = store
        .reads
        .open(&id("a"), ByteRange::Full)
        .await
        .unwrap()
        .unwrap();
    let done = std::sync::Arc::new(AtomicBool::new(false));
    let flag = done.clone();
    let (sender, receiver) = tokio::sync::oneshot::channel();
    store.env.spawn(async move {
        let bytes: Vec<_> = object.into_stream().collect().await;
        flag.store(bytes.len() == 1, Ordering::Relaxed);
        let _ = sender.send(());
    });
    receiver.await.unwrap();
    assert!(done.load(Ordering::Relaxed));
}

#[tokio::test]
async fn deadline_extended_in_a_pending_batch_counts() {
    let store = Store::new(ReadLimits::default());
    store.apply(&id("a"), inline(payload(10, 1)));
    let now = store.env.now();
    let with_deadline = |deadline| {
        let mut row = store.row(&id("a")).unwrap();
        row.metadata.expires_at = Some(deadline);
        let mut batch = Batch::new();
        batch.put(Table::Rows, id("a").encoded().clone(), row.encode());
        batch
    };
    let expired = with_deadline(now);
    let extended = with_deadline(now.after(Duration::from_secs(3600)));
    let request = || crate::ListRequest {
        namespace: id("a").namespace(),
        prefix: String::new(),
        delimiter: None,
        start_after: None,
        limit: 10,
        on_damage: crate::OnDamage::Fail,
    };
    store.index.apply(expired.clone());
    assert!(
        store.reads.head(&id("a")).await.unwrap().is_none(),
        "the object has expired, and no batch extends it"
    );
    assert!(
        store
            .reads
            .list(request())
            .await
            .unwrap()
            .entries
            .is_empty()
    );

    store.index.delay(extended.clone());
    assert!(store.reads.head(&id("a")).await.unwrap().is_some());

    store.index.apply(expired);
    store.index.delay(extended);
    assert_eq!(store.reads.list(request()).await.unwrap().entries.len(), 1);
}
