//! Claims about reads and snapshots.
//!
//! Guards the storage half of I7 and I3: a read returns acknowledged data, and a snapshot contains
//! each batch completely or not at all.

use std::collections::VecDeque;

use super::*;

/// Checks that `get`, a snapshot and a scan return a write directly after its completion.
pub async fn reads_see_everything_acknowledged(subject: &dyn Subject) {
    let index = open(subject).await;
    for number in 0..50 {
        let value = Bytes::from(number.to_string());
        let mut batch = Batch::new();
        Table::ALL
            .iter()
            .for_each(|&table| batch.put(table, "acknowledged", value.clone()));
        commit(&index, batch).await.expect("the batch is durable");
        for table in Table::ALL {
            assert_eq!(
                get(&index, table, "acknowledged").await.as_ref(),
                Some(&value),
                "{table:?}"
            );
            let snapshot = index.snapshot().expect("the index is open");
            let page = snapshot
                .scan(table, Range::prefix(b"acknowledged", 10))
                .await
                .expect("the scan succeeds");
            assert_eq!(
                page,
                [(Bytes::from("acknowledged"), value.clone())],
                "{table:?}"
            );
            let keys = snapshot
                .keys(table, Range::prefix(b"acknowledged", 10))
                .await
                .expect("the scan succeeds");
            assert_eq!(keys, [Bytes::from("acknowledged")], "{table:?}");
        }
    }
    close(index).await;
}

/// Checks that a read with a known checksum returns the value of a matching checksum only.
pub async fn payloads_match_their_checksums(subject: &dyn Subject) {
    let index = open(subject).await;
    for bytes in [0, 1, 4096, 4097, 300_000] {
        let value = Bytes::from(vec![7; bytes]);
        let mut batch = Batch::new();
        batch.put(Table::Payloads, "checked", value.clone());
        commit(&index, batch).await.expect("the batch is durable");
        let read = index.payload(b"checked", Checksum::of(&value)).await;
        assert_eq!(read.expect("the read succeeds"), Some(value), "{bytes}");
        let other = index.payload(b"checked", Checksum::of(b"other")).await;
        let error = other.expect_err("the value has another checksum");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{bytes}");
    }
    let absent = index.payload(b"absent", Checksum::of(b"")).await;
    assert_eq!(absent.expect("the read succeeds"), None);
    close(index).await;
}

/// Checks that a snapshot does not change when keys are overwritten, removed or added later.
pub async fn snapshots_are_stable(subject: &dyn Subject) {
    let index = open(subject).await;
    for table in Table::ALL {
        let mut batch = Batch::new();
        batch.put(table, "stable/a", "old");
        batch.put(table, "stable/b", "old");
        commit(&index, batch).await.expect("the batch is durable");
        let snapshot = index.snapshot().expect("the index is open");
        let before = snapshot
            .scan(table, Range::prefix(b"stable/", 10))
            .await
            .expect("the scan succeeds");
        for number in 0..MANY {
            let mut batch = Batch::new();
            batch.put(table, "stable/a", number.to_string());
            batch.remove(table, "stable/b");
            batch.put(table, format!("stable/{number}"), "new");
            index.submit(batch, Box::new(|_| {}));
        }
        index.barrier().await.expect("the barrier is passed");
        assert_eq!(
            snapshot
                .get(table, b"stable/a")
                .await
                .expect("the read succeeds"),
            Some(Bytes::from("old"))
        );
        assert_eq!(
            snapshot
                .get(table, b"stable/b")
                .await
                .expect("the read succeeds"),
            Some(Bytes::from("old"))
        );
        assert_eq!(
            snapshot
                .get(table, b"stable/0")
                .await
                .expect("the read succeeds"),
            None
        );
        let several = ["stable/b", "stable/0", "stable/a", "stable/b"]
            .map(Bytes::from)
            .to_vec();
        let several = snapshot
            .get_many(table, several)
            .await
            .expect("the reads succeed");
        assert_eq!(
            several,
            [Some("old"), None, Some("old"), Some("old")].map(|value| value.map(Bytes::from))
        );
        let after = snapshot
            .scan(table, Range::prefix(b"stable/", 10))
            .await
            .expect("the scan succeeds");
        assert_eq!((before.len(), before), (2, after), "{table:?}");
    }
    close(index).await;
}

