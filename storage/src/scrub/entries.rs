//! Walk 3: expiry entries, changes, orphans and last versions are each valid.
//!
//! ```text
//! entry           valid if                                      damage otherwise
//! expiry entry    its row or upload record has this deadline    ExpiryWithoutRow,
//!                                                               ExpiryWithoutSession, BrokenEntry
//! change, orphan  readable                                      BrokenEntry: removed; walk 7 finds
//!                                                               its blob by the name of the blob
//! last version    readable, and its object has no row           BrokenEntry, FloorBesideRow
//! base version    readable                                      BrokenEntry: stored again
//! ```
//!
//! An unreadable change never commits, because its shard cannot read it either. Therefore its
//! removal loses nothing. If a row or an upload record is unreadable, its expiry entries are not
//! judged.

use bytes::Bytes;

use super::Paged;
use super::bytes::unreadable_row;
use super::damage::{Damage, RawKey};
use super::finding::{FoundDamage, RepairAction, RepairPolicy};
use super::report::ScrubTally;
use super::second::{self, is_still, newest, readable};
use crate::decide::{Repair, UploadRepair};
use crate::index::{Batch, Index, Range, Snapshot, Table};
use crate::records::{
    BASE_VERSION_KEY, BaseVersion, Change, Due, LastVersion, Orphan, Row, UploadRecord,
    check_expiry_value, last_version_object, read_expiry_key, upload_record_key,
};
use crate::types::{Error, ErrorKind, ObjectId, OperationId, Result, RevisionId, UploadId};

/// Entries per page.
pub(super) const PAGE: usize = 1000;

/// Verifies a page of entries of a table.
pub(super) async fn page(
    index: &dyn Index,
    table: Table,
    range: Range,
    tally: &ScrubTally,
) -> Result<Paged> {
    let second::EntryPage {
        snapshot,
        page,
        found: unreadable,
        rest,
    } = second::entries(index, table, range).await?;
    tally.entries(page.len());
    let mut found = Vec::new();
    for (key, value) in &page {
        let Some(damage) = check(&*snapshot, table, key, value).await? else {
            continue;
        };
        // A shard confirms the other findings. These have no shard, so the walk reads the entry
        // again.
        let confirms_itself = matches!(
            damage.policy,
            RepairPolicy::None | RepairPolicy::Safe(RepairAction::Commit(_))
        );
        if !confirms_itself || is_still(index, table, key, |newest| newest == value).await? {
            found.push(damage);
        }
    }
    found.extend(unreadable);
    Ok((found, rest))
}

/// Returns the damage of an entry.
async fn check(
    snapshot: &dyn Snapshot,
    table: Table,
    key: &Bytes,
    value: &Bytes,
) -> Result<Option<FoundDamage>> {
    let broken = match table {
        Table::Expiry => return expiry(snapshot, key, value).await,
        Table::Meta => return last_version(snapshot, key, value).await,
        Table::Changes if OperationId::from_slice(key).is_some() => Change::decode(value).err(),
        Table::Orphans if RevisionId::from_slice(key).is_some() => Orphan::decode(value).err(),
        Table::Changes | Table::Orphans => Some(Error::new(
            ErrorKind::Corrupt,
            "scrub",
            "the key is malformed",
        )),
        Table::Rows | Table::Payloads | Table::Uploads => None,
    };
    Ok(broken.map(|error| unreadable(table, key, &error)))
}

/// Returns the damage of an expiry entry.
async fn expiry(
    snapshot: &dyn Snapshot,
    key: &Bytes,
    value: &Bytes,
) -> Result<Option<FoundDamage>> {
    let (deadline, due) = match read_expiry_key(key) {
        Ok(read) => read,
        Err(error) => return Ok(Some(unreadable(Table::Expiry, key, &error))),
    };
    // Only the shard may change expiry entries: a concurrent write may set this deadline again.
    let repair = RepairPolicy::Safe(match &due {
        Due::Object(object) => RepairAction::Repair(object.clone(), Repair::Expiry { deadline }),
        Due::Upload(object, upload) => {
            RepairAction::RepairUpload(object.clone(), *upload, UploadRepair::Expiry { deadline })
        }
    });
    match check_expiry_value(value) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::UnknownFormat => {
            return Ok(Some(unreadable(Table::Expiry, key, &error)));
        }
        Err(_) => {
            let damage = Damage::BrokenEntry {
                table: Table::Expiry,
                key: RawKey(key.clone()),
            };
            return Ok(Some(FoundDamage {
                damage,
                policy: repair,
            }));
        }
    }
    let damage = match due {
        Due::Object(object) => match row(snapshot, &object).await? {
            HeldRow::Row(row) if row.metadata.expires_at == Some(deadline) => None,
            // The deadline in an undecodable row is unknown.
            HeldRow::Broken => None,
            // The index cannot read the row: report the row, not the expiry entry.
            HeldRow::Unreadable(error) => return Ok(Some(unreadable_row(&object, &error))),
            HeldRow::Row(_) | HeldRow::Nothing => {
                Some(Damage::ExpiryWithoutRow { object, deadline })
            }
        },
        Due::Upload(object, upload) => match session(snapshot, &object, &upload).await? {
            Some(Ok(session)) if session.expires_at == deadline => None,
            Some(Err(_)) => None,
            Some(Ok(_)) | None => Some(Damage::ExpiryWithoutSession {
                object,
                begun: upload.begun(),
                deadline,
            }),
        },
    };
    Ok(damage.map(|damage| FoundDamage {
        damage,
        policy: repair,
    }))
}

