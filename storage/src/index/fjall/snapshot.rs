//! Reads of a published state: [`FjallSnapshot`].

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::published::State;
use super::store::{Resident, StoreSlot};
use super::walk::Walker;
use crate::env::Env;
use crate::index::{Page, Range, Snapshot, Table};
use crate::types::Result;

/// Snapshot of the index. It does not keep the store open: after a close every read returns
/// [`ErrorKind::Closed`](crate::types::ErrorKind::Closed).
pub(super) struct FjallSnapshot {
    pub(super) env: Env,
    pub(super) slot: StoreSlot,
    pub(super) state: Arc<State>,
}

impl FjallSnapshot {
    /// Runs a read through [`Env::blocking`].
    fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(Walker<'_>) -> Result<T> + Send + 'static,
    ) -> BoxFuture<'_, Result<T>> {
        let env = self.env.clone();
        let slot = self.slot.clone();
        let state = self.state.clone();
        // The closure takes the store when it runs: a queued read must not keep the store open.
        let read = move || {
            read(Walker {
                store: &*slot.store()?,
                state: &state,
                env: &env,
            })
        };
        Box::pin(async move { self.env.blocking(read).await? })
    }
}

impl Snapshot for FjallSnapshot {
    fn get<'a>(&'a self, table: Table, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>>> {
        if reads_inline(table) {
            return Box::pin(
                async move { self.slot.store()?.get(&self.env, &self.state, table, key) },
            );
        }
        Box::pin(async move {
            {
                let store = self.slot.store()?;
                if let Resident::Value(value) =
                    store.get_resident(&self.env, &self.state, key, None)?
                {
                    return Ok(value);
                }
            }
            let key = Bytes::copy_from_slice(key);
            self.read(move |Walker { store, state, env }| store.get(env, state, table, &key))
                .await
        })
    }

    fn get_many(
        &self,
        table: Table,
        keys: Vec<Bytes>,
    ) -> BoxFuture<'_, Result<Vec<Option<Bytes>>>> {
        self.read(move |Walker { store, state, env }| {
            keys.iter()
                .map(|key| store.get(env, state, table, key))
                .collect()
        })
    }

    fn scan(&self, table: Table, range: Range) -> BoxFuture<'_, Result<Page>> {
        self.read(move |walker| walker.scan(table, range))
    }

    fn keys(&self, table: Table, range: Range) -> BoxFuture<'_, Result<Vec<Bytes>>> {
        self.read(move |walker| walker.keys(table, range))
    }
}

/// Returns whether a `get` is short enough for an async worker: the values are small and mostly
/// cached.
pub(super) fn reads_inline(table: Table) -> bool {
    match table {
        Table::Rows
        | Table::Changes
        | Table::Orphans
        | Table::Uploads
        | Table::Expiry
        | Table::Meta => true,
        Table::Payloads => false,
    }
}
