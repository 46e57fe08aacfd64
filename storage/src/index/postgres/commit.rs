//! Commits a group of batches in one transaction, on the committing thread.
//!
//! ```text
//! 1 begin; lock the own member entry and the format; lock and read all required keys
//! 2 insert the required keys that are absent: nobody else can insert them now
//! 3 decide (`evaluate.rs`); write what is left; insert the token; commit
//!
//! connection lost in 1 or 2, or nothing to write ──> nothing was committed: begin again
//! connection lost in 3      ──> insert the same token as refused
//!                                 inserted: the transaction can never commit; begin again
//!                                 exists:   it did commit
//! ```
//!
//! Guards I3 (conditions hold in the transaction that writes), I9 (the server has made the commit
//! durable) and I10 (the outcome of a lost commit is found out and never guessed).
//!
//! The isolation level is READ COMMITTED. Every key that a condition names is locked until the
//! commit: by the lock of its row, or, if it is absent, by an inserted row. No other transaction can
//! then change it, so that the decision of step 3 is the same as in a serial order of all commits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{join_all, try_join_all};
use futures::join;
use tokio::runtime::Handle;
use tokio_postgres::types::ToSql;

use super::Shared;
use super::connections::Borrowed;
use super::evaluate::{
    Decided, Entries, Place, Ranges, decide, left, required, required_ranges, written,
};
use super::failure::{Failure, declared_dead, failure, unavailable};
use super::schema::{FORMAT, FORMAT_ID};
use super::snapshot::Scan;
use super::statements::{Answer, Write, by_table, entries, slices};
use crate::index::group_commit::{Changes, GroupOutcome, GroupSink};
use crate::index::{Batch, CommitError, Range, Table};
use crate::types::{Error, ErrorKind};

/// Number of steps that fit at least into the longest time without an answer.
const STEPS: u32 = 3;

/// Longest wait before a failed transaction is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// Destination of the commits of a member.
pub(super) struct PostgresSink {
    shared: Arc<Shared>,
    runtime: Handle,
    /// Tokens of commits whose outcome is known. The next commit removes them.
    known: Vec<Vec<u8>>,
}

/// State of a transaction whose answers have all arrived.
enum Step {
    /// Committed.
    Committed(Decided),
    /// Not committed, and to be tried again.
    Again,
    /// Not committed: this member may not write any more.
    Gone,
}

/// A commit under way.
struct Attempt {
    token: Vec<u8>,
    /// Decision of a transaction that may have committed.
    sent: Option<Decided>,
    /// `true` if the outcome of such a transaction was asked for.
    was_asked: bool,
    last_error: Option<Error>,
}

impl GroupSink for PostgresSink {
    fn commit_group(&mut self, batches: Vec<Batch>) -> Result<GroupOutcome, CommitError> {
        let is_empty = |batch: &Batch| {
            let has_none = batch.conditions().is_empty() && batch.range_conditions().is_empty();
            batch.is_empty() && has_none
        };
        if batches.iter().all(is_empty) {
            return Ok(GroupOutcome::default());
        }
        let runtime = self.runtime.clone();
        let outcome = runtime.block_on(self.commit(&batches));
        if let Err(CommitError::NotStarted(error) | CommitError::Unknown(error)) = &outcome {
            // Nothing commits any more, so that the heartbeat must end, too.
            self.shared.fence(error);
        }
        outcome
    }
}

