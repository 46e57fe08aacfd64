//! A file in the making: [`Output`] writes beside the target and renames, so that the target is the
//! old file or the whole new one.
//!
//! ```text
//! target                                    what is written
//! no file                                   a new file beside it, renamed
//! a file                                    the same; it gets the old one's mode and owner
//! a file whose owner can't be kept, or      the file itself
//! in a directory that can't be written
//! a device or a pipe                        the device or the pipe itself
//! a link                                    what it leads to, as above; a link of /proc: the open file itself
//! ```
//!
//! A file in the making is locked by its writer. One that nobody has locked was left by a process
//! that was killed, and is removed by the next that writes in its directory ([`unfinished`]).

pub(crate) mod unfinished;

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cenotaph::Env;
use tempfile::NamedTempFile;

use crate::stamp::Stamp;
use crate::standard;

/// Links that are followed one after the other, as many as Linux follows.
const LINKS_MAX: usize = 40;

/// Whether a file that is there already is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    /// It is.
    Replace,
    /// It is an error.
    Refuse,
}

/// A file in the making. Dropped unfinished, it leaves nothing behind.
pub(crate) struct Output {
    target: PathBuf,
    writing: Writing,
}

enum Writing {
    /// To a file beside the target.
    Beside(NamedTempFile),
    /// To the target itself.
    Through(File),
}

impl Output {
    /// Begins the file that this path leads to, in a directory that is there.
    pub(crate) async fn to(env: &Env, path: &Path) -> io::Result<Self> {
        let path = path.to_owned();
        blocking(env, move || Self::open(path)).await
    }

    /// Begins a file at this path itself, in a directory that is there. A link is not followed, but
    /// replaced.
    pub(crate) async fn at(env: &Env, path: &Path) -> io::Result<Self> {
        let path = path.to_owned();
        blocking(env, move || Self::beside(path)).await
    }

    fn open(path: PathBuf) -> io::Result<Self> {
        let target = match follow(path)? {
            Place::Path(target) => target,
            Place::Open(path) => {
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
            // The rename over a directory fails, as it should.
            Ok(_) => Self::beside(target),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                unfinished::remove_abandoned(directory(&target));
                Self::beside(target)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes beside a file that is there. The file itself where that is not allowed, or its owner
    /// can't be kept.
    fn replacing(target: PathBuf, there: &Metadata) -> io::Result<Self> {
        unfinished::remove_abandoned(directory(&target));
        let keeps = match unfinished::create(directory(&target)) {
            Ok(file) => take_after(file.as_file(), there).is_ok().then_some(file),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
            Err(error) => return Err(error),
        };
        match keeps {
            Some(file) => Ok(Self {
                target,
                writing: Writing::Beside(file),
            }),
            None => Self::through(target, File::options().write(true).truncate(true)),
        }
    }

    fn through(target: PathBuf, how: &OpenOptions) -> io::Result<Self> {
        let writing = Writing::Through(how.open(&target)?);
        Ok(Self { target, writing })
    }

    fn beside(target: PathBuf) -> io::Result<Self> {
        let file = unfinished::create(directory(&target))?;
        Ok(Self {
            target,
            writing: Writing::Beside(file),
        })
    }

    /// Appends.
    pub(crate) async fn write(self, env: &Env, bytes: Bytes) -> io::Result<Self> {
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

    /// Lets the file appear, with this mode and time.
    pub(crate) async fn finish(
        self,
        env: &Env,
        stamp: Stamp,
        existing: Existing,
    ) -> io::Result<()> {
        blocking(env, move || {
            let Writing::Beside(file) = self.writing else {
                return Ok(());
            };
            stamp.apply(file.as_file())?;
            let persisted = match existing {
                Existing::Replace => file.persist(&self.target),
                Existing::Refuse => file.persist_noclobber(&self.target),
            };
            persisted.map(drop).map_err(|error| error.error)
        })
        .await
    }
}

/// Where a path leads.
enum Place {
    /// To this path, which is no link.
    Path(PathBuf),
    /// Over a link of /proc to a file that is open, and may have no name.
    Open(PathBuf),
}

fn follow(mut path: PathBuf) -> io::Result<Place> {
    for _ in 0..LINKS_MAX {
        if !std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink()) {
            return Ok(Place::Path(path));
        }
        let dir = directory(&path).canonicalize()?;
        if dir.starts_with("/proc") {
            return Ok(Place::Open(dir.join(path.file_name().unwrap_or_default())));
        }
        path = dir.join(std::fs::read_link(&path)?);
    }
    Err(io::Error::other(format!("too many links: max={LINKS_MAX}")))
}

/// Opens a file of /proc/self/fd. Nothing is cut off: others may be writing to it.
fn open_again(path: &Path) -> io::Result<File> {
    let own = Path::new("/proc/self/fd/1");
    if path.file_name() == own.file_name()
        && path.parent()
            == own
                .parent()
                .and_then(|dir| dir.canonicalize().ok())
                .as_deref()
    {
        // Opened again it would have a position of its own, and overwrite what others write there.
        return standard::duplicate();
    }
    let is_file = std::fs::metadata(path)?.is_file();
    File::options().write(true).append(is_file).open(path)
}

fn directory(path: &Path) -> &Path {
    path.parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Gives a new file the owner and the mode of the one that it replaces. Bits such as setuid are not
/// kept: other bytes are another program.
#[cfg(unix)]
fn take_after(file: &File, there: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (there.uid(), there.gid()) {
        std::os::unix::fs::fchown(file, Some(there.uid()), Some(there.gid()))?;
    }
    file.set_permissions(std::fs::Permissions::from_mode(there.mode() & 0o777))
}

#[cfg(not(unix))]
fn take_after(_file: &File, _there: &Metadata) -> io::Result<()> {
    Ok(())
}

/// Runs what may block where that stalls nobody.
pub(crate) async fn blocking<T: Send + 'static>(
    env: &Env,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    env.blocking(work).await.map_err(io::Error::other)?
}
