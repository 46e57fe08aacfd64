//! What must stand beside the rows and the uploads, and nothing else (I3): payloads, block checksums, parts, expiry entries,
//! version floors. It comes and goes with its row or session, so that this holds in every snapshot, whatever is under way or
//! has just crashed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cenotaph::{Index, ObjectId};
use cenotaph_storage::index::{Page, Range, Snapshot, Table};
use cenotaph_storage::rows::{
    Part, Phase, Row, Session, expiry_key, floor_key, is_part_key, read_part_key, read_session_key, session_expiry_key,
};
use cenotaph_storage::{PartNumber, RevisionKey, UploadId};

/// An open or ended upload, as the session table has it.
pub struct Filed {
    /// The object.
    pub id: ObjectId,
    /// The upload.
    pub upload: UploadId,
    /// Its session.
    pub session: Session,
    /// Its parts.
    pub parts: BTreeMap<PartNumber, Part>,
}

impl Filed {
    /// The revisions that its parts name.
    pub fn revision_keys(&self) -> impl Iterator<Item = RevisionKey> + '_ {
        let key = |part: &Part| RevisionKey { object: self.id.clone(), revision: part.extent.revision };
        self.parts.values().map(key)
    }
}

/// All uploads of a snapshot. Asserts that each part belongs to an open one.
pub async fn uploads(snapshot: &dyn Snapshot) -> Vec<Filed> {
    let (parts, sessions): (Page, Page) =
        scan(snapshot, Table::Sessions).await.into_iter().partition(|(key, _)| is_part_key(key));
    let mut filed: BTreeMap<UploadId, Filed> = BTreeMap::new();
    for (key, value) in sessions {
        let (id, upload) = read_session_key(&key).unwrap();
        let session = Session::decode(&value).unwrap();
        filed.insert(upload, Filed { id, upload, session, parts: BTreeMap::new() });
    }
    for (key, value) in parts {
        let (upload, number) = read_part_key(&key).unwrap();
        let of = filed.get_mut(&upload).filter(|of| of.session.phase == Phase::Open);
        let of = of.unwrap_or_else(|| panic!("I3: part {number} belongs to no open upload"));
        of.parts.insert(number, Part::decode(&value).unwrap());
    }
    filed.into_values().collect()
}

/// Asserts that the tables beside the rows hold exactly what the rows and uploads need.
pub async fn assert_beside_rows(index: &dyn Index) {
    let snapshot = index.snapshot().unwrap();
    let rows: Vec<(ObjectId, Row)> = scan(&*snapshot, Table::Rows)
        .await
        .into_iter()
        .map(|(key, value)| (ObjectId::decode(&key).unwrap(), Row::decode(&value).unwrap()))
        .collect();
    let uploads = uploads(&*snapshot).await;
    let of_part = |part: &Part| Bytes::copy_from_slice(part.extent.revision.as_bytes());
    let of_parts = uploads.iter().flat_map(|filed| filed.parts.values().map(of_part));
    let belongings: Vec<Bytes> = rows.iter().flat_map(|(_, row)| row.belongings()).chain(of_parts).collect();
    let needed: BTreeSet<Bytes> = belongings.iter().cloned().collect();
    assert_eq!(belongings.len(), needed.len(), "I3: what lies beside a row is no other row's");
    assert_same(keys(&*snapshot, Table::Payloads).await, needed, "payloads come and go with their rows");
    let due = rows.iter().filter_map(|(id, row)| Some(expiry_key(row.metadata.expires_at?, id)));
    let lapses = uploads.iter().map(|of| session_expiry_key(of.session.expires_at, &of.id, &of.upload));
    assert_same(
        keys(&*snapshot, Table::Expiry).await,
        due.chain(lapses).collect(),
        "expiry entries come and go with their rows",
    );
    let meta = keys(&*snapshot, Table::Meta).await;
    let floored = rows.iter().find(|(id, _)| meta.contains(&floor_key(id)));
    assert_eq!(floored, None, "I3: a version floor goes when its object is back");
}

fn assert_same(found: BTreeSet<Bytes>, needed: BTreeSet<Bytes>, what: &str) {
    let (too_many, missing) = (found.difference(&needed).count(), needed.difference(&found).count());
    assert_eq!((too_many, missing), (0, 0), "I3: {what}: (too many, missing) of {}", needed.len());
}

async fn keys(snapshot: &dyn Snapshot, table: Table) -> BTreeSet<Bytes> {
    scan(snapshot, table).await.into_iter().map(|(key, _)| key).collect()
}

async fn scan(snapshot: &dyn Snapshot, table: Table) -> Page {
    snapshot.scan(table, Range::all(10_000_000)).await.unwrap()
}
