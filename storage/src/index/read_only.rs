//! An index that accepts no commit: [`ReadOnlyIndex`].
//!
//! Guards that a read-only engine writes nothing: the index refuses a batch even if every check of
//! the actors failed to. `fjall/view.rs` reads the files of an index without writing to them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::{Batch, CommitError, Completion, Index, IndexStats, Snapshot, Table};
use crate::types::{Checksum, Error, ErrorKind, Reason, Result};

/// Returns the error of a write to a read-only engine or index.
pub fn read_only(operation: &'static str) -> Error {
    let message = "the engine is read-only, and nothing was changed; \
                   open the store without `read_only` to write to it";
    Error::new(ErrorKind::Invalid, operation, message).with_reason(Reason::ReadOnly)
}

/// Wrapper of another index, for reads only. Refuses every batch except an empty one, and never
/// requests maintenance.
pub struct ReadOnlyIndex(Arc<dyn Index>);

impl ReadOnlyIndex {
    /// Wraps an index.
    pub fn new(index: Arc<dyn Index>) -> Self {
        Self(index)
    }
}

impl Index for ReadOnlyIndex {
    fn submit(&self, batch: Batch, completion: Completion) {
        // An empty batch waits for the batches before it, and there are none.
        let outcome = if batch.is_empty() {
            Ok(())
        } else {
            Err(CommitError::NotStarted(read_only("commit")))
        };
        completion(outcome);
    }

    fn get<'a>(&'a self, table: Table, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>>> {
        self.0.get(table, key)
    }

    fn payload<'a>(
        &'a self,
        key: &'a [u8],
        expected: Checksum,
    ) -> BoxFuture<'a, Result<Option<Bytes>>> {
        self.0.payload(key, expected)
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        self.0.snapshot()
    }

    // No commit is ever in flight.
    fn watch(&self, _: Duration) {}

    fn poisoned(&self) -> Option<Error> {
        self.0.poisoned()
    }

    fn stats(&self) -> IndexStats {
        self.0.stats()
    }

    fn close(&self) -> BoxFuture<'static, Result<()>> {
        self.0.close()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::super::fjall::{FjallIndex, FjallOptions};
    use super::*;
    use crate::env::Env;

    fn submit(index: &dyn Index, batch: Batch) -> Result<(), CommitError> {
        let (sender, outcome) = mpsc::channel();
        index.submit(batch, Box::new(move |outcome| drop(sender.send(outcome))));
        outcome.recv().unwrap()
    }

    #[tokio::test]
    async fn batch_is_refused_and_reads_work() {
        let dir = tempfile::tempdir().unwrap();
        let options = FjallOptions {
            reserve_bytes: 0,
            ..FjallOptions::default()
        };
        let index: Arc<dyn Index> = Arc::new(
            FjallIndex::open(&dir.path().join("index"), Env::real().unwrap(), options).unwrap(),
        );
        let put = |key: &'static str| {
            let mut batch = Batch::new();
            batch.put(Table::Meta, key, "value");
            batch
        };
        submit(&*index, put("a")).unwrap();
        let reader = ReadOnlyIndex::new(Arc::clone(&index));
        match submit(&reader, put("b")) {
            Err(CommitError::NotStarted(error)) => {
                assert_eq!(error.reason(), Some(Reason::ReadOnly));
            }
            outcome => panic!("{outcome:?}"),
        }
        reader.barrier().await.unwrap();
        assert_eq!(
            reader.get(Table::Meta, b"a").await.unwrap().unwrap(),
            "value"
        );
        assert!(index.get(Table::Meta, b"b").await.unwrap().is_none());
        reader.close().await.unwrap();
        assert_eq!(
            reader.get(Table::Meta, b"a").await.unwrap_err().kind(),
            ErrorKind::Closed
        );
    }
}
