//! Journals in fjall's format, torn at every offset and with every byte changed.

use std::fs;

use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use super::*;

const FLIPS: [u8; 2] = [0x10, 0xff];

/// Keyspace, key, and the value of a put, or `None` of a remove.
type Item<'a> = (u64, &'a [u8], Option<&'a [u8]>);

/// Encodes a batch in fjall's format.
fn batch(seqno: u64, items: &[Item<'_>]) -> Vec<u8> {
    let mut encoded = Vec::new();
    for (keyspace, key, value) in items {
        let kind = u8::from(value.is_none());
        let value = value.unwrap_or_default();
        let length = u32::try_from(value.len()).unwrap().to_le_bytes();
        encoded.extend([2, kind, 0]);
        encoded.extend(keyspace.to_le_bytes());
        encoded.extend(u16::try_from(key.len()).unwrap().to_le_bytes());
        encoded.extend([length, length].concat());
        encoded.extend([key, value].concat());
    }
    let count = u32::try_from(items.len()).unwrap().to_le_bytes();
    let head = [&[1][..], &count, &seqno.to_le_bytes()].concat();
    [
        &head[..],
        &encoded,
        &[3],
        &xxh3_64(&encoded).to_le_bytes(),
        b"FJL\x03",
    ]
    .concat()
}

fn three() -> (Vec<u8>, [u64; 3]) {
    let batches = [
        batch(7, &[(1, b"a", Some(b"first")), (2, b"b", None)]),
        batch(9, &[(1, b"a", Some(&[1; 40]))]),
        batch(10, &[(7, b"key", Some(b""))]),
    ];
    let ends = [1, 2, 3].map(|n| batches[..n].concat().len() as u64);
    (batches.concat(), ends)
}

fn scanned(bytes: &[u8]) -> Journal {
    scanned_after(bytes, None)
}

fn scanned_after(bytes: &[u8], after: Option<u64>) -> Journal {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    scan(
        file.path(),
        Mode {
            after,
            witness: None,
        },
    )
    .unwrap()
}

#[test]
fn journal_of_fjall_is_one_run() {
    let dir = tempfile::tempdir().unwrap();
    let database = fjall::Database::builder(dir.path())
        .worker_threads(1)
        .open()
        .unwrap();
    let keyspace = database
        .keyspace("one", fjall::KeyspaceCreateOptions::default)
        .unwrap();
    for value in [&b"small"[..], &[7; 300_000]] {
        let mut batch = database
            .batch()
            .durability(Some(fjall::PersistMode::SyncData));
        batch.insert(&keyspace, "key", value);
        batch.remove(&keyspace, "other");
        batch.commit().unwrap();
    }
    let journal = scan(&dir.path().join("0.jnl"), Mode::default()).unwrap();
    assert_eq!(
        (journal.bytes, journal.gaps.len(), journal.runs.len()),
        (64 << 20, 0, 1)
    );
    assert_eq!((journal.runs[0].start, journal.runs[0].batches), (0, 2));
}

#[test]
fn zeros_at_the_end_are_not_damage() {
    let (bytes, [_, _, end]) = three();
    let run = BatchRun {
        start: 0,
        end,
        batches: 3,
        first_seqno: 7,
        last_seqno: 10,
    };
    for zeros in [0, 1, 12, 13, 500_000] {
        let journal = scanned(&[&bytes[..], &vec![0; zeros]].concat());
        assert_eq!(journal.runs, [run]);
        assert_eq!(
            (journal.damaged_tail(), journal.damaged_middle()),
            (None, None)
        );
    }
    assert_eq!(scanned(&[]).runs, []);
    assert_eq!(scanned(&[0; 100]).gaps, []);
}

#[test]
fn torn_batch_is_a_damaged_tail() {
    let (bytes, ends) = three();
    for length in 0..bytes.len() {
        for zeros in [0, 5000] {
            let journal = scanned(&[&bytes[..length], &vec![0; zeros]].concat());
            let intact = ends
                .iter()
                .copied()
                .filter(|&end| end <= length as u64)
                .max()
                .unwrap_or(0);
            assert_eq!(journal.runs.last().map_or(0, |run| run.end), intact);
            assert_eq!(journal.damaged_middle(), None);
            assert_eq!(
                journal.damaged_tail().map(|gap| gap.start),
                (intact < length as u64).then_some(intact)
            );
        }
    }
}

#[test]
fn changed_byte_before_the_last_batch_is_middle_damage() {
    let (bytes, ends) = three();
    let last = usize::try_from(ends[1]).unwrap();
    let mut found = 0;
    for (at, flip) in (0..last).flat_map(|at| FLIPS.map(|flip| (at, flip))) {
        let mut bytes = bytes.clone();
        bytes[at] ^= flip;
        let journal = scanned_after(&bytes, Some(6));
        let start = ends
            .iter()
            .copied()
            .filter(|&end| end <= at as u64)
            .max()
            .unwrap_or(0);
        let seqno = (5..13).contains(&(at as u64 - start));
        match journal.damaged_middle() {
            // If the changed number is too high, the next batch is out of order.
            Some(gap) => {
                assert!(
                    seqno || gap.start <= at as u64 && (at as u64) < gap.end,
                    "{gap:?}, byte {at}"
                );
                found += 1;
            }
            // A changed number that preserves the order is not detected.
            None => assert!(
                seqno && journal.gaps.is_empty(),
                "byte {at} ^ {flip}: {journal:?}"
            ),
        }
    }
    assert!(found > last);
}

#[test]
fn batches_behind_a_damaged_start_are_found() {
    let (mut bytes, ends) = three();
    bytes[0] = 0;
    let journal = scanned(&bytes);
    assert_eq!(
        journal.gaps,
        [JournalGap {
            start: 0,
            end: ends[0],
            defect: Defect::NoStart
        }]
    );
    assert_eq!(
        journal.runs,
        [BatchRun {
            start: ends[0],
            end: ends[2],
            batches: 2,
            first_seqno: 9,
            last_seqno: 10
        }]
    );
    assert_eq!(journal.damaged_tail(), None);

    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &bytes).unwrap();
    let mut intact = Vec::new();
    copy_intact(file.path(), &journal, &mut intact).unwrap();
    assert_eq!(intact, bytes[usize::try_from(ends[0]).unwrap()..]);
}

