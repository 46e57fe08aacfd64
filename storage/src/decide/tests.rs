//! The decisions, against every combination that matters and against random histories.

use std::collections::BTreeSet;

use proptest::prelude::*;
use uuid::Uuid;

use super::plan::Plan;
use super::*;
use crate::index::{Batch, Table};
use crate::records::{
    Amendment, Attributes, BlockChecksums, Change, Extension, Extent, Manifest, Orphan, Row,
    RowBody, UploadRecord, upload_record_key,
};
use crate::types::{
    Checksum, Error, ErrorKind, Etag, ObjectId, ObjectVersion, OperationId, RevisionId,
    RevisionKey, Timestamp, Version,
};

mod conditional;
mod expiring;
mod in_fallback;
mod pruning;
mod relocating;
mod renaming;
mod summary;
mod upload_history;
mod upload_steps;

use summary::{Decision, Verdict, decision, plan, verdict};

fn id() -> ObjectId {
    ObjectId::try_from("k").unwrap()
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn op(number: u128) -> OperationId {
    OperationId::from_uuid(Uuid::from_u128(number))
}

fn inline(operation: u128, bytes: usize) -> Swap {
    let mutation = Mutation::Inline {
        payload: vec![7; bytes].into(),
        attributes: Attributes::default(),
    };
    Swap {
        id: id(),
        operation: op(operation),
        precondition: Precondition::None,
        mutation,
    }
}

fn revision(number: u128) -> RevisionId {
    RevisionId::from_uuid(Uuid::from_u128(number))
}

fn tombstone(operation: u128, expected: ExpectedRow) -> Swap {
    let extent = Extent {
        revision: revision(operation + 1000),
        bytes: 5,
        checksum: Checksum::new(1),
    };
    let mutation = Mutation::Tombstone {
        manifest: Manifest::of(extent),
        checksum: None,
        blocks: vec![BlockChecksums(vec![Checksum::new(1)])],
        attributes: Attributes::default(),
        expected,
    };
    Swap {
        id: id(),
        operation: op(operation),
        precondition: Precondition::None,
        mutation,
    }
}

fn doing(operation: u128, mutation: Mutation) -> Swap {
    Swap {
        mutation,
        ..delete(operation)
    }
}

fn delete(operation: u128) -> Swap {
    Swap {
        id: id(),
        operation: op(operation),
        precondition: Precondition::None,
        mutation: Mutation::Delete,
    }
}

/// State of the object after a swap that commits.
fn after(row_state: &RowState, swap: &Swap) -> RowState {
    after_at(row_state, swap, at(1))
}

fn after_at(row_state: &RowState, swap: &Swap, now: Timestamp) -> RowState {
    match decision(swap, row_state, true, now) {
        Decision::Commit { next, .. } => next,
        other => panic!("expected a commit, got {other:?}"),
    }
}

fn key(number: u128) -> RevisionKey {
    revision_key(&id(), revision(number))
}

fn never() -> RowState {
    RowState::New(Version::NONE)
}

fn tables(batch: &Batch) -> Vec<(Table, bool)> {
    batch
        .ops()
        .iter()
        .map(|(table, _, value)| (*table, value.is_some()))
        .collect()
}

#[test]
fn a_version_is_never_reused_across_delete_and_recreate() {
    let first = after(&never(), &inline(1, 1));
    let second = after(&first, &inline(2, 1));
    let gone = after(&second, &delete(3));
    assert_eq!((gone.row(), gone.version()), (None, Version::new(2)));
    assert_eq!(after(&gone, &inline(4, 1)).version(), Version::new(3));
}

#[test]
fn a_tombstone_commits_over_what_its_upload_saw_only() {
    let small = after(&never(), &inline(1, 1));
    let large = after(&never(), &tombstone(2, ExpectedRow::NoTombstone));
    let saw_large = large.expectation(at(1));
    let live = |swap: &Swap, row_state: &RowState| decision(swap, row_state, true, at(1));

    for row_state in [&never(), &small] {
        assert!(matches!(
            live(&tombstone(9, ExpectedRow::NoTombstone), row_state),
            Decision::Commit { .. }
        ));
        let orphans = vec![key(1009)];
        assert_eq!(
            live(&tombstone(9, saw_large), row_state),
            Decision::Supersede { orphans }
        );
    }
    assert!(
        matches!(live(&tombstone(9, saw_large), &large), Decision::Commit { orphans, .. } if orphans == [key(1002)])
    );
    assert!(matches!(
        live(&tombstone(9, ExpectedRow::NoTombstone), &large),
        Decision::Supersede { .. }
    ));
    let other = after(&never(), &tombstone(3, ExpectedRow::NoTombstone));
    assert!(matches!(
        live(&tombstone(9, saw_large), &other),
        Decision::Supersede { .. }
    ));
}

#[test]
fn a_fenced_change_never_commits_whatever_stands() {
    for row_state in [
        never(),
        after(&never(), &inline(1, 1)),
        after(&never(), &tombstone(2, ExpectedRow::NoTombstone)),
    ] {
        let swap = tombstone(9, row_state.expectation(at(1)));
        let decision = decision(&swap, &row_state, false, at(1));
        assert_eq!(decision, Decision::Fenced);
        assert!(plan(&swap, &row_state, false, at(1)).batch.is_empty());
    }
}

#[test]
fn a_repeated_swap_changes_nothing() {
    for swap in [
        inline(5, 1),
        inline(5, 5000),
        tombstone(5, ExpectedRow::NoTombstone),
    ] {
        let row_state = after(&never(), &swap);
        let again = decision(&swap, &row_state, false, at(2));
        assert_eq!(again, Decision::Already);
        assert!(plan(&swap, &row_state, false, at(2)).batch.is_empty());
    }
}

#[test]
fn one_batch_holds_all_that_a_swap_changes() {
    let small = after(&never(), &inline(1, 5000));
    let swap = tombstone(2, ExpectedRow::NoTombstone);
    let expected = [
        (Table::Payloads, false), // the old inline payload
        (Table::Rows, true),
        (Table::Payloads, true), // the block checksums
        (Table::Changes, false),
    ];
    assert_eq!(tables(&plan(&swap, &small, true, at(1)).batch), expected);

    let large = after(&small, &swap);
    let expected = [
        (Table::Payloads, false),
        (Table::Rows, false),
        (Table::Meta, true),
        (Table::Orphans, true),
    ];
    assert_eq!(
        tables(&plan(&delete(3), &large, true, at(1)).batch),
        expected
    );
}

#[test]
fn created_survives_overwrites_and_modified_does_not() {
    let first = after(&never(), &inline(1, 1));
    let Decision::Commit { next, .. } = decision(&inline(2, 1), &first, true, at(50)) else {
        panic!("an inline put commits")
    };
    let metadata = &next.row().unwrap().metadata;
    assert_eq!((metadata.created, metadata.modified), (at(1), at(50)));
}

#[test]
fn a_fence_spares_what_the_row_names() {
    let large = after(&never(), &tombstone(2, ExpectedRow::NoTombstone));
    let change = Change {
        epoch: crate::Epoch::new(1),
        started: at(0),
        object: id(),
        revisions: vec![revision(1002), revision(7)],
    };
    assert_eq!(fence_orphans(&change, &large), [revision(7)]);
    assert_eq!(fence_orphans(&change, &never()), change.revisions);
    let plan = fence(
        OperationId::from_uuid(Uuid::from_u128(2)),
        &change,
        &large,
        at(9),
    );
    assert_eq!(
        tables(&plan.batch),
        [(Table::Changes, false), (Table::Orphans, true)]
    );
}

/// One step of a random history: which kind of write, and whether its upload saw the newest state
/// or the one before.
fn step() -> impl Strategy<Value = (u8, bool, bool)> {
    (0u8..5, any::<bool>(), prop::bool::weighted(0.8))
}

proptest! {
    /// I5, on the decisions alone: the revisions ever written are those named by the row plus those
    /// made orphans, and no revision is both; versions only rise.
    #[test]
    fn every_revision_is_named_or_an_orphan_and_versions_rise(steps in proptest::collection::vec(step(), 0..40)) {
        let mut row_state = never();
        let mut before = never();
        let mut written = BTreeSet::new();
        let mut orphaned = BTreeSet::new();
        for ((kind, stale, live), moment) in steps.into_iter().zip(1u64..) {
            let operation = u128::from(moment);
            let saw = if stale { &before } else { &row_state };
            let swap = match kind {
                0 => inline(operation, 1),
                1 => inline(operation, 5000),
                2 => tombstone(operation, saw.expectation(at(moment))),
                3 => relocating::of(operation, saw),
                _ => delete(operation),
            };
            let decision = decision(&swap, &row_state, live, at(moment));
            written.extend(swap_revisions(&swap));
            let is_relocation = matches!(swap.mutation, Mutation::Relocate { .. });
            before = row_state.clone();
            match decision {
                Decision::Commit { next, orphans, .. } => {
                    orphaned.extend(orphans.iter().map(|key| key.revision));
                    prop_assert!(next.version() > row_state.version() || next.row().is_none() || is_relocation);
                    prop_assert!(next.version() >= row_state.version());
                    row_state = next;
                }
                Decision::Supersede { orphans } | Decision::Conflict { orphans, .. } => {
                    orphaned.extend(orphans.iter().map(|key| key.revision));
                }
                // Recovery fenced it: what it wrote is an orphan of its change.
                Decision::Fenced => orphaned.extend(swap_revisions(&swap)),
                Decision::Already | Decision::Absent | Decision::Unchanged => {}
            }
        }
        let named: BTreeSet<_> = row_state.row().map(Row::revisions).unwrap_or_default().into_iter().collect();
        prop_assert!(named.is_disjoint(&orphaned));
        prop_assert_eq!(named.union(&orphaned).copied().collect::<BTreeSet<_>>(), written);
    }
}

fn swap_revisions(swap: &Swap) -> Vec<RevisionId> {
    match &swap.mutation {
        Mutation::Tombstone { manifest, .. } | Mutation::Relocate { manifest, .. } => {
            manifest.revisions().collect()
        }
        _ => Vec::new(),
    }
}
