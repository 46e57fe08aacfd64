//! The first walk: each row can be read, and has its expiry entry.
//!
//! What a row names is looked at later (`bytes.rs`), when rows that can't be read have been given
//! up or not.

use bytes::Bytes;

use super::Paged;
use super::damage::{Damage, RawKey};
use super::finding::{Cure, Found, Remedy};
use super::report::Tally;
use super::second::{self, contains, is_still};
use crate::decide::{Mend, SeenEntry};
use crate::error::{ErrorKind, Result};
use crate::id::ObjectId;
use crate::index::{Batch, Index, Range, Snapshot, Table};
use crate::rows::{Row, expiry_key};

/// Rows on a page.
pub(super) const PAGE: usize = 500;

/// A page of rows.
pub(super) async fn page(index: &dyn Index, range: Range, tally: &Tally) -> Result<Paged> {
    let second::Entries {
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
                let confirms_itself =
                    matches!(broken.remedy, Remedy::None | Remedy::Lossy(Cure::Commit(_)));
                if !confirms_itself
                    || is_still(index, Table::Rows, key, |value| read(key, value).is_err()).await?
                {
                    found.push(*broken);
                }
            }
        }
    }
    found.extend(unreadable);
    Ok((found, rest))
}

/// The row and its object, or what is wrong with it.
fn read(key: &Bytes, value: &Bytes) -> Result<(ObjectId, Row), Box<Found>> {
    let raw = RawKey(key.clone());
    let Ok(id) = ObjectId::decode(key) else {
        // No object has this name, so that no shard decides about it and nothing else ever touches
        // it.
        let damage = Damage::BrokenRow {
            key: raw,
            why: "its key is no object's".to_owned(),
        };
        let mut batch = Batch::new();
        batch.remove(Table::Rows, key.clone());
        return Err(Box::new(Found {
            damage,
            remedy: Remedy::Lossy(Cure::Commit(batch)),
        }));
    };
    match Row::decode(value) {
        Ok(row) => Ok((id, row)),
        Err(error) if error.kind() == ErrorKind::UnknownFormat => {
            let damage = Damage::UnknownFormat {
                table: Table::Rows,
                key: raw,
            };
            Err(Box::new(Found {
                damage,
                remedy: Remedy::None,
            }))
        }
        Err(error) => {
            let damage = Damage::BrokenRow {
                key: raw,
                why: error.to_string(),
            };
            Err(Box::new(Found {
                damage,
                remedy: Remedy::Lossy(Cure::Mend(id, Mend::Excise)),
            }))
        }
    }
}

async fn without_expiry(
    snapshot: &dyn Snapshot,
    object: ObjectId,
    row: &Row,
) -> Result<Option<Found>> {
    let Some(deadline) = row.metadata.expires_at else {
        return Ok(None);
    };
    if contains(snapshot, Table::Expiry, &expiry_key(deadline, &object)).await? != SeenEntry::Absent
    {
        return Ok(None);
    }
    let remedy = Remedy::Safe(Cure::Mend(object.clone(), Mend::Expiry { deadline }));
    Ok(Some(Found {
        damage: Damage::RowWithoutExpiry { object, deadline },
        remedy,
    }))
}
