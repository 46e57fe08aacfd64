//! Syncs of directories, which some file systems refuse.
//!
//! Guards that a store on a share (SMB, some FUSE) works: where a directory can't be synced, its
//! entries are as durable as that file system makes them, and there is nothing to be done about it.
//! Files are synced without this.

use std::fs::File;
use std::io;
use std::path::Path;

/// Makes the entries of a directory durable, as far as its file system can.
///
/// # Errors
/// Those of the sync, but for EINVAL and ENOTSUP: the file system has no sync of directories.
pub(crate) fn sync_directory(opened: &File) -> io::Result<()> {
    match opened.sync_all() {
        Err(error) if has_no_directory_sync(&error) && opened.metadata()?.is_dir() => Ok(()),
        synced => synced,
    }
}

/// As [`sync_directory`], of the directory at this path.
pub(crate) fn sync_directory_at(path: &Path) -> io::Result<()> {
    sync_directory(&File::open(path)?)
}

fn has_no_directory_sync(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_is_tolerated() {
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
            "it refuses a sync, and is no directory"
        );
    }
}
