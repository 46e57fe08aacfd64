//! An index that several processes share: [`PostgresIndex`], in a PostgreSQL database.
//!
//! Reading order: `schema` (tables), `evaluate` (the decision of a commit), `commit` (the
//! transaction), `members`, `snapshot` (reads), `connections`, `tls`, `failure`.

use std::fmt;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

mod commit;
mod connections;
mod evaluate;
mod failure;
mod members;
mod schema;
mod snapshot;
mod statements;
mod tls;

use self::commit::PostgresSink;
use self::connections::Connections;
use self::failure::{closed, overdue};
use self::schema::Schema;
use self::snapshot::PostgresSnapshot;
use super::group_commit::{Committer, CommitterOptions, ThreadEnd};
use super::{Batch, CommitError, Completion, Index, IndexStats, SharedIndex, Snapshot, Table};
use crate::env::Env;
use crate::types::{Error, ErrorKind, Result};

/// Longest key, in bytes. PostgreSQL refuses keys of over 2,704 bytes in the index of a table.
const KEY_BYTES_MAX: usize = 2_000;

/// Largest batch, in bytes. A message to the server has at most 1 GiB.
const BATCH_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Options of a [`PostgresIndex`].
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// Schema of the database that holds the tables. It is created if it does not exist. Stores in
    /// different schemas are independent. 1 to 63 characters `a-z`, `0-9` and `_`, the first of which
    /// is a letter.
    pub schema: String,
    /// Creates the tables if the schema has none. `false` refuses such a schema instead: a mistyped
    /// name must not look like an empty store.
    pub create: bool,
    /// Name of this member, which [`SharedIndex::members`] shows.
    pub member: String,
    /// File with the certificates of the authorities that are trusted, as PEM. `None` trusts those of
    /// the system. A connection with TLS always verifies the server's certificate and name; the
    /// parameter `sslmode=require` of the URL refuses a connection without TLS.
    pub root_certificates: Option<PathBuf>,
    /// Maximal number of connections of reads, 1 to 1,000. A snapshot in use occupies one. Up to three
    /// more belong to commits, the heartbeat and requests about members.
    pub connections_max: usize,
    /// Time between two heartbeats, at least 10 milliseconds.
    pub heartbeat: Duration,
    /// Time limit of a statement, at least 100 milliseconds, rounded to milliseconds. Locks are awaited for half of it. The
    /// server does not count the commit itself.
    pub statement_timeout: Duration,
    /// Time for which a commit waits for a server that does not answer, at least one second. The index
    /// is poisoned after that.
    pub outage_max: Duration,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            schema: "cenotaph".to_owned(),
            create: true,
            member: "member".to_owned(),
            root_certificates: None,
            connections_max: 16,
            heartbeat: Duration::from_secs(2),
            statement_timeout: Duration::from_secs(20),
            outage_max: Duration::from_secs(30),
        }
    }
}

impl PostgresOptions {
    fn check(&self) -> Result<()> {
        let is_valid = (1..=1_000).contains(&self.connections_max)
            && self.heartbeat >= Duration::from_millis(10)
            && self.statement_timeout >= Duration::from_millis(100)
            && self.outage_max >= Duration::from_secs(1);
        if is_valid {
            return Ok(());
        }
        let message = "an option of the shared index is out of bounds";
        Err(Error::new(ErrorKind::Invalid, "open", message))
    }
}

/// Index in a PostgreSQL database, open in this process as one of its members.
///
/// All members see the same entries. A batch whose conditions do not hold any more completes with
/// [`CommitError::Changed`]. A commit whose connection breaks is asked for with a token until its
/// outcome is known. After another member has declared this one dead, nothing of it commits.
///
/// Durable means: as the server promises. Without `fsync`, or with a standby that is not
/// synchronous, a server that fails loses acknowledged commits. A session whose
/// `synchronous_commit` is `off` is set to `on`.
///
/// Close it: the entry of a member that is only dropped remains until another member declares it
/// dead. Its queued batches commit in the background.
pub struct PostgresIndex {
    shared: Arc<Shared>,
    committer: Arc<Commits>,
}

/// The committer of a handle. Its last drop must not wait on a thread of the runtime, which the commit
/// thread needs.
struct Commits {
    env: Env,
    committer: Option<Committer>,
}

impl Deref for Commits {
    type Target = Committer;

    fn deref(&self) -> &Committer {
        let committer = self.committer.as_ref();
        committer.expect("only the drop takes the committer")
    }
}

impl Drop for Commits {
    fn drop(&mut self) {
        let committer = self.committer.take();
        let waiting = self.env.thread("cenotaph-close", move || drop(committer));
        if let Err(error) = waiting {
            tracing::warn!(%error, "failed to start a thread that waits for the last commits");
        }
    }
}

/// State that the handle shares with its commit thread, its snapshots and its heartbeat.
struct Shared {
    env: Env,
    connections: Connections,
    schema: Schema,
    epoch: i64,
    outage: Duration,
    /// Time limit of a request that is no commit. Longer than the server's own limit.
    patience: Duration,
    closed: AtomicBool,
    fenced: Mutex<Option<Error>>,
}

impl Shared {
    /// Returns a new token. No other commit of any member has the same.
    fn token(&self) -> Vec<u8> {
        self.env.operation_id().as_bytes().to_vec()
    }

