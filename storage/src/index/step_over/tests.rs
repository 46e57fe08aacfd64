//! Tests of scans over unreadable keys, on a model of an index with damaged blocks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::index::Page;
use futures::FutureExt;
use proptest::prelude::*;

/// Model of sorted tables in blocks. As in fjall, a scan that reaches a damaged block fails and
/// returns nothing, and an entry is returned only after the next entry of its table has been read.
struct Blocks {
    tables: Vec<Vec<(Vec<Bytes>, bool)>>,
    reads: AtomicUsize,
}

impl Blocks {
    fn of(table: Vec<(Vec<Bytes>, bool)>) -> Self {
        Self {
            tables: vec![table],
            reads: AtomicUsize::new(0),
        }
    }

    fn read(&self, range: &Range) -> Result<Vec<Bytes>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let mut merged: BTreeMap<Bytes, Option<bool>> = BTreeMap::new();
        for table in &self.tables {
            for (block, is_damaged) in table {
                let first = &block[0];
                let last = &block[block.len() - 1];
                let previous = table
                    .iter()
                    .map(|(block, _)| &block[block.len() - 1])
                    .filter(|last| *last < first)
                    .max();
                let start = first_key(&range.start);
                let wanted = *last >= start
                    && end_key(&range.end)
                        .is_none_or(|end| previous.is_none_or(|last| after(last) < end));
                if *is_damaged && wanted {
                    // The scan fails at the entry before the block.
                    let met = previous
                        .filter(|last| **last >= start)
                        .cloned()
                        .unwrap_or(start);
                    merged.insert(met, Some(true));
                } else if !is_damaged {
                    for key in block.iter().filter(|key| {
                        **key >= start && end_key(&range.end).is_none_or(|end| **key < end)
                    }) {
                        merged.entry(key.clone()).or_insert(None);
                    }
                }
            }
        }
        let mut keys = Vec::new();
        for (key, damage) in merged {
            if keys.len() == range.limit {
                break;
            }
            if damage.is_some() {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    "scan",
                    "a checksum does not match",
                ));
            }
            keys.push(key);
        }
        Ok(keys)
    }
}

impl Snapshot for Blocks {
    fn get<'a>(&'a self, _: Table, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>>> {
        let blocks = || self.tables.iter().flatten();
        let holds = |block: &Vec<Bytes>| block[0] <= key && key <= block[block.len() - 1];
        let is_damaged = blocks().any(|(block, is_damaged)| *is_damaged && holds(block));
        let is_present = blocks().any(|(block, _)| block.iter().any(|present| present == key));
        Box::pin(async move {
            if is_damaged {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    "get",
                    "a checksum does not match",
                ));
            }
            Ok(is_present.then(|| Bytes::copy_from_slice(key)))
        })
    }

    fn scan(&self, _: Table, range: Range) -> BoxFuture<'_, Result<Page>> {
        Box::pin(async move {
            Ok(self
                .read(&range)?
                .into_iter()
                .map(|key| (key.clone(), key))
                .collect())
        })
    }
}

/// Returns all keys that the pages contain, and all unreadable ranges.
fn walk(blocks: &Blocks, limit: usize) -> (Vec<Bytes>, Vec<UnreadableRange>) {
    let mut keys = Vec::new();
    let mut unreadable = Vec::new();
    let mut next = Some(Range::all(limit));
    let snapshot: &dyn Snapshot = blocks;
    while let Some(range) = next {
        let page = snapshot
            .scan_over(Table::Rows, range)
            .now_or_never()
            .unwrap()
            .unwrap();
        assert!(page.entries.len() <= limit);
        keys.extend(page.entries.into_iter().map(|(key, _)| key));
        unreadable.extend(page.unreadable);
        next = page.rest;
    }
    (keys, unreadable)
}

fn numbered(numbers: std::ops::Range<u32>) -> Vec<Bytes> {
    numbers
        .map(|number| Bytes::from(format!("default\0k{number:06}")))
        .collect()
}

