//! [`Output`], a file that replaces its target atomically where the file system permits it.
//!
//! ```text
//! target                                written file
//! absent                                a temporary file in the directory, renamed at the end
//! regular file                          the same; it gets the mode and owner of the old file
//! regular file whose owner can't be     the target itself
//!   kept, or whose directory is
//!   not writable
//! device or pipe                        the target itself
//! symbolic link                         its destination, as above
//! link of /proc to an open file         the open file itself
//! ```
//!
//! Invariant: with a temporary file the target is the old file or the complete new file. A writer
//! locks its temporary file. An unlocked temporary file is a remnant of a killed process; the next
//! writer in the directory removes it ([`unfinished`]).

pub(crate) mod unfinished;

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cenotaph::Env;
use tempfile::NamedTempFile;

use crate::transfer::file_metadata::FileMetadata;
use crate::ui::standard;

/// Longest chain of symbolic links that is followed; the limit of Linux.
const LINKS_MAX: usize = 40;

/// Treatment of an existing target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExistingTarget {
    /// The target is replaced.
    Replace,
    /// An existing target is an error.
    Refuse,
}

/// A file that is being written. If it is dropped before [`finish`](Self::finish), its temporary
/// file is removed.
pub(crate) struct Output {
    target: PathBuf,
    writing: Writing,
}

/// Destination of the bytes.
enum Writing {
    /// A temporary file in the directory of the target.
    Beside(NamedTempFile),
    /// The target itself.
    Through(File),
}

impl Output {
    /// Begins a file at `path`, whose directory must exist. Symbolic links are followed.
    pub(crate) async fn to(env: &Env, path: &Path) -> io::Result<Self> {
        let path = path.to_owned();
        blocking(env, move || Self::open(path)).await
    }

    /// Begins a file at `path`, whose directory must exist. A symbolic link is replaced, not
    /// followed.
    pub(crate) async fn at(env: &Env, path: &Path) -> io::Result<Self> {
        let path = path.to_owned();
        blocking(env, move || Self::beside(path)).await
    }

    /// Begins the file that `path` leads to.
    fn open(path: PathBuf) -> io::Result<Self> {
        let target = match follow(path)? {
            OutputPlace::Path(target) => target,
            OutputPlace::Open(path) => {
                let writing = Writing::Through(open_again(&path)?);
                return Ok(Self {
                    target: path,
                    writing,
                });
            }
        };
        match std::fs::metadata(&target) {
            Ok(there) if there.is_file() => Self::replacing(target, &there),
            Ok(there) if !there.is_dir() => Self::through(target, File::options().write(true)),
            // The target is a directory: the rename at the end fails with a fitting error.
            Ok(_) => Self::beside(target),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                unfinished::remove_abandoned(directory(&target));
                Self::beside(target)
            }
            Err(error) => Err(error),
        }
    }

    /// Begins the replacement of an existing regular file.
    fn replacing(target: PathBuf, existing: &Metadata) -> io::Result<Self> {
        unfinished::remove_abandoned(directory(&target));
        let temporary = match unfinished::create(directory(&target)) {
            Ok(file) => copy_owner_and_mode(file.as_file(), existing)
                .is_ok()
                .then_some(file),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
            Err(error) => return Err(error),
        };
        match temporary {
            Some(file) => Ok(Self {
                target,
                writing: Writing::Beside(file),
            }),
            // Not atomic, but the only way that keeps the owner of the file.
            None => Self::through(target, File::options().write(true).truncate(true)),
        }
    }

    /// Begins a write to the target itself.
    fn through(target: PathBuf, options: &OpenOptions) -> io::Result<Self> {
        let writing = Writing::Through(options.open(&target)?);
        Ok(Self { target, writing })
    }

    /// Begins a write to a temporary file in the directory of the target.
    fn beside(target: PathBuf) -> io::Result<Self> {
        let file = unfinished::create(directory(&target))?;
        Ok(Self {
            target,
            writing: Writing::Beside(file),
        })
    }

    /// Appends bytes and returns the file.
    pub(crate) async fn write(self, env: &Env, bytes: Bytes) -> io::Result<Self> {
        // Moved into the closure and back: if the caller is cancelled, the write still finishes and
        // the temporary file is removed afterwards.
        blocking(env, move || {
            let mut output = self;
            match &mut output.writing {
                Writing::Beside(file) => file.as_file_mut().write_all(&bytes)?,
                Writing::Through(file) => file.write_all(&bytes)?,
            }
            Ok(output)
        })
        .await
    }

    /// Sets mode and time of a temporary file, and renames it to the target.
    pub(crate) async fn finish(
        self,
        env: &Env,
        file_metadata: FileMetadata,
        existing: ExistingTarget,
    ) -> io::Result<()> {
        blocking(env, move || {
            let Writing::Beside(file) = self.writing else {
                return Ok(());
            };
            // Before the rename, so that the target never appears with another mode or time.
            file_metadata.apply(file.as_file())?;
            let persisted = match existing {
                ExistingTarget::Replace => file.persist(&self.target),
                // Fails if a file has appeared at the target since the caller checked it.
                ExistingTarget::Refuse => file.persist_noclobber(&self.target),
            };
            persisted.map(drop).map_err(|error| error.error)
        })
        .await
    }
}

