//! Reads: single statements, and snapshots as read-only transactions.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::join;
use tokio::sync::Mutex;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use super::Shared;
use super::connections::Borrowed;
use super::failure::{closed, unavailable};
use super::schema::Schema;
use crate::index::{Page, Range, Snapshot, Table};
use crate::types::{Error, Result};

/// Snapshot of a shared index: a transaction with the isolation level REPEATABLE READ, which begins
/// at the first read. It occupies a connection until it is dropped.
pub(super) struct PostgresSnapshot {
    shared: Arc<Shared>,
    transaction: Mutex<Transaction>,
}

enum Transaction {
    NotBegun,
    Open(Borrowed),
    /// A read has failed: a new transaction would see another state.
    Lost,
}

impl PostgresSnapshot {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            transaction: Mutex::new(Transaction::NotBegun),
        }
    }

    /// Runs a query in the transaction, for a limited time.
    async fn query(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        self.shared
            .within("read", self.query_unlimited(sql, parameters))
            .await
    }

    async fn query_unlimited(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>> {
        self.shared.check_open()?;
        let mut transaction = self.transaction.lock().await;
        if let Transaction::NotBegun = *transaction {
            let connection = self.shared.connections.reader("read").await?;
            let rows = begun(&connection, sql, parameters).await;
            let rows = rows.map_err(unreadable)?;
            *transaction = Transaction::Open(connection);
            return Ok(rows);
        }
        let Transaction::Open(connection) = &*transaction else {
            let message = "a read of this snapshot has failed before; begin again";
            return Err(Error::new(crate::ErrorKind::Unavailable, "read", message));
        };
        match queried(connection, sql, parameters).await {
            Ok(rows) => Ok(rows),
            Err(error) => {
                *transaction = Transaction::Lost;
                self.shared.check_open()?;
                Err(unreadable(error))
            }
        }
    }
}

impl Drop for PostgresSnapshot {
    /// Ends the transaction in the background.
    fn drop(&mut self) {
        let transaction = std::mem::replace(self.transaction.get_mut(), Transaction::Lost);
        if let Transaction::Open(connection) = transaction {
            let (env, patience) = (self.shared.env.clone(), self.shared.patience);
            self.shared.env.spawn(async move {
                let ended = connection.batch_execute("ROLLBACK");
                if let Some(Ok(())) = env.deadline(patience, ended).await {
                    connection.finished();
                }
            });
        }
    }
}

impl Snapshot for PostgresSnapshot {
    fn get<'a>(&'a self, table: Table, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>>> {
        Box::pin(async move {
            let sql = value_of(&self.shared.schema, table);
            let rows = self.query(&sql, &[&key]).await?;
            Ok(rows.first().map(|row| Bytes::copy_from_slice(row.get(0))))
        })
    }

    fn get_many(
        &self,
        table: Table,
        keys: Vec<Bytes>,
    ) -> BoxFuture<'_, Result<Vec<Option<Bytes>>>> {
        Box::pin(async move {
            let name = self.shared.schema.of(table);
            let sql = format!(
                "SELECT t.value FROM unnest($1::BYTEA[]) WITH ORDINALITY AS k (key, place) LEFT JOIN \
                 {name} t ON t.key = k.key ORDER BY k.place"
            );
            let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
            let rows = self.query(&sql, &[&keys]).await?;
            let value = |row: &Row| row.get::<_, Option<&[u8]>>(0).map(Bytes::copy_from_slice);
            Ok(rows.iter().map(value).collect())
        })
    }

    fn scan(&self, table: Table, range: Range) -> BoxFuture<'_, Result<Page>> {
        Box::pin(async move {
            let scan = Scan::new(&self.shared.schema, table, "key, value", &range);
            let rows = self.query(&scan.sql, &scan.parameters()).await?;
            let entry = |row: &Row| {
                let key = Bytes::copy_from_slice(row.get(0));
                (key, Bytes::copy_from_slice(row.get(1)))
            };
            Ok(rows.iter().map(entry).collect())
        })
    }

    fn keys(&self, table: Table, range: Range) -> BoxFuture<'_, Result<Vec<Bytes>>> {
        Box::pin(async move {
            let scan = Scan::new(&self.shared.schema, table, "key", &range);
            let rows = self.query(&scan.sql, &scan.parameters()).await?;
            let key = |row: &Row| Bytes::copy_from_slice(row.get(0));
            Ok(rows.iter().map(key).collect())
        })
    }
}

