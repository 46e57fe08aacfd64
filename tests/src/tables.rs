//! Check of invariant I3: payloads, block checksums, expiry entries and last versions match the
//! rows and uploads.
//!
//! These entries change in the same batch as their row, upload record or part, so the invariant
//! holds in every snapshot, also during writes and right after a crash.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cenotaph::{Index, ObjectId};
use cenotaph_storage::index::{Page, Range, Snapshot, Table};
use cenotaph_storage::records::{
    Filed, Part, Row, UploadPhase, UploadRecord, decode_upload_record_key, expiry_key, is_part_key,
    last_version_key, read_part_key, upload_expiry_key,
};
use cenotaph_storage::{RevisionKey, UploadId};

/// Uploads of an index.
pub struct Uploads {
    sessions: BTreeMap<UploadId, (ObjectId, UploadRecord)>,
    parts: Vec<(UploadId, Part)>,
}

impl Uploads {
    /// Reads all upload records and parts.
    pub async fn of(snapshot: &dyn Snapshot) -> Self {
        let mut uploads = Self {
            sessions: BTreeMap::new(),
            parts: Vec::new(),
        };
        for (key, value) in scan(snapshot, Table::Uploads).await {
            if is_part_key(&key) {
                let (upload, _) = read_part_key(&key).unwrap();
                uploads.parts.extend(
                    Filed::decode(&value)
                        .unwrap()
                        .part()
                        .map(|part| (upload, part)),
                );
            } else {
                let (object, upload) = decode_upload_record_key(&key).unwrap();
                uploads
                    .sessions
                    .insert(upload, (object, UploadRecord::decode(&value).unwrap()));
            }
        }
        uploads
    }

    /// Returns the revisions that the parts name.
    pub fn revisions(&self) -> impl Iterator<Item = RevisionKey> + '_ {
        self.parts.iter().map(|(upload, part)| {
            let (object, session) = self
                .sessions
                .get(upload)
                .expect("I3: parts come and go with their upload record");
            assert_eq!(
                session.phase,
                UploadPhase::Open,
                "I3: an upload that has ended has no parts"
            );
            RevisionKey {
                object: object.clone(),
                revision: part.extent.revision,
            }
        })
    }

    /// Returns the number of open uploads.
    pub fn open(&self) -> usize {
        self.sessions
            .values()
            .filter(|(_, session)| session.phase == UploadPhase::Open)
            .count()
    }

    fn due(&self) -> impl Iterator<Item = Bytes> + '_ {
        self.sessions.iter().map(|(upload, (object, session))| {
            upload_expiry_key(session.expires_at, object, upload)
        })
    }
}

/// Asserts that the dependent tables contain exactly the entries that rows and upload records need.
pub async fn assert_beside_rows(index: &dyn Index) {
    let snapshot = index.snapshot().unwrap();
    let rows: Vec<(ObjectId, Row)> = scan(&*snapshot, Table::Rows)
        .await
        .into_iter()
        .map(|(key, value)| {
            (
                ObjectId::decode(&key).unwrap(),
                Row::decode(&value).unwrap(),
            )
        })
        .collect();
    let uploads = Uploads::of(&*snapshot).await;
    let of_parts = uploads
        .revisions()
        .map(|key| Bytes::copy_from_slice(key.revision.as_bytes()));
    let belongings: Vec<Bytes> = rows
        .iter()
        .flat_map(|(_, row)| row.belongings())
        .chain(of_parts)
        .collect();
    let needed: BTreeSet<Bytes> = belongings.iter().cloned().collect();
    // Checked first: the set below would hide a shared entry.
    assert_eq!(
        belongings.len(),
        needed.len(),
        "I3: two rows or parts share an entry"
    );
    assert_same(
        keys(&*snapshot, Table::Payloads).await,
        needed,
        "payloads come and go with their rows",
    );
    let due = rows
        .iter()
        .filter_map(|(id, row)| Some(expiry_key(row.metadata.expires_at?, id)));
    assert_same(
        keys(&*snapshot, Table::Expiry).await,
        due.chain(uploads.due()).collect(),
        "expiry entries come and go with their rows",
    );
    // A live row carries its version itself.
    let meta = keys(&*snapshot, Table::Meta).await;
    let floored = rows
        .iter()
        .find(|(id, _)| meta.contains(&last_version_key(id)));
    assert_eq!(floored, None, "I3: a last version remains beside a row");
}

fn assert_same(found: BTreeSet<Bytes>, needed: BTreeSet<Bytes>, claim: &str) {
    let surplus = found.difference(&needed).count();
    let missing = needed.difference(&found).count();
    assert_eq!(
        (surplus, missing),
        (0, 0),
        "I3: {claim}: (surplus, missing), needed={}",
        needed.len()
    );
}

async fn keys(snapshot: &dyn Snapshot, table: Table) -> BTreeSet<Bytes> {
    scan(snapshot, table)
        .await
        .into_iter()
        .map(|(key, _)| key)
        .collect()
}

async fn scan(snapshot: &dyn Snapshot, table: Table) -> Page {
    // A limit far above the size of any test store.
    snapshot.scan(table, Range::all(10_000_000)).await.unwrap()
}
