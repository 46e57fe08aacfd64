//! Expired rows in every decision.

use std::time::Duration;

use super::*;
use crate::records::{Expiration, LastVersion};

const MS: Duration = Duration::from_millis(1);

fn expiring(swap: Swap, expiration: Expiration) -> Swap {
    let mut swap = swap;
    if let Mutation::Inline { attributes, .. } | Mutation::Tombstone { attributes, .. } =
        &mut swap.mutation
    {
        attributes.expiration = expiration;
    }
    swap
}

/// A tombstone that was written at 1 and expires at 11.
fn mortal() -> RowState {
    after(
        &never(),
        &expiring(
            tombstone(2, ExpectedRow::NoTombstone),
            Expiration::TimeToLive(10 * MS),
        ),
    )
}

fn decide(swap: &Swap, row_state: &RowState, now: u64) -> Decision {
    decision(swap, row_state, true, at(now))
}

#[test]
fn an_expired_object_is_absent_for_every_write() {
    let expired = mortal();
    assert!(matches!(
        decide(&delete(3), &expired, 11),
        Decision::Commit { existed: false, .. }
    ));
    assert!(matches!(
        decide(&inline(3, 1), &expired, 11),
        Decision::Commit { existed: false, .. }
    ));
    let absent = Swap {
        precondition: Precondition::Absent,
        ..inline(3, 1)
    };
    assert!(matches!(
        decide(&absent, &expired, 11),
        Decision::Commit { .. }
    ));
    let version = Swap {
        precondition: Precondition::Version(Version::new(1)),
        ..inline(3, 1)
    };
    assert!(matches!(
        decide(&version, &expired, 11),
        Decision::Conflict { current: None, .. }
    ));
    assert!(
        matches!(decide(&version, &expired, 10), Decision::Commit { .. }),
        "a moment before it was there"
    );
    assert_eq!(
        decide(
            &doing(3, Mutation::Amend(Amendment::default())),
            &expired,
            11
        ),
        Decision::Absent
    );
}

#[test]
fn overwriting_an_expired_tombstone_queues_its_blobs_and_begins_anew() {
    let expired = mortal();
    let swap = inline(3, 1);
    let decision = decide(&swap, &expired, 20);
    let Decision::Commit {
        next,
        orphans,
        existed: false,
    } = &decision
    else {
        panic!("{decision:?}")
    };
    assert_eq!(orphans, &[key(1002)]);
    let row = next.row().unwrap();
    assert_eq!(
        (row.metadata.created, row.version),
        (at(20), Version::new(2)),
        "created anew, its version is not"
    );
    let expected = [
        (Table::Payloads, false),
        (Table::Rows, true),
        (Table::Expiry, false),
        (Table::Orphans, true),
    ];
    assert_eq!(tables(&plan(&swap, &expired, true, at(20)).batch), expected);
}

#[test]
fn the_expirer_removes_what_is_due_and_nothing_else() {
    let object = mortal();
    let expire = doing(3, Mutation::Expire);
    assert_eq!(decide(&expire, &object, 10), Decision::Unchanged);
    assert_eq!(decide(&expire, &never(), 99), Decision::Unchanged);
    let expected = [
        (Table::Payloads, false),
        (Table::Rows, false),
        (Table::Meta, true),
        (Table::Expiry, false),
        (Table::Orphans, true),
    ];
    assert_eq!(
        tables(&plan(&expire, &object, true, at(11)).batch),
        expected
    );
}

#[test]
fn a_large_put_over_what_expired_meanwhile_commits() {
    let object = mortal();
    let saw = object.expectation(at(5));
    let gone = RowState::Absent(LastVersion::at(object.version(), at(1)));
    let put = tombstone(9, saw);
    assert!(
        matches!(decide(&put, &object, 11), Decision::Commit { orphans, .. } if orphans == [key(1002)])
    );
    assert!(
        matches!(decide(&put, &gone, 11), Decision::Commit { .. }),
        "the expirer is no writer"
    );
    assert!(
        matches!(decide(&put, &gone, 10), Decision::Supersede { .. }),
        "it was deleted before its time"
    );
    let saw_expired = object.expectation(at(11));
    assert_eq!(saw_expired, ExpectedRow::NoTombstone);
    assert!(matches!(
        decide(&tombstone(9, saw_expired), &object, 12),
        Decision::Commit { .. }
    ));
}

