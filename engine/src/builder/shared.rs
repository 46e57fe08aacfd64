//! [`Builder::shared`]: a store whose index is in PostgreSQL.

use cenotaph_storage::index::postgres::PostgresOptions;

use super::{Builder, IndexChoice};
use crate::shared::PostgresChoice;

impl Builder {
    /// Stores the rows in a PostgreSQL database instead of an fjall index under the data directory.
    /// Several engines, its members, may have the store open at the same time, in any number of
    /// processes and on any number of machines.
    ///
    /// `url` is a connection string, such as `postgres://user:password@host/database`. No message
    /// contains it. All members must be given the same blob tier: a directory must be on a file
    /// system that they share. docs/shared-index.md describes the promises of a shared store, and
    /// the settings that the server needs.
    ///
    /// The runtime must have a second thread, or an idle one: commits wait on a thread of their own
    /// for tasks of the runtime.
    ///
    /// ```no_run
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let blobs = cenotaph::Operator::new(opendal::services::Memory::default()).unwrap();
    /// let engine = cenotaph::Engine::builder("/var/lib/service")
    ///     .shared("postgres://service:secret@db/objects?sslmode=require")
    ///     .blobs(blobs)
    ///     .open()
    ///     .await?;
    /// let (members, _) = engine.members().await?;
    /// assert!(members.iter().any(|member| member.is_self));
    /// engine.close().await
    /// # }
    /// ```
    pub fn shared(self, url: impl Into<String>) -> Self {
        self.shared_with(url, PostgresOptions::default())
    }

    /// As [`shared`](Self::shared), with options: the schema of the tables, their creation, the name of
    /// this member, numbers of connections, time limits.
    pub fn shared_with(mut self, url: impl Into<String>, options: PostgresOptions) -> Self {
        let url = url.into();
        self.index = IndexChoice::Postgres(PostgresChoice { url, options });
        self
    }
}
