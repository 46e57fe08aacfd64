//! Tests of gaps: a scan skips no existing key, and skips every known gap.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn key(number: u8) -> Bytes {
    Bytes::copy_from_slice(&[b'k', number])
}

/// Returns the keys that a scan finds outside of the known gaps, and the number of its steps over
/// absent keys.
fn scan(gaps: &Gaps, state: &BTreeSet<u8>, from: u8, commit: u64) -> (Vec<u8>, usize) {
    let mut found = Vec::new();
    let mut steps = 0;
    let mut at = key(from);
    loop {
        let stretch = gaps.stretch(Table::Rows, at, commit);
        let Some(from) = stretch.from else {
            return (found, steps);
        };
        for number in 0..=u8::MAX {
            let is_within =
                key(number) >= from && stretch.gap.as_ref().is_none_or(|gap| key(number) < *gap);
            match state.contains(&number) {
                true if is_within => found.push(number),
                false if is_within => steps += 1,
                _ => {}
            }
        }
        match stretch.gap {
            Some(gap) => at = gap,
            None => return (found, steps),
        }
    }
}

fn gap(from: Bytes, to: Option<Bytes>) -> FoundGap {
    FoundGap {
        from,
        to,
        took: Duration::from_millis(1),
    }
}

/// Returns the gaps that a scan from a key finds: all ranges between its keys.
fn learn(state: &BTreeSet<u8>, from: u8) -> Vec<FoundGap> {
    let mut at = key(from);
    let mut found = Vec::new();
    for &number in state.range(from..) {
        if at < key(number) {
            found.push(gap(at, Some(key(number))));
        }
        at = behind(&key(number));
    }
    found.push(gap(at, None));
    found
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8),
    Remove(u8),
    /// Scans the state of `back` commits ago.
    Scan {
        back: usize,
        from: u8,
    },
    /// Remembers the gaps of a scan of the state of `back` commits ago.
    Learn {
        back: usize,
        from: u8,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..40u8).prop_map(Step::Put),
        3 => (0..40u8).prop_map(Step::Remove),
        3 => (0..4usize, 0..40u8).prop_map(|(back, from)| Step::Scan { back, from }),
        2 => (0..4usize, 0..40u8).prop_map(|(back, from)| Step::Learn { back, from }),
    ]
}

proptest! {
    #[test]
    fn scan_of_any_state_misses_no_key(steps in proptest::collection::vec(step(), 1..120)) {
        let gaps = Gaps::new();
        let mut states = vec![BTreeSet::new()];
        for step in steps {
            let commit = states.len() - 1;
            match step {
                Step::Put(number) => {
                    let mut next = states[commit].clone();
                    next.insert(number);
                    let key = key(number);
                    gaps.committing(commit as u64 + 1, std::iter::once((Table::Rows, &key)));
                    states.push(next);
                }
                Step::Remove(number) => {
                    let mut next = states[commit].clone();
                    next.remove(&number);
                    gaps.committing(commit as u64 + 1, std::iter::empty());
                    states.push(next);
                }
                Step::Scan { back, from } => {
                    let commit = commit.saturating_sub(back);
                    let expected: Vec<u8> = states[commit].range(from..).copied().collect();
                    prop_assert_eq!(scan(&gaps, &states[commit], from, commit as u64).0, expected);
                }
                Step::Learn { back, from } => {
                    let commit = commit.saturating_sub(back);
                    gaps.remember(Table::Rows, learn(&states[commit], from), commit as u64);
                }
            }
        }
    }
}

#[test]
fn known_gap_is_skipped() {
    let gaps = Gaps::new();
    let state = BTreeSet::from([0, 100, 200]);
    assert_eq!(scan(&gaps, &state, 0, 5), (vec![0, 100, 200], 253));
    gaps.remember(Table::Rows, learn(&state, 0), 5);
    assert_eq!(scan(&gaps, &state, 0, 5), (vec![0, 100, 200], 0));
    assert_eq!(
        scan(&gaps, &state, 50, 9),
        (vec![100, 200], 0),
        "from within a gap, in a later state"
    );
    assert_eq!(
        scan(&gaps, &state, 0, 4).1,
        253,
        "an earlier state may contain the removed keys"
    );
    assert_eq!(
        gaps.stretch(Table::Meta, key(1), 5),
        Stretch {
            from: Some(key(1)),
            gap: None
        },
        "another table"
    );
}

#[test]
fn put_cuts_a_gap_and_a_later_scan_closes_it() {
    let gaps = Gaps::new();
    gaps.remember(Table::Rows, learn(&BTreeSet::new(), 0), 1);
    gaps.committing(2, std::iter::once((Table::Rows, &key(7))));
    assert_eq!(scan(&gaps, &BTreeSet::from([7]), 0, 2), (vec![7], 0));
    assert_eq!(
        scan(&gaps, &BTreeSet::new(), 0, 3),
        (vec![], 1),
        "removed again: one step, until a scan remembers it"
    );
    gaps.remember(Table::Rows, vec![gap(key(7), Some(behind(&key(7))))], 3);
    assert_eq!(scan(&gaps, &BTreeSet::new(), 0, 3), (vec![], 0));
    assert_eq!(
        gaps.known().gaps[&Table::Rows].len(),
        1,
        "the parts are merged"
    );
}

#[test]
fn gaps_of_a_late_scan_are_cut_by_newer_puts() {
    let gaps = Gaps::new();
    gaps.committing(2, std::iter::once((Table::Rows, &key(7))));
    gaps.remember(Table::Rows, learn(&BTreeSet::new(), 0), 1);
    assert_eq!(scan(&gaps, &BTreeSet::from([7]), 0, 2).0, [7]);
}

#[test]
fn notes_and_gaps_are_bounded() {
    let gaps = Gaps::new();
    for commit in 2..2 + NOTED_MAX as u64 + 1 {
        gaps.committing(commit, std::iter::once((Table::Rows, &key(7))));
    }
    assert_eq!(gaps.known().noted.len(), NOTED_MAX);
    gaps.remember(Table::Rows, learn(&BTreeSet::new(), 0), 1);
    assert_eq!(
        scan(&gaps, &BTreeSet::from([7]), 0, 3).0,
        [7],
        "notes of puts since the scan are missing"
    );
    assert!(gaps.known().gaps.is_empty());

    let numbers: Vec<u64> = (0..2 * GAPS_MAX as u64).collect();
    let found = |number: &u64| {
        let at = |offset: u64| Bytes::copy_from_slice(&(3 * number + offset).to_be_bytes());
        gap(at(0), Some(at(1)))
    };
    gaps.remember(Table::Rows, numbers.iter().map(found).collect(), 100_000);
    assert_eq!(gaps.known().gaps[&Table::Rows].len(), GAPS_MAX);
}

#[test]
fn cheap_gaps_do_not_evict_an_expensive_gap() {
    let gaps = Gaps::new();
    let at =
        |number: u64, offset: u64| Bytes::copy_from_slice(&(3 * number + offset).to_be_bytes());
    let found = |number: u64, millis| FoundGap {
        from: at(number, 0),
        to: Some(at(number, 1)),
        took: Duration::from_millis(millis),
    };
    gaps.remember(
        Table::Rows,
        (1..=GAPS_MAX as u64)
            .map(|number| found(number, 1))
            .collect(),
        1,
    );
    gaps.remember(Table::Rows, vec![found(0, 139)], 1);
    assert_eq!(gaps.stretch(Table::Rows, at(0, 0), 1).from, Some(at(0, 1)));
    assert_eq!(gaps.known().gaps[&Table::Rows].len(), GAPS_MAX);
}
