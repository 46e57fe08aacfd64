//! Every step of an upload, against every state of its session, and random histories of them.

use std::time::Duration;

use super::*;
use crate::decide::{PartRules, Selection, UploadMutation, UploadStep, UploadView};
use crate::records::{
    Filed, Part, Row, UploadPhase, UploadRecord, is_part_key, part_key, read_part_key,
    upload_expiry_key, upload_record_key,
};
use crate::types::{PartEtag, PartNumber, UploadId};
use crate::{Error, ErrorKind};

pub(super) const KEPT: Duration = Duration::from_millis(50);
pub(super) const LIFETIME_MS: u64 = 1000;
pub(super) const RULES: PartRules = PartRules {
    bytes_min: 0,
    total_bytes_max: 1000,
};

pub(super) fn upload() -> UploadId {
    UploadId::new(at(1), [7, 7])
}

pub(super) fn number(number: u32) -> PartNumber {
    PartNumber::new(number).unwrap()
}

pub(super) fn part(revision_number: u128, bytes: u64) -> Part {
    let extent = Extent {
        revision: revision(revision_number),
        bytes,
        checksum: Checksum::new(1),
    };
    Part {
        extent,
        etag: PartEtag::new(revision_number),
        uploaded: at(1),
    }
}

pub(super) fn session(phase: UploadPhase) -> UploadRecord {
    let attributes = Attributes {
        content_type: Some("a/b".into()),
        ..Attributes::default()
    };
    UploadRecord {
        initiated: at(1),
        expires_at: at(LIFETIME_MS),
        attributes,
        precondition: Precondition::None,
        phase,
    }
}

pub(super) fn step(operation: u128, mutation: UploadMutation) -> UploadStep {
    UploadStep {
        id: id(),
        upload: upload(),
        operation: op(operation),
        mutation,
    }
}

pub(super) fn filing(operation: u128, part_number: u32, bytes: u64) -> UploadStep {
    let part = part(operation + 1000, bytes);
    step(
        operation,
        UploadMutation::Part {
            number: number(part_number),
            part,
            blocks: BlockChecksums::default(),
        },
    )
}

pub(super) fn completion(operation: u128, parts: Selection, row_state: &RowState) -> UploadStep {
    let expected = row_state.expectation(at(1));
    let precondition = Precondition::None;
    step(
        operation,
        UploadMutation::Complete {
            parts,
            expected,
            precondition,
            rules: RULES,
            kept_for: KEPT,
        },
    )
}

pub(super) fn abort(operation: u128) -> UploadStep {
    step(operation, UploadMutation::Abort { kept_for: KEPT })
}

/// An open upload with parts 1, 2 and 5.
pub(super) fn open() -> UploadView {
    let parts =
        [(1, 10), (2, 20), (5, 50)].map(|(at, bytes)| (number(at), part(u128::from(at), bytes)));
    UploadView {
        session: Some(session(UploadPhase::Open)),
        parts: parts.into(),
        row_state: never(),
        lost: BTreeSet::new(),
        change_is_live: true,
        is_pending: false,
    }
}

pub(super) fn listed(parts: &[(u32, u128)]) -> Selection {
    Selection::Listed(
        parts
            .iter()
            .map(|&(at, etag)| (number(at), PartEtag::new(etag)))
            .collect(),
    )
}

