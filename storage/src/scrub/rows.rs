//! Walk 1: each row is readable and has its expiry entry.
//!
//! The payloads and blobs that the rows name are verified later (`bytes.rs`), after the decisions
//! about unreadable rows.

use bytes::Bytes;

use super::Paged;
use super::damage::{Damage, RawKey};
use super::finding::{FoundDamage, RepairAction, RepairPolicy};
use super::report::ScrubTally;
use super::second::{self, contains, is_still};
use crate::decide::{Repair, SeenEntry};
use crate::index::{Batch, Index, Range, Snapshot, Table};
use crate::records::{Row, expiry_key};
use crate::types::{ErrorKind, ObjectId, Result};

/// Rows per page.
pub(super) const PAGE: usize = 500;

/// Verifies a page of rows.
pub(super) async fn page(index: &dyn Index, range: Range, tally: &ScrubTally) -> Result<Paged> {
    let second::EntryPage {
        snapshot,
        page,
        found: unreadable,
        rest,
    } = second::entries(index, Table::Rows, range).await?;
    let mut found = Vec::new();
    for (key, value) in &page {
        match read(key, value) {
            Ok((id, row)) => {
                tally.row(row.metadata.size);
                found.extend(without_expiry(&*snapshot, id, &row).await?);
            }
            Err(broken) => {
                // A shard confirms the other findings. These have no shard, so the walk reads the
                // row again.
                let confirms_itself = matches!(
                    broken.policy,
                    RepairPolicy::None | RepairPolicy::Lossy(RepairAction::Commit(_))
                );
                if !confirms_itself
                    || is_still(index, Table::Rows, key, |value| read(key, value).is_err()).await?
                {
                    found.push(*broken);
                }
            }
        }
    }
    // The unreadable range lies behind the entries of the page.
    found.extend(unreadable);
    Ok((found, rest))
}

/// Decodes a row and its object, or returns the damage.
fn read(key: &Bytes, value: &Bytes) -> Result<(ObjectId, Row), Box<FoundDamage>> {
    let raw = RawKey(key.clone());
    let Ok(id) = ObjectId::decode(key) else {
        // No object has this key. No shard decides about the row, and no other operation ever
        // changes it.
        let damage = Damage::BrokenRow {
            key: raw,
            why: "the key is not an object id".to_owned(),
        };
        let mut batch = Batch::new();
        batch.remove(Table::Rows, key.clone());
        return Err(Box::new(FoundDamage {
            damage,
            policy: RepairPolicy::Lossy(RepairAction::Commit(batch)),
        }));
    };
    match Row::decode(value) {
        Ok(row) => Ok((id, row)),
        Err(error) if error.kind() == ErrorKind::UnknownFormat => {
            let damage = Damage::UnknownFormat {
                table: Table::Rows,
                key: raw,
            };
            Err(Box::new(FoundDamage {
                damage,
                policy: RepairPolicy::None,
            }))
        }
        Err(error) => {
            let damage = Damage::BrokenRow {
                key: raw,
                why: error.to_string(),
            };
            Err(Box::new(FoundDamage {
                damage,
                policy: RepairPolicy::Lossy(RepairAction::Repair(id, Repair::RemoveRow)),
            }))
        }
    }
}

/// Returns the damage of a row with a deadline and without an expiry entry.
async fn without_expiry(
    snapshot: &dyn Snapshot,
    object: ObjectId,
    row: &Row,
) -> Result<Option<FoundDamage>> {
    let Some(deadline) = row.metadata.expires_at else {
        return Ok(None);
    };
    // An expiry entry that cannot be read counts as present.
    if contains(snapshot, Table::Expiry, &expiry_key(deadline, &object)).await? != SeenEntry::Absent
    {
        return Ok(None);
    }
    let policy = RepairPolicy::Safe(RepairAction::Repair(
        object.clone(),
        Repair::Expiry { deadline },
    ));
    Ok(Some(FoundDamage {
        damage: Damage::RowWithoutExpiry { object, deadline },
        policy,
    }))
}
