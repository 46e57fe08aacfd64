//! Commits a group of batches to fjall, on the committing thread.
//!
//! 1. ensure disk space
//! 2. remove the keys of all puts from the gaps (`gaps.rs`); write and sync one fjall batch
//! 3. publish the snapshot of the new state (`published.rs`)
//! 4. record the high-water mark (`marker.rs`)
//!
//! Guards I9: a group is durable when `commit` returns `Ok`. After an error the outcome is unknown,
//! and no further group is committed.

use std::sync::Arc;

use bytes::Bytes;
use fjall::{OwnedWriteBatch, PersistMode};

use super::space::Space;
use super::{Store, diagnosis};
use crate::env::Env;
use crate::index::Table;
use crate::index::group_commit::{Changes, Sink};
use crate::types::Result;

/// Writes a group of batches as one fjall batch.
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
        // Before the new state is published: no scan of this state may skip a key that the commit
        // puts.
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
        // Read before and after the commit: the sequence number of the batch is in between.
        let low = self.store.database.seqno();
        let explain = |error| {
            self.space
                .explain(diagnosis::explain(&self.store, &self.env, error))
        };
        batch.commit().map_err(explain)?;
        // Only after the sync: readers never see a state that a crash could undo.
        self.store.published.advance(&self.store.database, commit);
        if let Some(marker) = &self.store.marker {
            marker.acknowledged(low, self.store.database.seqno());
        }
        self.space.committed(bytes, has_removed);
        Ok(())
    }
}
