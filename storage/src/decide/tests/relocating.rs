//! Relocations: the revisions of an object change, and the object does not.

use super::*;
use crate::records::Manifest;

/// A relocation of the revisions of an object.
pub(super) fn of(operation: u128, state: &RowState) -> Swap {
    relocating(
        operation,
        state.row().map(Row::revisions).unwrap_or_default(),
    )
}

/// A relocation of a revision.
fn relocation(operation: u128, copied: u128) -> Swap {
    relocating(operation, vec![revision(copied)])
}

fn relocating(operation: u128, copied: Vec<RevisionId>) -> Swap {
    let Mutation::Tombstone {
        manifest, blocks, ..
    } = tombstone(operation, ExpectedRow::NoTombstone).mutation
    else {
        unreachable!("the swap stores a tombstone")
    };
    Swap {
        id: id(),
        operation: op(operation),
        precondition: Precondition::None,
        mutation: Mutation::Relocate {
            manifest,
            blocks,
            copied,
        },
    }
}

fn large(operation: u128) -> RowState {
    after(&never(), &tombstone(operation, ExpectedRow::NoTombstone))
}

#[test]
fn relocation_changes_the_revisions_and_nothing_else() {
    let before = large(2);
    let swap = relocation(9, 1002);
    let Decision::Commit { orphans, .. } = decision(&swap, &before, true, at(7)) else {
        panic!("the payload is the copied one")
    };
    assert_eq!(orphans, [key(1002)]);
    let after = after(&before, &swap);
    let (was, is) = (before.row().unwrap(), after.row().unwrap());
    assert_eq!(is.revisions(), [revision(1009)]);
    let body = was.body.clone();
    assert_eq!(Row { body, ..is.clone() }, *was, "the rest is the same");
    assert_eq!(Row::decode(&is.encode()).unwrap(), *is);
    // The block checksums move with the revisions, and the change is settled.
    let batch = plan(&swap, &before, true, at(7)).batch;
    let stored = |table, key: &[u8; 16]| {
        let mut ops = batch.ops().iter();
        let found = ops.find(|(of, at, _)| *of == table && at == &key[..]);
        found.map(|(.., value)| value.is_some())
    };
    assert_eq!(
        stored(Table::Payloads, revision(1002).as_bytes()),
        Some(false)
    );
    assert_eq!(
        stored(Table::Payloads, revision(1009).as_bytes()),
        Some(true)
    );
    assert_eq!(stored(Table::Changes, op(9).as_bytes()), Some(false));
}

#[test]
fn relocation_gives_way_to_every_write() {
    let before = large(2);
    let replaced = after(&before, &tombstone(3, before.expectation(at(1))));
    let deleted = after(&before, &delete(3));
    for now in [never(), after(&never(), &inline(1, 1)), replaced, deleted] {
        let orphans = vec![key(1009)];
        let decided = decision(&relocation(9, 1002), &now, true, at(7));
        assert_eq!(decided, Decision::Supersede { orphans }, "{now:?}");
    }
    let fenced = decision(&relocation(9, 1002), &before, false, at(7));
    assert_eq!(fenced, Decision::Fenced);
}

#[test]
fn relocation_that_is_delivered_twice_commits_once() {
    let before = large(2);
    let swap = relocation(9, 1002);
    let after = after(&before, &swap);
    let again = plan(&swap, &after, false, at(8));
    assert!(again.batch.is_empty());
    assert_eq!(again.reply.unwrap().outcome, WriteOutcome::Applied);
    // Its change was settled by the first delivery, so that nothing is orphaned.
    assert!(again.settled.is_empty());
}

#[test]
fn upload_that_began_before_a_relocation_is_not_superseded() {
    let before = large(2);
    let expected = before.expectation(at(1));
    let once = after(&before, &relocation(9, 1002));
    let twice = after(&once, &relocation(10, 1009));
    // Not even by a change of metadata after it, which keeps the payload.
    let amended = after(&twice, &doing(11, Mutation::Amend(Amendment::default())));
    for state in [once, twice, amended] {
        let decided = decision(&tombstone(20, expected), &state, true, at(2));
        assert!(matches!(decided, Decision::Commit { .. }), "{state:?}");
    }
    let other = large(3);
    let decided = decision(&tombstone(20, expected), &other, true, at(2));
    assert!(matches!(decided, Decision::Supersede { .. }));
}

#[test]
fn relocated_payload_keeps_its_identity_through_a_rename() {
    let before = large(2);
    let state = after(&before, &relocation(9, 1002));
    let RowBody::Tombstone(manifest) = &state.row().unwrap().body else {
        panic!("a tombstone stays one")
    };
    let other = ObjectId::try_from("other").unwrap();
    let renamed = manifest.renamed(&id(), &other);
    assert_eq!(renamed.payload_id(), Some(revision(1002)));
    assert_eq!(Manifest::of_parts(Vec::new()).payload_id(), None);
}
