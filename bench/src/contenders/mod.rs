//! The contenders of the puts, behind one trait.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use clap::ValueEnum;
use futures::future::BoxFuture;

mod append_log;
mod cenotaph;
mod files;
mod fjall;
mod group;
mod sqlite;

pub(crate) use cenotaph::CenotaphStore;
pub(crate) use files::write_file;
pub(crate) use fjall::{FjallStore, open as open_fjall};

use append_log::AppendLog;
use files::Files;
use sqlite::Sqlite;

/// A store that can put.
pub(crate) trait Store: Send + Sync {
    /// Writes a new object. The write is durable when the future ends.
    fn put(&self, key: String, payload: Bytes) -> BoxFuture<'static, ()>;

    /// Closes the store, and waits until its threads have ended.
    fn close(self: Arc<Self>) -> BoxFuture<'static, ()>;
}

/// A way to store objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Contender {
    AppendLog,
    Fjall,
    Sqlite,
    Files,
    Cenotaph,
}

impl Contender {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AppendLog => "append log",
            Self::Fjall => "fjall",
            Self::Sqlite => "SQLite",
            Self::Files => "one file each",
            Self::Cenotaph => "Cenotaph",
        }
    }

    /// Creates a store in an empty directory.
    pub(crate) async fn create(self, dir: &Path) -> Arc<dyn Store> {
        match self {
            Self::AppendLog => Arc::new(AppendLog::create(dir)),
            Self::Fjall => Arc::new(FjallStore::create(dir)),
            Self::Sqlite => Arc::new(Sqlite::create(dir)),
            Self::Files => Arc::new(Files::create(dir)),
            Self::Cenotaph => Arc::new(CenotaphStore::create(dir).await),
        }
    }
}
