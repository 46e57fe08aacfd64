//! System calls of [`Directories`](super::Directories), relative to the root that is held open.
//!
//! All functions block. They run on the threads of the environment for blocking work.
//!
//! Guards I11: every path below the root is resolved from the open root, so that a directory that
//! has taken its place is never read or written.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{Directory, IfMissing, Inner};
use crate::blobs::path::fan_out;
use crate::directory_sync::sync_directory;
use crate::modes::Modes;
use crate::types::{Error, ErrorKind, Result};

impl Inner {
    /// Returns the root, which is opened once. All paths below it are resolved from this handle.
    fn held(&self) -> io::Result<&File> {
        if let Some(held) = self.held.get() {
            return Ok(held);
        }
        let opened = File::open(&self.root)?;
        Ok(self.held.get_or_init(|| opened))
    }

    fn open(&self, directory: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let path = if directory.as_os_str().is_empty() {
            Path::new(".")
        } else {
            directory
        };
        Ok(rustix::fs::openat(self.held()?, path, flags, Mode::empty())?.into())
    }

    pub(super) fn make_fan_out(&self, modes: Modes) -> io::Result<()> {
        let held = self.held()?;
        let mut missing: BTreeSet<String> = fan_out().collect();
        for entry in Dir::read_from(held)? {
            if let Ok(name) = entry?.file_name().to_str() {
                missing.remove(name);
            }
        }
        for name in missing {
            match rustix::fs::mkdirat(held, name, mode(modes.directory)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    pub(super) fn is_in_place(&self) -> Result<bool> {
        let held = self
            .held()
            .and_then(File::metadata)
            .map_err(|error| unreadable(&self.root, error))?;
        match std::fs::metadata(&self.root) {
            Ok(named) => Ok((named.dev(), named.ino()) == (held.dev(), held.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(unreadable(&self.root, error)),
        }
    }

    pub(super) fn contains(&self, path: &str, bytes: u64) -> Result<bool> {
        let held = self.held().map_err(|error| unreadable(&self.root, error))?;
        match rustix::fs::statat(held, path, AtFlags::empty()) {
            Ok(found) => Ok(
                FileType::from_raw_mode(found.st_mode) == FileType::RegularFile
                    && u64::try_from(found.st_size) == Ok(bytes),
            ),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(error) => Err(unreadable(&self.root.join(path), error.into())),
        }
    }

    pub(super) fn create_file(&self, path: &Path, modes: Modes) -> io::Result<()> {
        let held = self.held()?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        let create = || rustix::fs::openat(held, path, flags, mode(modes.file)).map(drop);
        // The directory usually exists, so creating the file is tried first.
        match create() {
            Err(Errno::NOENT) => {}
            created => return Ok(created?),
        }
        let missing: Vec<&Path> = path
            .ancestors()
            .skip(1)
            .filter(|above| !above.as_os_str().is_empty())
            .collect();
        // From the root downwards. A concurrent call may create the same directories.
        for directory in missing.into_iter().rev() {
            match rustix::fs::mkdirat(held, directory, mode(modes.directory)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(create()?)
    }

    /// Removes the empty directories of this file, except the fan-out. Returns the lowest directory
    /// that was not removed, or `None` if all were.
    pub(super) fn remove_emptied(&self, path: &str) -> Result<Option<PathBuf>> {
        let held = self.held().map_err(|error| unreadable(&self.root, error))?;
        let is_fan_out = |directory: &Path| {
            directory
                .parent()
                .is_none_or(|above| above.as_os_str().is_empty())
        };
        for directory in Path::new(path)
            .ancestors()
            .skip(1)
            .take_while(|directory| !is_fan_out(directory))
        {
            match rustix::fs::unlinkat(held, directory, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                // Not empty, or removing it is not permitted. The latter does not keep the orphan
                // from being settled.
                Err(_) => return Ok(Some(directory.to_owned())),
            }
        }
        Ok(None)
    }

    pub(super) fn check_removed(&self, path: &str) -> Result<()> {
        let held = self.held().map_err(|error| unreadable(&self.root, error))?;
        // Not followed: a dangling symbolic link is an existing file, too.
        match rustix::fs::statat(held, path, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(error) => Err(unreadable(&self.root.join(path), error.into())),
            Ok(_) => {
                let message = format!("a deleted file is still in the blob tier: path={path}");
                Err(Error::new(ErrorKind::Unavailable, "delete", message))
            }
        }
    }

    pub(super) fn sync_now(
        &self,
        directory: &Directory,
        path: &Path,
        if_missing: IfMissing,
    ) -> Result<()> {
        // Read before the sync begins: tickets taken later are for entries that this sync may miss.
        let covered = directory.tickets.load(Ordering::Acquire);
        let opened = self.open(path);
        let path = &self.root.join(path);
        match (opened, if_missing) {
            (Ok(opened), IfMissing::Fail | IfMissing::Ignore) => {
                self.syncs.fetch_add(1, Ordering::Relaxed);
                if let Err(error) = sync_directory(&opened) {
                    return Err(directory
                        .failed
                        .get_or_init(|| unsynced(path, error))
                        .clone());
                }
            }
            (Err(error), IfMissing::Ignore) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(());
            }
            (Err(error), IfMissing::Fail | IfMissing::Ignore) => return Err(unsynced(path, error)),
        }
        directory.synced.fetch_max(covered, Ordering::AcqRel);
        Ok(())
    }

    /// Syncs a directory above the root. A directory that may not be read is skipped: processes of
    /// this user have not created it.
    pub(super) fn sync_above(&self, root: &Directory, path: &Path) -> Result<()> {
        match File::open(path) {
            Ok(opened) => {
                self.syncs.fetch_add(1, Ordering::Relaxed);
                match sync_directory(&opened) {
                    // A read-only file system has no entries that this user could have created.
                    Err(error) if error.kind() != io::ErrorKind::ReadOnlyFilesystem => {
                        Err(root.failed.get_or_init(|| unsynced(path, error)).clone())
                    }
                    Ok(()) | Err(_) => Ok(()),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            Err(error) => Err(unsynced(path, error)),
        }
    }
}

/// Converts permission bits into the type of the operating system, which has 16 bits on some
/// platforms.
fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode(u16::try_from(bits).unwrap_or(0o700).into())
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    let message = format!(
        "the directory of the blob tier cannot be read: path={}",
        path.display()
    );
    Error::new(ErrorKind::Unavailable, "open", message).with_source(error)
}

fn unsynced(path: &Path, error: io::Error) -> Error {
    let message = format!(
        "a directory of the blob tier cannot be synced: path={}",
        path.display()
    );
    Error::new(ErrorKind::Unavailable, "sync", message).with_source(error)
}
