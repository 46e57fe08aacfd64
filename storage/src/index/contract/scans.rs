//! Claims about scans and keys.
//!
//! Guards that a scan returns each key of its range exactly once and in order.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Bound;

use super::*;

/// Checks order, each kind of bound, limits, prefixes, pages and empty ranges, in every table.
pub async fn scans_are_ordered_bounded_and_paged(subject: &dyn Subject) {
    let index = open(subject).await;
    let keys: Vec<_> = (0..=u8::MAX)
        .map(|byte| Bytes::from(vec![b's', b'c', byte]))
        .collect();
    for table in Table::ALL {
        let mut batch = Batch::new();
        // Reversed, so that the order of scans is not the order of insertion.
        keys.iter()
            .rev()
            .for_each(|key| batch.put(table, key.clone(), key.clone()));
        batch.put(table, "sb", "before");
        batch.put(table, "sd", "after");
        commit(&index, batch).await.expect("the batch is durable");
        let snapshot = index.snapshot().expect("the index is open");
        check_bounds(&*snapshot, table, &keys).await;
        check_empty_ranges(&*snapshot, table, &keys).await;
        check_pages(&*snapshot, table, &keys).await;
    }
    close(index).await;
}

/// Checks each kind of bound, and limits.
async fn check_bounds(snapshot: &dyn Snapshot, table: Table, keys: &[Bytes]) {
    let at = |position: usize| keys[position].clone();
    let scan =
        async |start, end, limit| scanned(snapshot, table, Range { start, end, limit }).await;
    let prefixed = async |prefix: &'static [u8], limit| {
        scanned(snapshot, table, Range::prefix(prefix, limit)).await
    };
    assert_eq!(prefixed(b"sc", 1000).await, keys);
    assert_eq!(prefixed(b"sc\xff", 9).await, keys[255..]);
    assert_eq!(
        scan(Bound::Included(at(2)), Bound::Included(at(4)), 9).await,
        keys[2..=4]
    );
    assert_eq!(
        scan(Bound::Excluded(at(2)), Bound::Excluded(at(4)), 9).await,
        keys[3..4]
    );
    assert_eq!(
        scan(Bound::Included(at(4)), Bound::Included(at(4)), 9).await,
        keys[4..=4]
    );
    assert_eq!(
        scan(Bound::Included(at(2)), Bound::Unbounded, 3).await,
        keys[2..5]
    );
    assert_eq!(
        scan(Bound::Included(at(250)), Bound::Excluded("sd".into()), 9).await,
        keys[250..]
    );
    let all = scanned(snapshot, table, Range::all(usize::MAX)).await;
    assert!(all.is_sorted() && keys.iter().all(|key| all.contains(key)));
    assert_eq!(scanned(snapshot, table, Range::all(7)).await, all[..7]);
}

/// Checks ranges that contain no key.
async fn check_empty_ranges(snapshot: &dyn Snapshot, table: Table, keys: &[Bytes]) {
    let at = |position: usize| keys[position].clone();
    let range = |start, end| Range {
        start,
        end,
        limit: 9,
    };
    let ranges = [
        ("limit 0", Range::prefix(b"sc", 0)),
        ("absent prefix", Range::prefix(b"sc\0\0", 9)),
        (
            "start after end",
            range(Bound::Included(at(4)), Bound::Included(at(2))),
        ),
        (
            "both bounds excluded",
            range(Bound::Excluded(at(4)), Bound::Excluded(at(4))),
        ),
        (
            "upper bound excluded",
            range(Bound::Included(at(4)), Bound::Excluded(at(4))),
        ),
    ];
    for (name, range) in ranges {
        let found = scanned(snapshot, table, range).await;
        assert!(found.is_empty(), "{name}: table={table:?} found={found:?}");
    }
}

/// Checks that a scan in pages returns every key once.
async fn check_pages(snapshot: &dyn Snapshot, table: Table, keys: &[Bytes]) {
    let mut paged = Vec::new();
    let mut page = scanned(snapshot, table, Range::prefix(b"sc", 100)).await;
    while let Some(last) = page.last().cloned() {
        paged.append(&mut page);
        page = scanned(snapshot, table, Range::prefix(b"sc", 100).after(last)).await;
    }
    assert_eq!(paged, keys, "{table:?}");
}

/// Checks scans while keys are put and removed: where most or all keys were removed, where some
/// came back, and in snapshots from before.
pub async fn scans_see_what_comes_and_goes(subject: &dyn Subject) {
    const KEYS: u64 = 24;
    let index = open(subject).await;
    let key = |number: u64| Bytes::from(format!("come/{number:02}"));
    let mut model = BTreeSet::new();
    let mut states = VecDeque::new();
    // Linear congruential generator (Knuth's MMIX): the same numbers in every run.
    let mut random = 1u64;
    let mut draw = |below: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    for _ in 0..400 {
        let mut batch = Batch::new();
        let from = draw(KEYS);
        let count = draw(KEYS);
        for number in from..KEYS.min(from + count) {
            // One put for three removals, so that long runs of removed keys occur.
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
        // The last four states are scanned again after each commit.
        states.drain(..states.len().saturating_sub(4));
        for (snapshot, model) in &states {
            let mut range = Range::prefix(
                b"come/",
                1 + usize::try_from(draw(KEYS)).expect("less than 24"),
            );
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

/// Checks keys with the bytes 0x00 and 0xff, keys of maximal length, and reads of invalid keys.
pub async fn keys_may_hold_any_byte_up_to_the_longest(subject: &dyn Subject) {
    let index = open(subject).await;
    let bytes_max = index.key_bytes_max();
    let keys = [
        vec![0],
        vec![0, 0],
        vec![0, 0xff],
        b"k\0".to_vec(),
        b"k\0\0k".to_vec(),
        b"k\xff\0".to_vec(),
        longest_key(bytes_max, 0),
        longest_key(bytes_max, 0xff),
        vec![0xff],
        vec![0xff; 3],
        vec![0xff; bytes_max],
    ];
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
                "a key comes first among the keys with this prefix"
            );
        }
        check_invalid_keys(&index, &*snapshot, table).await;
        let mut batch = Batch::new();
        keys.iter().for_each(|key| batch.remove(table, key.clone()));
        commit(&index, batch).await.expect("the removal is durable");
    }
    close(index).await;
}

/// Returns a key of maximal length with this last byte.
fn longest_key(bytes_max: usize, last: u8) -> Vec<u8> {
    let mut key = vec![b'k'; bytes_max];
    key[bytes_max - 1] = last;
    key
}

/// Checks reads of keys that are empty or too long, and scans from and up to such a key.
async fn check_invalid_keys(index: &Arc<dyn Index>, snapshot: &dyn Snapshot, table: Table) {
    let bytes_max = index.key_bytes_max();
    let too_long = [longest_key(bytes_max, 0), vec![0; 60_000]].concat();
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
    // The next key may be any key of the store, but is valid.
    let next = scanned(snapshot, table, above).await;
    assert!(next[0][..] > too_long[..] && next[0].len() <= bytes_max);
    let below = Range {
        start: Bound::Included(longest_key(bytes_max, 0).into()),
        end: Bound::Excluded(too_long.into()),
        limit: 9,
    };
    assert_eq!(
        scanned(snapshot, table, below).await,
        [Bytes::from(longest_key(bytes_max, 0))]
    );
}