    /// Waits for a request that is no commit. A server that is cut off may never answer.
    async fn within<T>(
        &self,
        operation: &'static str,
        request: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let answer = self.env.deadline(self.patience, request).await;
        answer.unwrap_or_else(|| Err(overdue(operation)))
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn check_open(&self) -> Result<()> {
        if self.is_closed() {
            Err(closed())
        } else {
            Ok(())
        }
    }

    /// Refuses later batches for this reason. The first reason counts.
    fn fence(&self, reason: &Error) {
        let mut fenced = self.fenced.lock().unwrap_or_else(PoisonError::into_inner);
        if fenced.is_none() {
            tracing::error!(error = %reason, "this member may not write any more");
            *fenced = Some(reason.clone());
        }
    }

    fn fenced(&self) -> Option<Error> {
        let fenced = self.fenced.lock().unwrap_or_else(PoisonError::into_inner);
        fenced.clone()
    }
}

impl PostgresIndex {
    /// Opens the index and joins it as a member. Creates the tables at the first opening, unless
    /// [`create`](PostgresOptions::create) is `false`.
    ///
    /// `url` is a connection string, such as `postgres://user:password@host/database`. Must be
    /// called within a tokio runtime.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for an invalid URL or option, or if the tables do not exist and are not
    /// to be created, [`ErrorKind::UnknownFormat`] if the
    /// tables have the format of another build, [`ErrorKind::Unavailable`] if the server can't be
    /// reached, or refuses. No error contains the URL.
    pub async fn open(url: &str, env: Env, options: PostgresOptions) -> Result<Self> {
        options.check()?;
        let schema = Schema::new(&options.schema)?;
        let connections = Connections::new(url, &options)?;
        let joined = env.deadline(options.outage_max, async {
            let connection = connections.reader("open").await?;
            match options.create {
                true => schema.create(&connection, &env).await?,
                false => schema.require(&connection).await?,
            }
            connection.finished();
            members::join(&connections, &schema, &options.member).await
        });
        let epoch = joined.await.ok_or_else(|| overdue("open"))??;
        let shared = Arc::new(Shared {
            env: env.clone(),
            connections,
            schema,
            epoch,
            outage: options.outage_max,
            patience: options.statement_timeout.saturating_mul(2),
            closed: AtomicBool::new(false),
            fenced: Mutex::default(),
        });
        let committer = CommitterOptions {
            // Longer than the sink itself waits, so that it reports a better error.
            deadline: options.outage_max.saturating_mul(2),
            ..CommitterOptions::default()
        };
        let sink = PostgresSink::new(Arc::clone(&shared));
        let committer = Arc::new(Commits {
            committer: Some(Committer::start(&env, committer, sink)?),
            env: env.clone(),
        });
        env.spawn(members::beat(Arc::downgrade(&shared), options.heartbeat));
        Ok(Self { shared, committer })
    }
}

impl Index for PostgresIndex {
    fn submit(&self, batch: Batch, completion: Completion) {
        if let Some(reason) = self.shared.fenced() {
            return completion(Err(CommitError::not_started(&reason)));
        }
        let required = batch.conditions().iter().map(|condition| &condition.key);
        let mut keys = batch.ops().iter().map(|(_, key, _)| key).chain(required);
        let is_too_long = keys.any(|key| key.len() > KEY_BYTES_MAX);
        if is_too_long || batch.bytes() > BATCH_BYTES_MAX {
            let message = format!(
                "a key has more than {KEY_BYTES_MAX} bytes, or the batch more than \
                 {BATCH_BYTES_MAX}"
            );
            let error = Error::new(ErrorKind::Invalid, "commit", message);
            return completion(Err(CommitError::NotStarted(error)));
        }
        self.committer.submit(batch, completion);
    }

    fn get<'a>(&'a self, table: Table, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>>> {
        Box::pin(self.shared.within("read", self.shared.read(table, key)))
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        self.shared.check_open()?;
        Ok(Box::new(PostgresSnapshot::new(Arc::clone(&self.shared))))
    }

    fn shared(&self) -> Option<&dyn SharedIndex> {
        Some(self)
    }

    fn key_bytes_max(&self) -> usize {
        KEY_BYTES_MAX
    }

    fn watch(&self, now: Duration) {
        self.committer.watch(now);
    }

    fn poisoned(&self) -> Option<Error> {
        self.committer.poisoned().or_else(|| self.shared.fenced())
    }

    fn stats(&self) -> IndexStats {
        self.committer.stats()
    }

    /// Also removes the entry of this member.
    fn close(&self) -> BoxFuture<'static, Result<()>> {
        self.committer.close();
        let shared = Arc::clone(&self.shared);
        let committer = Arc::clone(&self.committer);
        Box::pin(async move {
            let env = shared.env.clone();
            let waiting = Arc::clone(&committer);
            let ended = env.blocking(move || waiting.wait()).await?;
            if !shared.closed.swap(true, Ordering::AcqRel) {
                // A member whose commit still hangs is left to be declared dead.
                if ended == ThreadEnd::Joined {
                    let left = shared.within("close", shared.leave()).await;
                    if let Err(error) = left {
                        tracing::warn!(%error, "failed to remove the member entry at the close");
                    }
                }
                shared.connections.close();
            }
            committer.poisoned().map_or(Ok(()), |reason| {
                let message = "a commit failed: submitted batches may not be durable";
                Err(Error::new(ErrorKind::Indeterminate, "close", message).with_source(reason))
            })
        })
    }
}

impl fmt::Debug for PostgresIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresIndex")
            .field("epoch", &self.shared.epoch)
            .field("committer", &**self.committer)
            .finish_non_exhaustive()
    }
}
