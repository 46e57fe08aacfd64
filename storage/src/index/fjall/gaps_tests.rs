//! Claims about gaps: no key that is there is ever left out, and what is known is left out.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn key(number: u8) -> Bytes {
    Bytes::copy_from_slice(&[b'k', number])
}

/// The findings of a scan that leaves out the known gaps, and the number of its steps over keys
/// that are not there.
fn scan(gaps: &Gaps, state: &BTreeSet<u8>, from: u8, commit: u64) -> (Vec<u8>, usize) {
    let (mut found, mut steps, mut at) = (Vec::new(), 0, key(from));
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

fn gap(from: Bytes, to: Option<Bytes>) -> Found {
    Found {
        from,
        to,
        took: Duration::from_millis(1),
    }
}

/// The gaps that a scan from a key on learns: all that lies between its findings.
fn learn(state: &BTreeSet<u8>, from: u8) -> Vec<Found> {
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
    /// Scans the state of so many commits ago.
    Scan {
        back: usize,
        from: u8,
    },
    /// Remembers what a scan of the state of so many commits ago found.
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
    fn no_scan_of_any_state_misses_a_key(steps in proptest::collection::vec(step(), 1..120)) {
        let gaps = Gaps::new();
        let mut states = vec![BTreeSet::new()];
        for step in steps {
            let commit = states.len() - 1;
            match step {
                Step::Put(number) => {
                    let mut next = states[commit].clone();
                    next.insert(number);
                    gaps.committing(commit as u64 + 1, std::iter::once((Table::Rows, &key(number))));
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
fn what_is_known_is_stepped_over_no_more() {
    let gaps = Gaps::new();
    let state = BTreeSet::from([0, 100, 200]);
    assert_eq!(scan(&gaps, &state, 0, 5), (vec![0, 100, 200], 253));
    gaps.remember(Table::Rows, learn(&state, 0), 5);
    assert_eq!(scan(&gaps, &state, 0, 5), (vec![0, 100, 200], 0));
    assert_eq!(
        scan(&gaps, &state, 50, 9),
        (vec![100, 200], 0),
        "from within a gap, and later"
    );
    assert_eq!(
        scan(&gaps, &state, 0, 4).1,
        253,
        "an earlier state may have held what is removed"
    );
    assert_eq!(
        gaps.stretch(Table::Meta, key(1), 5),
        Stretch {
            from: Some(key(1)),
            gap: None
        },
        "of another table"
    );
}

#[test]
fn a_put_cuts_its_key_out_and_a_removal_adds_to_what_is_known() {
    let gaps = Gaps::new();
    gaps.remember(Table::Rows, learn(&BTreeSet::new(), 0), 1);
    gaps.committing(2, std::iter::once((Table::Rows, &key(7))));
    assert_eq!(scan(&gaps, &BTreeSet::from([7]), 0, 2), (vec![7], 0));
    assert_eq!(
        scan(&gaps, &BTreeSet::new(), 0, 3),
        (vec![], 1),
        "removed again: one step, until that is known too"
    );
    gaps.remember(Table::Rows, vec![gap(key(7), Some(behind(&key(7))))], 3);
    assert_eq!(scan(&gaps, &BTreeSet::new(), 0, 3), (vec![], 0));
    assert_eq!(
        gaps.known().gaps[&Table::Rows].len(),
        1,
        "they are one again"
    );
}

#[test]
fn a_scan_that_ended_late_is_cut_by_what_was_put_meanwhile() {
    let gaps = Gaps::new();
    gaps.committing(2, std::iter::once((Table::Rows, &key(7))));
    gaps.remember(Table::Rows, learn(&BTreeSet::new(), 0), 1);
    assert_eq!(scan(&gaps, &BTreeSet::from([7]), 0, 2).0, [7]);
}

#[test]
fn what_is_noted_and_known_is_bounded() {
    let gaps = Gaps::new();
    for commit in 2..2 + NOTED_MAX as u64 + 1 {
        gaps.committing(commit, std::iter::once((Table::Rows, &key(7))));
    }
    assert_eq!(gaps.known().noted.len(), NOTED_MAX);
    gaps.remember(Table::Rows, learn(&BTreeSet::new(), 0), 1);
    assert_eq!(
        scan(&gaps, &BTreeSet::from([7]), 0, 3).0,
        [7],
        "it may not know of all that was put meanwhile"
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
fn noise_does_not_drive_out_what_took_long() {
    let gaps = Gaps::new();
    let at =
        |number: u64, offset: u64| Bytes::copy_from_slice(&(3 * number + offset).to_be_bytes());
    let found = |number: u64, millis| Found {
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
