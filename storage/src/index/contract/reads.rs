//! The claims about what reads, scans and snapshots see.
//!
//! Guards the storage half of I7 and I3: what is acknowledged is seen, and a snapshot sees batches
//! whole or not at all. Deliberately not here: durability and order (`contract.rs`).

use std::collections::{BTreeSet, VecDeque};
use std::ops::Bound;

use super::*;

/// At once after the completion: by `get`, by a snapshot and by a scan.
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

/// A snapshot goes on showing its moment, whatever is overwritten, removed or added later.
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

/// While batches land that change two tables alike, every snapshot finds the two alike, and none
/// goes back in time.
pub async fn snapshots_never_see_half_a_batch(subject: &dyn Subject) {
    const READS_MAX: usize = 20_000;
    let index = open(subject).await;
    let mut pending = None;
    for number in 0..4 * MANY {
        let value = Bytes::from(format!("{number:08}"));
        let mut batch = Batch::new();
        // The first and the last in every order of tables, with much between them.
        Table::ALL
            .iter()
            .for_each(|&table| batch.put(table, "half/a", value.clone()));
        (0..20).for_each(|key| batch.put(Table::Changes, format!("half/{key}"), value.clone()));
        Table::ALL
            .iter()
            .for_each(|&table| batch.put(table, "half/z", value.clone()));
        pending = Some(submit(&index, batch));
    }
    let mut pending = pending.expect("some were submitted");
    let mut newest = None;
    for _ in 0..READS_MAX {
        let done = pending.try_recv();
        let row = index
            .get(Table::Rows, b"half/z")
            .await
            .expect("the read succeeds");
        let seen = seen_by(&*index.snapshot().expect("the index is open")).await;
        assert!(
            newest <= row && row <= seen,
            "back in time: before={newest:?} get={row:?} snapshot={seen:?}"
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

/// Objects are overwritten while the store reorganises its files: a row and a payload of its own
/// each time, the payload before removed in the same batch. No read finds a key absent that always
/// exists, a snapshot finds each row's payload and no other, and what it has seen once it sees
/// again.
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
    let mut held = std::collections::VecDeque::new();
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
                if turn == 0 {
                    held.push_back((snapshot, seen));
                }
            }
        };
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

/// The batch that makes an object name this payload instead of the one before.
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

/// What the rows name, each with the first byte of its payload.
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
        "a scan finds other rows"
    );
    let keys = snapshot
        .keys(Table::Payloads, Range::prefix(b"overwriting/", 100))
        .await
        .expect("the scan succeeds");
    let mut named: Vec<_> = seen.iter().map(|(row, _)| row.clone()).collect();
    named.sort();
    assert_eq!(
        keys, named,
        "a scan finds other payloads than the rows name"
    );
    seen
}

/// The one value that a snapshot finds everywhere.
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

/// Order, each kind of bound, limits, prefixes, pages, and ranges that hold nothing; in every
/// table.
pub async fn scans_are_ordered_bounded_and_paged(subject: &dyn Subject) {
    let index = open(subject).await;
    let keys: Vec<_> = (0..=u8::MAX)
        .map(|byte| Bytes::from(vec![b's', b'c', byte]))
        .collect();
    let at = |position: usize| keys[position].clone();
    for table in Table::ALL {
        let mut batch = Batch::new();
        keys.iter()
            .rev()
            .for_each(|key| batch.put(table, key.clone(), key.clone()));
        batch.put(table, "sb", "before");
        batch.put(table, "sd", "after");
        commit(&index, batch).await.expect("the batch is durable");
        let snapshot = index.snapshot().expect("the index is open");
        let scan =
            async |start, end, limit| scanned(&*snapshot, table, Range { start, end, limit }).await;

        assert_eq!(
            scanned(&*snapshot, table, Range::prefix(b"sc", 1000)).await,
            keys
        );
        assert_eq!(
            scan(Bound::Included(at(2)), Bound::Included(at(4)), 9).await,
            keys[2..=4]
        );
        assert_eq!(
            scan(Bound::Excluded(at(2)), Bound::Excluded(at(4)), 9).await,
            keys[3..4]
        );
        assert_eq!(
            scan(Bound::Included(at(2)), Bound::Unbounded, 3).await,
            keys[2..5]
        );
        assert_eq!(
            scan(Bound::Included(at(250)), Bound::Excluded("sd".into()), 9).await,
            keys[250..]
        );
        let all = scanned(&*snapshot, table, Range::all(usize::MAX)).await;
        assert!(all.is_sorted() && keys.iter().all(|key| all.contains(key)));
        assert_eq!(scanned(&*snapshot, table, Range::all(7)).await, all[..7]);

        let nothing = Vec::<Bytes>::new();
        assert_eq!(
            scanned(&*snapshot, table, Range::prefix(b"sc", 0)).await,
            nothing,
            "no limit, no entries"
        );
        assert_eq!(
            scan(Bound::Included(at(4)), Bound::Included(at(2)), 9).await,
            nothing,
            "the wrong way round"
        );
        assert_eq!(
            scan(Bound::Excluded(at(4)), Bound::Excluded(at(4)), 9).await,
            nothing
        );
        assert_eq!(
            scan(Bound::Included(at(4)), Bound::Excluded(at(4)), 9).await,
            nothing
        );
        assert_eq!(
            scan(Bound::Included(at(4)), Bound::Included(at(4)), 9).await,
            keys[4..=4]
        );
        assert_eq!(
            scanned(&*snapshot, table, Range::prefix(b"sc\0\0", 9)).await,
            nothing
        );
        assert_eq!(
            scanned(&*snapshot, table, Range::prefix(b"sc\xff", 9)).await,
            keys[255..]
        );

        let mut paged = Vec::new();
        let mut page = scanned(&*snapshot, table, Range::prefix(b"sc", 100)).await;
        while let Some(last) = page.last().cloned() {
            paged.append(&mut page);
            page = scanned(&*snapshot, table, Range::prefix(b"sc", 100).after(last)).await;
        }
        assert_eq!(paged, keys, "{table:?}");
    }
    close(index).await;
}

