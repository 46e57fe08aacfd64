//! Flushes on demand, for tests of files.

use super::FjallIndex;
use super::failure::failed;
use crate::types::Result;

impl FjallIndex {
    /// Writes all data in memory to tables, as fjall does itself after some megabytes. Blocks on
    /// the disk.
    ///
    /// # Errors
    /// As a commit.
    pub fn flush(&self) -> Result<()> {
        let store = self.slot.store()?;
        for keyspace in store.tables.all() {
            keyspace
                .rotate_memtable_and_wait()
                .map_err(|error| failed("flush", error))?;
        }
        Ok(())
    }
}
