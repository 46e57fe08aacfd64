//! Flushes on demand, for tests of what happens to files.

use super::failure::failed;
use super::{FjallIndex, Table};
use crate::error::Result;

impl FjallIndex {
    /// Writes everything that is in memory to tables, as fjall does by itself after some megabytes.
    /// Blocks.
    ///
    /// # Errors
    /// As a commit.
    pub fn flush(&self) -> Result<()> {
        let store = self.slot.store()?;
        for table in Table::ALL {
            store
                .tables
                .of(table)
                .rotate_memtable_and_wait()
                .map_err(|error| failed("flush", error))?;
        }
        Ok(())
    }
}