#[test]
fn it_makes_no_difference_whether_the_expirer_has_been_by() {
    let object = mortal();
    let gone = RowState::Absent(LastVersion::at(object.version(), at(1)));
    let saw_later_deadline = match object.expectation(at(5)) {
        ExpectedRow::Tombstone { payload, .. } => ExpectedRow::Tombstone {
            payload,
            expires_at: Some(at(1000)),
        },
        ExpectedRow::NoTombstone => panic!("it is one"),
    };
    for expected in [
        ExpectedRow::NoTombstone,
        object.expectation(at(5)),
        saw_later_deadline,
    ] {
        let commits = |row_state: &RowState| {
            matches!(
                decide(&tombstone(9, expected), row_state, 20),
                Decision::Commit { .. }
            )
        };
        assert_eq!(commits(&object), commits(&gone), "{expected:?}");
    }
}

#[test]
fn a_read_extends_the_version_it_read_and_no_other() {
    let idle = Expiration::TimeToIdle(8 * MS);
    let first = after(&never(), &expiring(inline(1, 1), idle));
    let touch = doing(50, Mutation::Touch { seen: op(1) });
    let Decision::Commit { next, .. } = decide(&touch, &first, 4) else {
        panic!("it extends")
    };
    let old = first.row().unwrap();
    let new = next.row().unwrap();
    assert_eq!(
        (new.version, new.etag(), new.metadata.modified),
        (old.version, old.etag(), old.metadata.modified)
    );
    assert_eq!(new.metadata.expires_at, Some(at(12)));
    assert_eq!(
        decide(&touch, &next, 5),
        Decision::Unchanged,
        "not twice in a quarter of the time"
    );
    assert_eq!(
        decide(&touch, &first, 9),
        Decision::Unchanged,
        "what has expired is not brought back"
    );
    let second = after(&first, &expiring(inline(2, 1), idle));
    assert_eq!(
        decide(&touch, &second, 4),
        Decision::Unchanged,
        "it has been overwritten"
    );
    assert_eq!(
        decide(
            &touch,
            &RowState::Absent(LastVersion::at(Version::new(1), at(1))),
            4
        ),
        Decision::Unchanged
    );
}

proptest! {
    /// At any time there is exactly one expiry entry for each row with a deadline, and none beside.
    #[test]
    fn expiry_entries_are_exactly_those_of_the_rows(steps in proptest::collection::vec((0u8..7, 1u64..20), 1..40)) {
        let mut row_state = never();
        let mut entries = BTreeSet::new();
        let mut now = 0;
        for ((kind, pause), number) in steps.into_iter().zip(1u128..) {
            now += pause;
            let seen = row_state.row().map_or(op(number), |row| row.operation);
            let deadline = crate::records::Deadline::AfterNow(Duration::from_millis(pause));
            let swap = match kind {
                0 => expiring(inline(number, 1), Expiration::TimeToLive(10 * MS)),
                1 => expiring(tombstone(number, row_state.expectation(at(now))), Expiration::TimeToIdle(15 * MS)),
                2 => inline(number, 5000),
                3 => doing(number, Mutation::Touch { seen }),
                4 => doing(number, Mutation::Expire),
                5 => doing(number, Mutation::Extend(Extension { deadline, may_shorten: true })),
                _ => delete(number),
            };
            let decision = decision(&swap, &row_state, true, at(now));
            for (table, key, value) in plan(&swap, &row_state, true, at(now)).batch.into_ops() {
                match (table, value) {
                    (Table::Expiry, Some(_)) => prop_assert!(entries.insert(key)),
                    (Table::Expiry, None) => prop_assert!(entries.remove(&key)),
                    _ => {}
                }
            }
            if let Decision::Commit { next, .. } = decision {
                row_state = next;
            }
            let deadline = row_state.row().and_then(|row| row.metadata.expires_at);
            let expected: Vec<_> = deadline.map(|at| crate::records::expiry_key(at, &id())).into_iter().collect();
            prop_assert_eq!(entries.iter().cloned().collect::<Vec<_>>(), expected);
        }
    }
}