#[test]
fn sequence_numbers_must_rise() {
    let (bytes, _) = three();
    assert_eq!(scanned_after(&bytes, Some(6)).gaps, []);
    let journal = scanned_after(&bytes, Some(7));
    assert_eq!(journal.gaps[0].defect, Defect::Seqno(7));
    assert_eq!(journal.first_seqno(), Some(9));
    let twice = [&bytes[..], &bytes[..]].concat();
    let journal = scanned(&twice);
    let gap = JournalGap {
        start: bytes.len() as u64,
        end: twice.len() as u64,
        defect: Defect::Seqno(7),
    };
    assert_eq!(
        (journal.damaged_tail(), journal.damaged_middle()),
        (None, Some(gap))
    );
}

#[test]
fn lengths_are_not_trusted() {
    let mut head = batch(1, &[(1, b"k", Some(b"v"))]);
    for at in [1, 15, 24, 26, 30] {
        head[at..at + 2].fill(0xff);
    }
    let journal = scanned(&head);
    assert_eq!(journal.runs, []);
    assert!(journal.damaged_tail().is_some());
    // Each of these bytes may be the start of a batch.
    let journal = scanned(&vec![TAG_START; 1 << 19]);
    assert_eq!(journal.damaged_tail().map(|gap| gap.start), Some(0));
}

#[test]
fn search_beyond_its_budget_is_undecided() {
    // Every 35th byte begins a batch of almost all bytes that follow, and no batch has an end.
    let false_start = &batch(1, &[(1, b"k", Some(b""))])[..35];
    let mut bytes = false_start.repeat(4000);
    for at in (0..bytes.len()).step_by(35) {
        let rest = u32::try_from(bytes.len() - at - 35).unwrap().to_le_bytes();
        bytes[at + 1..at + 5].copy_from_slice(&2_u32.to_le_bytes());
        bytes[at + 26..at + 34].copy_from_slice(&[rest, rest].concat());
    }
    let journal = scanned(&bytes);
    assert!(journal.undecided);
    assert_eq!(journal.damaged_tail(), None);
    assert_eq!(journal.damaged_middle().map(|gap| gap.start), Some(0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn scan_accepts_any_bytes(bytes in proptest::collection::vec(0_u8..5, 0..2000)) {
        let journal = scanned(&bytes);
        for gap in &journal.gaps {
            prop_assert!(gap.start < gap.end && gap.end <= journal.bytes);
        }
    }
}