#[test]
fn only_the_damaged_block_is_skipped() {
    let blocks = Blocks::of(vec![
        (numbered(0..10), false),
        (numbered(10..14), true),
        (numbered(14..900), false),
    ]);
    for limit in [1, 2, 7, 1000] {
        let (keys, unreadable) = walk(&blocks, limit);
        assert_eq!(
            keys,
            [numbered(0..10), numbered(14..900)].concat(),
            "limit={limit}"
        );
        let [range] = &unreadable[..] else {
            panic!("{unreadable:?}")
        };
        assert_eq!(
            (range.from.clone(), range.to.clone()),
            (
                after(&numbered(9..10)[0]),
                Some(after(&numbered(13..14)[0]))
            )
        );
        assert!(range.to_string().contains(r"k000009\x00"), "{range}");
    }
}

#[test]
fn damage_at_both_ends_of_a_table_is_skipped() {
    let blocks = Blocks::of(vec![
        (numbered(0..5), true),
        (numbered(5..8), false),
        (numbered(8..9), true),
    ]);
    let (keys, unreadable) = walk(&blocks, 100);
    assert_eq!((keys, unreadable.len()), (numbered(5..8), 2));
    assert!(
        unreadable[0].contains(b"default\0k000000") && unreadable[1].contains(b"default\0k000008")
    );
}

#[test]
fn damage_past_the_end_of_a_range_costs_bounded_reads() {
    // The end of the range lies in the damage: all keys below it are damaged, at any length.
    let blocks = Blocks::of(vec![
        (numbered(0..10), false),
        (numbered(10..30), true),
        (numbered(30..40), false),
    ]);
    let prefix = b"default\0k00001";
    let snapshot: &dyn Snapshot = &blocks;
    let scan = snapshot.scan_over(Table::Rows, Range::prefix(prefix, 100));
    let page = scan.now_or_never().unwrap().unwrap();
    assert!(
        page.entries.is_empty() && page.rest.is_none() && page.unreadable.is_some(),
        "{page:?}"
    );
    let bits = 8 * (prefix.len() + MARGIN_BYTES);
    let reads = blocks.reads.into_inner();
    assert!(reads <= 5 * bits, "reads={reads} bits={bits}");
}

#[test]
fn table_without_damage_is_read_as_by_a_plain_scan() {
    let blocks = Blocks::of(vec![(numbered(0..50), false)]);
    assert_eq!(walk(&blocks, 7), (numbered(0..50), Vec::new()));
}

proptest! {
    #[test]
    fn every_key_is_returned_or_unreadable(
        keys in proptest::collection::btree_set(
            proptest::collection::vec(any::<u8>(), 1..5),
            1..40,
        ),
        damaged in proptest::collection::vec(proptest::bool::weighted(0.2), 40),
        size in 1..6usize,
        limit in 1..9usize,
    ) {
        let keys: Vec<Bytes> = keys.into_iter().map(Bytes::from).collect();
        let blocks = keys.chunks(size).zip(damaged);
        let table: Vec<_> = blocks
            .map(|(block, is_damaged)| (block.to_vec(), is_damaged))
            .collect();
        let (found, unreadable) = walk(&Blocks::of(table.clone()), limit);
        for key in &keys {
            let is_unreadable = unreadable.iter().any(|range| range.contains(key));
            prop_assert_eq!(found.contains(key), !is_unreadable);
        }
        for (block, is_damaged) in &table {
            prop_assert!(!is_damaged || block.iter().all(|key| !found.contains(key)));
        }
        let is_whole = table.iter().all(|(_, is_damaged)| !is_damaged);
        prop_assert_eq!(is_whole, unreadable.is_empty());
    }

    #[test]
    fn key_between_two_keys_lies_between_them(
        first in proptest::collection::vec(any::<u8>(), 0..6),
        second in proptest::collection::vec(any::<u8>(), 0..6),
    ) {
        prop_assume!(first != second);
        let (low, high) = if first < second { (first, second) } else { (second, first) };
        match between(&low, &high) {
            Some(middle) => prop_assert!(low[..] < middle[..] && middle[..] < high[..]),
            None => prop_assert_eq!(after(&Bytes::from(low)), high),
        }
    }

    #[test]
    fn keys_farther_away_ascend(from in proptest::collection::vec(any::<u8>(), 0..6)) {
        let keys: Vec<Bytes> = farther(&from).collect();
        prop_assert!(keys.iter().all(|key| key[..] > from[..]));
        prop_assert!(keys.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
