//! A raw append log: one file, vectored appends, `fdatasync`. No index and no checksums: an upper
//! bound of the speed of the disk.

use std::fs::File;
use std::io::{IoSlice, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::Store;
use super::group::{self, GroupCommit};

/// Slices of one call. Linux accepts 1,024.
const SLICES_MAX: usize = 1024;

pub(crate) struct AppendLog(GroupCommit);

impl AppendLog {
    pub(crate) fn create(dir: &Path) -> Self {
        let mut file = File::create_new(dir.join("log")).expect("the directory is empty");
        Self(GroupCommit::start(move |group| append(&mut file, group)))
    }
}

impl Store for AppendLog {
    fn put(&self, key: String, payload: Bytes) -> BoxFuture<'static, ()> {
        self.0.put(key, payload)
    }

    fn close(self: Arc<Self>) -> BoxFuture<'static, ()> {
        let log = Arc::into_inner(self).expect("no put is in progress");
        async { log.0.close() }.boxed()
    }
}

fn append(file: &mut File, group: &[group::Write]) {
    let parts = |write: &'_ group::Write| [write.key.len(), write.payload.len()];
    let lengths: Vec<_> = group
        .iter()
        .map(|write| {
            parts(write)
                .map(|length| (length as u64).to_le_bytes())
                .concat()
        })
        .collect();
    let entries = lengths.iter().zip(group);
    let mut slices: Vec<_> = entries
        .flat_map(|(lengths, write)| [lengths, write.key.as_bytes(), &write.payload])
        .map(IoSlice::new)
        .collect();
    let mut rest = &mut slices[..];
    while !rest.is_empty() {
        let count = rest.len().min(SLICES_MAX);
        let written = file.write_vectored(&rest[..count]).expect("the disk works");
        IoSlice::advance_slices(&mut rest, written);
    }
    file.sync_data().expect("the disk works");
}