/// Destination of a path.
enum OutputPlace {
    /// A path that is not a symbolic link.
    Path(PathBuf),
    /// A link of /proc to an open file, which may have no name.
    Open(PathBuf),
}

/// Follows symbolic links up to a path that is none, or up to a link of /proc.
///
/// # Errors
/// An error after [`LINKS_MAX`] links, and errors of reading a link.
fn follow(mut path: PathBuf) -> io::Result<OutputPlace> {
    for _ in 0..LINKS_MAX {
        if !std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink()) {
            return Ok(OutputPlace::Path(path));
        }
        let dir = directory(&path).canonicalize()?;
        // The text of such a link may be no path (`pipe:[..]`); only an open of the link itself
        // reaches the file.
        if dir.starts_with("/proc") {
            return Ok(OutputPlace::Open(
                dir.join(path.file_name().unwrap_or_default()),
            ));
        }
        path = dir.join(std::fs::read_link(&path)?);
    }
    Err(io::Error::other(format!("too many links: max={LINKS_MAX}")))
}

/// Opens a file of /proc/self/fd without truncating it: other processes may be writing to it.
fn open_again(path: &Path) -> io::Result<File> {
    let own = Path::new("/proc/self/fd/1");
    if path.file_name() == own.file_name()
        && path.parent()
            == own
                .parent()
                .and_then(|dir| dir.canonicalize().ok())
                .as_deref()
    {
        // A second open would have a position of its own, and overwrite the output of other
        // processes. A duplicate shares the position.
        return standard::duplicate();
    }
    let is_file = std::fs::metadata(path)?.is_file();
    File::options().write(true).append(is_file).open(path)
}

/// Returns the directory of a path; `.` for a plain name.
fn directory(path: &Path) -> &Path {
    path.parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Copies owner and permission bits of the replaced file to the new file.
#[cfg(unix)]
fn copy_owner_and_mode(file: &File, existing: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (existing.uid(), existing.gid()) {
        std::os::unix::fs::fchown(file, Some(existing.uid()), Some(existing.gid()))?;
    }
    // Setuid, setgid and sticky bits are dropped: the new bytes are not the program that got them.
    file.set_permissions(std::fs::Permissions::from_mode(existing.mode() & 0o777))
}

#[cfg(not(unix))]
fn copy_owner_and_mode(_file: &File, _existing: &Metadata) -> io::Result<()> {
    Ok(())
}

/// Runs blocking work on a thread for blocking calls.
pub(crate) async fn blocking<T: Send + 'static>(
    env: &Env,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    env.blocking(work).await.map_err(io::Error::other)?
}
