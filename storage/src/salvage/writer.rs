//! Writes entries to the new index, many per commit.

use bytes::Bytes;

use crate::index::{Batch, CommitError, Index, Table};
use crate::types::{Error, ErrorKind, Result};

/// Approximate maximum size of a commit, in bytes.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Maximum number of entries of a commit.
const BATCH_ENTRIES: usize = 4096;

/// Collects entries and commits them in batches.
pub(super) struct Writer<'a> {
    index: &'a dyn Index,
    batch: Batch,
}

impl<'a> Writer<'a> {
    pub(super) fn new(index: &'a dyn Index) -> Self {
        Self {
            index,
            batch: Batch::new(),
        }
    }

    /// Adds an entry. Commits the collected entries when a limit is reached.
    pub(super) async fn put(&mut self, table: Table, key: Bytes, value: Bytes) -> Result<()> {
        self.batch.put(table, key, value);
        if self.batch.bytes() >= BATCH_BYTES || self.batch.ops().len() >= BATCH_ENTRIES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Commits all collected entries. They are durable when it returns.
    pub(super) async fn flush(&mut self) -> Result<()> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let batch = std::mem::take(&mut self.batch);
        self.index
            .submit(batch, Box::new(move |outcome| drop(sender.send(outcome))));
        match receiver.await {
            Ok(outcome) => outcome.map_err(CommitError::into_error),
            // The index has dropped the callback without an outcome.
            Err(_) => Err(Error::new(
                ErrorKind::Unavailable,
                "salvage",
                "the new index has failed",
            )),
        }
    }
}
