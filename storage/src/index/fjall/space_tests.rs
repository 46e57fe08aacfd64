//! Tests on real files: removed data frees disk space.

#![cfg(unix)]

use std::fs;
use std::path::Path;

use super::*;

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
