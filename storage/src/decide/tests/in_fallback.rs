//! Writes of objects that a fallback may have.

use super::*;
use crate::fallback::FallbackTimes;
use crate::records::LastVersion;
use std::collections::BTreeMap;

const TIMES: FallbackTimes = FallbackTimes {
    created: Timestamp::from_millis(3),
    modified: Timestamp::from_millis(4),
    expires_at: None,
};
const BASE: Version = Version::new(7);

fn present() -> RowState {
    RowState::New(BASE).answered(FallbackAnswer::Present(TIMES))
}

fn moved(expires_at: Option<Timestamp>) -> RowState {
    let times = FallbackTimes {
        expires_at,
        ..TIMES
    };
    RowState::New(BASE).answered(FallbackAnswer::Moved(times))
}

fn when(precondition: Precondition, swap: Swap) -> Swap {
    Swap {
        precondition,
        ..swap
    }
}

fn conflicts(precondition: Precondition, state: &RowState) -> bool {
    let plan = plan(&when(precondition, inline(1, 1)), state, true, at(9));
    match plan.reply {
        Ok(_) => false,
        Err(error) => {
            assert!(plan.batch.is_empty());
            assert!(
                matches!(error.kind(), ErrorKind::Conflict { .. }),
                "{error}"
            );
            true
        }
    }
}

/// States in which the store decides alone.
fn decided() -> [RowState; 2] {
    let row = after(&never(), &inline(99, 1));
    [after(&row, &delete(98)), row]
}

#[test]
fn an_answer_counts_only_for_an_object_that_the_store_never_had() {
    for state in decided() {
        for answer in [
            FallbackAnswer::NotAsked,
            FallbackAnswer::Missing,
            FallbackAnswer::Present(TIMES),
            FallbackAnswer::Moved(TIMES),
        ] {
            assert_eq!(state.clone().answered(answer), state);
        }
    }
    for answer in [FallbackAnswer::NotAsked, FallbackAnswer::Missing] {
        assert_eq!(never().answered(answer), never());
    }
    assert!(present().is_in_fallback(at(9)) && present().exists(at(9)));
}

#[test]
fn object_in_the_fallback_is_not_absent_and_has_no_version_or_etag() {
    let etag = Etag::of(&op(1));
    let named = [
        Precondition::Absent,
        Precondition::Version(BASE),
        Precondition::Version(Version::NONE),
        Precondition::Version(BASE.next()),
        Precondition::Etag(etag),
    ];
    for precondition in named {
        assert!(conflicts(precondition, &present()), "{precondition:?}");
    }
    assert!(!conflicts(Precondition::None, &present()));
    assert!(!conflicts(Precondition::Absent, &RowState::New(BASE)));
    let conflict = plan(
        &when(Precondition::Absent, inline(1, 1)),
        &present(),
        true,
        at(9),
    );
    let error = conflict.reply.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict { current: None });
    assert!(
        error.to_string().contains("in the fallback only"),
        "{error}"
    );
}

#[test]
fn write_under_in_fallback_commits_only_if_nothing_came_first() {
    assert!(!conflicts(Precondition::InFallback, &present()));
    assert!(conflicts(Precondition::InFallback, &RowState::New(BASE)));
    for state in decided() {
        let late = state.answered(FallbackAnswer::Moved(TIMES));
        assert!(conflicts(Precondition::InFallback, &late), "{late:?}");
    }
}

#[test]
fn lost_move_of_a_large_object_leaves_no_orphaned_blob_unqueued() {
    for state in decided() {
        let late = state.answered(FallbackAnswer::Moved(TIMES));
        let swap = when(
            Precondition::InFallback,
            tombstone(5, ExpectedRow::NoTombstone),
        );
        match decision(&swap, &late, true, at(9)) {
            Decision::Conflict { orphans, .. } => assert_eq!(orphans, [key(1005)]),
            other => panic!("expected a conflict, got {other:?}"),
        }
    }
}

#[test]
fn moved_object_keeps_its_times_and_starts_above_the_base_version() {
    let deadline = Some(at(50));
    let moves = [inline(1, 1), tombstone(1, ExpectedRow::NoTombstone)];
    for swap in moves {
        let swap = when(Precondition::InFallback, swap);
        let next = after_at(&moved(deadline), &swap, at(9));
        let row = next.row().unwrap();
        assert_eq!(row.version, BASE.next());
        assert_eq!(
            (
                row.metadata.created,
                row.metadata.modified,
                row.metadata.expires_at
            ),
            (TIMES.created, TIMES.modified, deadline)
        );
    }
}

#[test]
fn write_over_an_object_of_the_fallback_keeps_its_creation_only() {
    let next = after_at(&present(), &inline(1, 1), at(9));
    let row = next.row().unwrap();
    assert_eq!(
        (
            row.version,
            row.metadata.created,
            row.metadata.modified,
            row.metadata.expires_at
        ),
        (BASE.next(), TIMES.created, at(9), None)
    );
}

#[test]
fn delete_of_an_object_in_the_fallback_leaves_a_mask() {
    let deleted = plan(&delete(1), &present(), true, at(9));
    assert!(deleted.reply.unwrap().existed);
    let mask = RowState::Absent(LastVersion::at(BASE, at(9)));
    assert_eq!(deleted.rows, [(id(), mask.clone())]);
    assert!(
        !mask
            .clone()
            .answered(FallbackAnswer::Present(TIMES))
            .exists(at(9))
    );
    assert_eq!(after(&mask, &inline(2, 1)).version(), BASE.next());

    let missing = RowState::New(BASE).answered(FallbackAnswer::Missing);
    let nothing = plan(&delete(1), &missing, true, at(9));
    assert!(nothing.batch.is_empty() && !nothing.reply.unwrap().existed);
}

