//! Tests of the memory budget of reads: slow readers cost others only their read-ahead, and all
//! waits end.

use std::time::Duration;

use super::*;
use crate::read::fetch::TAKEN_WITHIN;
use crate::types::BLOCK_BYTES;

/// The budget has room for a single unit. Readers that never take their unit must not keep it. The
/// blobs are on a local file system, where a fetch waits for its bytes. So the next fetch is in the
/// queue for permits when its stream is last polled.
#[tokio::test]
async fn slow_readers_do_not_block_other_readers() {
    let limits = ReadLimits {
        read_ahead: 3,
        unit_blocks: 1,
        bytes_in_flight: BLOCK,
        ..ReadLimits::default()
    };
    let dir = tempfile::tempdir().unwrap();
    let store = Store::on(crate::blobs::local(dir.path()).unwrap(), limits);
    let bytes = payload(8 * BLOCK_BYTES, 1);
    store
        .put_parts(&id("a"), std::slice::from_ref(&bytes))
        .await;
    let everything = async {
        let mut slow = Vec::new();
        for _ in 0..5 {
            slow.push(
                store
                    .reads
                    .open(&id("a"), ByteRange::Full)
                    .await
                    .unwrap()
                    .unwrap(),
            );
        }
        assert!(read(&store, "a", ..).await.unwrap().unwrap() == bytes);
        for object in slow {
            assert!(object.bytes(usize::MAX).await.unwrap() == bytes);
        }
    };
    store
        .env
        .deadline(Duration::from_secs(30), everything)
        .await
        .expect("no deadlock between readers");
}

/// Any number of slow readers stays within the budget. Some of them have taken nothing yet, others
/// a block.
#[tokio::test]
async fn slow_readers_stay_within_the_budget() {
    let limits = ReadLimits {
        bytes_in_flight: 8 * BLOCK,
        ..ReadLimits::default()
    };
    let dir = tempfile::tempdir().unwrap();
    let store = Store::on(crate::blobs::local(dir.path()).unwrap(), limits);
    let bytes = payload(6 * BLOCK_BYTES, 1);
    store
        .put_parts(&id("a"), std::slice::from_ref(&bytes))
        .await;
    let everything = async {
        let mut slow = Vec::new();
        for nth in 0..40 {
            let mut object = store
                .reads
                .open(&id("a"), ByteRange::Full)
                .await
                .unwrap()
                .unwrap();
            if nth % 2 == 0 {
                assert_eq!(object.next().await.unwrap().unwrap(), bytes[..BLOCK_BYTES]);
            }
            slow.push(object);
        }
        let usage = store.reads.usage();
        assert_eq!((usage.open, usage.waiting), (40, 0));
        assert!(usage.bytes <= 8 * BLOCK, "{usage:?}");
        let held: usize = slow.iter().map(OpenObject::bytes_at_hand).sum();
        assert!(
            held as u64 <= 6 * BLOCK,
            "{held} bytes are held, more than three quarters of the budget"
        );
        for (nth, object) in slow.into_iter().enumerate() {
            let expected = if nth % 2 == 0 {
                &bytes[BLOCK_BYTES..]
            } else {
                &bytes[..]
            };
            assert!(
                object.bytes(usize::MAX).await.unwrap() == expected,
                "reader {nth}"
            );
        }
    };
    store
        .env
        .deadline(Duration::from_secs(30), everything)
        .await
        .expect("no deadlock between readers");
    assert_eq!(
        (store.reads.usage().open, store.reads.usage().bytes),
        (0, 0)
    );
}

#[tokio::test]
async fn too_many_open_objects_are_overloaded() {
    let store = Store::new(ReadLimits {
        open_at_once: 2,
        ..ReadLimits::default()
    });
    store.apply(&id("inline"), inline("a"));
    store.apply(&id("empty"), inline(""));
    store
        .put_parts(&id("large"), &[payload(2 * BLOCK_BYTES, 1)])
        .await;
    let open = async |key: &str| store.reads.open(&id(key), ByteRange::Full).await;
    let mut small = open("inline").await.unwrap().unwrap();
    let large = open("large").await.unwrap().unwrap();
    let error = open("inline").await.unwrap_err();
    assert_eq!(
        (error.kind(), error.id()),
        (ErrorKind::Overloaded, Some(&id("inline")))
    );
    assert!(
        store.reads.head(&id("inline")).await.unwrap().is_some(),
        "a read of the head opens no object"
    );
    small.next().await.unwrap();
    let _empty = open("empty").await.unwrap();
    assert!(open("absent").await.unwrap().is_none());
    let again = open("inline").await.unwrap();
    drop(large);
    assert!(open("large").await.is_ok());
    drop(again);
}