/// Checks snapshots while batches commit that write the same value to several tables. Every
/// snapshot contains one value in all tables, and no older value than an earlier read.
pub async fn snapshots_never_see_half_a_batch(subject: &dyn Subject) {
    const READS_MAX: usize = 20_000;
    let index = open(subject).await;
    let mut pending = None;
    for number in 0..4 * MANY {
        let value = Bytes::from(format!("{number:08}"));
        let mut batch = Batch::new();
        // The first and the last key of the batch, in any order of tables, with many keys between
        // them.
        Table::ALL
            .iter()
            .for_each(|&table| batch.put(table, "half/a", value.clone()));
        (0..20).for_each(|key| batch.put(Table::Changes, format!("half/{key}"), value.clone()));
        Table::ALL
            .iter()
            .for_each(|&table| batch.put(table, "half/z", value.clone()));
        pending = Some(submit(&index, batch));
    }
    let mut pending = pending.expect("the loop submits batches");
    let mut newest = None;
    for _ in 0..READS_MAX {
        // Asked before the read, so that the read after the last commit returns the last value.
        let done = pending.try_recv();
        let row = index
            .get(Table::Rows, b"half/z")
            .await
            .expect("the read succeeds");
        let seen = seen_by(&*index.snapshot().expect("the index is open")).await;
        assert!(
            newest <= row && row <= seen,
            "a read returned an older value: before={newest:?} get={row:?} snapshot={seen:?}"
        );
        newest = seen;
        if let Ok(outcome) = done {
            outcome.expect("the batch is durable");
            assert_eq!(newest, Some(Bytes::from(format!("{:08}", 4 * MANY - 1))));
            return close(index).await;
        }
        tokio::task::yield_now().await;
    }
    pending
        .await
        .expect("a completion is never dropped")
        .expect("the batch is durable");
    close(index).await;
}

/// Checks reads while objects are overwritten and the store reorganises its files. Each overwrite
/// writes a row and a new payload, and removes the old payload in the same batch. No read misses a
/// key that always exists. A snapshot contains the payload of each row and no other, and returns
/// the same data again later.
pub async fn snapshots_keep_what_they_saw(subject: &dyn Subject) {
    const OBJECTS: usize = 4;
    const HELD_MAX: usize = 4;
    const WRITES_PER_ROUND: usize = 8;
    const READS_PER_ROUND: usize = 16;
    let overwrites = subject.overwrites();
    let index = open(subject).await;
    for object in 0..OBJECTS {
        commit(&index, overwrite(object, None, object))
            .await
            .expect("the batch is durable");
    }
    // Snapshots of earlier rounds, with the data that they contained.
    let mut held = VecDeque::new();
    for round in (OBJECTS..overwrites).step_by(WRITES_PER_ROUND) {
        let write = async {
            for number in round..overwrites.min(round + WRITES_PER_ROUND) {
                let batch = overwrite(number % OBJECTS, Some(number - OBJECTS), number);
                commit(&index, batch).await.expect("the batch is durable");
            }
        };
        let read = async {
            for turn in 0..READS_PER_ROUND {
                let row = index
                    .get(Table::Rows, overwritten(turn % OBJECTS).as_bytes())
                    .await;
                assert!(
                    row.expect("the read succeeds").is_some(),
                    "a row that always exists is absent"
                );
                let snapshot = index.snapshot().expect("the index is open");
                let seen = rows_with_payloads(&*snapshot, OBJECTS).await;
                // Held while the store drops old versions of the rows.
                if turn == 0 {
                    held.push_back((snapshot, seen));
                }
            }
        };
        // Concurrent: a flush or compaction may end in the middle of a commit.
        futures::join!(write, subject.reorganise(), read);
        if held.len() > HELD_MAX {
            held.pop_front();
        }
        for (snapshot, seen) in &held {
            assert_eq!(
                &rows_with_payloads(&**snapshot, OBJECTS).await,
                seen,
                "a snapshot has changed"
            );
        }
    }
    let mut batch = Batch::new();
    for object in 0..OBJECTS {
        batch.remove(Table::Rows, overwritten(object));
        batch.remove(Table::Payloads, overwriting(overwrites - OBJECTS + object));
    }
    commit(&index, batch).await.expect("the removal is durable");
    close(index).await;
}

fn overwritten(object: usize) -> String {
    format!("overwritten/{object}")
}