#[test]
fn large_put_that_began_before_a_move_is_not_superseded_by_it() {
    let began = RowState::New(BASE).expectation(at(8));
    let moving = Swap {
        operation: op(1).of_move(),
        ..when(Precondition::InFallback, tombstone(1, began))
    };
    let moved = after_at(&moved(None), &moving, at(9));
    match decision(&tombstone(2, began), &moved, true, at(9)) {
        Decision::Commit { next, .. } => assert_eq!(next.version(), BASE.next().next()),
        other => panic!("expected a commit, got {other:?}"),
    }
    let other_put = after_at(&RowState::New(BASE), &tombstone(1, began), at(9));
    let late = decision(&tombstone(2, began), &other_put, true, at(9));
    assert!(!matches!(late, Decision::Commit { .. }), "{late:?}");
}

#[test]
fn mark_of_a_move_keeps_the_order_of_operations() {
    let first = OperationId::from_uuid(Uuid::from_u128(0x0190_0000_0001_7000_8000_0000_0000_0000));
    let second = OperationId::from_uuid(Uuid::from_u128(0x0190_0000_0002_7000_8000_0000_0000_0000));
    assert!(!first.is_move() && first.of_move().is_move());
    assert!(first.of_move() < second && first < second.of_move());
    assert_ne!(first.of_move(), first);
}

#[test]
fn expired_object_of_the_fallback_is_absent() {
    let expired = moved(Some(at(9)));
    assert!(!expired.exists(at(9)) && expired.exists(at(8)));
    assert!(!conflicts(Precondition::Absent, &expired));
    assert!(conflicts(Precondition::InFallback, &expired));
    let nothing = plan(&delete(1), &expired, true, at(9));
    assert!(nothing.batch.is_empty() && !nothing.reply.unwrap().existed);
}

#[test]
fn rename_over_an_object_of_the_fallback_obeys_its_precondition() {
    let from = after(&never(), &inline(1, 1));
    let rename = |target| Rename {
        from: id(),
        to: ObjectId::try_from("other").unwrap(),
        operation: op(5),
        source: Precondition::None,
        target,
    };
    let refused = rename(Precondition::Absent).decide(&from, &present(), at(9));
    assert!(matches!(
        refused.reply.unwrap_err().kind(),
        ErrorKind::Conflict { .. }
    ));
    let renamed = rename(Precondition::None).decide(&from, &present(), at(9));
    let written = renamed.reply.unwrap().unwrap();
    assert_eq!(
        (written.version, written.created),
        (Some(BASE.next()), false)
    );
}

/// A request of a random history of one object over a fallback.
#[derive(Clone, Copy, Debug)]
enum Act {
    Ask(usize),
    Write(usize, Precondition),
    Delete(usize),
    Move(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let client = 0..3usize;
    let precondition = prop_oneof![
        Just(Precondition::None),
        Just(Precondition::Absent),
        Just(Precondition::InFallback)
    ];
    let act = prop_oneof![
        3 => client.clone().prop_map(Act::Ask),
        2 => (client.clone(), precondition).prop_map(|(client, when)| Act::Write(client, when)),
        1 => client.clone().prop_map(Act::Delete),
        2 => client.prop_map(Act::Move),
    ];
    proptest::collection::vec(act, 1..40)
}

proptest! {
    /// Clients ask the fallback at any time and deliver their requests later, in any order. A model
    /// says what the object is: the fallback's until the first write or delete, then ours forever.
    #[test]
    fn no_interleaving_of_answers_and_writes_returns_the_object_of_the_fallback(acts in acts()) {
        let mut state = RowState::New(BASE);
        let mut answers: BTreeMap<usize, FallbackAnswer> = BTreeMap::new();
        let mut exists = true;
        let mut is_ours = false;
        for (act, operation) in acts.into_iter().zip(100..) {
            let (client, swap, is_move) = match act {
                Act::Ask(client) => {
                    // A front end asks only in the state `New`.
                    if state == RowState::New(BASE) {
                        answers.insert(client, FallbackAnswer::Present(TIMES));
                    }
                    continue;
                }
                Act::Write(client, precondition) => {
                    (client, when(precondition, inline(operation, 1)), false)
                }
                Act::Delete(client) => (client, delete(operation), false),
                Act::Move(client) => {
                    (client, when(Precondition::InFallback, inline(operation, 1)), true)
                }
            };
            let mut answer = answers.remove(&client).unwrap_or_default();
            if answer == FallbackAnswer::NotAsked && !is_ours {
                continue;
            }
            if is_move && answer != FallbackAnswer::NotAsked {
                answer = FallbackAnswer::Moved(TIMES);
            }
            let plan = plan(&swap, &state.clone().answered(answer), true, at(9));
            let commits = match swap.precondition {
                Precondition::Absent => !exists,
                Precondition::InFallback => !is_ours,
                Precondition::None | Precondition::Version(_) | Precondition::Etag(_) => true,
            };
            prop_assert_eq!(plan.reply.is_ok(), commits, "{:?} in {:?}", act, state);
            if let Ok(reply) = plan.reply {
                prop_assert_eq!(reply.existed, exists, "{:?} in {:?}", act, state);
                exists = !matches!(swap.mutation, Mutation::Delete);
                is_ours = true;
            }
            if let [(_, next)] = &plan.rows[..] {
                state = next.clone();
            }
            let is_fallback = matches!(state, RowState::Fallback { .. });
            prop_assert!(!is_fallback);
            prop_assert_eq!(matches!(state, RowState::New(_)), !is_ours);
            prop_assert_eq!(state.live(at(9)).is_some(), exists && is_ours);
        }
    }
}
