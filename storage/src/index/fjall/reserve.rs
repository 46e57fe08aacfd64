//! The reserve: a file whose space is allocated and whose content means nothing.
//!
//! `{dir}/reserve` lies beside the store. Shrinking it gives space to whoever writes next on the
//! same disk. Losing it, in a crash or by hand, loses nothing: it is built again when there is
//! room. Guards no invariant.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::modes::Modes;

/// Its name in the directory of the index.
pub(super) const RESERVE: &str = "reserve";

/// File systems allocate whole pages.
const PAGE_BYTES: u64 = 4096;

/// See the head of this file.
pub(super) struct Reserve {
    path: PathBuf,
    modes: Modes,
    held: Mutex<u64>,
}

impl Reserve {
    /// The reserve of the index in this directory, as large as it was left.
    pub(super) fn open(dir: &Path, modes: Modes) -> Self {
        let path = dir.join(RESERVE);
        let held = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        Self {
            path,
            modes,
            held: Mutex::new(held),
        }
    }

    /// Its size in bytes.
    pub(super) fn held(&self) -> u64 {
        *self.lock()
    }

    /// Gives up this much of it, or all there is.
    pub(super) fn shrink_by(&self, bytes: u64) {
        let mut held = self.lock();
        let left = held.saturating_sub(bytes) / PAGE_BYTES * PAGE_BYTES;
        match self.resize(left) {
            Ok(()) => *held = left,
            Err(error) => {
                tracing::warn!(%error, path = %self.path.display(), "the reserve could not be given up");
            }
        }
    }

    /// Allocates what it lacks to this size.
    pub(super) fn grow_to(&self, bytes: u64) {
        let mut held = self.lock();
        let bytes = bytes / PAGE_BYTES * PAGE_BYTES;
        if bytes <= *held {
            return;
        }
        match self.allocate(bytes) {
            Ok(()) => *held = bytes,
            Err(error) => {
                tracing::debug!(%error, path = %self.path.display(), "the reserve could not be built");
                // What was allocated of it before the error is given back.
                drop(self.resize(*held));
            }
        }
    }

    /// The sync lets a journalling file system give the blocks to others at once.
    fn resize(&self, bytes: u64) -> io::Result<()> {
        let file = File::options().write(true).open(&self.path)?;
        file.set_len(bytes)?;
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
            // A file system that can't allocate gets zeros written.
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
                "it is no hole: blocks={blocks}"
            );
        }
        reserve.shrink_by(PAGE_BYTES + 1);
        assert_eq!(reserve.held(), 98 * PAGE_BYTES, "whole pages");
        assert_eq!(
            Reserve::open(dir.path(), Modes::default()).held(),
            98 * PAGE_BYTES,
            "it is as it was left"
        );
        reserve.shrink_by(u64::MAX);
        assert_eq!(reserve.held(), 0);
    }
}
