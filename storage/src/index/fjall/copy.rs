//! A copy of an index, opened to be read: what a salvage reads of a damaged one.
//!
//! The original is locked and read, and not a byte of it is written. fjall opens the copy without background threads: a
//! compaction would meet the damage and stop it. Deliberately not here: what is copied out of it (`crate::salvage`).

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;

use super::creation::{self, LOCK};
use super::{FjallIndex, FjallOptions};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};

impl FjallIndex {
    /// Copies the index in `dir` to the directory `to`, which must not exist, and opens the copy for reads. It needs as
    /// much space as the original. Blocks for the disk: call it through [`Env::blocking`].
    ///
    /// # Errors
    /// - [`ErrorKind::Invalid`] if there is no index in `dir`;
    /// - [`ErrorKind::AlreadyOpen`] if an engine has it open;
    /// - [`ErrorKind::Corrupt`] if it is so damaged that its tables can't be found;
    /// - [`ErrorKind::Unavailable`] if the file system fails.
    pub fn open_copy(dir: &Path, to: &Path, env: Env) -> Result<Self> {
        let _lock = lock(dir)?;
        copy_tree(dir, to).map_err(|error| {
            let message = format!("the index can't be copied: from={} to={}", dir.display(), to.display());
            Error::new(ErrorKind::Unavailable, "salvage", message).with_source(error)
        })?;
        Self::open_with(to, env, FjallOptions::default(), 0)
    }
}

/// Keeps engines away from an index while its files are read.
fn lock(dir: &Path) -> Result<Option<File>> {
    if !creation::is_index(dir)? {
        let message = format!("there is no index here: dir={}", dir.display());
        return Err(Error::new(ErrorKind::Invalid, "salvage", message));
    }
    let file = match File::open(dir.join(LOCK)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unavailable(dir, error)),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            let message = format!("an engine has the index open: close it first: dir={}", dir.display());
            Err(Error::new(ErrorKind::AlreadyOpen, "salvage", message))
        }
        Err(TryLockError::Error(error)) => Err(unavailable(dir, error)),
    }
}

fn unavailable(dir: &Path, error: io::Error) -> Error {
    let message = format!("the index can't be locked: dir={}", dir.display());
    Error::new(ErrorKind::Unavailable, "salvage", message).with_source(error)
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_tree(&source, &target)?;
        } else {
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}
