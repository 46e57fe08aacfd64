//! Statements of a commit, and conversions of their parameters and rows.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tokio_postgres::{Row, Statement};

use super::connections::Borrowed;
use super::evaluate::Place;
use super::schema::Schema;
use crate::index::Table;
use crate::index::group_commit::Changes;

/// Result of a request to the server, whose error [`failure`](super::failure::failure) explains.
pub(super) type Answer<T> = Result<T, tokio_postgres::Error>;

/// Writes to a table by one statement.
pub(super) struct Write {
    statement: Statement,
    keys: Vec<Bytes>,
    /// Values to put, or `None` to remove the keys.
    values: Option<Vec<Bytes>>,
}

impl Write {
    /// Prepares the writes of each table.
    pub(super) async fn prepared(
        connection: &Borrowed,
        schema: &Schema,
        left: Changes,
    ) -> Answer<Vec<Self>> {
        let mut puts: BTreeMap<Table, (Vec<Bytes>, Vec<Bytes>)> = BTreeMap::new();
        let mut removals: BTreeMap<Table, Vec<Bytes>> = BTreeMap::new();
        for ((table, key), value) in left {
            match value {
                Some(value) => {
                    let (keys, values) = puts.entry(table).or_default();
                    keys.push(key);
                    values.push(value);
                }
                None => removals.entry(table).or_default().push(key),
            }
        }
        let mut writes = Vec::new();
        for (table, (keys, values)) in puts {
            let name = schema.of(table);
            let sql = format!(
                "INSERT INTO {name} (key, value) SELECT * FROM unnest($1::BYTEA[], $2::BYTEA[]) ON \
                 CONFLICT (key) DO UPDATE SET value = EXCLUDED.value"
            );
            writes.push(Self {
                statement: connection.prepare_cached(&sql).await?,
                keys,
                values: Some(values),
            });
        }
        for (table, keys) in removals {
            let name = schema.of(table);
            let sql = format!("DELETE FROM {name} WHERE key = ANY($1)");
            writes.push(Self {
                statement: connection.prepare_cached(&sql).await?,
                keys,
                values: None,
            });
        }
        Ok(writes)
    }

    /// Sends the statement at the first poll, and waits for its answer.
    pub(super) async fn run(&self, connection: &Borrowed) -> Answer<()> {
        let keys = slices(&self.keys);
        match &self.values {
            Some(values) => {
                let values = slices(values);
                connection.execute(&self.statement, &[&keys, &values]).await
            }
            None => connection.execute(&self.statement, &[&keys]).await,
        }
        .map(drop)
    }
}

/// Returns the entries of a table in rows of keys and values.
pub(super) fn entries(table: Table, rows: &[Row]) -> Vec<(Place, Bytes)> {
    let entry = |row: &Row| {
        let key = Bytes::copy_from_slice(row.get(0));
        ((table, key), Bytes::copy_from_slice(row.get(1)))
    };
    rows.iter().map(entry).collect()
}

/// Returns the contents as parameters.
pub(super) fn slices(bytes: &[Bytes]) -> Vec<&[u8]> {
    bytes.iter().map(|bytes| &bytes[..]).collect()
}

/// Groups keys by their tables.
pub(super) fn by_table(places: &BTreeSet<Place>) -> BTreeMap<Table, Vec<Bytes>> {
    let mut tables: BTreeMap<Table, Vec<Bytes>> = BTreeMap::new();
    for (table, key) in places {
        tables.entry(*table).or_default().push(key.clone());
    }
    tables
}
