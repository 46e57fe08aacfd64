//! One file for each object: create, write, `fdatasync`, and a sync of the directory.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::Store;

pub(crate) struct Files {
    path: PathBuf,
    dir: Arc<File>,
}

impl Files {
    pub(crate) fn create(dir: &Path) -> Self {
        Self {
            path: dir.to_owned(),
            dir: Arc::new(File::open(dir).expect("the directory exists")),
        }
    }
}

impl Store for Files {
    fn put(&self, key: String, payload: Bytes) -> BoxFuture<'static, ()> {
        let path = self.path.join(key);
        let dir = self.dir.clone();
        let write = tokio::task::spawn_blocking(move || {
            write_file(&path, &payload)
                .sync_data()
                .expect("the disk works");
            dir.sync_all().expect("the disk works");
        });
        async { write.await.expect("no write fails") }.boxed()
    }

    fn close(self: Arc<Self>) -> BoxFuture<'static, ()> {
        async {}.boxed()
    }
}

/// Creates a file with these contents, and does not sync it.
pub(crate) fn write_file(path: &Path, payload: &[u8]) -> File {
    let mut file = File::create_new(path).expect("the name is new");
    file.write_all(payload).expect("the disk works");
    file
}
