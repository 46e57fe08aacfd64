//! The tables of a shared index in PostgreSQL, and their statements.
//!
//! ```text
//! store       id (key), value: 1 = format of the tables and of the protocol, 2 = last epoch
//! members     epoch (key), name, since      exists as long as the member may write
//! heartbeats  epoch (key), beat, at         counts up while the member runs
//! tokens      token (key), epoch, refused   one row per commit, until its outcome is known
//! rows, payloads, changes, orphans, sessions, expiry, meta
//!             key bytea (key), value bytea  one table for each table of the index
//! ```
//!
//! Beyond standard SQL: `bytea`, `unnest` of arrays, `ANY`, `ON CONFLICT`, `RETURNING`, and locking
//! clauses.

use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::failure::unavailable;
use crate::index::Table;
use crate::types::{Error, ErrorKind, Result};

/// Format of the tables and of the protocol between members. Every commit checks it, so that members
/// of different builds never write together.
pub(super) const FORMAT: i64 = 1;

/// Entry of the table `store` with the format.
pub(super) const FORMAT_ID: i64 = 1;
/// Entry of the table `store` with the epoch of the last member. Not the entry of the format, which
/// every commit locks.
pub(super) const EPOCH_ID: i64 = 2;

/// Attempts to create the schema: members that start together may meet in the creation.
const CREATIONS: u32 = 20;

/// Name of the schema that holds the tables of a store.
#[derive(Clone, Debug)]
pub(super) struct Schema(String);

impl Schema {
    /// Checks the name of a schema.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] unless the name has 1 to 63 characters `a-z`, `0-9` and `_`, the first
    /// of which is a letter.
    pub(super) fn new(name: &str) -> Result<Self> {
        let is_valid = name.len() <= 63
            && name.starts_with(|first: char| first.is_ascii_lowercase())
            && name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if is_valid {
            return Ok(Self(name.to_owned()));
        }
        let message = "the name of the schema must have 1 to 63 characters a-z, 0-9 and _, and start \
                       with a letter";
        Err(Error::new(ErrorKind::Invalid, "open", message))
    }

    /// Returns the qualified name of a table.
    pub(super) fn table(&self, name: &str) -> String {
        format!("\"{}\".\"{name}\"", self.0)
    }

    /// Returns the qualified name of a table of the index.
    pub(super) fn of(&self, table: Table) -> String {
        self.table(table.name())
    }

    fn creation(&self) -> String {
        let mut sql = format!("CREATE SCHEMA IF NOT EXISTS \"{}\";", self.0);
        for table in Table::ALL {
            let name = self.of(table);
            sql += &format!(
                "CREATE TABLE IF NOT EXISTS {name} (key BYTEA PRIMARY KEY, value BYTEA NOT NULL);"
            );
        }
        let (store, members) = (self.table("store"), self.table("members"));
        let (heartbeats, tokens) = (self.table("heartbeats"), self.table("tokens"));
        sql + &format!(
            "CREATE TABLE IF NOT EXISTS {store} (id BIGINT PRIMARY KEY, value BIGINT NOT NULL);
             CREATE TABLE IF NOT EXISTS {members} (epoch BIGINT PRIMARY KEY, name TEXT NOT NULL, \
             since TIMESTAMPTZ NOT NULL);
             CREATE TABLE IF NOT EXISTS {heartbeats} (epoch BIGINT PRIMARY KEY, beat BIGINT NOT \
             NULL, at TIMESTAMPTZ NOT NULL);
             CREATE TABLE IF NOT EXISTS {tokens} (token BYTEA PRIMARY KEY, epoch BIGINT NOT NULL, \
             refused BOOLEAN NOT NULL, asked BIGINT NOT NULL, at TIMESTAMPTZ NOT NULL);
             INSERT INTO {store} (id, value) VALUES ({FORMAT_ID}, {FORMAT}), ({EPOCH_ID}, 0) ON \
             CONFLICT (id) DO NOTHING;"
        )
    }

    /// Checks the format of the tables.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownFormat`] if another build has changed it, [`ErrorKind::Unavailable`] if it
    /// can't be read.
    pub(super) async fn format(&self, client: &Client) -> Result<()> {
        let format = format!(
            "SELECT value FROM {} WHERE id = {FORMAT_ID}",
            self.table("store")
        );
        match client.query_one(&format, &[]).await {
            Ok(row) => checked(row.get(0)),
            Err(error) => Err(unavailable("commit", "the schema can't be read", error)),
        }
    }

    /// Creates the tables if they do not exist.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownFormat`] if another build has written the tables in a format that this
    /// build does not know, [`ErrorKind::Unavailable`] if the server can't create or read them.
    pub(super) async fn create(&self, client: &Client, env: &crate::Env) -> Result<()> {
        for attempt in 1.. {
            if self.exists(client).await? {
                return Ok(());
            }
            // One transaction, so that the tables exist completely or not at all.
            let creation = format!("BEGIN; {} COMMIT;", self.creation());
            if let Err(error) = client.batch_execute(&creation).await {
                // The error of the creation counts, not that of the rollback.
                drop(client.batch_execute("ROLLBACK").await);
                if attempt >= CREATIONS {
                    return Err(unavailable("open", "the schema can't be created", error));
                }
                env.sleep(env.jitter(Duration::from_millis(100))).await;
            }
        }
        unreachable!("the loop ends with a return")
    }

    /// Checks that the tables exist, and creates nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the schema has no tables; otherwise as [`create`](Self::create).
    pub(super) async fn require(&self, client: &Client) -> Result<()> {
        if self.exists(client).await? {
            return Ok(());
        }
        let message = format!(
            "the database has no store in this schema: schema={}",
            self.0
        );
        Err(Error::new(ErrorKind::Invalid, "open", message))
    }

    /// Returns `true` if the tables exist, in the format of this build.
    async fn exists(&self, client: &Client) -> Result<bool> {
        let format = format!(
            "SELECT value FROM {} WHERE id = {FORMAT_ID}",
            self.table("store")
        );
        match client.query_opt(&format, &[]).await {
            Ok(Some(row)) => checked(row.get(0)).map(|()| true),
            Ok(None) => Ok(false),
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(false),
            Err(error) => Err(unavailable("open", "the schema can't be read", error)),
        }
    }
}

fn checked(format: i64) -> Result<()> {
    if format == FORMAT {
        return Ok(());
    }
    let message = format!(
        "the tables of the shared index have a format of another build: format={format} \
         known={FORMAT}"
    );
    Err(Error::new(ErrorKind::UnknownFormat, "open", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_need_quoting_are_refused() {
        for name in ["cenotaph", "a", "store_2"] {
            assert!(Schema::new(name).is_ok(), "{name}");
        }
        for name in [
            "",
            "2",
            "_a",
            "A",
            "a\"; DROP TABLE x",
            "a b",
            &"a".repeat(64),
        ] {
            let error = Schema::new(name).expect_err(name);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{name}");
        }
    }
}
