//! Tests of damage to the files of a real store: an open refuses it, or no data is lost.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::index::Range;

const KEYS: u8 = 8;

/// Creates a closed store in which each key was put by its own batch.
async fn closed() -> OnDisk {
    let on_disk = OnDisk::new();
    let index = on_disk.open().unwrap();
    fill(&index).await;
    index.close().await.unwrap();
    on_disk
}

async fn fill(index: &FjallIndex) {
    for key in 0..KEYS {
        commit(index, put(key)).await;
    }
}

fn put(key: u8) -> Batch {
    let mut batch = Batch::new();
    batch.put(Table::Rows, vec![key], vec![key; 20]);
    batch.put(Table::Payloads, vec![key], vec![key; 30]);
    batch
}

/// Returns all keys, and checks their values.
async fn keys(index: &FjallIndex) -> Vec<u8> {
    let page = index
        .snapshot()
        .unwrap()
        .scan(Table::Rows, Range::all(100))
        .await
        .unwrap();
    for (key, value) in &page {
        assert_eq!(value[..], [key[0]; 20]);
    }
    page.iter().map(|(key, _)| key[0]).collect()
}

fn all() -> Vec<u8> {
    (0..KEYS).collect()
}

fn journal(on_disk: &OnDisk, id: u64) -> PathBuf {
    on_disk.store().join(format!("database/{id}.jnl"))
}

fn high_water(on_disk: &OnDisk) -> PathBuf {
    on_disk.store().join("high-water")
}

/// Cuts the zeros at the end of a journal, as an open does. Returns the rest.
fn trim(path: &Path) -> Vec<u8> {
    let mut bytes = fs::read(path).unwrap();
    bytes.truncate(
        bytes
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |last| last + 1),
    );
    fs::write(path, &bytes).unwrap();
    bytes
}

/// Copies the files of a running store, as a killed process leaves them.
fn killed(on_disk: &OnDisk) -> OnDisk {
    let copy = OnDisk::new();
    for (path, _) in tree(&on_disk.path()) {
        let to = copy.path().join(path.strip_prefix(on_disk.path()).unwrap());
        if path.is_dir() {
            fs::create_dir_all(to).unwrap();
        } else {
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(&path, to).unwrap();
        }
    }
    copy
}

#[tokio::test]
async fn changed_byte_of_a_journal_loses_no_batch_silently() {
    let on_disk = closed().await;
    let path = journal(&on_disk, 0);
    let bytes = trim(&path);
    let mark = fs::read(high_water(&on_disk)).unwrap();
    let mut refused = 0;
    for at in (0..8)
        .chain((8..bytes.len()).step_by(31))
        .chain(bytes.len() - 8..bytes.len())
    {
        let mut changed = bytes.clone();
        changed[at] ^= 65;
        fs::write(&path, &changed).unwrap();
        match on_disk.open() {
            Ok(index) => {
                assert_eq!(keys(&index).await, all(), "byte {at}");
                index.close().await.unwrap();
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}: {error}");
                assert!(error.to_string().contains("cenotaph salvage"), "{error}");
                assert_eq!(
                    fs::read(&path).unwrap(),
                    changed,
                    "a refusal changes no file"
                );
                refused += 1;
            }
        }
        fs::write(high_water(&on_disk), &mark).unwrap();
    }
    assert!(refused > 30, "{refused}");
}

