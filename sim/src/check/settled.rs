//! What must be true at rest, when every write has ended and everything has settled (I5).

use std::collections::BTreeSet;

use bytes::Bytes;
use uuid::Uuid;

use super::format::{self, Body};
use super::monitor::Monitor;
use super::sessions::{Steps, Upload, entry};
use crate::blobs::Blobs;
use crate::disk::Tables;
use cenotaph_storage::index::Table;

/// Checks both tiers at rest, and that the monitor's model is what the disk has, where that can be
/// seen.
pub(crate) fn check_settled(monitor: &mut Monitor, tables: Option<&Tables>, blobs: &Blobs) {
    let parts = monitor.uploads.values().flat_map(Upload::revisions);
    let named: BTreeSet<Uuid> = monitor
        .rows
        .values()
        .flat_map(format::Row::revisions)
        .chain(parts)
        .collect();
    monitor.marked(blobs);
    let mut there = BTreeSet::new();
    for path in blobs.paths() {
        match format::revision_of_path(&path) {
            Some(revision) => drop(there.insert(revision)),
            None => monitor.violated("I5", format!("no revision's blob lies at {path}")),
        }
    }
    for revision in there.difference(&named) {
        monitor.violated(
            "I5",
            format!("blob {revision} is there, and neither a row nor a part names it"),
        );
    }
    for revision in named.difference(&there) {
        monitor.violated(
            "I5",
            format!("a row or a part names blob {revision}, and it is not there"),
        );
    }
    let left = (monitor.changes.len(), monitor.orphans.len());
    if left != (0, 0) {
        monitor.violated(
            "I5",
            format!("not settled: changes={} orphans={}", left.0, left.1),
        );
    }
    beside_the_rows(monitor);
    let rows = monitor.rows.iter();
    let rows =
        rows.filter_map(|(object, row)| Some(format::expiry_key(row.expires_at?, object).into()));
    let sessions = monitor
        .uploads
        .iter()
        .filter_map(|(id, upload)| Some(entry(&upload.object, id, upload.session()?)));
    let due: BTreeSet<Bytes> = rows.chain(sessions).collect();
    if due != monitor.expiry {
        let (due, entries) = (due.len(), monitor.expiry.len());
        let message =
            format!("{due} rows and sessions have a deadline, the expiry index has {entries}");
        monitor.violated("expiry", message);
    }
    if let Some(tables) = tables {
        as_modelled(monitor, tables);
    }
}

/// The payload table holds what the rows need, and the meta table the floors of what is absent.
fn beside_the_rows(monitor: &mut Monitor) {
    let mut needed = BTreeSet::new();
    for row in monitor.rows.values() {
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
    let parts = monitor.uploads.values().flat_map(Upload::revisions);
    needed.extend(parts.map(|revision| Bytes::copy_from_slice(revision.as_bytes())));
    if needed != monitor.payloads {
        let message = format!(
            "rows and parts need {} entries beside them, there are {}",
            needed.len(),
            monitor.payloads.len()
        );
        monitor.violated("I3", message);
    }
    let floors: BTreeSet<Bytes> = monitor
        .states
        .iter()
        .filter(|(_, states)| states.last().is_some_and(|(_, row)| row.is_none()))
        .map(|(object, _)| format::floor_key(object).into())
        .collect();
    let kept: BTreeSet<Bytes> = monitor
        .floors
        .iter()
        .filter(|key| key.starts_with(b"floor\0"))
        .cloned()
        .collect();
    if floors != kept {
        monitor.violated(
            "versions",
            format!(
                "{} objects are deleted, {} floors are kept",
                floors.len(),
                kept.len()
            ),
        );
    }
}

fn as_modelled(monitor: &mut Monitor, tables: &Tables) {
    let rows: Vec<_> = tables
        .of(Table::Rows)
        .iter()
        .map(|(key, value)| (key.clone(), format::Row::decode(value)))
        .collect();
    let modelled: Vec<_> = monitor
        .rows
        .iter()
        .map(|(key, row)| (key.clone(), Some(row.clone())))
        .collect();
    if rows != modelled {
        monitor.violated(
            "I9",
            "the rows on the disk are not those that were committed",
        );
    }
    sessions_as_modelled(monitor, tables);
    let left = (
        tables.of(Table::Changes).len(),
        tables.of(Table::Orphans).len(),
    );
    let beside: BTreeSet<Bytes> = tables.of(Table::Payloads).keys().cloned().collect();
    let meta: BTreeSet<Bytes> = tables.of(Table::Meta).keys().cloned().collect();
    let expiry: BTreeSet<Bytes> = tables.of(Table::Expiry).keys().cloned().collect();
    if left != (0, 0)
        || beside != monitor.payloads
        || meta != monitor.floors
        || expiry != monitor.expiry
    {
        monitor.violated(
            "I9",
            "what lies beside the rows on the disk is not what was committed",
        );
    }
}

/// The sessions and parts on the disk are those that the witness saw.
fn sessions_as_modelled(monitor: &mut Monitor, tables: &Tables) {
    let mut steps = Steps::default();
    let entries = tables.of(Table::Sessions).iter();
    let mut is_so = entries
        .map(|(key, value)| steps.read(key, Some(value)))
        .all(|read| read.is_some());
    let known = |upload: &Upload| upload.session().is_some();
    is_so &= steps.0.len()
        == monitor
            .uploads
            .values()
            .filter(|upload| known(upload))
            .count();
    is_so &= steps.0.iter().all(|(id, step)| {
        let Some(upload) = monitor.uploads.get(id) else {
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
    if !is_so {
        monitor.violated(
            "I9",
            "the sessions and parts on the disk are not those that were committed",
        );
    }
}
