//! Tests on real files: removed data frees disk space.

#![cfg(unix)]

use std::fs;
use std::path::Path;

use super::*;
use crate::index::Range;

const PAYLOAD_BYTES: usize = 600_000;

fn store(number: u32, bytes: usize) -> Batch {
    let mut batch = Batch::new();
    batch.put(Table::Rows, format!("k{number:05}"), "row");
    // Incompressible, and different for each number.
    let words = (0..bytes / 8)
        .map(|at| (at as u64 ^ u64::from(number) << 32).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let payload: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    batch.put(Table::Payloads, format!("p{number:05}"), payload);
    batch
}

fn remove(number: u32) -> Batch {
    let mut batch = Batch::new();
    batch.remove(Table::Rows, format!("k{number:05}"));
    batch.remove(Table::Payloads, format!("p{number:05}"));
    batch
}

async fn commit(index: &FjallIndex, batch: Batch) -> Result<()> {
    if !batch.releases() {
        index.room(batch.bytes() as u64)?;
    }
    let (sender, outcome) = tokio::sync::oneshot::channel();
    index.submit(
        batch,
        Box::new(move |committed| drop(sender.send(committed))),
    );
    outcome.await.unwrap().map_err(CommitError::into_error)
}

/// Returns the allocated bytes of all files below a directory, without holes.
fn taken(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let allocated = |entry: fs::DirEntry| match entry.metadata().unwrap() {
        metadata if metadata.is_dir() => taken(&entry.path()),
        metadata => metadata.blocks() * 512,
    };
    entries.map(allocated).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_payloads_free_their_space() {
    let dir = tempfile::tempdir().unwrap();
    let open =
        || FjallIndex::open(dir.path(), Env::real().unwrap(), FjallOptions::default()).unwrap();
    let index = open();
    let payloads = dir.path().join("store/payloads");
    // One segment is full, the other is the head.
    for number in 0..150 {
        commit(&index, store(number, PAYLOAD_BYTES)).await.unwrap();
    }
    let full = taken(&payloads);
    assert!(full > 90_000_000, "taken={full}");
    for number in 0..150 {
        commit(&index, remove(number)).await.unwrap();
    }
    let mut now = 0;
    let left = loop {
        now += 1;
        index.watch(Duration::from_secs(now));
        index.barrier().await.unwrap();
        let left = taken(&payloads);
        if left < 1_000_000 || now > 1_000 {
            break left;
        }
        index.env.sleep(Duration::from_millis(10)).await;
    };
    assert!(left < 1_000_000, "taken={full} left={left}");
    assert_eq!(index.payload_log().unwrap().live_bytes, 0);
}

fn journals_of(dir: &Path) -> Vec<(u64, u64)> {
    let database = creation::database(dir);
    let ids = journals::list(&database).unwrap();
    let bytes = |id| fs::metadata(journals::path(&database, id)).unwrap().len();
    ids.into_iter().map(|id| (id, bytes(id))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_replaces_large_journals_by_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    let open =
        || FjallIndex::open(dir.path(), Env::real().unwrap(), FjallOptions::default()).unwrap();
    let large = |number: u32| {
        let mut batch = store(number, 5_000);
        batch.put(Table::Rows, format!("large{number}"), vec![7; 1_000_000]);
        batch
    };
    let index = open();
    for number in 0..12 {
        commit(&index, large(number)).await.unwrap();
    }
    index.close().await.unwrap();
    let [(first, 0)] = journals_of(dir.path())[..] else {
        panic!("{:?}", journals_of(dir.path()))
    };
    for opening in 1..=2 {
        let index = open();
        let rows = index.snapshot().unwrap();
        let rows = rows.keys(Table::Rows, Range::all(1_000)).await.unwrap();
        assert_eq!(rows.len(), 24 * opening);
        for number in 0..12 {
            let key = format!("p{number:05}");
            let payload = index.get(Table::Payloads, key.as_bytes()).await.unwrap();
            assert_eq!(payload.unwrap().len(), 5_000);
        }
        // Batches after the replacement are durable, too.
        for number in 100 * opening..100 * opening + 12 {
            let number = u32::try_from(number).unwrap();
            commit(&index, large(number)).await.unwrap();
        }
        index.close().await.unwrap();
    }
    assert!(journals_of(dir.path())[0].0 > first);
    // A small journal is kept.
    let index = open();
    commit(&index, store(900, 100)).await.unwrap();
    index.close().await.unwrap();
    assert!(journals_of(dir.path()).iter().any(|&(_, bytes)| bytes > 0));
    let index = open();
    assert!(index.get(Table::Rows, b"k00900").await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_after_a_mark_without_claims_keeps_the_journals() {
    let dir = tempfile::tempdir().unwrap();
    let open =
        || FjallIndex::open(dir.path(), Env::real().unwrap(), FjallOptions::default()).unwrap();
    let index = open();
    for number in 0..12 {
        commit(&index, store(number, 2_000)).await.unwrap();
    }
    index.close().await.unwrap();
    // Steps 2 and 3 of a close, without step 4.
    let database = creation::database(dir.path());
    let next = closing::begin_journal(&database, Modes::default()).unwrap();
    let mark = mark::Mark {
        closed: true,
        oldest: next,
        ..mark::Mark::default()
    };
    let path = creation::store(dir.path()).join("high-water");
    mark::MarkFile::open(&path, &mark, Modes::default()).unwrap();
    assert_eq!(journals_of(dir.path()).len(), 2);
    let index = open();
    for number in 0..12 {
        let key = format!("k{number:05}");
        assert!(
            index
                .get(Table::Rows, key.as_bytes())
                .await
                .unwrap()
                .is_some()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_with_many_removed_keys_are_compacted() {
    let dir = tempfile::tempdir().unwrap();
    let index =
        FjallIndex::open(dir.path(), Env::real().unwrap(), FjallOptions::default()).unwrap();
    let key = |number: u32| format!("k{number:06}");
    for page in 0..30 {
        let mut batch = Batch::new();
        (page * 1_000..(page + 1) * 1_000)
            .for_each(|number| batch.put(Table::Rows, key(number), "row"));
        commit(&index, batch).await.unwrap();
    }
    for page in 0..30 {
        let mut batch = Batch::new();
        (page * 1_000..(page + 1) * 1_000)
            .filter(|&number| number != 7)
            .for_each(|number| batch.remove(Table::Rows, key(number)));
        commit(&index, batch).await.unwrap();
    }
    let slot = index.slot.clone();
    let entries = || {
        slot.store()
            .unwrap()
            .tables
            .of(Table::Rows)
            .approximate_len()
    };
    assert!(entries() > 50_000, "{}", entries());
    for second in 1..500 {
        index.watch(Duration::from_secs(second));
        index.barrier().await.unwrap();
        if entries() < 10 {
            break;
        }
        index.env.sleep(Duration::from_millis(20)).await;
    }
    assert!(entries() < 10, "{}", entries());
    let rows = index.snapshot().unwrap();
    let rows = rows.keys(Table::Rows, Range::all(10)).await.unwrap();
    assert_eq!(rows, [Bytes::from(key(7))]);
}
