//! Members of a shared index: the processes that have it open, and the proof that they live.
//!
//! ```text
//! join:  epoch = last epoch + 1; insert members/{epoch}, heartbeats/{epoch}
//! alive: heartbeats/{epoch} counts up, every `heartbeat`
//! dead:  another member has seen the same count for a lease by its own clock:
//!        remove heartbeats/{epoch} if the count is still the same, then members/{epoch}
//! close: remove both
//! ```
//!
//! Every commit locks the entry of its member. A commit and the removal of that entry therefore
//! exclude each other, and no batch of a dead member commits after the removal. Clocks of different
//! machines are never compared.

use std::sync::Weak;
use std::time::Duration;

use futures::future::BoxFuture;

use super::connections::Connections;
use super::failure::{declared_dead, unavailable};
use super::schema::{EPOCH_ID, Schema};
use super::{PostgresIndex, Shared};
use crate::index::{Member, SharedIndex};
use crate::types::{Epoch, Result, WallTime};

/// Registers a member, and returns its epoch.
pub(super) async fn join(connections: &Connections, schema: &Schema, name: &str) -> Result<i64> {
    let failed = |error: tokio_postgres::Error| {
        unavailable("open", "this process can't become a member", error)
    };
    let connection = connections.writer("open").await?;
    let next = format!(
        "UPDATE {} SET value = value + 1 WHERE id = {EPOCH_ID} RETURNING value",
        schema.table("store")
    );
    let member = format!(
        "INSERT INTO {} (epoch, name, since) VALUES ($1, $2, now())",
        schema.table("members")
    );
    let heart = format!(
        "INSERT INTO {} (epoch, beat, at) VALUES ($1, 0, clock_timestamp())",
        schema.table("heartbeats")
    );
    // Of members that are gone: nobody asks for their outcomes any more, and the server has ended
    // their transactions.
    let forget = format!(
        "DELETE FROM {} t WHERE t.at < now() - INTERVAL '1 day' AND NOT EXISTS (SELECT 1 FROM {} m \
         WHERE m.epoch = t.epoch)",
        schema.table("tokens"),
        schema.table("members")
    );
    let joined = async {
        connection.execute(&forget, &[]).await?;
        connection.batch_execute("BEGIN").await?;
        let epoch: i64 = connection.query_one(&next, &[]).await?.get(0);
        connection.execute(&member, &[&epoch, &name]).await?;
        connection.execute(&heart, &[&epoch]).await?;
        connection.batch_execute("COMMIT").await?;
        Ok(epoch)
    };
    // A member whose commit is lost stays behind without a heartbeat, and is declared dead.
    let epoch = joined.await.map_err(failed)?;
    connection.finished();
    Ok(epoch)
}

impl SharedIndex for PostgresIndex {
    fn epoch(&self) -> Epoch {
        Epoch::new(self.shared.epoch.unsigned_abs())
    }

    fn members(&self) -> BoxFuture<'_, Result<Vec<Member>>> {
        Box::pin(async {
            self.shared.check_open()?;
            self.shared.within("members", self.shared.members()).await
        })
    }

    fn declare_dead(&self, member: Epoch, beat: u64) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async move {
            self.shared.check_open()?;
            let removed = self.shared.remove_member(member.get(), beat);
            self.shared.within("members", removed).await
        })
    }

    fn wall_time(&self) -> BoxFuture<'_, Result<WallTime>> {
        Box::pin(async {
            self.shared.check_open()?;
            self.shared.within("clock", self.shared.wall_time()).await
        })
    }
}

