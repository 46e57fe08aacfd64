//! Commits a group of batches to fjall, on the committing thread.
//!
//! 1. ensure disk space
//! 2. append large values to the payload log, and sync it (`payloads.rs`)
//! 3. remove the keys of all puts from the gaps (`gaps.rs`); write and sync one fjall batch
//! 4. publish the snapshot of the new state (`published.rs`)
//! 5. record the high-water mark (`marker.rs`)
//!
//! Guards I9: a group is durable when `commit` returns `Ok`. After an error the outcome is unknown,
//! and no further group is committed.

use std::sync::Arc;

use bytes::Bytes;
use fjall::{OwnedWriteBatch, PersistMode};

use super::payloads::{self, Pointers};
use super::space::Space;
use super::{Store, diagnosis};
use crate::env::Env;
use crate::index::Table;
use crate::index::group_commit::{Changes, Sink};
use crate::index::payload_log::LogWriter;
use crate::types::Result;

/// Writes a group of batches as one fjall batch.
pub(super) struct FjallSink {
    pub(super) store: Arc<Store>,
    pub(super) env: Env,
    pub(super) space: Arc<Space>,
    pub(super) writer: LogWriter,
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
        let before = self.store.published.latest();
        let logged = payloads::append(&mut self.writer, &changes)
            .map_err(|error| self.space.explain(error))?;
        let moves = self.store.log.take_moves();
        let mut pointers = Pointers::new(&self.store, &self.env, &before);
        pointers.change(&changes, logged)?;
        pointers.move_all(moves, &changes)?;
        let commit = before.commit + 1;
        // Before the new state is published: no scan of this state may skip a key that the commit
        // puts.
        let put = changes.iter().filter(|(_, value)| value.is_some());
        self.store
            .gaps
            .committing(commit, put.map(|((table, key), _)| (*table, key)));
        let mut batch = OwnedWriteBatch::with_capacity(self.store.database.clone(), changes.len())
            .durability(Some(PersistMode::SyncData));
        self.store.upkeep.committed(&changes);
        let (written, records) = pointers.finish();
        for ((table, key), value) in changes {
            let keyspace = self.store.tables.of(table);
            match value {
                // The pointer is inserted below.
                Some(_) if table == Table::Payloads && written.contains_key(&key) => {}
                Some(value) => batch.insert(keyspace, key, value),
                None => batch.remove(keyspace, key),
            }
        }
        for (key, pointer) in written {
            batch.insert(self.store.tables.of(Table::Payloads), key, pointer.encode());
        }
        let dead = payloads::insert_records(&mut batch, self.store.tables.segments(), records);
        // Read before and after the commit: the sequence number of the batch is in between.
        let low = self.store.database.seqno();
        let explain = |error| {
            self.space
                .explain(diagnosis::explain(&self.store, &self.env, error))
        };
        batch.commit().map_err(explain)?;
        // Only after the sync: readers never see a state that a crash could undo.
        dead.into_iter().for_each(|id| self.store.log.retire(id));
        let segments = self.store.log.segments();
        self.store
            .published
            .advance(&self.store.database, commit, segments);
        if let Some(marker) = &self.store.marker {
            marker.acknowledged(low, self.store.database.seqno());
        }
        self.space.committed(bytes, has_removed);
        Ok(())
    }
}
