//! Backlog: comparison with a model, and limits.

use cenotaph_storage::records::LateWrite;
use cenotaph_storage::{Epoch, ObjectId};
use proptest::prelude::*;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

fn orphan(since: u64, wait: u64) -> Orphan {
    let object = ObjectId::try_from("a").unwrap();
    Orphan {
        not_before: at(since + wait),
        ..Orphan::new(object, at(since), LateWrite::Landed)
    }
}

fn revision(number: u8) -> RevisionId {
    RevisionId::from_slice(&[number; 16]).unwrap()
}

fn put(backlog: &Backlog, number: u8, orphan: &Orphan) {
    let mut batch = Batch::new();
    batch.put(
        Table::Orphans,
        Bytes::copy_from_slice(&[number; 16]),
        orphan.encode(),
    );
    backlog.note(&BacklogUpdate::of(&batch));
}

fn remove(backlog: &Backlog, number: u8) {
    let mut batch = Batch::new();
    batch.remove(Table::Orphans, Bytes::copy_from_slice(&[number; 16]));
    backlog.note(&BacklogUpdate::of(&batch));
}

fn scan_orphans(backlog: &Backlog) {
    backlog.scanned_orphans(backlog.scan_of_orphans().expect("a scan is needed"));
    assert_eq!(backlog.scan_of_orphans(), None);
}

#[test]
fn orphan_is_taken_once_when_due() {
    let backlog = Backlog::default();
    scan_orphans(&backlog);
    put(&backlog, 1, &orphan(100, 0));
    put(&backlog, 2, &orphan(100, 60));
    assert_eq!(
        backlog.take_due(at(10), HOUR),
        Some(revision(1)),
        "an orphan that never had to wait is due at any time"
    );
    assert_eq!(backlog.take_due(at(100), HOUR), None);
    assert_eq!(backlog.next_due(), Some(at(160)));
    assert_eq!(backlog.take_due(at(160), HOUR), Some(revision(2)));
    assert_eq!(
        (backlog.take_due(at(999), HOUR), backlog.next_due()),
        (None, None)
    );
    assert_eq!(
        backlog.tally_orphans(),
        Some(Tally {
            count: 2,
            oldest: Some(at(100))
        })
    );
    remove(&backlog, 1);
    backlog.put_back_all();
    assert_eq!(
        backlog.take_due(at(999), HOUR),
        Some(revision(2)),
        "the orphan that a dead pass has taken"
    );
}

#[test]
fn far_orphan_is_taken_after_clock_was_set_back() {
    let backlog = Backlog::default();
    put(&backlog, 1, &orphan(100_000, 60));
    assert_eq!(backlog.take_due(at(99_000), HOUR), None);
    assert_eq!(backlog.take_due(at(90_000), HOUR), Some(revision(1)));
}

#[test]
fn orphans_over_the_limit_are_found_by_a_later_scan() {
    let backlog = Backlog::with_orphans_max(4);
    scan_orphans(&backlog);
    for number in 0..6 {
        put(&backlog, number, &orphan(100, 0));
    }
    assert!(
        backlog.has_overflowed()
            && backlog.tally_orphans().is_none()
            && backlog.scan_of_orphans().is_none()
    );
    for number in 0..2 {
        assert_eq!(backlog.take_due(at(100), HOUR), Some(revision(number)));
        remove(&backlog, number);
    }
    scan_orphans(&backlog);
    assert!(!backlog.has_overflowed());
}

#[test]
fn batch_of_unknown_outcome_causes_a_scan() {
    let backlog = Backlog::default();
    backlog.scanned_changes(backlog.scan_of_changes().unwrap());
    let change = Change {
        epoch: Epoch::new(1),
        started: at(5),
        object: ObjectId::try_from("a").unwrap(),
        revisions: vec![revision(1)],
    };
    let [first, second] = [1, 2].map(|number| OperationId::from_slice(&[number; 16]).unwrap());
    backlog.note(&BacklogUpdate::of(&cenotaph_storage::decide::record(
        first, &change,
    )));
    assert!(backlog.may_hold(first) && !backlog.may_hold(second));
    assert_eq!(
        backlog.tally_changes(),
        Some(Tally {
            count: 1,
            oldest: Some(at(5))
        })
    );
    backlog.doubt(&BacklogUpdate::of(&cenotaph_storage::decide::record(
        second, &change,
    )));
    assert!(backlog.may_hold(second) && backlog.tally_changes().is_none());
    assert!(backlog.scan_of_changes().is_some());
}

#[test]
fn scan_cut_short_or_overtaken_runs_again() {
    let backlog = Backlog::default();
    let first = backlog.scan_of_changes().unwrap();
    assert_eq!(backlog.scan_of_changes(), Some(first), "its actor has died");
    backlog.request_scan_of_changes();
    backlog.scanned_changes(first);
    let second = backlog
        .scan_of_changes()
        .expect("requested after the first scan had begun");
    backlog.scanned_changes(second);
    assert_eq!(backlog.scan_of_changes(), None);
}

proptest! {
    #[test]
    fn every_orphan_is_due_at_its_time_only(
        steps in proptest::collection::vec((0..8u8, proptest::option::of(1..50u64)), 1..40),
    ) {
        let backlog = Backlog::default();
        let mut model = BTreeMap::new();
        for (number, wait) in steps {
            match wait {
                Some(wait) => {
                    put(&backlog, number, &orphan(100, wait));
                    model.insert(number, wait);
                }
                None => {
                    remove(&backlog, number);
                    model.remove(&number);
                }
            }
        }
        for second in 100..150 {
            let taken = std::iter::from_fn(|| backlog.take_due(at(second), HOUR));
            let taken: BTreeSet<_> = taken.collect();
            let due = model.iter().filter(|(_, wait)| 100 + *wait == second);
            let due: BTreeSet<_> = due.map(|(number, _)| revision(*number)).collect();
            prop_assert_eq!(taken, due);
        }
    }
}
