//! Preconditions, and writes that leave the bytes where they are.

use super::*;
use crate::records::Deadline;

fn when(precondition: Precondition, swap: Swap) -> Swap {
    Swap {
        precondition,
        ..swap
    }
}

fn amend(operation: u128, amendment: Amendment) -> Swap {
    Swap {
        mutation: Mutation::Amend(amendment),
        ..delete(operation)
    }
}

#[test]
fn a_lost_precondition_tells_how_the_object_stands() {
    let first = after(&never(), &inline(1, 1));
    let current = first.row().map(Row::current);
    let lost = |swap: Swap, row_state: &RowState| match decision(&swap, row_state, true, at(1)) {
        Decision::Conflict { current, orphans } => (current, orphans),
        other => panic!("expected a conflict, got {other:?}"),
    };
    let version = Precondition::Version;
    assert_eq!(
        lost(when(Precondition::Absent, inline(2, 1)), &first),
        (current, vec![])
    );
    assert_eq!(
        lost(when(version(Version::new(2)), delete(2)), &first),
        (current, vec![])
    );
    assert_eq!(
        lost(when(version(Version::new(1)), inline(2, 1)), &never()),
        (None, vec![]),
        "absent: no current"
    );
    let saw_nothing = tombstone(9, ExpectedRow::NoTombstone);
    assert_eq!(
        lost(when(Precondition::Absent, saw_nothing), &first),
        (current, vec![key(1009)]),
        "its blob: orphan"
    );
}

#[test]
fn a_precondition_that_holds_lets_the_write_through() {
    let first = after(&never(), &inline(1, 1));
    let etag = first.row().unwrap().etag();
    for precondition in [
        Precondition::Version(Version::new(1)),
        Precondition::Etag(etag),
    ] {
        let second = after(&first, &when(precondition, inline(2, 1)));
        assert_eq!(second.version(), Version::new(2));
    }
    assert_eq!(
        after(&never(), &when(Precondition::Absent, inline(1, 1))).version(),
        Version::new(1)
    );
}

#[test]
fn a_conflict_of_a_large_put_settles_its_change() {
    let first = after(&never(), &inline(1, 1));
    let swap = when(Precondition::Absent, tombstone(9, ExpectedRow::NoTombstone));
    assert_eq!(
        tables(&plan(&swap, &first, true, at(1)).batch),
        [(Table::Changes, false), (Table::Orphans, true)]
    );
}

#[test]
fn amending_leaves_the_bytes_where_they_are() {
    let change = Amendment {
        filename: Some(Some("f".into())),
        ..Amendment::default()
    };
    for write in [
        inline(1, 1),
        inline(1, 5000),
        tombstone(1, ExpectedRow::NoTombstone),
    ] {
        let first = after(&never(), &write);
        let swap = amend(2, change.clone());
        let decision = decision(&swap, &first, true, at(5));
        let Decision::Commit {
            next,
            orphans,
            existed: true,
        } = &decision
        else {
            panic!("{decision:?}")
        };
        let old = first.row().unwrap();
        let new = next.row().unwrap();
        assert_eq!(
            (&new.body, new.version, orphans.len()),
            (&old.body, Version::new(2), 0)
        );
        assert_eq!(new.metadata.attributes.filename.as_deref(), Some("f"));
        assert_ne!(new.etag(), old.etag());
        assert_eq!(
            tables(&plan(&swap, &first, true, at(5)).batch),
            [(Table::Rows, true)],
            "nothing but the row"
        );
    }
    assert_eq!(
        decision(&amend(2, change), &never(), true, at(1)),
        Decision::Absent
    );
}

#[test]
fn attributes_that_grow_too_large_are_refused() {
    let first = after(&never(), &inline(1, 1));
    let large = [("k".to_owned(), Some("v".repeat(20_000)))].into();
    let amendment = Amendment {
        custom: large,
        ..Amendment::default()
    };
    let refused = plan(&amend(2, amendment), &first, true, at(1));
    assert_eq!(refused.reply.unwrap_err().kind(), ErrorKind::Invalid);
    assert!(refused.batch.is_empty() && refused.effect == Effect::Nothing);
}

#[test]
fn an_extension_that_extends_nothing_commits_nothing() {
    let first = after(&never(), &inline(1, 1));
    let extension = |deadline| Swap {
        mutation: Mutation::Extend(Extension {
            deadline,
            may_shorten: false,
        }),
        ..delete(2)
    };
    let forever = extension(Deadline::At(at(99)));
    let forever = decision(&forever, &first, true, at(1));
    assert_eq!(forever, Decision::Unchanged, "it never expires");
}

proptest! {
    /// No later write satisfies an old version or etag, regardless of the objects deleted and
    /// created again.
    #[test]
    fn delete_and_recreate_never_satisfy_an_old_precondition(steps in proptest::collection::vec(0u8..4, 1..30)) {
        let mut row_state = never();
        let mut old: Vec<(Version, Etag)> = Vec::new();
        for (kind, moment) in steps.into_iter().zip(1u64..) {
            let operation = u128::from(moment);
            let swap = match kind {
                0 => inline(operation, 1),
                1 => tombstone(operation, row_state.expectation(at(moment))),
                2 => amend(operation, Amendment::default()),
                _ => delete(operation),
            };
            if let Decision::Commit { next, .. } = decision(&swap, &row_state, true, at(moment)) {
                row_state = next;
            }
            let now = row_state.row().map(|row| (row.version, row.etag()));
            for (version, etag) in old.iter().filter(|known| Some(**known) != now) {
                prop_assert!(row_state.check(Precondition::Version(*version), at(moment)).is_err());
                prop_assert!(row_state.check(Precondition::Etag(*etag), at(moment)).is_err());
            }
            old.extend(now.filter(|known| !old.contains(known)));
        }
    }
}