fn overwriting(number: usize) -> String {
    format!("overwriting/{number:08}")
}

/// Creates the batch that replaces the payload of an object.
fn overwrite(object: usize, before: Option<usize>, number: usize) -> Batch {
    const PAYLOAD_BYTES: usize = 100_000;
    let mut batch = Batch::new();
    batch.put(Table::Rows, overwritten(object), overwriting(number));
    batch.put(
        Table::Payloads,
        overwriting(number),
        vec![number.to_le_bytes()[0]; PAYLOAD_BYTES],
    );
    if let Some(before) = before {
        batch.remove(Table::Payloads, overwriting(before));
    }
    batch
}

/// Returns the payload key in each row, with the first byte of the payload.
async fn rows_with_payloads(snapshot: &dyn Snapshot, objects: usize) -> Vec<(Bytes, u8)> {
    let mut seen = Vec::new();
    for object in 0..objects {
        let row = snapshot
            .get(Table::Rows, overwritten(object).as_bytes())
            .await
            .expect("the read succeeds");
        let row = row.expect("a row that always exists is absent");
        let payload = snapshot
            .get(Table::Payloads, &row)
            .await
            .expect("the read succeeds");
        let payload = payload.expect("the payload that a row names is absent");
        seen.push((row, payload[0]));
    }
    let rows = snapshot
        .scan(Table::Rows, Range::prefix(b"overwritten/", 100))
        .await
        .expect("the scan succeeds");
    assert!(
        rows.iter()
            .map(|(_, row)| row)
            .eq(seen.iter().map(|(row, _)| row)),
        "a scan returns other rows than get"
    );
    let keys = snapshot
        .keys(Table::Payloads, Range::prefix(b"overwriting/", 100))
        .await
        .expect("the scan succeeds");
    let mut named: Vec<_> = seen.iter().map(|(row, _)| row.clone()).collect();
    named.sort();
    assert_eq!(
        keys, named,
        "a scan returns other payloads than the rows name"
    );
    seen
}

/// Returns the value of all keys of the claim in a snapshot, and checks that all are equal.
async fn seen_by(snapshot: &dyn Snapshot) -> Option<Bytes> {
    let seen = snapshot
        .get(Table::Meta, b"half/z")
        .await
        .expect("the read succeeds");
    for table in [Table::Rows, Table::Changes, Table::Expiry] {
        for key in ["half/a", "half/z"] {
            let value = snapshot
                .get(table, key.as_bytes())
                .await
                .expect("the read succeeds");
            assert_eq!(value, seen, "half a batch: table={table:?} key={key}");
        }
    }
    let page = snapshot
        .scan(Table::Changes, Range::prefix(b"half/", 100))
        .await
        .expect("the scan succeeds");
    assert!(
        page.iter().all(|(_, value)| Some(value) == seen.as_ref()),
        "half a batch in a scan"
    );
    seen
}

/// Checks values of 0 bytes, 1 byte, about 4 KiB, 64 KiB, 1 MiB and 1 MiB + 1 byte, also after a
/// reopen.
pub async fn values_of_every_size_come_back(subject: &dyn Subject) {
    const KIB: usize = 1024;
    let sizes = [
        0,
        1,
        4 * KIB - 1,
        4 * KIB,
        4 * KIB + 1,
        64 * KIB,
        KIB * KIB,
        KIB * KIB + 1,
    ];
    let value = |size: usize| Bytes::from_iter((0..size).map(|at| (at % 251).to_le_bytes()[0]));
    let key = |size: usize| format!("value/{size}");
    let index = open(subject).await;
    let mut batch = Batch::new();
    for size in sizes {
        batch.put(Table::Rows, key(size), value(size));
        batch.put(Table::Payloads, key(size), value(size));
    }
    commit(&index, batch).await.expect("the batch is durable");
    let mut index = Some(index);
    for round in ["before a reopen", "after a reopen"] {
        let opened = match index.take() {
            Some(index) => index,
            None => open(subject).await,
        };
        for table in [Table::Rows, Table::Payloads] {
            for size in sizes {
                // Not `assert_eq!`, which would print a megabyte.
                assert!(
                    get(&opened, table, &key(size)).await == Some(value(size)),
                    "{round}: {table:?} size={size}"
                );
            }
        }
        close(opened).await;
    }
}
