//! Connections to the server: the pool, and connections inside a transaction.

use std::ops::Deref;
use std::time::Duration;

use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime,
};
use tokio_postgres::Config;

use super::failure::unavailable;
use super::{PostgresOptions, tls};
use crate::types::{Error, ErrorKind, Result};

/// Returns the settings of a session. A lock is awaited for less time than a statement may take, and
/// a transaction whose client is gone ends by itself.
///
/// `synchronous_commit = off` would acknowledge commits that a crash of the server loses.
fn session(statement_timeout: Duration) -> String {
    let limit = statement_timeout.as_millis().max(2);
    let (lock, idle) = (limit / 2, 2 * limit);
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

/// Pool of connections. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Connections(Pool);

impl Connections {
    /// Creates a pool. Does not connect.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the URL can't be read, which the error does not contain, or the file
    /// of certificates.
    pub(super) fn new(url: &str, options: &PostgresOptions) -> Result<Self> {
        let invalid = |message: &'static str| Error::new(ErrorKind::Invalid, "open", message);
        let mut config: Config = url
            .parse()
            .map_err(|_| invalid("the URL of the shared index can't be read"))?;
        config.connect_timeout(CONNECT);
        config.application_name("cenotaph");
        let manager = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let session = session(options.statement_timeout);
        let pool = Pool::builder(Manager::from_config(
            config,
            tls::connector(options)?,
            manager,
        ))
        .max_size(options.connections_max)
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
        .build();
        let pool = pool.map_err(|_| invalid("the shared index needs at least one connection"))?;
        Ok(Self(pool))
    }

    /// Returns a connection for statements outside of a transaction.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if no connection is free or the server can't be reached in time.
    pub(super) async fn get(&self, operation: &'static str) -> Result<Object> {
        let connection = self.0.get().await;
        connection
            .map_err(|error| unavailable(operation, "the shared index is not reachable", error))
    }

    /// Returns a connection for a transaction.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(super) async fn for_transaction(&self, operation: &'static str) -> Result<Borrowed> {
        Ok(Borrowed(Some(Box::new(self.get(operation).await?))))
    }

    /// Closes all connections, and refuses later requests.
    pub(super) fn close(&self) {
        self.0.close();
    }
}

/// Connection inside a transaction. Dropped without [`finished`](Self::finished), it is closed, so
/// that nobody continues a transaction that was left open.
pub(super) struct Borrowed(Option<Box<Object>>);

impl Borrowed {
    /// Returns the connection to the pool. No transaction may be open.
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
