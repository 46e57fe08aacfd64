//! Checks at quiescence: every write has ended and every orphan is settled, so the blob tier holds
//! exactly the named revisions (I5).
//!
//! Named checkers: I3, I5, I9, `versions`, `expiry`.

use std::collections::BTreeSet;

use bytes::Bytes;
use uuid::Uuid;

use super::format::{self, Body};
use super::last_versions;
use super::model::Model;
use super::sessions::{Steps, UploadHistory, entry};
use crate::disks::blobs::StoredBlobs;
use crate::disks::disk::DiskTables;
use cenotaph_storage::index::Table;

/// Checks both tiers at quiescence. Compares the model with the tables on the disk, unless the
/// index is real fjall.
pub(crate) fn check_settled(model: &mut Model, tables: Option<&DiskTables>, blobs: &StoredBlobs) {
    let parts = model.uploads.values().flat_map(UploadHistory::revisions);
    let named: BTreeSet<Uuid> = model
        .rows
        .values()
        .flat_map(format::Row::revisions)
        .chain(parts)
        .collect();
    // The marker is a blob, too, but no revision's.
    model.check_tiers_at_rest(blobs);
    let mut present = BTreeSet::new();
    for path in blobs.paths() {
        match format::revision_of_path(&path) {
            Some(revision) => drop(present.insert(revision)),
            None => model.violated(
                "I5",
                format!("blob is not at the path of a revision: path={path}"),
            ),
        }
    }
    let strays: BTreeSet<Uuid> = present
        .difference(&named)
        .copied()
        .filter(|revision| model.is_stray(*revision))
        .collect();
    model.strays = strays.len();
    for revision in present.difference(&named) {
        if strays.contains(revision) {
            continue;
        }
        model.violated(
            "I5",
            format!("blob is named by no row and no part: revision={revision}"),
        );
    }
    for revision in named.difference(&present) {
        model.violated("I5", format!("named blob is missing: revision={revision}"));
    }
    let left = (model.changes.len(), model.orphans.len());
    if left != (0, 0) {
        model.violated(
            "I5",
            format!("no quiescence: changes={} orphans={}", left.0, left.1),
        );
    }
    check_side_tables(model);
    let rows = model.rows.iter();
    let rows =
        rows.filter_map(|(object, row)| Some(format::expiry_key(row.expires_at?, object).into()));
    let sessions = model
        .uploads
        .iter()
        .filter_map(|(id, upload)| Some(entry(&upload.object, id, upload.session()?)));
    let due: BTreeSet<Bytes> = rows.chain(sessions).collect();
    if due != model.expiry {
        let message = format!(
            "expiry index does not match the deadlines: deadlines={} entries={}",
            due.len(),
            model.expiry.len()
        );
        model.violated("expiry", message);
    }
    if let Some(tables) = tables {
        compare_tables(model, tables);
    }
}

/// Checks the payload table against the rows and parts that need its entries, and the meta table
/// against the deleted objects whose last version it keeps.
fn check_side_tables(model: &mut Model) {
    // A separate payload is stored under its operation, block checksums under their revision.
    let mut needed = BTreeSet::new();
    for row in model.rows.values() {
        match &row.body {
            Body::Embedded(_) => {}
            Body::Separate(operation) => {
                let _ = needed.insert(Bytes::copy_from_slice(operation.as_bytes()));
            }
            Body::Tombstone(_) => {
                needed.extend(
                    row.revisions()
                        .iter()
                        .map(|revision| Bytes::copy_from_slice(revision.as_bytes())),
                );
            }
        }
    }
    let parts = model.uploads.values().flat_map(UploadHistory::revisions);
    needed.extend(parts.map(|revision| Bytes::copy_from_slice(revision.as_bytes())));
    if needed != model.payloads {
        let message = format!(
            "payload table does not match the rows and parts: needed={} found={}",
            needed.len(),
            model.payloads.len()
        );
        model.violated("I3", message);
    }
    // Only a deleted object needs its last version: a live row carries it.
    model.check_last_versions();
}

/// Compares the tables on the disk with the model.
fn compare_tables(model: &mut Model, tables: &DiskTables) {
    let rows: Vec<_> = tables
        .of(Table::Rows)
        .iter()
        .map(|(key, value)| (key.clone(), format::Row::decode(value)))
        .collect();
    // A row that can't be decoded compares as `None` and differs.
    let modelled: Vec<_> = model
        .rows
        .iter()
        .map(|(key, row)| (key.clone(), Some(row.clone())))
        .collect();
    if rows != modelled {
        model.violated("I9", "rows on the disk differ from the committed ones");
    }
    compare_sessions(model, tables);
    let left = (
        tables.of(Table::Changes).len(),
        tables.of(Table::Orphans).len(),
    );
    let beside: BTreeSet<Bytes> = tables.of(Table::Payloads).keys().cloned().collect();
    let meta: BTreeSet<Bytes> = tables.of(Table::Meta).keys().cloned().collect();
    let expiry: BTreeSet<Bytes> = tables.of(Table::Expiry).keys().cloned().collect();
    let is_stored = last_versions::are_stored(model, tables.of(Table::Meta));
    if left != (0, 0)
        || beside != model.payloads
        || meta != model.meta
        || !is_stored
        || expiry != model.expiry
    {
        model.violated(
            "I9",
            "other tables on the disk differ from the committed entries",
        );
    }
}

/// Compares the upload records and parts on the disk with the model.
fn compare_sessions(model: &mut Model, tables: &DiskTables) {
    let mut steps = Steps::default();
    let entries = tables.of(Table::Uploads).iter();
    let mut is_equal = entries
        .map(|(key, value)| steps.read(key, Some(value)))
        .all(|read| read.is_some());
    let known = |upload: &UploadHistory| upload.session().is_some();
    // Upload records that were removed remain in the model, so they are not counted.
    is_equal &= steps.0.len()
        == model
            .uploads
            .values()
            .filter(|upload| known(upload))
            .count();
    is_equal &= steps.0.iter().all(|(id, step)| {
        let Some(upload) = model.uploads.get(id) else {
            return false;
        };
        let session = step
            .session
            .as_ref()
            .map(|(object, session)| (object, session.as_ref()));
        let parts = step
            .parts
            .iter()
            .map(|(number, part)| (*number, part.as_ref().map(|part| part.extent.revision)));
        let filed = upload
            .parts()
            .into_iter()
            .map(|filing| (filing.number, Some(filing.revision)));
        session == Some((&upload.object, upload.session())) && parts.eq(filed)
    });
    if !is_equal {
        model.violated(
            "I9",
            "upload records or parts on the disk differ from the committed ones",
        );
    }
}
