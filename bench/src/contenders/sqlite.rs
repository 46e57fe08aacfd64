//! SQLite with a group commit: WAL, `synchronous=FULL`, one transaction for each group.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use rusqlite::Connection;

use super::Store;
use super::group::{GroupCommit, Write};

pub(crate) struct Sqlite(GroupCommit);

impl Sqlite {
    pub(crate) fn create(dir: &Path) -> Self {
        let mut connection = Connection::open(dir.join("sqlite")).expect("the disk works");
        let setup = "
            PRAGMA journal_mode = WAL;
            PRAGMA synchronous = FULL;
            CREATE TABLE objects (key TEXT PRIMARY KEY, payload BLOB NOT NULL);
        ";
        connection.execute_batch(setup).expect("the disk works");
        Self(GroupCommit::start(move |group| {
            commit(&mut connection, group).expect("the disk works");
        }))
    }
}

impl Store for Sqlite {
    fn put(&self, key: String, payload: Bytes) -> BoxFuture<'static, ()> {
        self.0.put(key, payload)
    }

    fn close(self: Arc<Self>) -> BoxFuture<'static, ()> {
        let store = Arc::into_inner(self).expect("no put is in progress");
        async { store.0.close() }.boxed()
    }
}

fn commit(connection: &mut Connection, group: &[Write]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    {
        let mut insert = transaction.prepare_cached("INSERT INTO objects VALUES (?1, ?2)")?;
        for write in group {
            insert.execute((write.key.as_str(), &write.payload[..]))?;
        }
    }
    transaction.commit()
}