#[tokio::test]
async fn torn_tail_is_kept_aside_and_cut() {
    let on_disk = OnDisk::new();
    let index = on_disk.open().unwrap();
    fill(&index).await;
    // Copied before the first mark is written.
    let copy = killed(&on_disk);
    drop(index);
    let path = journal(&copy, 0);
    let bytes = trim(&path);
    for round in 0..12_u8 {
        let torn = [&bytes[..], &bytes[..usize::from(round) + 20]].concat();
        fs::write(&path, &torn).unwrap();
        let index = copy.open().unwrap();
        assert_eq!(keys(&index).await, all());
        index.close().await.unwrap();
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
    let mut tails = tree(&copy.store().join("tails"));
    tails.sort_by_key(|(_, length)| *length);
    assert_eq!(tails.len(), 8);
    let (newest, length) = tails.last().unwrap();
    assert_eq!(*length, 31);
    assert_eq!(fs::read(newest).unwrap(), bytes[..31]);
    assert_eq!(
        newest.file_name().unwrap().to_str().unwrap(),
        format!("11-of-0.jnl-at-{}", bytes.len())
    );
}

#[tokio::test]
async fn file_with_the_highest_number_is_refused_or_ignored() {
    let on_disk = OnDisk::new();
    let index = on_disk.open().unwrap();
    fill(&index).await;
    let copy = killed(&on_disk);
    drop(index);
    let path = journal(&copy, 0);
    let bytes = trim(&path);
    fs::write(&path, [&bytes[..], &bytes[..20]].concat()).unwrap();
    // No tail can follow it, and it is not the next tail.
    let tails = copy.store().join("tails");
    fs::create_dir_all(&tails).unwrap();
    fs::write(tails.join(format!("{}-of-0.jnl-at-7", u64::MAX)), "tail").unwrap();
    let index = copy.open().unwrap();
    assert_eq!(keys(&index).await, all());
    index.close().await.unwrap();
    assert_eq!(tree(&tails).len(), 2);
    // No journal can follow it.
    fs::write(journal(&copy, u64::MAX), "").unwrap();
    let (kind, message) = copy.refused();
    assert_eq!(kind, ErrorKind::Corrupt);
    assert!(message.contains("listed"), "{message}");
}

#[tokio::test]
async fn damage_before_intact_batches_is_refused_without_a_mark() {
    let on_disk = closed().await;
    fs::remove_file(high_water(&on_disk)).unwrap();
    let path = journal(&on_disk, 0);
    let bytes = trim(&path);
    for at in [0, 1, 5, 40, 100, bytes.len() / 2] {
        let mut changed = bytes.clone();
        changed[at] ^= 65;
        fs::write(&path, &changed).unwrap();
        let (kind, message) = on_disk.refused();
        assert_eq!(kind, ErrorKind::Corrupt);
        assert!(
            message.contains("0.jnl") && message.contains("at="),
            "{message}"
        );
    }
}

#[tokio::test]
async fn older_shorter_or_missing_journal_is_refused() {
    let on_disk = closed().await;
    let path = journal(&on_disk, 0);
    let bytes = trim(&path);
    let first = journal::scan(&path, journal::Mode::default()).unwrap().runs[0];
    assert_eq!(
        (first.start, first.end, first.batches),
        (0, bytes.len() as u64, u64::from(KEYS))
    );
    let batch = bytes.len() / usize::from(KEYS);
    for length in [0, batch, batch * 7] {
        fs::write(&path, &bytes[..length]).unwrap();
        let (kind, message) = on_disk.refused();
        assert_eq!(kind, ErrorKind::Corrupt);
        assert!(
            message.contains("older or shorter") && message.contains("expected_batch="),
            "{message}"
        );
    }
    fs::rename(&path, journal(&on_disk, 1)).unwrap();
    let (kind, message) = on_disk.refused();
    assert_eq!(kind, ErrorKind::Corrupt);
    assert!(
        message.contains("missing") && message.contains("0.jnl"),
        "{message}"
    );
    fs::rename(journal(&on_disk, 1), &path).unwrap();
    fs::write(&path, &bytes).unwrap();
    assert_eq!(keys(&on_disk.open().unwrap()).await, all());
}

#[tokio::test]
async fn running_store_writes_a_mark_about_every_second() {
    let on_disk = OnDisk::new();
    let index = on_disk.open().unwrap();
    fill(&index).await;
    index.watch(Duration::from_secs(1));
    index.barrier().await.unwrap();
    commit(&index, put(KEYS)).await;
    // Too early for the next mark.
    index.watch(Duration::from_millis(1500));
    index.barrier().await.unwrap();
    let copy = killed(&on_disk);
    let path = journal(&copy, 0);
    let bytes = trim(&path);
    let batch = bytes.len() / usize::from(KEYS + 1);
    fs::write(&path, &bytes[..bytes.len() - batch]).unwrap();
    assert_eq!(keys(&copy.open().unwrap()).await, all());
    let copy = killed(&on_disk);
    fs::write(journal(&copy, 0), &bytes[..bytes.len() - 2 * batch]).unwrap();
    assert_eq!(copy.refused().0, ErrorKind::Corrupt);

    index.watch(Duration::from_secs(2));
    index.barrier().await.unwrap();
    let copy = killed(&on_disk);
    fs::write(journal(&copy, 0), &bytes[..bytes.len() - batch]).unwrap();
    assert_eq!(copy.refused().0, ErrorKind::Corrupt);
}

#[tokio::test]
async fn store_without_a_mark_opens_and_writes_a_mark() {
    let on_disk = closed().await;
    fs::remove_file(high_water(&on_disk)).unwrap();
    drop(on_disk.open().unwrap());
    let mark::Reading::Sound {
        mark,
        other_damaged,
    } = mark::read(&high_water(&on_disk)).unwrap()
    else {
        panic!("the mark is absent or damaged");
    };
    assert!(mark.closed && mark.claims() && !other_damaged, "{mark:?}");
    fs::write(high_water(&on_disk), "damaged").unwrap();
    let (kind, message) = on_disk.refused();
    assert_eq!(kind, ErrorKind::Corrupt);
    assert!(message.contains("removing the file"), "{message}");
}

/// Creates a closed store with files of each kind. Its large payload was written by a build without
/// the payload log: only such values are in blob files.
pub(super) async fn flushed() -> OnDisk {
    let on_disk = closed().await;
    older::insert_unlogged(&on_disk, &[("large", vec![7; 10_000])]);
    // The mark does not know the inserted value.
    fs::remove_file(high_water(&on_disk)).unwrap();
    let index = on_disk.open().unwrap();
    index.flush().unwrap();
    index.close().await.unwrap();
    on_disk
}

#[tokio::test]
async fn changed_byte_of_a_manifest_is_refused() {
    let on_disk = flushed().await;
    let mut tried = 0;
    let keyspace = on_disk.store().join("database/keyspaces/2");
    let current = keyspace.join("current");
    let version = u64::from_le_bytes(fs::read(&current).unwrap()[..8].try_into().unwrap());
    for path in [current, keyspace.join(format!("v{version}"))] {
        let bytes = fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            fs::write(&path, &changed).unwrap();
            let error = on_disk.open().expect_err("a damaged manifest");
            assert_eq!(
                error.kind(),
                ErrorKind::Corrupt,
                "{}, byte {at}: {error}",
                path.display()
            );
            assert!(error.to_string().contains("file="), "{error}");
            tried += 1;
        }
        fs::write(&path, &bytes).unwrap();
    }
    assert!(tried > 300, "{tried}");
    assert_eq!(keys(&on_disk.open().unwrap()).await, all());
}

