//! The decisions of repairs to uploads, against every sight that matters.

use super::*;
use crate::decide::Precondition;
use crate::records::{Attributes, Extent};
use crate::types::{Checksum, PartEtag};
use uuid::Uuid;

fn id() -> ObjectId {
    ObjectId::try_from("k").unwrap()
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn upload() -> UploadId {
    UploadId::new(at(1), [2, 3])
}

fn revision(number: u128) -> RevisionId {
    RevisionId::from_uuid(Uuid::from_u128(number))
}

fn number(number: u32) -> PartNumber {
    PartNumber::new(number).unwrap()
}

fn session(phase: UploadPhase) -> SeenEntry<UploadRecord> {
    let precondition = Precondition::None;
    let attributes = Attributes::default();
    SeenEntry::Whole(UploadRecord {
        initiated: at(1),
        expires_at: at(500),
        attributes,
        precondition,
        phase,
    })
}

fn part(named: u128) -> SeenEntry<Filed> {
    let extent = Extent {
        revision: revision(named),
        bytes: 5,
        checksum: Checksum::new(1),
    };
    SeenEntry::Whole(Filed::Part(Part {
        extent,
        etag: PartEtag::new(1),
        uploaded: at(1),
    }))
}

fn seen(session: SeenEntry<UploadRecord>, parts: &[(u32, SeenEntry<Filed>)]) -> SeenUpload {
    let parts = parts
        .iter()
        .map(|(at, entry)| (number(*at), entry.clone()))
        .collect();
    SeenUpload {
        session,
        parts,
        entry: SeenEntry::Absent,
        is_pending: false,
    }
}

/// Tables that the batch changes, in order; true for a put, false for a removal.
fn does(repair: &UploadRepair, seen: &SeenUpload) -> Option<Vec<(Table, bool)>> {
    let plan = repair.decide(&id(), &upload(), seen, at(1_700_000_000_000))?;
    Some(
        plan.batch
            .ops()
            .iter()
            .map(|(table, _, value)| (*table, value.is_some()))
            .collect(),
    )
}

#[test]
fn an_expiry_entry_is_there_exactly_if_the_session_has_its_deadline() {
    let repair = |deadline| UploadRepair::Expiry {
        deadline: at(deadline),
    };
    let filed = |seen: SeenUpload| SeenUpload {
        entry: SeenEntry::Whole(expiry_value()),
        ..seen
    };
    for phase in [UploadPhase::Open, UploadPhase::Aborted] {
        assert_eq!(
            does(&repair(500), &seen(session(phase.clone()), &[])),
            Some(vec![(Table::Expiry, true)])
        );
        assert_eq!(
            does(&repair(500), &filed(seen(session(phase.clone()), &[]))),
            None,
            "it is there"
        );
        let pending = SeenUpload {
            is_pending: true,
            ..seen(session(phase), &[])
        };
        assert_eq!(does(&repair(500), &pending), None, "it may be on its way");
    }
    for (deadline, session) in [(501, session(UploadPhase::Open)), (500, SeenEntry::Absent)] {
        let stray = seen(session.clone(), &[]);
        assert_eq!(does(&repair(deadline), &stray), None, "it is gone");
        assert_eq!(
            does(&repair(deadline), &filed(stray)),
            Some(vec![(Table::Expiry, false)])
        );
    }
    assert_eq!(
        does(&repair(500), &seen(SeenEntry::Broken, &[])),
        None,
        "nobody knows its deadline"
    );
}

#[test]
fn a_session_is_excised_only_if_it_can_not_be_read_and_its_parts_go_with_it() {
    let parts = [
        (1, part(7)),
        (2, SeenEntry::Broken),
        (3, SeenEntry::Whole(Filed::Lost)),
    ];
    let expected = [
        (Table::Uploads, false),
        (Table::Uploads, false),
        (Table::Uploads, false),
        (Table::Uploads, false),
        (Table::Payloads, false),
        (Table::Orphans, true),
    ];
    assert_eq!(
        does(
            &UploadRepair::RemoveRecord,
            &seen(SeenEntry::Broken, &parts)
        )
        .unwrap(),
        expected
    );
    for session in [
        session(UploadPhase::Open),
        session(UploadPhase::Aborted),
        SeenEntry::Absent,
    ] {
        assert_eq!(
            does(&UploadRepair::RemoveRecord, &seen(session, &parts)),
            None
        );
    }
}

#[test]
fn a_part_is_given_up_only_if_it_is_still_the_one_that_was_found() {
    let repair = |named: Option<u128>| UploadRepair::GiveUp {
        number: number(1),
        named: named.map(revision),
    };
    let open = |entry| seen(session(UploadPhase::Open), &[(1, entry)]);
    let whole = [
        (Table::Payloads, false),
        (Table::Orphans, true),
        (Table::Uploads, true),
    ];
    assert_eq!(does(&repair(Some(7)), &open(part(7))).unwrap(), whole);
    assert_eq!(
        does(&repair(None), &open(SeenEntry::Broken)).unwrap(),
        [(Table::Uploads, true)]
    );
    for (repair, entry) in [
        (repair(Some(7)), part(8)),
        (repair(Some(7)), SeenEntry::Broken),
        (repair(Some(7)), SeenEntry::Whole(Filed::Lost)),
        (repair(None), part(7)),
        (repair(None), SeenEntry::Whole(Filed::Lost)),
    ] {
        assert_eq!(
            does(&repair, &open(entry.clone())),
            None,
            "{repair:?} {entry:?}"
        );
    }
    assert_eq!(
        does(&repair(Some(7)), &seen(session(UploadPhase::Open), &[])),
        None
    );
    for session in [
        session(UploadPhase::Aborted),
        SeenEntry::Absent,
        SeenEntry::Broken,
    ] {
        assert_eq!(
            does(&repair(Some(7)), &seen(session, &[(1, part(7))])),
            None
        );
    }
}

#[test]
fn block_checksums_are_put_only_for_the_part_that_names_the_revision() {
    let repair = UploadRepair::Checksums {
        number: number(1),
        revision: revision(7),
        blocks: BlockChecksums::default(),
    };
    assert_eq!(
        does(&repair, &seen(session(UploadPhase::Open), &[(1, part(7))])),
        Some(vec![(Table::Payloads, true)])
    );
    assert_eq!(
        does(&repair, &seen(session(UploadPhase::Open), &[(1, part(8))])),
        None
    );
    assert_eq!(
        does(&repair, &seen(session(UploadPhase::Open), &[(2, part(7))])),
        None
    );
    assert_eq!(
        does(
            &repair,
            &seen(session(UploadPhase::Aborted), &[(1, part(7))])
        ),
        None
    );
}
