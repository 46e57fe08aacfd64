//! What the thread that commits does for each group of batches.
//!
//! 1. make way on the disk
//! 2. cut what is put out of the gaps (`gaps.rs`); one fjall batch, written and synced
//! 3. publish the snapshot behind it (`published.rs`), note the high-water mark (`marker.rs`)
//!
//! Guards I9: what it returns `Ok` for is durable. Whatever fails counts as unknown, and nothing is
//! committed after it.

use std::sync::Arc;

use bytes::Bytes;
use fjall::{OwnedWriteBatch, PersistMode};

use super::space::Space;
use super::{Store, diagnosis};
use crate::env::Env;
use crate::error::Result;
use crate::index::Table;
use crate::index::committer::{Changes, Sink};

/// Writes a merge as one fjall batch.
pub(super) struct FjallSink {
    pub(super) store: Arc<Store>,
    pub(super) env: Env,
    pub(super) space: Arc<Space>,
}

impl Sink for FjallSink {
    fn commit(&mut self, changes: Changes) -> Result<()> {
        let size = |(key, value): (&(Table, Bytes), &Option<Bytes>)| {
            key.1.len() + value.as_ref().map_or(0, Bytes::len)
        };
        let bytes = changes.iter().map(size).sum::<usize>() as u64;
        let has_removed = changes.values().any(Option::is_none);
        self.space
            .make_way(bytes, self.store.database.write_buffer_size())?;
        let commit = self.store.published.latest().commit + 1;
        let put = changes.iter().filter(|(_, value)| value.is_some());
        self.store
            .gaps
            .committing(commit, put.map(|((table, key), _)| (*table, key)));
        let mut batch = OwnedWriteBatch::with_capacity(self.store.database.clone(), changes.len())
            .durability(Some(PersistMode::SyncData));
        for ((table, key), value) in changes {
            let keyspace = self.store.tables.of(table);
            match value {
                Some(value) => batch.insert(keyspace, key, value),
                None => batch.remove(keyspace, key),
            }
        }
        let low = self.store.database.seqno();
        let explain = |error| {
            self.space
                .explain(diagnosis::explain(&self.store, &self.env, error))
        };
        batch.commit().map_err(explain)?;
        self.store.published.advance(&self.store.database, commit);
        if let Some(marker) = &self.store.marker {
            marker.acknowledged(low, self.store.database.seqno());
        }
        self.space.committed(bytes, has_removed);
        Ok(())
    }
}
