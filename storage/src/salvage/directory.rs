//! Directories of a salvage.
//!
//! ```text
//! OLD/index               read, never written
//! NEW/salvaging/copy      a copy of OLD/index, removed at the end
//! NEW/salvaging/index     the unfinished new index
//! NEW/index               the new index, renamed to this path when it is complete
//! ```
//!
//! Guards that an interrupted salvage leaves no incomplete index: the salvage can be run again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::directory_sync::sync_directory_at;
use crate::env::Env;
use crate::index::fjall::{FjallIndex, FjallOptions, IndexCopy};
use crate::modes::Modes;
use crate::types::{Error, ErrorKind, Result};

const INDEX: &str = "index";
const SALVAGING: &str = "salvaging";

/// Directories of a salvage. All methods block on the disk: call them through [`Env::blocking`].
#[derive(Clone, Debug)]
pub struct SalvageDirectory {
    old: PathBuf,
    new: PathBuf,
}

impl SalvageDirectory {
    /// Checks that `old` contains a store and `new` contains none, and creates `new`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if `old` contains no index, `new` contains files other than those of
    /// a salvage, or one of the directories contains the other; [`ErrorKind::Unavailable`] if the
    /// file system fails.
    pub fn prepare(old: &Path, new: &Path) -> Result<Self> {
        let invalid = |message: String| Err(Error::new(ErrorKind::Invalid, "salvage", message));
        if !old.join(INDEX).is_dir() {
            return invalid(format!("there is no store here: old={}", old.display()));
        }
        Modes::default()
            .create_dir_all(new)
            .map_err(|error| failed("create", new, error))?;
        let canonical =
            |path: &Path| fs::canonicalize(path).map_err(|error| failed("find", path, error));
        let old = canonical(old)?;
        let new = canonical(new)?;
        if new.starts_with(&old) || old.starts_with(&new) {
            return invalid(format!(
                "one directory contains the other: old={} new={}",
                old.display(),
                new.display()
            ));
        }
        for entry in fs::read_dir(&new).map_err(|error| failed("list", &new, error))? {
            let name = entry
                .map_err(|error| failed("list", &new, error))?
                .file_name();
            if name != SALVAGING {
                let message = format!(
                    "the new directory is not empty: new={} file={:?}",
                    new.display(),
                    name
                );
                return invalid(message);
            }
        }
        // The remains of an interrupted salvage.
        remove(&new.join(SALVAGING))?;
        Ok(Self { old, new })
    }

    /// Returns the blob tier of the old store, if it is a directory in `old`.
    pub fn old_blobs(&self) -> Option<PathBuf> {
        Some(self.old.join("blobs")).filter(|blobs| blobs.is_dir())
    }

    /// Opens a copy of the old index for reads only.
    ///
    /// # Errors
    /// As [`FjallIndex::open_copy`].
    pub fn open_old(&self, env: Env) -> Result<IndexCopy> {
        FjallIndex::open_copy(
            &self.old.join(INDEX),
            &self.new.join(SALVAGING).join("copy"),
            env,
        )
    }

    /// Creates the new index.
    ///
    /// # Errors
    /// As [`FjallIndex::open`].
    pub fn create_new(&self, env: Env) -> Result<FjallIndex> {
        FjallIndex::open(
            &self.new.join(SALVAGING).join(INDEX),
            env,
            FjallOptions::default(),
        )
    }

    /// Moves the closed new index to its final path, and removes the copy of the old index.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the file system fails.
    pub fn finish(&self) -> Result<()> {
        let made = self.new.join(SALVAGING).join(INDEX);
        let index = self.new.join(INDEX);
        fs::rename(&made, &index).map_err(|error| failed("rename", &made, error))?;
        // The index must be durable under its final name before the copy is removed.
        sync_directory_at(&self.new).map_err(|error| failed("sync", &self.new, error))?;
        remove(&self.new.join(SALVAGING))
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path, error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn failed(verb: &str, path: &Path, error: io::Error) -> Error {
    let message = format!("failed to {verb}: path={}", path.display());
    Error::new(ErrorKind::Unavailable, "salvage", message).with_source(error)
}