impl Shared {
    /// Returns all members, the oldest first.
    async fn members(&self) -> Result<Vec<Member>> {
        let sql = format!(
            "SELECT m.epoch, m.name, h.beat, CAST(extract(epoch FROM m.since) * 1000 AS BIGINT), \
             CAST(extract(epoch FROM h.at) * 1000 AS BIGINT) FROM {} m JOIN {} h ON h.epoch = m.epoch \
             ORDER BY m.epoch",
            self.schema.table("members"),
            self.schema.table("heartbeats")
        );
        let connection = self.connections.writer("members").await?;
        let rows = connection
            .query(&sql, &[])
            .await
            .map_err(|error| unavailable("members", "the members can't be read", error))?;
        connection.finished();
        let member = |row: &tokio_postgres::Row| Member {
            epoch: Epoch::new(row.get::<_, i64>(0).unsigned_abs()),
            name: row.get(1),
            beat: row.get::<_, i64>(2).unsigned_abs(),
            since: WallTime::from_millis(row.get::<_, i64>(3).unsigned_abs()),
            beaten: WallTime::from_millis(row.get::<_, i64>(4).unsigned_abs()),
        };
        Ok(rows.iter().map(member).collect())
    }

    async fn wall_time(&self) -> Result<WallTime> {
        let sql = "SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS BIGINT)";
        let connection = self.connections.writer("clock").await?;
        let row = connection
            .query_one(sql, &[])
            .await
            .map_err(|error| unavailable("clock", "the clock can't be read", error))?;
        connection.finished();
        Ok(WallTime::from_millis(row.get::<_, i64>(0).unsigned_abs()))
    }

    /// Removes a member if its heartbeat still has this count. Returns `true` if it was removed.
    async fn remove_member(&self, epoch: u64, beat: u64) -> Result<bool> {
        let failed = |error: tokio_postgres::Error| {
            unavailable("members", "a member can't be removed", error)
        };
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let (epoch, beat) = (number(epoch), number(beat));
        let connection = self.connections.writer("members").await?;
        let heart = format!(
            "DELETE FROM {} WHERE epoch = $1 AND beat = $2",
            self.schema.table("heartbeats")
        );
        let member = format!(
            "DELETE FROM {} WHERE epoch = $1",
            self.schema.table("members")
        );
        let removed = async {
            connection.batch_execute("BEGIN").await?;
            let removed = connection.execute(&heart, &[&epoch, &beat]).await?;
            if removed > 0 {
                connection.execute(&member, &[&epoch]).await?;
            }
            connection.batch_execute("COMMIT").await?;
            Ok(removed > 0)
        };
        let removed = removed.await.map_err(failed)?;
        connection.finished();
        Ok(removed)
    }

    /// Removes the own entries, at a close. Every outcome is known by then. A member that can't do so
    /// is declared dead later.
    pub(super) async fn leave(&self) -> Result<()> {
        let connection = self.connections.writer("close").await?;
        // A refused token stays: its transaction may still run.
        let mut sql = "BEGIN; ".to_owned();
        for (table, rest) in [
            ("heartbeats", ""),
            ("members", ""),
            ("tokens", " AND NOT refused"),
        ] {
            let name = self.schema.table(table);
            sql += &format!("DELETE FROM {name} WHERE epoch = {}{rest}; ", self.epoch);
        }
        // All or nothing: a member without a heartbeat could not be declared dead.
        let left = connection.batch_execute(&(sql + "COMMIT")).await;
        left.map_err(|error| unavailable("close", "the member entry remains", error))?;
        connection.finished();
        Ok(())
    }

    async fn beat(&self) -> Result<()> {
        let sql = format!(
            "UPDATE {} SET beat = beat + 1, at = clock_timestamp() WHERE epoch = $1",
            self.schema.table("heartbeats")
        );
        let connection = self.connections.writer("heartbeat").await?;
        let beaten = connection
            .execute(&sql, &[&self.epoch])
            .await
            .map_err(|error| unavailable("heartbeat", "the heartbeat can't be stored", error))?;
        connection.finished();
        if beaten == 0 && !self.is_closed() {
            self.fence(&declared_dead());
        }
        Ok(())
    }
}

/// Counts up the heartbeat until the index is closed or dropped.
pub(super) async fn beat(shared: Weak<Shared>, every: Duration) {
    loop {
        let Some(env) = shared.upgrade().map(|shared| shared.env.clone()) else {
            return;
        };
        env.sleep(every).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        if shared.is_closed() || shared.fenced().is_some() {
            return;
        }
        if let Err(error) = shared.within("heartbeat", shared.beat()).await {
            tracing::warn!(%error, "failed to store a heartbeat");
        }
    }
}
