//! The decisions of repairs, against every state that matters.

use super::*;
use crate::records::{Expiration, Extent, Manifest, Metadata, Row, RowBody};
use crate::types::{Checksum, OperationId};
use uuid::Uuid;

fn id() -> ObjectId {
    ObjectId::try_from("k").unwrap()
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn revision(number: u128) -> RevisionId {
    RevisionId::from_uuid(Uuid::from_u128(number))
}

fn row(expires_at: Option<Timestamp>) -> SeenRow {
    let attributes = crate::records::Attributes {
        expiration: Expiration::Manual,
        ..Default::default()
    };
    let metadata = Metadata {
        size: 5,
        checksum: None,
        created: at(1),
        modified: at(1),
        expires_at,
        attributes,
    };
    let extent = Extent {
        revision: revision(7),
        bytes: 5,
        checksum: Checksum::new(1),
    };
    let body = RowBody::Tombstone(Manifest::of(extent));
    let operation = OperationId::from_uuid(Uuid::from_u128(1));
    SeenRow::Whole(RowState::Present(Box::new(Row {
        version: Version::new(3),
        operation,
        metadata,
        body,
    })))
}

fn absent() -> SeenRow {
    SeenRow::Whole(RowState::Absent(LastVersion::at(Version::new(3), at(1))))
}

fn object(seen: &SeenRow, entry: Option<&'static [u8]>) -> SeenObject {
    let entry = entry.map_or(SeenEntry::Absent, |value| {
        SeenEntry::Whole(Bytes::from_static(value))
    });
    SeenObject {
        row: seen.clone(),
        entry,
        is_pending: false,
    }
}

/// Tables that the batch changes, in order; true for a put, false for a removal.
fn does(repair: &Repair, object: &SeenObject) -> Option<Vec<(Table, bool)>> {
    let plan = repair.decide(&id(), object, at(1_700_000_000_000))?;
    Some(
        plan.batch
            .ops()
            .iter()
            .map(|(table, _, value)| (*table, value.is_some()))
            .collect(),
    )
}

/// An inline row of "01234", in the row or beside it.
fn inline(payload: Option<&'static [u8]>) -> SeenRow {
    let SeenRow::Whole(RowState::Present(mut row)) = row(None) else {
        unreachable!()
    };
    row.metadata.checksum = Some(Checksum::of(b"01234"));
    row.body = match payload {
        Some(payload) => RowBody::Embedded(Bytes::from_static(payload)),
        None => RowBody::Separate(row.operation),
    };
    SeenRow::Whole(RowState::Present(row))
}

#[test]
fn an_expiry_entry_is_there_exactly_if_the_row_has_its_deadline() {
    let repair = Repair::Expiry { deadline: at(500) };
    let (put, removed) = (
        Some(vec![(Table::Expiry, true)]),
        Some(vec![(Table::Expiry, false)]),
    );
    assert_eq!(does(&repair, &object(&row(Some(at(500))), None)), put);
    assert_eq!(
        does(&repair, &object(&row(Some(at(500))), Some(b""))),
        put,
        "it is damaged"
    );
    assert_eq!(
        does(&repair, &object(&row(Some(at(500))), Some(b"\x01"))),
        None,
        "it is there"
    );
    for seen in [
        row(Some(at(501))),
        row(None),
        absent(),
        SeenRow::BrokenLastVersion,
    ] {
        assert_eq!(
            does(&repair, &object(&seen, Some(b"\x01"))),
            removed,
            "{seen:?}"
        );
        assert_eq!(
            does(&repair, &object(&seen, None)),
            None,
            "{seen:?}: it is gone"
        );
    }
    assert_eq!(
        does(&repair, &object(&SeenRow::BrokenRow, None)),
        None,
        "nobody knows its deadline"
    );
}

#[test]
fn block_checksums_are_put_only_for_a_revision_that_is_named() {
    let repair = |number| Repair::Checksums {
        revision: revision(number),
        blocks: BlockChecksums::default(),
    };
    assert_eq!(
        does(&repair(7), &object(&row(None), None)),
        Some(vec![(Table::Payloads, true)])
    );
    assert_eq!(
        does(&repair(7), &object(&row(None), Some(b"\x01"))),
        None,
        "they are there"
    );
    assert_eq!(does(&repair(8), &object(&row(None), None)), None);
    assert_eq!(does(&repair(7), &object(&absent(), None)), None);
}

#[test]
fn a_row_is_excised_only_if_it_can_not_be_read() {
    let excised = Some(vec![(Table::Rows, false), (Table::Meta, true)]);
    assert_eq!(
        does(&Repair::RemoveRow, &object(&SeenRow::BrokenRow, None)),
        excised
    );
    for seen in [row(None), absent(), SeenRow::BrokenLastVersion] {
        assert_eq!(
            does(&Repair::RemoveRow, &object(&seen, None)),
            None,
            "{seen:?}"
        );
    }
}

#[test]
fn a_floor_is_removed_beside_a_row_and_raised_where_it_is_lost() {
    assert_eq!(
        does(&Repair::LastVersion, &object(&row(None), Some(b"x"))),
        Some(vec![(Table::Meta, false)])
    );
    assert_eq!(
        does(&Repair::LastVersion, &object(&row(None), None)),
        None,
        "it is gone"
    );
    assert_eq!(
        does(
            &Repair::LastVersion,
            &object(&SeenRow::BrokenLastVersion, None)
        ),
        Some(vec![(Table::Meta, true)])
    );
    assert_eq!(
        does(&Repair::LastVersion, &object(&absent(), Some(b"x"))),
        None
    );
}

#[test]
fn an_object_is_given_up_only_if_its_bytes_are_lost() {
    let payload = Repair::GiveUp(Lost::Payload);
    let deleted = |tables: &[(Table, bool)]| Some(tables.to_vec());
    let embedded = deleted(&[(Table::Rows, false), (Table::Meta, true)]);
    let separate = deleted(&[
        (Table::Payloads, false),
        (Table::Rows, false),
        (Table::Meta, true),
    ]);
    assert_eq!(does(&payload, &object(&inline(Some(b"01234")), None)), None);
    assert_eq!(
        does(&payload, &object(&inline(Some(b"01235")), None)),
        embedded
    );
    assert_eq!(does(&payload, &object(&inline(None), Some(b"01234"))), None);
    for entry in [
        SeenEntry::Absent,
        SeenEntry::Broken,
        SeenEntry::Whole(Bytes::from_static(b"01235")),
    ] {
        assert_eq!(
            does(
                &payload,
                &SeenObject {
                    row: inline(None),
                    entry,
                    is_pending: false
                }
            ),
            separate
        );
    }
    let blob = |number| Repair::GiveUp(Lost::Blob(revision(number)));
    let tombstone = deleted(&[
        (Table::Payloads, false),
        (Table::Rows, false),
        (Table::Meta, true),
        (Table::Orphans, true),
    ]);
    assert_eq!(does(&blob(7), &object(&row(None), None)), tombstone);
    assert_eq!(
        does(&blob(8), &object(&row(None), None)),
        None,
        "it names another"
    );
    assert_eq!(does(&blob(7), &object(&absent(), None)), None);
}

#[test]
fn nothing_is_confirmed_that_a_batch_under_way_may_have_changed() {
    let pending = |seen: &SeenRow| SeenObject {
        is_pending: true,
        ..object(seen, None)
    };
    for (repair, seen) in [
        (Repair::Expiry { deadline: at(500) }, row(Some(at(500)))),
        (
            Repair::Checksums {
                revision: revision(7),
                blocks: BlockChecksums::default(),
            },
            row(None),
        ),
        (Repair::LastVersion, SeenRow::BrokenLastVersion),
        (Repair::GiveUp(Lost::Payload), inline(None)),
    ] {
        assert!(does(&repair, &object(&seen, None)).is_some(), "{repair:?}");
        assert_eq!(does(&repair, &pending(&seen)), None, "{repair:?}");
    }
}

#[test]
fn the_version_after_a_loss_is_one_that_none_has_reached_and_is_itself_surpassed_by_the_next_loss()
{
    let now = at(1_763_700_000_000);
    let floor = unreached(now);
    assert!(floor.get() > 1 << 50 && floor.get() < 1 << 53, "{floor}");
    assert!(unreached(now.after(std::time::Duration::from_millis(1))) > floor.next());
    assert!(unreached(at(0)).get() >= 1 << 32 && unreached(at(u64::MAX)).get() <= 1 << 62);
}