/// Keys come and go, and each state has exactly its own ones: where most were removed, where all
/// were, where some came back, and in a snapshot from before.
pub async fn scans_see_what_comes_and_goes(subject: &dyn Subject) {
    const KEYS: u64 = 24;
    let index = open(subject).await;
    let key = |number: u64| Bytes::from(format!("come/{number:02}"));
    let (mut model, mut states) = (BTreeSet::new(), VecDeque::new());
    // Numbers of a linear congruential generator (Knuth's MMIX): the same at every run.
    let mut random = 1u64;
    let mut draw = |below: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    for _ in 0..400 {
        let mut batch = Batch::new();
        let (from, count) = (draw(KEYS), draw(KEYS));
        for number in from..KEYS.min(from + count) {
            // Runs of removals, and single keys that come.
            match draw(4) {
                0 => {
                    batch.put(Table::Rows, key(number), "value");
                    model.insert(key(number));
                }
                _ => {
                    batch.remove(Table::Rows, key(number));
                    model.remove(&key(number));
                }
            }
        }
        commit(&index, batch).await.expect("the batch is durable");
        states.push_back((index.snapshot().expect("the index is open"), model.clone()));
        states.drain(..states.len().saturating_sub(4));
        for (snapshot, model) in &states {
            let mut range =
                Range::prefix(b"come/", 1 + usize::try_from(draw(KEYS)).expect("a few"));
            range.start = Bound::Included(key(draw(KEYS)));
            let Bound::Included(start) = range.start.clone() else {
                unreachable!("set above")
            };
            let expected: Vec<Bytes> = model.range(start..).take(range.limit).cloned().collect();
            assert_eq!(
                scanned(&**snapshot, Table::Rows, range.clone()).await,
                expected
            );
            assert_eq!(
                snapshot
                    .keys(Table::Rows, range)
                    .await
                    .expect("the scan succeeds"),
                expected
            );
        }
    }
    drop(states);
    close(index).await;
}

async fn scanned(snapshot: &dyn Snapshot, table: Table, range: Range) -> Vec<Bytes> {
    let page = snapshot
        .scan(table, range)
        .await
        .expect("the scan succeeds");
    page.into_iter().map(|(key, _)| key).collect()
}

/// Empty, 4 KiB and its neighbours, 1 MiB and one byte more: byte for byte, also after a reopen.
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
                // Not assert_eq: nobody wants to read a megabyte.
                assert!(
                    get(&opened, table, &key(size)).await == Some(value(size)),
                    "{round}: {table:?} size={size}"
                );
            }
        }
        close(opened).await;
    }
}

/// 0x00 and 0xff, alone and among others; the longest keys that there are; and reads of keys that
/// can't be.
pub async fn keys_may_hold_any_byte_up_to_the_longest(subject: &dyn Subject) {
    let index = open(subject).await;
    let longest = |last: u8| {
        let mut key = vec![b'k'; KEY_BYTES_MAX];
        key[KEY_BYTES_MAX - 1] = last;
        key
    };
    let mut keys = vec![
        vec![0],
        vec![0, 0],
        vec![0, 0xff],
        b"k\0".to_vec(),
        b"k\0\0k".to_vec(),
        b"k\xff\0".to_vec(),
    ];
    keys.extend([
        longest(0),
        longest(0xff),
        vec![0xff],
        vec![0xff; 3],
        vec![0xff; KEY_BYTES_MAX],
    ]);
    for table in [Table::Rows, Table::Payloads, Table::Meta] {
        let mut batch = Batch::new();
        keys.iter()
            .for_each(|key| batch.put(table, key.clone(), key[..1].to_vec()));
        commit(&index, batch).await.expect("the batch is durable");
        let snapshot = index.snapshot().expect("the index is open");
        for key in &keys {
            let value = index.get(table, key).await.expect("the read succeeds");
            assert_eq!(
                value.as_deref(),
                Some(&key[..1]),
                "{table:?} key_bytes={}",
                key.len()
            );
            let page = scanned(&*snapshot, table, Range::prefix(key, 1)).await;
            assert_eq!(
                page,
                [Bytes::from(key.clone())],
                "a key is the first with itself as prefix"
            );
        }
        let too_long = [longest(0), vec![0; 60_000]].concat();
        for key in [&[][..], &too_long] {
            assert_eq!(
                index.get(table, key).await.expect("the read succeeds"),
                None
            );
        }
        let above = Range {
            start: Bound::Included(too_long.clone().into()),
            end: Bound::Unbounded,
            limit: 1,
        };
        let next = scanned(&*snapshot, table, above).await;
        assert!(next[0][..] > too_long[..] && next[0].len() <= KEY_BYTES_MAX);
        let below = Range {
            start: Bound::Included(longest(0).into()),
            end: Bound::Excluded(too_long.into()),
            limit: 9,
        };
        assert_eq!(
            scanned(&*snapshot, table, below).await,
            [Bytes::from(longest(0))]
        );
        let mut batch = Batch::new();
        keys.iter().for_each(|key| batch.remove(table, key.clone()));
        commit(&index, batch).await.expect("the removal is durable");
    }
    close(index).await;
}