#[tokio::test]
async fn missing_cut_or_empty_table_or_blob_file_is_refused() {
    let on_disk = flushed().await;
    let mut kinds = Vec::new();
    for kind in ["tables", "blobs"] {
        for (path, length) in tree(&on_disk.store().join("database/keyspaces/2").join(kind)) {
            let bytes = fs::read(&path).unwrap();
            // The count of sections. fjall would allocate 160 GB for it.
            let toc = bytes
                .windows(4)
                .rposition(|bytes| bytes == b"TOC!")
                .unwrap();
            let mut huge = bytes.clone();
            huge[toc + 4..toc + 8].fill(0xff);
            for damaged in [&huge[..], &bytes[..bytes.len() - 1], &[]] {
                fs::write(&path, damaged).unwrap();
                assert_eq!(
                    on_disk.refused().0,
                    ErrorKind::Corrupt,
                    "kind={kind} bytes={length}"
                );
            }
            fs::remove_file(&path).unwrap();
            let (_, message) = on_disk.refused();
            assert!(message.contains("the file is missing"), "{message}");
            fs::write(&path, &bytes).unwrap();
            kinds.push(kind);
        }
    }
    kinds.dedup();
    assert_eq!(kinds, ["tables", "blobs"]);
    assert_eq!(keys(&on_disk.open().unwrap()).await, all());
}

#[tokio::test]
async fn deep_check_finds_every_changed_byte_of_a_table() {
    let on_disk = flushed().await;
    let keyspace = on_disk.store().join("database/keyspaces/2");
    let flaws = || {
        manifest::flaws(&keyspace, manifest::Depth::Whole)
            .unwrap()
            .flaws
    };
    assert_eq!(flaws(), []);
    for (path, length) in [
        tree(&keyspace.join("tables")),
        tree(&keyspace.join("blobs")),
    ]
    .concat()
    {
        let bytes = fs::read(&path).unwrap();
        for at in (0..usize::try_from(length).unwrap()).step_by(97) {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            fs::write(&path, &changed).unwrap();
            assert_eq!(
                flaws().iter().map(|flaw| &flaw.path).collect::<Vec<_>>(),
                [&path]
            );
        }
        fs::write(&path, &bytes).unwrap();
    }
}