impl PostgresSink {
    /// Creates the sink of a member. Must be called within a tokio runtime.
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            runtime: Handle::current(),
            known: Vec::new(),
        }
    }

    /// Repeats the transaction until its outcome is known, or the server is away for too long.
    async fn commit(&mut self, batches: &[Batch]) -> Result<GroupOutcome, CommitError> {
        let shared = Arc::clone(&self.shared);
        let env = &shared.env;
        let begun = env.monotonic();
        let mut attempt = Attempt {
            token: shared.token(),
            sent: None,
            was_asked: false,
            last_error: None,
        };
        loop {
            let is_over = env.monotonic().saturating_sub(begun) >= shared.outage;
            // A process that was paused for the whole time still asks once.
            if is_over && (attempt.sent.is_none() || attempt.was_asked) {
                return Err(attempt.given_up());
            }
            let step = self.step(batches, &mut attempt);
            // A step that takes too long is dropped, and its connection closed. Several steps fit
            // into the time: another server may answer.
            match env.deadline(shared.outage / STEPS, step).await {
                Some(Ok(Some(decided))) => {
                    if !decided.is_read_only {
                        self.known = vec![attempt.token];
                    }
                    return Ok(outcome(batches, &decided));
                }
                Some(Err(error)) => return Err(error),
                Some(Ok(None)) => env.sleep(env.jitter(PAUSE)).await,
                None => {}
            }
        }
    }

    /// Finds out the outcome of the transaction before, if it is unknown, and runs the next. Returns
    /// `None` if the next step may succeed.
    async fn step(
        &self,
        batches: &[Batch],
        attempt: &mut Attempt,
    ) -> Result<Option<Decided>, CommitError> {
        let connection = match self.shared.connections.writer("commit").await {
            Ok(connection) => connection,
            Err(error) => {
                attempt.last_error = Some(error);
                return Ok(None);
            }
        };
        if let Some(decided) = attempt.sent.clone() {
            attempt.was_asked = true;
            match self.refuse(&connection, &attempt.token).await {
                Ok(true) => attempt.start_again(self.shared.token()),
                Ok(false) => {
                    connection.finished();
                    return Ok(Some(decided));
                }
                Err(error) => {
                    attempt.failed("the outcome of a commit is not known yet", error);
                    return Ok(None);
                }
            }
        }
        match self.transaction(&connection, batches, attempt).await {
            Ok(Step::Committed(decided)) => {
                connection.finished();
                Ok(Some(decided))
            }
            // The drop of the connection ends the transaction.
            Ok(Step::Again) => Ok(None),
            Ok(Step::Gone) => self.not_a_member(connection).await,
            Err(error) => match failure(&error) {
                // The connection is closed by its drop, which also ends an open transaction.
                Failure::Lost => {
                    attempt.failed("the connection was lost in a commit", error);
                    Ok(None)
                }
                Failure::RolledBack => {
                    attempt.failed("the server has rolled a commit back", error);
                    attempt.start_again(self.shared.token());
                    Ok(None)
                }
                // Of the commit itself perhaps: its outcome is asked for.
                Failure::Refused if attempt.sent.is_some() => {
                    attempt.failed("the server refuses a commit", error);
                    Ok(None)
                }
                Failure::Refused => {
                    let message = "the server refuses a commit; nothing was committed";
                    let error = unavailable("commit", message, error);
                    Err(CommitError::NotStarted(error))
                }
            },
        }
    }

    /// Runs the transaction.
    async fn transaction(
        &self,
        connection: &Borrowed,
        batches: &[Batch],
        attempt: &mut Attempt,
    ) -> Answer<Step> {
        let required = required(batches);
        let Some(mut stored) = self.begin(connection, &required, &written(batches)).await? else {
            return Ok(Step::Gone);
        };
        // After the locks, which keep the ranges as they are.
        let ranges = self.ranges(connection, required_ranges(batches)).await?;
        let mut decided = decide(batches, &stored, &ranges);
        let absent: BTreeSet<Place> = required
            .into_iter()
            .filter(|place| !stored.contains_key(place))
            .collect();
        let placed = self.place(connection, &absent, &decided).await?;
        let taken = absent
            .into_iter()
            .filter(|place| !placed.contains_key(place));
        let taken: BTreeSet<Place> = taken.collect();
        if !taken.is_empty() {
            // Inserted by others since the read.
            let others = self.lock(connection, by_table(&taken), "UPDATE").await?;
            if others.len() < taken.len() {
                // And removed again.
                return Ok(Step::Again);
            }
            stored.extend(others);
            decided = decide(batches, &stored, &ranges);
        }
        let left = left(&decided, &stored, &placed);
        decided.is_read_only = left.is_empty() && placed.is_empty();
        if decided.is_read_only {
            // The decision is complete. It has no token that could be asked for.
            connection.batch_execute("ROLLBACK").await?;
        } else {
            attempt.sent = Some(decided.clone());
            self.finish(connection, left, &attempt.token).await?;
        }
        Ok(Step::Committed(decided))
    }

    /// Begins the transaction, locks and reads the required keys. Returns `None` if the entry of
    /// this member is gone, or the format is another.
    async fn begin(
        &self,
        connection: &Borrowed,
        required: &BTreeSet<Place>,
        written: &BTreeSet<Place>,
    ) -> Answer<Option<Entries>> {
        let (store, members) = (
            self.shared.schema.table("store"),
            self.shared.schema.table("members"),
        );
        let membership = format!(
            "SELECT s.value FROM {store} s, {members} m WHERE s.id = {FORMAT_ID} AND s.value = \
             {FORMAT} AND m.epoch = $1 FOR SHARE"
        );
        let membership = connection.prepare_cached(&membership).await?;
        let epoch: &(dyn ToSql + Sync) = &self.shared.epoch;
        // Keys that the group writes are locked exclusively at once: a shared lock that becomes
        // exclusive later leads to deadlocks.
        let (changed, read): (BTreeSet<_>, BTreeSet<_>) = required
            .iter()
            .cloned()
            .partition(|place| written.contains(place));
        // All requests are sent before the first answer is awaited, in this order.
        let parameters = [epoch];
        let (begun, member, changed, read) = join!(
            connection.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED"),
            connection.query_opt(&membership, &parameters),
            self.lock(connection, by_table(&changed), "UPDATE"),
            self.lock(connection, by_table(&read), "SHARE"),
        );
        begun?;
        if member?.is_none() {
            return Ok(None);
        }
        let mut stored = changed?;
        stored.extend(read?);
        Ok(Some(stored))
    }

    /// Locks and reads those of the keys that exist, in key order.
    async fn lock(
        &self,
        connection: &Borrowed,
        keys: BTreeMap<Table, Vec<Bytes>>,
        strength: &'static str,
    ) -> Answer<Entries> {
        let tables = keys.into_iter().map(|(table, keys)| async move {
            let name = self.shared.schema.of(table);
            let sql = format!(
                "SELECT key, value FROM {name} WHERE key = ANY($1) ORDER BY key FOR {strength}"
            );
            let statement = connection.prepare_cached(&sql).await?;
            let rows = connection.query(&statement, &[&slices(&keys)]).await?;
            Answer::Ok(entries(table, &rows))
        });
        let entries = try_join_all(tables).await?;
        Ok(entries.into_iter().flatten().collect())
    }

    /// Reads the keys of ranges.
    async fn ranges(&self, connection: &Borrowed, required: BTreeSet<Place>) -> Answer<Ranges> {
        let mut ranges = Ranges::new();
        for (table, prefix) in required {
            let range = Range::prefix(&prefix, usize::MAX);
            let scan = Scan::new(&self.shared.schema, table, "key", &range);
            let statement = connection.prepare_cached(&scan.sql).await?;
            let rows = connection.query(&statement, &scan.parameters()).await?;
            let keys = rows.iter().map(|row| Bytes::copy_from_slice(row.get(0)));
            ranges.insert((table, prefix), keys.collect());
        }
        Ok(ranges)
    }

    /// Inserts absent keys, with the value that the group gives them or an empty one. Returns the
    /// entries that did not exist.
    async fn place(
        &self,
        connection: &Borrowed,
        absent: &BTreeSet<Place>,
        decided: &Decided,
    ) -> Answer<Entries> {
        let value = |place: &Place| decided.writes.get(place).cloned().flatten();
        let tables = by_table(absent).into_iter().map(|(table, keys)| async move {
            let name = self.shared.schema.of(table);
            let sql = format!(
                "INSERT INTO {name} (key, value) SELECT * FROM unnest($1::BYTEA[], $2::BYTEA[]) ON \
                 CONFLICT (key) DO NOTHING RETURNING key, value"
            );
            let statement = connection.prepare_cached(&sql).await?;
            let values = keys.iter().map(|key| value(&(table, key.clone())));
            let values: Vec<Bytes> = values.map(Option::unwrap_or_default).collect();
            let parameters: [&(dyn ToSql + Sync); 2] = [&slices(&keys), &slices(&values)];
            let rows = connection.query(&statement, &parameters).await?;
            Answer::Ok(entries(table, &rows))
        });
        let entries = try_join_all(tables).await?;
        Ok(entries.into_iter().flatten().collect())
    }

    /// Writes the rest, and commits.
    async fn finish(&self, connection: &Borrowed, left: Changes, token: &[u8]) -> Answer<()> {
        // Prepared before the first request is sent: the preparation of a statement waits for the
        // server, and the commit must not overtake a write.
        let writes = Write::prepared(connection, &self.shared.schema, left).await?;
        let tokens = self.shared.schema.table("tokens");
        let note = format!(
            "INSERT INTO {tokens} (token, epoch, refused, asked, at) VALUES ($1, $2, FALSE, 0, \
             now())"
        );
        let note = connection.prepare_cached(&note).await?;
        let forget = format!("DELETE FROM {tokens} WHERE token = ANY($1)");
        let forget = connection.prepare_cached(&forget).await?;
        let noted: [&(dyn ToSql + Sync); 2] = [&token, &self.shared.epoch];
        let forgotten: [&(dyn ToSql + Sync); 1] = [&self.known];
        let writes = writes.iter().map(|write| write.run(connection));
        // Sent in this order. After an error the server rolls back whatever follows, the commit
        // included.
        let (written, noted, forgotten, committed) = join!(
            join_all(writes),
            connection.execute(&note, &noted),
            connection.execute(&forget, &forgotten),
            connection.batch_execute("COMMIT"),
        );
        written.into_iter().collect::<Answer<()>>()?;
        noted?;
        forgotten?;
        committed
    }

    /// Inserts the token as refused. Returns `false` if its transaction has committed, and `true` if
    /// it never will.
    async fn refuse(&self, connection: &Borrowed, token: &[u8]) -> Answer<bool> {
        let tokens = self.shared.schema.table("tokens");
        // The update of an existing token is a write, too: with a synchronous standby, its commit
        // waits until the standby has the transaction of the token.
        let refuse = format!(
            "INSERT INTO {tokens} AS t (token, epoch, refused, asked, at) VALUES ($1, $2, TRUE, 1, \
             now()) ON CONFLICT (token) DO UPDATE SET asked = t.asked + 1 RETURNING refused"
        );
        connection.batch_execute("BEGIN").await?;
        let row = connection
            .query_one(&refuse, &[&token, &self.shared.epoch])
            .await?;
        connection.batch_execute("COMMIT").await?;
        Ok(row.get(0))
    }

    /// Returns the error of a member whose entry is gone, or that meets another format.
    async fn not_a_member(&self, connection: Borrowed) -> Result<Option<Decided>, CommitError> {
        drop(connection.batch_execute("ROLLBACK").await);
        let format = self.shared.schema.format(&connection).await;
        let error = format
            .err()
            .filter(|error| error.kind() == ErrorKind::UnknownFormat);
        let error = error.unwrap_or_else(declared_dead);
        self.shared.fence(&error);
        Err(CommitError::NotStarted(error))
    }
}

impl Attempt {
    fn failed(&mut self, message: &'static str, error: tokio_postgres::Error) {
        tracing::warn!(%error, message);
        self.last_error = Some(unavailable("commit", message, error));
    }

    /// Forgets a transaction that has not committed and never will.
    fn start_again(&mut self, token: Vec<u8>) {
        self.sent = None;
        self.token = token;
    }

    fn given_up(self) -> CommitError {
        let message = "the shared index did not answer in time";
        let error = Error::new(ErrorKind::Unavailable, "commit", message);
        let error = match self.last_error {
            Some(source) => error.with_source(source),
            None => error,
        };
        if self.sent.is_some() {
            CommitError::Unknown(error)
        } else {
            CommitError::NotStarted(error)
        }
    }
}

fn outcome(batches: &[Batch], decided: &Decided) -> GroupOutcome {
    let written = |position: &&usize| !batches[**position].is_empty();
    GroupOutcome {
        syncs: u64::from(!decided.is_read_only),
        unwritten: decided.changed.iter().filter(written).count() as u64,
        changed: decided.changed.clone(),
    }
}
