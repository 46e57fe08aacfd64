//! Connections to the server: the pools, and connections in use.

use std::ops::Deref;
use std::time::Duration;

use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime,
};
use tokio_postgres::Config;
use tokio_postgres::config::TargetSessionAttrs;

use super::failure::unavailable;
use super::{PostgresOptions, tls};
use crate::types::{Error, ErrorKind, Result};

/// Returns the settings of a session. A lock is awaited for less time than a statement may take, and
/// a transaction whose client is gone ends by itself.
///
/// `synchronous_commit = off` would acknowledge commits that a crash of the server loses.
fn session(statement_timeout: Duration, idle: Duration) -> String {
    let (limit, idle) = (statement_timeout.as_millis(), idle.as_millis());
    let lock = limit / 2;
    format!(
        "SET statement_timeout = {limit}; SET lock_timeout = {lock}; \
         SET idle_in_transaction_session_timeout = {idle}; \
         SELECT set_config('synchronous_commit', 'on', false) \
         WHERE current_setting('synchronous_commit') = 'off'"
    )
}

/// Time limit to connect to the server.
const CONNECT: Duration = Duration::from_secs(5);
/// Time limit to wait for a free connection.
const WAIT: Duration = Duration::from_secs(10);

/// Time without an answer of the server's machine after which a connection counts as broken.
const SILENCE: Duration = Duration::from_secs(10);
/// Connections of commits, of the heartbeat, and of requests about members.
const WRITERS: usize = 3;

/// Connections of a member. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Connections {
    /// Pool of reads and snapshots.
    readers: Pool,
    /// Pool of commits and of the membership, for which no snapshot can take the last connection.
    writers: Pool,
}

impl Connections {
    /// Creates the pools. Does not connect.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the URL can't be read, which the error does not contain, or the file
    /// of certificates.
    pub(super) fn new(url: &str, options: &PostgresOptions) -> Result<Self> {
        let mut config: Config = url.parse().map_err(|_| {
            let message = "the URL of the shared index can't be read";
            Error::new(ErrorKind::Invalid, "open", message)
        })?;
        config
            .application_name("cenotaph")
            .connect_timeout(CONNECT)
            .keepalives_idle(SILENCE / 2)
            .keepalives_interval(SILENCE / 4)
            .keepalives_retries(2)
            .tcp_user_timeout(SILENCE)
            // Of several hosts the primary: a standby shows an older state.
            .target_session_attrs(TargetSessionAttrs::ReadWrite);
        Ok(Self {
            readers: {
                let idle = options.statement_timeout.saturating_mul(2);
                pool(&config, options, idle, options.connections_max)?
            },
            // The locks of a member that falls silent in its commit end before others, which wait for
            // them, give up.
            writers: pool(&config, options, options.statement_timeout / 4, WRITERS)?,
        })
    }

    /// Returns a connection for reads.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if no connection is free or the server can't be reached in time.
    pub(super) async fn reader(&self, operation: &'static str) -> Result<Borrowed> {
        borrow(&self.readers, operation).await
    }

    /// Returns a connection for writes.
    ///
    /// # Errors
    /// As [`reader`](Self::reader).
    pub(super) async fn writer(&self, operation: &'static str) -> Result<Borrowed> {
        borrow(&self.writers, operation).await
    }

    /// Closes all connections, and refuses later requests.
    pub(super) fn close(&self) {
        self.readers.close();
        self.writers.close();
    }
}

fn pool(
    config: &Config,
    options: &PostgresOptions,
    idle: Duration,
    connections_max: usize,
) -> Result<Pool> {
    let manager = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    let tls = tls::connector(options)?;
    let session = session(options.statement_timeout, idle);
    Pool::builder(Manager::from_config(config.clone(), tls, manager))
        .max_size(connections_max)
        .create_timeout(Some(CONNECT * 2))
        .wait_timeout(Some(WAIT))
        .runtime(Runtime::Tokio1)
        .post_create(Hook::async_fn(move |client, _| {
            let session = session.clone();
            Box::pin(async move {
                let set = client.batch_execute(&session).await;
                set.map_err(HookError::Backend)
            })
        }))
        .build()
        .map_err(|error| unavailable("open", "the pool can't be created", error))
}

async fn borrow(pool: &Pool, operation: &'static str) -> Result<Borrowed> {
    match pool.get().await {
        Ok(connection) => Ok(Borrowed(Some(Box::new(connection)))),
        Err(error) => Err(unavailable(
            operation,
            "the shared index is not reachable",
            error,
        )),
    }
}

/// Connection in use. Dropped without [`finished`](Self::finished), as at a time limit, it is closed:
/// nobody continues a transaction that was left open, or waits for an answer that never comes.
pub(super) struct Borrowed(Option<Box<Object>>);

impl Borrowed {
    /// Returns the connection to its pool. No transaction may be open, and no answer outstanding.
    pub(super) fn finished(mut self) {
        drop(self.0.take());
    }
}

impl Deref for Borrowed {
    type Target = Object;

    fn deref(&self) -> &Object {
        self.0
            .as_ref()
            .expect("only `finished` takes the connection, and consumes the value")
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(Object::take(*connection));
        }
    }
}