pub(super) fn refused(swap: &UploadStep, view: &UploadView, now: u64) -> Error {
    match verdict(swap, view, at(now)) {
        Verdict::Refuse { error, .. } => {
            assert_eq!(error.kind(), ErrorKind::Invalid);
            error
        }
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// State of the upload after the batch of this step.
pub(super) fn session_after(view: &UploadView, swap: &UploadStep, now: u64) -> UploadView {
    let mut next = view.clone();
    for (table, key, value) in swap.decide(view, at(now)).batch.ops() {
        match (table, value) {
            (Table::Uploads, Some(value)) if is_part_key(key) => {
                next.parts.insert(
                    read_part_key(key).unwrap().1,
                    Filed::decode(value).unwrap().part().unwrap(),
                );
            }
            (Table::Uploads, None) if is_part_key(key) => {
                let _ = next.parts.remove(&read_part_key(key).unwrap().1);
            }
            (Table::Uploads, value) => {
                next.session = value
                    .as_ref()
                    .map(|value| UploadRecord::decode(value).unwrap());
            }
            (Table::Rows, Some(row)) => {
                next.row_state = RowState::Present(Box::new(Row::decode(row).unwrap()));
            }
            _ => {}
        }
    }
    next
}

#[test]
fn a_completion_makes_one_tombstone_of_the_listed_parts_and_gives_up_the_others() {
    let view = UploadView {
        row_state: after(&never(), &tombstone(900, ExpectedRow::NoTombstone)),
        ..open()
    };
    let swap = completion(9, listed(&[(1, 1), (5, 5)]), &view.row_state);
    let found = verdict(&swap, &view, at(2));
    let Verdict::Complete {
        next,
        orphans,
        session,
        written,
    } = &found
    else {
        panic!("{found:?}")
    };
    let row = next.row().unwrap();
    assert_eq!((row.metadata.size, row.metadata.checksum), (60, None));
    assert_eq!(
        row.metadata.attributes.content_type.as_deref(),
        Some("a/b"),
        "as the beginning said"
    );
    assert_eq!(row.revisions(), [revision(1), revision(5)]);
    assert_eq!(
        orphans,
        &[key(1900), key(2)],
        "what the old row named, and the part that is not listed"
    );
    assert_eq!(
        (written.version, written.created),
        (Some(Version::new(2)), false)
    );
    assert_eq!(session.expires_at, at(2).after(KEPT));
    let batch = swap.decide(&view, at(2)).batch;
    let has = |table, key: &[u8], is_put: bool| {
        batch
            .ops()
            .iter()
            .any(|(t, k, value)| *t == table && k == key && value.is_some() == is_put)
    };
    for at in [1, 2, 5] {
        assert!(
            has(Table::Uploads, &part_key(&upload(), number(at)), false),
            "no part is filed any more"
        );
    }
    assert!(
        has(Table::Payloads, revision(2).as_bytes(), false)
            && !has(Table::Payloads, revision(1).as_bytes(), false)
    );
    assert!(has(
        Table::Expiry,
        &upload_expiry_key(at(LIFETIME_MS), &id(), &upload()),
        false
    ));
    assert!(has(
        Table::Expiry,
        &upload_expiry_key(session.expires_at, &id(), &upload()),
        true
    ));
    assert!(
        has(Table::Uploads, &upload_record_key(&id(), &upload()), true)
            && has(Table::Rows, id().encoded(), true)
    );
}

#[test]
fn a_completion_is_repeated_with_the_same_parts_only_and_only_for_a_while() {
    let view = open();
    let swap = completion(9, listed(&[(1, 1), (2, 2)]), &view.row_state);
    let found = verdict(&swap, &view, at(2));
    let Verdict::Complete { written, .. } = &found else {
        panic!("{found:?}")
    };
    let done = session_after(&view, &swap, 2);
    assert!(done.parts.is_empty());
    for again in [listed(&[(1, 1), (2, 2)]), Selection::All] {
        let repeated = verdict(&completion(10, again, &done.row_state), &done, at(51));
        assert!(
            matches!(&repeated, Verdict::Replay(first) if first == written),
            "{repeated:?}"
        );
    }
    let other = completion(10, listed(&[(1, 1)]), &done.row_state);
    assert!(
        refused(&other, &done, 51)
            .to_string()
            .contains("completed with other parts")
    );
    let late = completion(10, Selection::All, &done.row_state);
    assert_eq!(
        refused(&late, &done, 52).to_string(),
        crate::no_such_upload().to_string(),
        "nobody knows it any more"
    );
    assert!(
        refused(&abort(10), &done, 51)
            .to_string()
            .contains("completed")
    );
    assert!(
        refused(&filing(11, 3, 1), &done, 51)
            .to_string()
            .contains("completed")
    );
}

#[test]
fn a_completion_that_breaks_a_rule_names_the_part_and_changes_nothing() {
    let view = open();
    let rules = |bytes_min, total_bytes_max| PartRules {
        bytes_min,
        total_bytes_max,
    };
    let cases = [
        (listed(&[]), RULES, "one part at least"),
        (listed(&[(2, 2), (1, 1)]), RULES, "part=1 after=2"),
        (listed(&[(1, 1), (1, 1)]), RULES, "part=1 after=1"),
        (listed(&[(1, 1), (3, 3)]), RULES, "no such part: part=3"),
        (listed(&[(1, 1), (2, 9)]), RULES, "another etag: part=2"),
        (
            listed(&[(1, 1), (2, 2)]),
            rules(11, 1000),
            "too small: part=1 bytes=10 min=11",
        ),
        (
            Selection::All,
            rules(0, 79),
            "too large together: part=5 bytes=80 max=79",
        ),
    ];
    for (parts, rules, expected) in cases {
        let mut swap = completion(9, parts, &view.row_state);
        if let UploadMutation::Complete { rules: broken, .. } = &mut swap.mutation {
            *broken = rules;
        }
        let error = refused(&swap, &view, 2);
        assert!(error.to_string().contains(expected), "{error}");
        assert!(swap.decide(&view, at(2)).batch.is_empty());
    }
    let empty = UploadView {
        parts: Default::default(),
        ..open()
    };
    refused(&completion(9, Selection::All, &empty.row_state), &empty, 2);
}

#[test]
fn the_last_part_may_be_small_and_parts_may_be_empty() {
    let mut view = open();
    view.parts.insert(number(7), part(7, 0));
    let mut swap = completion(9, Selection::All, &view.row_state);
    if let UploadMutation::Complete { rules, .. } = &mut swap.mutation {
        rules.bytes_min = 10;
    }
    let found = verdict(&swap, &view, at(2));
    assert!(
        matches!(&found, Verdict::Complete { next, .. } if next.row().unwrap().metadata.size == 80),
        "{found:?}"
    );
}

#[test]
fn a_lost_precondition_leaves_the_upload_as_it_was() {
    let row_state = after(&never(), &inline(900, 1));
    for (at_begin, at_end) in [
        (Precondition::Absent, Precondition::None),
        (Precondition::None, Precondition::Version(Version::new(9))),
    ] {
        let begun = UploadRecord {
            precondition: at_begin,
            ..session(UploadPhase::Open)
        };
        let view = UploadView {
            session: Some(begun),
            row_state: row_state.clone(),
            ..open()
        };
        let mut swap = completion(9, Selection::All, &row_state);
        if let UploadMutation::Complete { precondition, .. } = &mut swap.mutation {
            *precondition = at_end;
        }
        let found = verdict(&swap, &view, at(2));
        assert!(
            matches!(found, Verdict::Conflict(Some(current)) if current.version == Version::new(1))
        );
        assert!(swap.decide(&view, at(2)).batch.is_empty());
    }
    let begin = step(
        9,
        UploadMutation::Initiate(UploadRecord {
            precondition: Precondition::Absent,
            ..session(UploadPhase::Open)
        }),
    );
    let view = UploadView {
        session: None,
        parts: Default::default(),
        row_state,
        lost: BTreeSet::new(),
        change_is_live: true,
        is_pending: false,
    };
    assert!(matches!(
        verdict(&begin, &view, at(2)),
        Verdict::Conflict(Some(_))
    ));
}

#[test]
fn a_completion_that_another_write_has_overtaken_keeps_nothing_and_says_so_again() {
    let newer = after(&never(), &tombstone(900, ExpectedRow::NoTombstone));
    let view = UploadView {
        row_state: newer.clone(),
        ..open()
    };
    let swap = completion(9, Selection::All, &never());
    let found = verdict(&swap, &view, at(2));
    let Verdict::Supersede {
        orphans, written, ..
    } = &found
    else {
        panic!("{found:?}")
    };
    assert_eq!(
        (orphans.len(), written.outcome),
        (3, WriteOutcome::Superseded)
    );
    let done = session_after(&view, &swap, 2);
    assert_eq!(done.row_state, newer, "the row stays");
    assert!(done.parts.is_empty());
    let again = verdict(&completion(10, Selection::All, &newer), &done, at(3));
    assert!(matches!(
        again,
        Verdict::Replay(PutResult {
            outcome: WriteOutcome::Superseded,
            ..
        })
    ));
}

#[test]
fn an_abort_gives_up_every_part_and_may_be_repeated() {
    let view = open();
    let found = verdict(&abort(9), &view, at(2));
    let Verdict::End {
        orphans,
        session: Some(_),
    } = &found
    else {
        panic!("{found:?}")
    };
    assert_eq!(orphans, &[key(1), key(2), key(5)]);
    let gone = session_after(&view, &abort(9), 2);
    assert!(gone.parts.is_empty());
    assert!(matches!(
        verdict(&abort(10), &gone, at(3)),
        Verdict::Unchanged
    ));
    assert!(
        refused(&completion(10, Selection::All, &never()), &gone, 3)
            .to_string()
            .contains("aborted")
    );
    assert!(
        refused(&filing(11, 3, 1), &gone, 3)
            .to_string()
            .contains("aborted")
    );
}

#[test]
fn a_part_after_the_end_settles_its_change_and_leaves_nothing() {
    let ended = UploadView {
        session: None,
        parts: Default::default(),
        ..open()
    };
    let late = filing(9, 3, 1);
    let found = verdict(&late, &ended, at(2));
    assert!(matches!(&found, Verdict::Refuse { orphans, .. } if *orphans == [key(1009)]));
    assert_eq!(
        tables(&late.decide(&ended, at(2)).batch),
        [(Table::Changes, false), (Table::Orphans, true)]
    );
    let fenced = UploadView {
        change_is_live: false,
        ..open()
    };
    assert!(
        matches!(verdict(&late, &fenced, at(2)), Verdict::Fenced),
        "I6"
    );
}

#[test]
fn a_part_takes_the_place_of_the_one_that_had_its_number() {
    let view = UploadView {
        parts: [(number(2), part(2, 20))].into(),
        ..open()
    };
    let swap = filing(9, 2, 7);
    let found = verdict(&swap, &view, at(2));
    assert!(matches!(found, Verdict::File));
    let expected = [
        (Table::Changes, false),
        (Table::Uploads, true),
        (Table::Payloads, true),
        (Table::Payloads, false),
        (Table::Orphans, true),
    ];
    assert_eq!(tables(&swap.decide(&view, at(2)).batch), expected);
    assert_eq!(
        session_after(&view, &swap, 2).parts[&number(2)]
            .extent
            .revision,
        revision(1009)
    );
}

#[test]
fn an_upload_past_its_lifetime_is_none_and_is_removed_by_nobody_but_the_expirer() {
    let view = open();
    let expire = step(9, UploadMutation::Expire);
    assert!(matches!(
        verdict(&expire, &view, at(LIFETIME_MS - 1)),
        Verdict::Unchanged
    ));
    let found = verdict(&expire, &view, at(LIFETIME_MS));
    assert!(matches!(&found, Verdict::End { orphans, session: None } if orphans.len() == 3));
    for swap in [
        filing(9, 3, 1),
        completion(9, Selection::All, &never()),
        abort(9),
    ] {
        assert_eq!(
            refused(&swap, &view, LIFETIME_MS).to_string(),
            crate::no_such_upload().to_string()
        );
    }
}
