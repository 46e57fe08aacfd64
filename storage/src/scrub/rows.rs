//! The first walk: each row can be read, and has its expiry entry.
//!
//! What a row names is looked at later (`bytes.rs`), when rows that can't be read have been given up or not.

use bytes::Bytes;

use super::finding::{Cure, Damage, Found, RawKey, Remedy};
use super::report::Tally;
use super::{Paged, contains, last_of, page_range};
use crate::error::{ErrorKind, Result};
use crate::id::ObjectId;
use crate::index::{Batch, Index, Snapshot, Table};
use crate::rows::{Row, expiry_key};
use crate::swap::Mend;

/// Rows on a page.
const PAGE: usize = 500;

/// A page of rows.
pub(super) async fn page(index: &dyn Index, after: Option<Bytes>, tally: &Tally) -> Result<Paged> {
    let snapshot = index.snapshot()?;
    let rows = snapshot.scan(Table::Rows, page_range(after, PAGE)).await?;
    let mut found = Vec::new();
    for (key, value) in &rows {
        match read(key, value) {
            Ok((id, row)) => {
                tally.row(row.metadata.size);
                found.extend(without_expiry(&*snapshot, id, &row).await?);
            }
            Err(broken) => found.push(*broken),
        }
    }
    Ok((found, last_of(rows.iter().map(|(key, _)| key), PAGE)))
}

/// The row and its object, or what is wrong with it.
fn read(key: &Bytes, value: &Bytes) -> Result<(ObjectId, Row), Box<Found>> {
    let raw = RawKey(key.clone());
    let Ok(id) = ObjectId::decode(key) else {
        // No object has this name, so that no shard decides about it and nothing else ever touches it.
        let damage = Damage::BrokenRow { key: raw, why: "its key is no object's".to_owned() };
        let mut batch = Batch::new();
        batch.remove(Table::Rows, key.clone());
        return Err(Box::new(Found { damage, remedy: Remedy::Lossy(Cure::Commit(batch)) }));
    };
    match Row::decode(value) {
        Ok(row) => Ok((id, row)),
        Err(error) if error.kind() == ErrorKind::UnknownFormat => {
            let damage = Damage::UnknownFormat { table: Table::Rows, key: raw };
            Err(Box::new(Found { damage, remedy: Remedy::None }))
        }
        Err(error) => {
            let damage = Damage::BrokenRow { key: raw, why: error.to_string() };
            Err(Box::new(Found { damage, remedy: Remedy::Lossy(Cure::Mend(id, Mend::Excise)) }))
        }
    }
}

async fn without_expiry(snapshot: &dyn Snapshot, object: ObjectId, row: &Row) -> Result<Option<Found>> {
    let Some(deadline) = row.metadata.expires_at else { return Ok(None) };
    if contains(snapshot, Table::Expiry, &expiry_key(deadline, &object)).await? {
        return Ok(None);
    }
    let remedy = Remedy::Safe(Cure::Mend(object.clone(), Mend::Expiry { deadline }));
    Ok(Some(Found { damage: Damage::RowWithoutExpiry { object, deadline }, remedy }))
}
