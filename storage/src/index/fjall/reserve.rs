//! The reserve: a file that allocates space on the disk of the index, without meaningful content.
//!
//! `{dir}/reserve` is beside the store. Shrinking it frees space for the next writer on the disk. A
//! crash or a user may delete it without harm: the index builds it again when the disk has room.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::modes::Modes;

/// Name of the file in the directory of the index.
pub(super) const RESERVE: &str = "reserve";

/// Unit of allocation of file systems, in bytes.
const PAGE_BYTES: u64 = 4096;

/// Reserve file of an index.
pub(super) struct Reserve {
    path: PathBuf,
    modes: Modes,
    /// Size in bytes. Locked during each change of the file.
    held: Mutex<u64>,
}

impl Reserve {
    /// Opens the reserve of the index in this directory, with the current size of its file.
    pub(super) fn open(dir: &Path, modes: Modes) -> Self {
        let path = dir.join(RESERVE);
        let held = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        Self {
            path,
            modes,
            held: Mutex::new(held),
        }
    }

    /// Returns the size in bytes.
    pub(super) fn held(&self) -> u64 {
        *self.lock()
    }

    /// Frees this many bytes of the reserve, or all of it if it is smaller.
    pub(super) fn shrink_by(&self, bytes: u64) {
        let mut held = self.lock();
        let left = held.saturating_sub(bytes) / PAGE_BYTES * PAGE_BYTES;
        match self.resize(left) {
            Ok(()) => *held = left,
            Err(error) => {
                tracing::warn!(%error, path = %self.path.display(), "can't shrink the reserve");
            }
        }
    }

    /// Grows the reserve to this size.
    pub(super) fn grow_to(&self, bytes: u64) {
        let mut held = self.lock();
        let bytes = bytes / PAGE_BYTES * PAGE_BYTES;
        if bytes <= *held {
            return;
        }
        match self.allocate(bytes) {
            Ok(()) => *held = bytes,
            Err(error) => {
                tracing::debug!(%error, path = %self.path.display(), "can't grow the reserve");
                // Frees the part that was allocated before the error.
                drop(self.resize(*held));
            }
        }
    }

    /// Sets the size of the file.
    fn resize(&self, bytes: u64) -> io::Result<()> {
        let file = File::options().write(true).open(&self.path)?;
        file.set_len(bytes)?;
        // A journalling file system frees the blocks for other files only after the sync.
        file.sync_all()
    }

    #[cfg(unix)]
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let file = self
            .modes
            .file_options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&self.path)?;
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
            Ok(()) => Ok(()),
            // The file system does not support allocation: write zeros.
            Err(rustix::io::Errno::OPNOTSUPP) => fill(file, bytes),
            Err(error) => Err(error.into()),
        }
    }

    #[cfg(not(unix))]
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        fill(
            self.modes
                .file_options()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&self.path)?,
            bytes,
        )
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fill(mut file: File, bytes: u64) -> io::Result<()> {
    io::copy(&mut io::Read::take(io::repeat(0), bytes), &mut file)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserve_takes_space_and_gives_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::open(dir.path(), Modes::default());
        assert_eq!(reserve.held(), 0);
        reserve.grow_to(100 * PAGE_BYTES + 1);
        assert_eq!(reserve.held(), 100 * PAGE_BYTES);
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let blocks = fs::metadata(dir.path().join(RESERVE)).unwrap().blocks();
            assert!(
                blocks * 512 >= 100 * PAGE_BYTES,
                "the file is sparse: blocks={blocks}"
            );
        }
        reserve.shrink_by(PAGE_BYTES + 1);
        assert_eq!(reserve.held(), 98 * PAGE_BYTES, "in whole pages");
        assert_eq!(
            Reserve::open(dir.path(), Modes::default()).held(),
            98 * PAGE_BYTES,
            "a reopen keeps the size"
        );
        reserve.shrink_by(u64::MAX);
        assert_eq!(reserve.held(), 0);
    }
}
