//! Tests of reads: returned bytes, pins, and reads of a store that changes concurrently.

mod budget;
mod damage;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;

use super::fixture::{Store, id, inline, payload};
use super::*;
use crate::decide::Mutation;
use crate::index::Batch;
use crate::types::{BLOCK_BYTES, Version};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// Returns limits with a block per unit and a single unit under way.
fn one_by_one() -> ReadLimits {
    ReadLimits {
        read_ahead: 1,
        unit_blocks: 1,
        ..ReadLimits::default()
    }
}

async fn read(store: &Store, key: &str, range: impl Into<ByteRange>) -> Result<Option<Bytes>> {
    match store.reads.open(&id(key), range.into()).await? {
        Some(object) => object.bytes(usize::MAX).await.map(Some),
        None => Ok(None),
    }
}

/// Puts objects of all kinds of bodies, and returns their keys and bytes.
async fn put_all_kinds(store: &Store) -> Vec<(&'static str, Bytes)> {
    let inlined = [
        ("empty", payload(0, 5)),
        ("embedded", payload(4096, 6)),
        ("separate", payload(4097, 7)),
    ];
    for (key, payload) in &inlined {
        store.apply(&id(key), inline(payload.clone()));
    }
    let whole = payload(2 * BLOCK_BYTES + 1, 4);
    store
        .put_parts(&id("one"), std::slice::from_ref(&whole))
        .await;
    let parts = [
        payload(BLOCK_BYTES + 9, 1),
        payload(1, 2),
        Bytes::new(),
        payload(3 * BLOCK_BYTES, 3),
    ];
    store.put_parts(&id("many"), &parts).await;
    inlined
        .into_iter()
        .chain([("one", whole), ("many", parts.concat().into())])
        .collect()
}

/// Returns ranges that begin and end at, before and behind the borders of blocks and parts.
fn ranges(total: u64) -> impl Iterator<Item = ByteRange> {
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
    edges
        .into_iter()
        .flat_map(move |a| edges.into_iter().map(move |b| a..b))
        .map(ByteRange::from)
        .chain([
            ByteRange::Full,
            ByteRange::Last(7),
            ByteRange::Last(BLOCK + 3),
        ])
}

async fn assert_all_ranges(store: &Store, key: &str, bytes: &Bytes) {
    let total = bytes.len() as u64;
    for range in ranges(total) {
        let expected = range.resolve(total).map(|range| {
            bytes.slice(usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap())
        });
        match (read(store, key, range).await, expected) {
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
        for (key, bytes) in put_all_kinds(&store).await {
            assert_all_ranges(&store, key, &bytes).await;
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
        ObjectMeta {
            id: id("a"),
            version: Some(Version::new(1)),
            etag: Some(row.etag()),
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

/// A relocated row keeps its operation, and names other revisions.
#[tokio::test]
async fn relocation_between_two_index_reads_is_not_seen() {
    let store = Store::new(ReadLimits::default());
    let object = id("a");
    let whole = payload(2 * BLOCK_BYTES, 1);
    for moment in 0..4 {
        let halves = [whole.slice(..BLOCK_BYTES), whole.slice(BLOCK_BYTES..)];
        let copied = store.put_parts(&object, &halves).await;
        let copies = store.parts(&object, std::slice::from_ref(&whole)).await;
        let Mutation::Tombstone {
            manifest, blocks, ..
        } = copies
        else {
            unreachable!("the parts are in the blob tier")
        };
        let relocation = Mutation::Relocate {
            manifest,
            blocks,
            copied,
        };
        let mut batch = Some(store.batch(&object, relocation));
        store
            .index
            .intrude(move |nth| if nth == moment { batch.take() } else { None });
        let found = read(&store, "a", ..).await.unwrap().unwrap();
        store.index.intrude(|_| None);
        assert!(found == whole, "moment={moment}");
    }
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
    assert!(
        store.pins.is_pinned(revision),
        "the sweeper skips the revision"
    );
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
        let row_state = crate::decide::RowState::Present(Box::new(writer.row(&id("a")).unwrap()));
        let expected = row_state.expectation(writer.env.steady_now());
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
    let now = store.env.steady_now();
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
