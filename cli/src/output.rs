//! A file in the making: [`Output`] writes beside the target and renames, so that the target is the old file or the
//! whole new one.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cenotaph::Env;
use tempfile::NamedTempFile;

use crate::stamp::Stamp;

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
    /// To the target itself: it is a device or a pipe, which nothing may replace.
    Through(File),
}

impl Output {
    /// Begins a file, in a directory that is there.
    pub(crate) async fn create(env: &Env, target: &Path) -> io::Result<Self> {
        let target = target.to_owned();
        blocking(env, move || {
            if let Ok(metadata) = std::fs::metadata(&target)
                && !metadata.is_file()
                && !metadata.is_dir()
            {
                let writing = Writing::Through(File::options().write(true).open(&target)?);
                return Ok(Self { target, writing });
            }
            let dir = target.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let mut builder = tempfile::Builder::new();
            #[cfg(unix)]
            builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
            let file = builder.prefix(".cenotaph-").suffix(".part").tempfile_in(dir)?;
            Ok(Self { target, writing: Writing::Beside(file) })
        })
        .await
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
    pub(crate) async fn finish(self, env: &Env, stamp: Stamp, existing: Existing) -> io::Result<()> {
        blocking(env, move || {
            let Writing::Beside(file) = self.writing else { return Ok(()) };
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

/// Runs what may block where that stalls nobody.
pub(crate) async fn blocking<T: Send + 'static>(
    env: &Env,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    env.blocking(work).await.map_err(io::Error::other)?
}
