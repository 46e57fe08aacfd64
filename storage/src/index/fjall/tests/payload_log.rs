//! Tests of the payload log within the index: collection, crashes, and reads beside both.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::index::Range;

const MIB: usize = 1024 * 1024;

/// Creates a store with segments of 1 MiB.
fn small_segments() -> OnDisk {
    OnDisk::with(FjallOptions {
        segment_bytes: MIB as u64,
        ..FjallOptions::default()
    })
}

fn payload(number: u32, generation: u32, bytes: usize) -> Vec<u8> {
    let seed = u64::from(number) << 32 | u64::from(generation);
    let words =
        (0..bytes.div_ceil(8)).map(|at| (at as u64 ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut payload: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    payload.truncate(bytes);
    payload
}

fn key(number: u32) -> String {
    format!("p{number:05}")
}

fn put(number: u32, generation: u32, bytes: usize) -> Batch {
    let mut batch = Batch::new();
    batch.put(
        Table::Payloads,
        key(number),
        payload(number, generation, bytes),
    );
    batch
}

async fn read(index: &FjallIndex, number: u32) -> Result<Option<Bytes>> {
    index.get(Table::Payloads, key(number).as_bytes()).await
}

fn segments(on_disk: &OnDisk) -> Vec<PathBuf> {
    let dir = on_disk.store().join("payloads");
    let mut files: Vec<_> = fs::read_dir(dir)
        .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
        .unwrap_or_default();
    files.sort();
    files
}

/// Collects until nothing is left to collect.
async fn collect(index: &FjallIndex) {
    let collector = index.collector.clone();
    let tidier = index.tidier();
    let env = index.env.clone();
    index
        .env
        .blocking(move || collector.run(&env, &tidier))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collection_keeps_live_payloads_and_frees_the_rest() {
    let on_disk = small_segments();
    let index = on_disk.open().unwrap();
    // 40 MiB, of which three quarters are overwritten or removed.
    for number in 0..640 {
        commit(&index, put(number, 0, 65_536)).await;
    }
    for number in (0..640).filter(|number| number % 4 != 0) {
        let batch = if number % 4 == 1 {
            put(number, 1, 5_000)
        } else {
            let mut batch = Batch::new();
            batch.remove(Table::Payloads, key(number));
            batch
        };
        commit(&index, batch).await;
    }
    let before = index.payload_log().unwrap();
    let snapshot = index.snapshot().unwrap();
    collect(&index).await;
    let after = index.payload_log().unwrap();
    assert_eq!(after.live_bytes, before.live_bytes);
    let collection = after.last_collection.unwrap();
    assert!(collection.freed_bytes > collection.copied_bytes);
    assert_eq!(after.copied_bytes, collection.copied_bytes);
    assert!(before.dead_bytes > 25 * MIB as u64, "{before:?}");
    assert!(after.dead_bytes <= 16 * MIB as u64, "{after:?}");
    for number in 0..640 {
        let expected = match number % 4 {
            0 => Some(payload(number, 0, 65_536).into()),
            1 => Some(payload(number, 1, 5_000).into()),
            _ => None,
        };
        assert_eq!(read(&index, number).await.unwrap(), expected, "{number}");
        // The snapshot from before the collection reads the segments of its time.
        let earlier = snapshot
            .get(Table::Payloads, key(number).as_bytes())
            .await
            .unwrap();
        assert_eq!(earlier, expected, "{number}");
    }
    let files = segments(&on_disk).len();
    drop(snapshot);
    collect(&index).await;
    assert!(segments(&on_disk).len() < files, "the snapshot kept files");
    assert_eq!(segments(&on_disk).len() as u64, after.segments);

    index.close().await.unwrap();
    let index = on_disk.open().unwrap();
    let reopened = PayloadLogStats {
        copied_bytes: after.copied_bytes,
        last_collection: after.last_collection,
        ..index.payload_log().unwrap()
    };
    assert_eq!(reopened, after);
    for number in (0..640).step_by(4) {
        let expected = payload(number, 0, 65_536);
        assert_eq!(read(&index, number).await.unwrap().unwrap(), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletes_and_overwrites_win_over_a_collection() {
    let on_disk = small_segments();
    let index = Arc::new(on_disk.open().unwrap());
    for number in 0..640 {
        commit(&*index, put(number, 0, 65_536)).await;
    }
    for number in (0..640).filter(|number| number % 8 > 3) {
        commit(&*index, put(number, 1, 4_096)).await;
    }
    let collector = index.clone();
    let (_, ()) = tokio::join!(
        async {
            // Again and again, beside the writes.
            for _ in 0..20 {
                collect(&collector).await;
            }
        },
        async {
            for number in (0..640).filter(|number| number % 8 < 2) {
                let mut batch = Batch::new();
                batch.remove(Table::Payloads, key(number));
                commit(&*index, batch).await;
                commit(&*index, put(number + 2, 2, 6_000)).await;
            }
        }
    );
    let mut live = 0;
    for number in 0..640 {
        let expected = match number % 8 {
            0 | 1 => None,
            2 | 3 => Some(payload(number, 2, 6_000)),
            _ => Some(payload(number, 1, 4_096)),
        };
        live += expected
            .as_ref()
            .map_or(0, |value| (24 + 6 + value.len() as u64).next_multiple_of(8));
        let found = read(&index, number).await.unwrap();
        assert_eq!(found, expected.map(Bytes::from), "{number}");
    }
    assert_eq!(index.payload_log().unwrap().live_bytes, live);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_entry_is_lost_alone_and_stops_no_collection() {
    let on_disk = small_segments();
    let index = on_disk.open().unwrap();
    for number in 0..640 {
        commit(&index, put(number, 0, 65_536)).await;
    }
    index.close().await.unwrap();
    // The length of the second entry of the first segment.
    let first = &segments(&on_disk)[0];
    let mut bytes = fs::read(first).unwrap();
    let second = 64 + (24 + 6 + 65_536_usize).next_multiple_of(8);
    assert_eq!(bytes[second..second + 4], *b"CNPE");
    bytes[second + 9] ^= 0x40;
    fs::write(first, bytes).unwrap();

    let index = on_disk.open().unwrap();
    for number in (0..640).filter(|number| number % 4 > 1) {
        let mut batch = Batch::new();
        batch.remove(Table::Payloads, key(number));
        commit(&index, batch).await;
    }
    collect(&index).await;
    for number in (0..640).filter(|number| number % 4 <= 1) {
        let found = read(&index, number).await;
        if number == 1 {
            assert_eq!(found.unwrap_err().kind(), ErrorKind::Corrupt);
        } else {
            assert_eq!(found.unwrap().unwrap(), payload(number, 0, 65_536));
        }
    }
    // The other segments were collected.
    let usage = index.payload_log().unwrap();
    assert!(usage.dead_bytes <= 16 * MIB as u64, "{usage:?}");
    // Its removal frees the segment.
    let mut batch = Batch::new();
    batch.remove(Table::Payloads, key(1));
    commit(&index, batch).await;
    collect(&index).await;
    assert!(!first.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_segment_loses_only_its_payloads() {
    let on_disk = small_segments();
    let index = on_disk.open().unwrap();
    for number in 0..64 {
        commit(&index, put(number, 0, 65_536)).await;
    }
    index.close().await.unwrap();
    let lost = segments(&on_disk)[1].clone();
    fs::remove_file(&lost).unwrap();
    let index = on_disk.open().unwrap();
    let mut corrupt = 0;
    for number in 0..64 {
        match read(&index, number).await {
            Ok(found) => assert_eq!(found.unwrap(), payload(number, 0, 65_536)),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                assert!(error.to_string().contains("missing"), "{error}");
                corrupt += 1;
            }
        }
    }
    assert_eq!(corrupt, 15, "payloads of a segment of 1 MiB");
    commit(&index, put(1_000, 0, 65_536)).await;
    assert!(read(&index, 1_000).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn view_reads_payloads_in_place() {
    let on_disk = small_segments();
    let index = on_disk.open().unwrap();
    for number in 0..32 {
        commit(&index, put(number, 0, 65_536)).await;
    }
    index.close().await.unwrap();
    // A crash has left bytes that no pointer names.
    let last = segments(&on_disk).pop().unwrap();
    let mut file = fs::File::options().append(true).open(&last).unwrap();
    std::io::Write::write_all(&mut file, &[1; 100]).unwrap();
    let before = tree(&on_disk.path());
    let parent = tempfile::tempdir().unwrap();
    let env = Env::real().unwrap();
    let options = FjallOptions::default();
    let view = FjallIndex::open_view(&on_disk.path(), parent.path(), env, options).unwrap();
    for number in 0..32 {
        let found = read(&view, number).await.unwrap();
        assert_eq!(found.unwrap(), payload(number, 0, 65_536));
    }
    drop(view);
    assert_eq!(tree(&on_disk.path()), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn value_that_looks_like_a_pointer_is_returned_as_it_is() {
    let on_disk = small_segments();
    let index = on_disk.open().unwrap();
    commit(&index, put(0, 0, 65_536)).await;
    // The pointer of the payload above, as a caller might store it.
    let mut forged = b"CNPP".to_vec();
    forged.extend(65_536_u32.to_le_bytes());
    forged.extend(0_u64.to_le_bytes());
    forged.extend(64_u64.to_le_bytes());
    let mut batch = Batch::new();
    batch.put(Table::Payloads, "forged", forged.clone());
    batch.put(Table::Rows, "forged", forged.clone());
    commit(&index, batch).await;
    for table in [Table::Payloads, Table::Rows] {
        let found = index.get(table, b"forged").await.unwrap();
        assert_eq!(found.unwrap(), forged);
        let page = index.snapshot().unwrap().scan(table, Range::all(1)).await;
        assert_eq!(page.unwrap()[0].1, forged);
    }
}