impl Shared {
    /// Reads a key outside of a snapshot. A read whose connection is lost is repeated once.
    pub(super) async fn read(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        self.check_open()?;
        let sql = value_of(&self.schema, table);
        let mut is_repeated = false;
        loop {
            let connection = self.connections.reader("read").await;
            let connection = connection.map_err(|error| self.closed_or(error))?;
            match queried(&connection, &sql, &[&key]).await {
                Ok(rows) => {
                    connection.finished();
                    self.check_open()?;
                    return Ok(rows.first().map(|row| Bytes::copy_from_slice(row.get(0))));
                }
                Err(_) if !is_repeated => is_repeated = true,
                Err(error) => return Err(self.closed_or(unreadable(error))),
            }
        }
    }

    fn closed_or(&self, error: Error) -> Error {
        if self.is_closed() { closed() } else { error }
    }
}

/// Statement of a scan.
pub(super) struct Scan {
    pub(super) sql: String,
    start: Option<Vec<u8>>,
    end: Option<Vec<u8>>,
    limit: i64,
}

impl Scan {
    pub(super) fn new(schema: &Schema, table: Table, columns: &str, range: &Range) -> Self {
        let mut sql = format!("SELECT {columns} FROM {} WHERE TRUE", schema.of(table));
        let start = match &range.start {
            Bound::Included(key) => Some((">=", key)),
            Bound::Excluded(key) => Some((">", key)),
            Bound::Unbounded => None,
        };
        let end = match &range.end {
            Bound::Included(key) => Some(("<=", key)),
            Bound::Excluded(key) => Some(("<", key)),
            Bound::Unbounded => None,
        };
        let bounds = [start, end];
        let conditions = bounds.iter().flatten().zip(1..);
        for ((comparison, _), number) in conditions {
            sql += &format!(" AND key {comparison} ${number}");
        }
        let limit = bounds.iter().flatten().count() + 1;
        sql += &format!(" ORDER BY key LIMIT ${limit}");
        Self {
            sql,
            start: start.map(|(_, key)| key.to_vec()),
            end: end.map(|(_, key)| key.to_vec()),
            limit: i64::try_from(range.limit).unwrap_or(i64::MAX),
        }
    }

    pub(super) fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        let bounds = [&self.start, &self.end].into_iter().flatten();
        let mut parameters: Vec<&(dyn ToSql + Sync)> = Vec::new();
        parameters.extend(bounds.map(|key| key as &(dyn ToSql + Sync)));
        parameters.push(&self.limit);
        parameters
    }
}

fn value_of(schema: &Schema, table: Table) -> String {
    format!("SELECT value FROM {} WHERE key = $1", schema.of(table))
}

/// Begins a transaction and runs its first query, in one round trip.
async fn begun(
    connection: &Borrowed,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, tokio_postgres::Error> {
    // Prepared before: the query must not overtake the beginning.
    let statement: Statement = connection.prepare_cached(sql).await?;
    let client: &Client = connection;
    let (begun, rows) = join!(
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
        client.query(&statement, parameters),
    );
    begun?;
    rows
}

/// Runs a query with a prepared statement.
async fn queried(
    connection: &Borrowed,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let statement: Statement = connection.prepare_cached(sql).await?;
    let client: &Client = connection;
    client.query(&statement, parameters).await
}

fn unreadable(error: tokio_postgres::Error) -> Error {
    unavailable("read", "the shared index can't be read", error)
}
