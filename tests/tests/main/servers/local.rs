//! The blob tiers without a server: memory, and a directory of this machine.

use cenotaph::Operator;
use tempfile::TempDir;

use super::suite::Server;

/// Blob tier in memory.
pub(super) struct Memory;

impl Server for Memory {
    async fn bucket(&self, _name: &str) -> Operator {
        Operator::new(opendal::services::Memory::default()).unwrap()
    }
}

/// Blob tier in a directory of this machine.
pub(super) struct Directory(TempDir);

impl Directory {
    pub(super) fn new() -> Self {
        Self(TempDir::new().unwrap())
    }
}

impl Server for Directory {
    async fn bucket(&self, name: &str) -> Operator {
        cenotaph_storage::blobs::local(&self.0.path().join(name)).unwrap()
    }
}
