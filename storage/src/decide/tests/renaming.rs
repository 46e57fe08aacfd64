//! Renames: one row for another, in one batch.

use super::*;
use crate::records::LastVersion;

fn other() -> ObjectId {
    ObjectId::try_from("other").unwrap()
}

fn rename(operation: u128) -> Rename {
    let from = id();
    let to = other();
    Rename {
        from,
        to,
        operation: op(operation),
        source: Precondition::None,
        target: Precondition::None,
    }
}

/// States of both objects after a rename, and the tables that its batch changes.
fn renamed(
    rename: &Rename,
    from: &RowState,
    to: &RowState,
) -> (RowState, RowState, Vec<(Table, bool)>) {
    let plan = rename.decide(from, to, at(1));
    let [(from_id, from_after), (to_id, to_after)] = &plan.rows[..] else {
        panic!("expected a commit, got {plan:?}")
    };
    assert_eq!((from_id, to_id), (&rename.from, &rename.to));
    (from_after.clone(), to_after.clone(), tables(&plan.batch))
}

/// Object and state of a conflict.
fn conflict(plan: &Plan<Option<PutResult>>) -> (String, Option<ObjectVersion>) {
    let error = plan.reply.as_ref().unwrap_err();
    assert!(plan.batch.is_empty() && plan.event == Some(DecisionEvent::Conflict));
    let ErrorKind::Conflict { current } = error.kind() else {
        panic!("{error}")
    };
    (error.id().unwrap().to_string(), current)
}

#[test]
fn a_renamed_tombstone_names_the_same_blobs_under_their_old_name() {
    let large = after(&never(), &tombstone(2, ExpectedRow::NoTombstone));
    let (from, to, changed) = renamed(&rename(3), &large, &never());
    assert_eq!(
        (from, to.version()),
        (
            RowState::Absent(LastVersion::at(Version::new(1), at(1))),
            Version::new(1)
        )
    );
    let row = to.row().unwrap();
    assert_eq!(
        row.revision_keys(&other()),
        [key(1002)],
        "the blob lies where it lay"
    );
    let rows_and_floor = [
        (Table::Rows, false),
        (Table::Meta, true),
        (Table::Rows, true),
    ];
    assert_eq!(
        changed, rows_and_floor,
        "no checksum, no blob and no orphan"
    );

    let back = Rename {
        from: other(),
        to: id(),
        ..rename(4)
    };
    let (_, home, _) = renamed(
        &back,
        &to,
        &RowState::Absent(LastVersion::at(Version::new(1), at(1))),
    );
    let RowBody::Tombstone(manifest) = &home.row().unwrap().body else {
        panic!("still a tombstone")
    };
    assert_eq!(manifest.written_as(), None, "it is back under its own name");
}

#[test]
fn a_rename_over_another_object_queues_what_that_one_named() {
    let large = after(&never(), &tombstone(2, ExpectedRow::NoTombstone));
    let replaced = after(&never(), &tombstone(5, ExpectedRow::NoTombstone));
    let (_, to, changed) = renamed(&rename(9), &large, &replaced);
    assert_eq!(
        (to.version(), to.row().unwrap().revisions()),
        (Version::new(2), vec![revision(1002)])
    );
    assert_eq!(
        changed
            .iter()
            .filter(|change| **change == (Table::Orphans, true))
            .count(),
        1
    );
    assert_eq!(
        changed
            .iter()
            .filter(|change| **change == (Table::Payloads, false))
            .count(),
        1
    );
}

#[test]
fn a_payload_beside_the_row_stays_where_it_is() {
    let small = after(&never(), &inline(1, 5000));
    let (_, to, changed) = renamed(&rename(2), &small, &never());
    assert_eq!(to.row().unwrap().body, RowBody::Separate(op(1)));
    assert!(!changed.iter().any(|(table, _)| *table == Table::Payloads));
}

#[test]
fn a_rename_minds_both_preconditions() {
    let small = after(&never(), &inline(1, 1));
    let two = after(&never(), &inline(2, 1));
    let free = Rename {
        target: Precondition::Absent,
        ..rename(3)
    };
    let current = two.row().map(Row::current);
    assert_eq!(
        conflict(&free.decide(&small, &two, at(1))),
        (other().to_string(), current)
    );
    let stale = Rename {
        source: Precondition::Version(Version::new(7)),
        ..rename(3)
    };
    let current = small.row().map(Row::current);
    assert_eq!(
        conflict(&stale.decide(&small, &never(), at(1))),
        (id().to_string(), current)
    );
    let nothing = rename(3).decide(&never(), &two, at(1));
    assert_eq!(nothing.reply.unwrap(), None);
    assert!(nothing.batch.is_empty());
}

#[test]
fn the_new_name_is_created_when_it_came_to_be_and_modified_now() {
    let one = after(&never(), &inline(1, 1));
    for (to, created) in [(never(), at(50)), (after(&never(), &inline(2, 1)), at(1))] {
        let decision = rename(3).decide(&one, &to, at(50));
        let RowState::Present(row) = &decision.rows[1].1 else {
            panic!("the object is renamed")
        };
        assert_eq!(
            (row.metadata.created, row.metadata.modified),
            (created, at(50))
        );
    }
}