/// If the blob tier does not respond, reads that wait for the memory of another read fail in time.
#[tokio::test]
async fn wait_for_memory_ends_as_overloaded() {
    let limits = ReadLimits {
        bytes_in_flight: 1,
        budget_wait: Duration::from_millis(50),
        ..ReadLimits::default()
    };
    let store = Store::new(limits);
    store.put_parts(&id("a"), &[payload(BLOCK_BYTES, 1)]).await;
    let all = store
        .reads
        .0
        .budget
        .demand(&store.env, BLOCK)
        .await
        .unwrap();
    let error = read(&store, "a", ..).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.id()),
        (ErrorKind::Overloaded, Some(&id("a")))
    );
    drop(all);
    assert!(read(&store, "a", ..).await.is_ok());
}

/// Any poll of a read may be the last poll before the future is dropped.
#[tokio::test]
async fn dropped_call_loses_no_bytes() {
    let limits = ReadLimits {
        bytes_in_flight: 4 * BLOCK,
        ..ReadLimits::default()
    };
    let dir = tempfile::tempdir().unwrap();
    let store = Store::on(crate::blobs::local(dir.path()).unwrap(), limits);
    let bytes = payload(9 * BLOCK_BYTES, 1);
    store
        .put_parts(&id("a"), std::slice::from_ref(&bytes))
        .await;
    let mut object = store
        .reads
        .open(&id("a"), ByteRange::Full)
        .await
        .unwrap()
        .unwrap();
    let mut read = Vec::new();
    let mut dropped = 0;
    loop {
        match futures::poll!(Box::pin(object.next())) {
            std::task::Poll::Pending => {
                dropped += 1;
                tokio::task::yield_now().await;
            }
            std::task::Poll::Ready(Ok(Some(block))) => read.extend_from_slice(&block),
            std::task::Poll::Ready(end) => break assert!(end.unwrap().is_none()),
        }
    }
    assert!(read == bytes && dropped > 0, "dropped={dropped}");
}

/// Readers request a unit and then do nothing. The fetch for which they wait progresses, and its
/// bytes are within the budget or are dropped.
#[tokio::test]
async fn untaken_bytes_fetched_on_demand_stay_within_the_budget() {
    let limits = ReadLimits {
        bytes_in_flight: 8 * BLOCK,
        ..ReadLimits::default()
    };
    let dir = tempfile::tempdir().unwrap();
    let store = Store::on(crate::blobs::local(dir.path()).unwrap(), limits);
    let bytes = payload(6 * BLOCK_BYTES, 1);
    store
        .put_parts(&id("a"), std::slice::from_ref(&bytes))
        .await;
    let mut slow = Vec::new();
    for _ in 0..24 {
        slow.push(
            store
                .reads
                .open(&id("a"), ByteRange::Full)
                .await
                .unwrap()
                .unwrap(),
        );
    }
    for object in &mut slow {
        drop(futures::poll!(Box::pin(object.next())));
    }
    // All readers have fetched, two at a time, and no reader has taken its bytes.
    store.env.sleep(Duration::from_secs(2)).await;
    while store.reads.usage().waiting > 0 {
        store.env.sleep(Duration::from_millis(50)).await;
    }
    // The last fetches end, and their bytes are dropped. Both take longer on a busy machine.
    let mut held = None;
    while held != Some(store.reads.usage().bytes) {
        held = Some(store.reads.usage().bytes);
        store.env.sleep(2 * TAKEN_WITHIN).await;
    }
    let mut ready = 0;
    for object in &mut slow {
        if let std::task::Poll::Ready(Ok(Some(block))) = futures::poll!(Box::pin(object.next())) {
            ready += block.len() as u64;
        }
    }
    assert!(ready <= 8 * BLOCK, "{ready} bytes were ready");
    for object in slow {
        drop(object.bytes(usize::MAX).await.unwrap());
    }
    assert_eq!(store.reads.usage().bytes, 0);
}

#[tokio::test]
async fn scrub_without_memory_reports_no_damage() {
    let limits = ReadLimits {
        bytes_in_flight: 1,
        budget_wait: Duration::from_millis(20),
        ..ReadLimits::default()
    };
    let store = Store::new(limits);
    store.put_parts(&id("a"), &[payload(BLOCK_BYTES, 1)]).await;
    let all = store
        .reads
        .0
        .budget
        .demand(&store.env, BLOCK)
        .await
        .unwrap();
    let env = store.env.clone();
    store.env.spawn(async move {
        env.sleep(Duration::from_millis(300)).await;
        drop(all);
    });
    let mut walk = crate::scrub::ScrubWalk::new(
        store.reads.clone(),
        crate::scrub::ScrubOptions::default(),
        None,
    );
    let mut found = Vec::new();
    while let Some(page) = walk.step().await.unwrap() {
        found.extend(page.into_iter().map(|finding| finding.damage.to_string()));
    }
    assert!(found.is_empty(), "{found:?}");
}

#[tokio::test]
async fn unit_larger_than_the_budget_is_fetched() {
    let store = Store::new(ReadLimits {
        bytes_in_flight: 1,
        ..ReadLimits::default()
    });
    let bytes = payload(5 * BLOCK_BYTES, 1);
    store
        .put_parts(&id("a"), std::slice::from_ref(&bytes))
        .await;
    assert!(read(&store, "a", ..).await.unwrap().unwrap() == bytes);
}