/// Reads an upload record. Returns the error if the record cannot be read or decoded.
async fn session(
    snapshot: &dyn Snapshot,
    object: &ObjectId,
    upload: &UploadId,
) -> Result<Option<Result<UploadRecord>>> {
    Ok(
        match readable(
            snapshot
                .get(Table::Uploads, &upload_record_key(object, upload))
                .await,
        )? {
            Ok(value) => value.as_ref().map(UploadRecord::decode),
            Err(error) => Some(Err(error)),
        },
    )
}

/// Returns the damage of a stored last version.
async fn last_version(
    snapshot: &dyn Snapshot,
    key: &Bytes,
    value: &Bytes,
) -> Result<Option<FoundDamage>> {
    let object = match last_version_object(key) {
        Ok(object) => object,
        Err(error) => return Ok(Some(unreadable(Table::Meta, key, &error))),
    };
    let repair = RepairPolicy::Safe(RepairAction::Repair(object.clone(), Repair::LastVersion));
    match (LastVersion::decode(value), row(snapshot, &object).await?) {
        (Err(error), _) if error.kind() == ErrorKind::UnknownFormat => {
            Ok(Some(unreadable(Table::Meta, key, &error)))
        }
        (_, HeldRow::Unreadable(error)) => Ok(Some(unreadable_row(&object, &error))),
        (_, HeldRow::Broken) | (Ok(_), HeldRow::Nothing) => Ok(None),
        (Err(_), HeldRow::Nothing) => {
            let damage = Damage::BrokenEntry {
                table: Table::Meta,
                key: RawKey(key.clone()),
            };
            Ok(Some(FoundDamage {
                damage,
                policy: repair,
            }))
        }
        (_, HeldRow::Row(_)) => Ok(Some(FoundDamage {
            damage: Damage::FloorBesideRow { object },
            policy: repair,
        })),
    }
}

/// Returns the damage of the base version. Any last version is possible beside it: the base version
/// bounds only those that were dropped.
pub(super) async fn base_version(index: &dyn Index) -> Result<Option<FoundDamage>> {
    let key = Bytes::from_static(BASE_VERSION_KEY);
    let read = newest(index).await?.get(Table::Meta, &key).await;
    match read.and_then(|value| value.as_ref().map(BaseVersion::decode).transpose()) {
        Ok(_) => Ok(None),
        Err(error) if error.kind() == ErrorKind::UnknownFormat => {
            Ok(Some(unreadable(Table::Meta, &key, &error)))
        }
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(Some(FoundDamage {
            damage: Damage::BrokenEntry {
                table: Table::Meta,
                key: RawKey(key),
            },
            policy: RepairPolicy::Safe(RepairAction::BaseVersion),
        })),
        Err(error) => Err(error),
    }
}

/// Returns the damage of an undecodable entry. Its repair is the removal, unless a later build may
/// have written the entry.
fn unreadable(table: Table, key: &Bytes, error: &Error) -> FoundDamage {
    let raw = RawKey(key.clone());
    if error.kind() == ErrorKind::UnknownFormat {
        return FoundDamage {
            damage: Damage::UnknownFormat { table, key: raw },
            policy: RepairPolicy::None,
        };
    }
    let mut batch = Batch::new();
    batch.remove(table, key.clone());
    FoundDamage {
        damage: Damage::BrokenEntry { table, key: raw },
        policy: RepairPolicy::Safe(RepairAction::Commit(batch)),
    }
}

/// State of the row of an object.
enum HeldRow {
    /// The row is readable.
    Row(Box<Row>),
    /// The row cannot be decoded. The walk over the rows has reported it.
    Broken,
    /// The index cannot read the row.
    Unreadable(Error),
    /// The object has no row.
    Nothing,
}

/// Returns the state of the row of an object.
async fn row(snapshot: &dyn Snapshot, object: &ObjectId) -> Result<HeldRow> {
    let value = match readable(snapshot.get(Table::Rows, object.encoded()).await)? {
        Ok(value) => value,
        Err(error) => return Ok(HeldRow::Unreadable(error)),
    };
    Ok(match value.as_ref().map(Row::decode) {
        Some(Ok(row)) => HeldRow::Row(Box::new(row)),
        Some(Err(_)) => HeldRow::Broken,
        None => HeldRow::Nothing,
    })
}
