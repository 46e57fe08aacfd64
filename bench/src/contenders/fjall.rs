//! fjall with a group commit: one batch and one sync for each group. Payloads are separated from
//! their keys, with the options that Cenotaph used before its payload log.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode,
};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::Store;
use super::group::GroupCommit;

const MIB: u64 = 1 << 20;

pub(crate) struct FjallStore {
    commits: GroupCommit,
    keyspace: Keyspace,
}

impl FjallStore {
    /// Creates a database, closes it, and opens it again: a new database has a preallocated
    /// journal, and is faster than that of a service after its first start.
    pub(crate) fn create(dir: &Path) -> Self {
        drop(open(dir));
        let (database, keyspace) = open(dir);
        let written = keyspace.clone();
        let commits = GroupCommit::start(move |group| {
            let mut batch = database.batch().durability(Some(PersistMode::SyncData));
            for write in group {
                batch.insert(&written, write.key.as_str(), write.payload.clone());
            }
            batch.commit().expect("the disk works");
        });
        Self { commits, keyspace }
    }

    /// Returns the payload of a key.
    pub(crate) fn get(&self, key: &str) -> Bytes {
        let value = self.keyspace.get(key).expect("the disk works");
        value.expect("the key exists").into()
    }
}

impl Store for FjallStore {
    fn put(&self, key: String, payload: Bytes) -> BoxFuture<'static, ()> {
        self.commits.put(key, payload)
    }

    fn close(self: Arc<Self>) -> BoxFuture<'static, ()> {
        let store = Arc::into_inner(self).expect("no operation is in progress");
        async { store.commits.close() }.boxed()
    }
}

/// Opens a database with Cenotaph's options, and its keyspace of payloads.
pub(crate) fn open(dir: &Path) -> (Database, Keyspace) {
    let database = Database::builder(dir.join("fjall"))
        .cache_size(32 * MIB)
        .max_journaling_size(128 * MIB)
        .worker_threads(2)
        .journal_compression(CompressionType::None)
        .manual_journal_persist(true)
        .open()
        .expect("the disk works");
    let separation = KvSeparationOptions::default()
        .separation_threshold(4096)
        .file_target_size(32 * MIB)
        .staleness_threshold(0.2)
        .age_cutoff(1.0)
        .compression(CompressionType::None);
    let options = || {
        KeyspaceCreateOptions::default()
            .manual_journal_persist(true)
            .max_memtable_size(16 * MIB)
            .with_kv_separation(Some(separation.clone()))
    };
    let keyspace = database.keyspace("payloads", options);
    (database, keyspace.expect("the disk works"))
}
