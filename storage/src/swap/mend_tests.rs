//! The decisions of repairs, against every sight that matters.

use super::*;
use crate::checksum::Checksum;
use crate::rows::{Body, Expiration, Extent, Manifest, Metadata, Row};
use crate::word::OperationId;
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

fn row(expires_at: Option<Timestamp>) -> Seen {
    let attributes = crate::rows::Attributes { expiration: Expiration::Manual, ..Default::default() };
    let metadata = Metadata { size: 5, checksum: None, created: at(1), modified: at(1), expires_at, attributes };
    let extent = Extent { revision: revision(7), bytes: 5, checksum: Checksum::new(1) };
    let body = Body::Tombstone(Manifest::of(extent));
    let operation = OperationId::from_uuid(Uuid::from_u128(1));
    Seen::Whole(Standing::Present(Box::new(Row { version: Version::new(3), operation, metadata, body })))
}

fn absent() -> Seen {
    Seen::Whole(Standing::Absent(Version::new(3)))
}

/// What the batch does, table by table: whether it puts.
fn does(mend: &Mend, seen: &Seen) -> Option<Vec<(Table, bool)>> {
    let mending = mend.decide(&id(), seen, at(1_700_000_000_000))?;
    Some(mending.batch.changes().iter().map(|(table, _, value)| (*table, value.is_some())).collect())
}

#[test]
fn an_expiry_entry_is_there_exactly_if_the_row_has_its_deadline() {
    let mend = Mend::Expiry { deadline: at(500) };
    assert_eq!(does(&mend, &row(Some(at(500)))), Some(vec![(Table::Expiry, true)]));
    for seen in [row(Some(at(501))), row(None), absent(), Seen::BrokenFloor] {
        assert_eq!(does(&mend, &seen), Some(vec![(Table::Expiry, false)]), "{seen:?}");
    }
    assert_eq!(does(&mend, &Seen::BrokenRow), None, "nobody knows its deadline");
}

#[test]
fn block_checksums_are_put_only_for_a_revision_that_is_named() {
    let mend = |number| Mend::Checksums { revision: revision(number), blocks: BlockChecksums::default() };
    assert_eq!(does(&mend(7), &row(None)), Some(vec![(Table::Payloads, true)]));
    assert_eq!(does(&mend(8), &row(None)), None);
    assert_eq!(does(&mend(7), &absent()), None);
}

#[test]
fn a_row_is_excised_only_if_it_can_not_be_read() {
    assert_eq!(does(&Mend::Excise, &Seen::BrokenRow), Some(vec![(Table::Rows, false), (Table::Meta, true)]));
    for seen in [row(None), absent(), Seen::BrokenFloor] {
        assert_eq!(does(&Mend::Excise, &seen), None, "{seen:?}");
    }
}

#[test]
fn a_floor_is_removed_beside_a_row_and_raised_where_it_is_lost() {
    assert_eq!(does(&Mend::Floor, &row(None)), Some(vec![(Table::Meta, false)]));
    assert_eq!(does(&Mend::Floor, &Seen::BrokenFloor), Some(vec![(Table::Meta, true)]));
    assert_eq!(does(&Mend::Floor, &absent()), None);
}

#[test]
fn the_version_after_a_loss_is_one_that_none_has_reached_and_is_itself_surpassed_by_the_next_loss() {
    let now = at(1_763_700_000_000);
    let floor = unreached(now);
    assert!(floor.get() > 1 << 50 && floor.get() < 1 << 53, "{floor}");
    assert!(unreached(now.after(std::time::Duration::from_millis(1))) > floor.next());
    assert!(unreached(at(0)).get() >= 1 << 32 && unreached(at(u64::MAX)).get() <= 1 << 62);
}
