//! Syncs directories, also on file systems that do not support it.
//!
//! Lets a store work on a share (SMB, some FUSE) whose directories cannot be synced. Directory
//! entries there are as durable as the file system makes them. Files are synced without this
//! module.

use std::fs::File;
use std::io;
use std::path::Path;

/// Makes the entries of a directory durable, if its file system supports it.
///
/// # Errors
/// The errors of the sync, except EINVAL and ENOTSUP, by which a file system reports that it cannot
/// sync directories.
pub(crate) fn sync_directory(opened: &File) -> io::Result<()> {
    match opened.sync_all() {
        // Tolerated for directories only: on anything else these errors indicate a bug.
        Err(error) if has_no_directory_sync(&error) && opened.metadata()?.is_dir() => Ok(()),
        synced => synced,
    }
}

/// Syncs the directory at this path, as [`sync_directory`] does.
pub(crate) fn sync_directory_at(path: &Path) -> io::Result<()> {
    sync_directory(&File::open(path)?)?;
    #[cfg(test)]
    recorded::add(path);
    Ok(())
}

fn has_no_directory_sync(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
    )
}

/// The syncs of a test: no file system of the power cuts loses the name of a synced file, so that
/// only a record shows a missing sync of its directory.
#[cfg(test)]
pub(crate) mod recorded {
    use std::cell::RefCell;
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    /// Paths of the entries that a sync of their directory made durable.
    type Durable = BTreeSet<PathBuf>;

    thread_local! {
        static DURABLE: RefCell<Durable> = RefCell::default();
    }

    pub(super) fn add(directory: &Path) {
        let entries = std::fs::read_dir(directory).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        DURABLE.with_borrow_mut(|durable| durable.extend(paths));
    }

    /// Returns the entries that syncs of [`sync_directory_at`](super::sync_directory_at) on this
    /// thread have made durable since the last call.
    pub(crate) fn take() -> Durable {
        DURABLE.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_missing_support_is_tolerated() {
        for (errno, is_tolerated) in [(22, true), (95, true), (5, false), (28, false)] {
            assert_eq!(
                has_no_directory_sync(&io::Error::from_raw_os_error(errno)),
                is_tolerated,
                "errno={errno}"
            );
        }
        let dir = tempfile::tempdir().unwrap();
        sync_directory_at(dir.path()).unwrap();
        assert!(sync_directory_at(&dir.path().join("missing")).is_err());
        assert!(
            sync_directory_at(Path::new("/dev/null")).is_err(),
            "the device cannot be synced and is not a directory"
        );
    }
}
