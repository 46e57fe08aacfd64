//! Permission bits of the directories and files that a store creates: [`Modes`].
//!
//! ```text
//! created by this crate   the creating call sets the mode, so no file ever has a wider mode
//! created by a library    fjall's first files: narrowed before the new index gets its name
//!                         blobs: created empty by this crate, then filled by OpenDAL
//! ```
//!
//! The umask of the process, which this crate never changes, removes further bits. Existing files
//! keep their modes. Modes have no effect on platforms other than Unix.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::types::{Error, ErrorKind, Result};

/// Permission bits of new directories and files. In a configuration they are strings of octal
/// digits, such as `"0700"`.
///
/// ```
/// let json = r#"{ "directory": "0750", "file": "0640" }"#;
/// let modes: cenotaph_storage::Modes = serde_json::from_str(json)?;
/// assert_eq!((modes.directory, modes.file), (0o750, 0o640));
/// assert_eq!(cenotaph_storage::Modes::default().directory, 0o700);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Modes {
    /// Bits of a new directory, `0o700` to `0o777`. The default `0o700` gives access to the owner
    /// only.
    #[serde(with = "octal")]
    pub directory: u32,
    /// Bits of a new file, `0o600` to `0o666`. Default `0o600`.
    #[serde(with = "octal")]
    pub file: u32,
}

impl Default for Modes {
    fn default() -> Self {
        Self {
            directory: 0o700,
            file: 0o600,
        }
    }
}

impl Modes {
    /// Checks that the owner has access, and that the bits are valid permissions of a directory and
    /// a file. `field` is the name of the setting in the error.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if a mode is out of its range.
    pub fn check(&self, field: &str) -> Result<()> {
        let wrong = |name: &str, mode: u32, least: u32, most: u32| {
            // The owner needs all bits of `least`, and bits outside of `most` are not permissions.
            let is_wrong = mode & least != least || mode & !most != 0;
            is_wrong.then(|| {
                format!("{field}.{name} must be from 0{least:o} to 0{most:o}: {name}=0{mode:o}")
            })
        };
        let directory = wrong("directory", self.directory, 0o700, 0o777);
        match directory.or_else(|| wrong("file", self.file, 0o600, 0o666)) {
            Some(message) => Err(Error::new(ErrorKind::Invalid, "open", message)),
            None => Ok(()),
        }
    }

    /// Creates a directory and its missing parents.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn create_dir_all(self, path: &Path) -> io::Result<()> {
        self.directories().recursive(true).create(path)
    }

    /// Creates a directory.
    ///
    /// # Errors
    /// Errors of the file system; also if the parent is missing or the directory exists.
    pub(crate) fn create_dir(self, path: &Path) -> io::Result<()> {
        self.directories().create(path)
    }

    /// Returns options that create a file with its mode.
    #[cfg_attr(not(unix), expect(clippy::unused_self, reason = "there are no modes"))]
    pub(crate) fn file_options(self) -> OpenOptions {
        let mut options = OpenOptions::new();
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, self.file);
        options
    }

    /// Creates a file or truncates an existing file, and opens it for writing.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn create_file(self, path: &Path) -> io::Result<fs::File> {
        self.file_options()
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
    }

    /// Removes excess permission bits from a directory that was just created and from everything
    /// below it.
    ///
    /// # Errors
    /// Errors of the file system. A file system without permission bits is not an error.
    pub(crate) fn narrow_tree(self, dir: &Path) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            // Symbolic links are skipped: their targets may be outside of the directory.
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.narrow_tree(&entry.path())?;
            } else if kind.is_file() {
                narrow(&entry.path(), self.file)?;
            }
        }
        narrow(dir, self.directory)
    }

    #[cfg_attr(not(unix), expect(clippy::unused_self, reason = "there are no modes"))]
    fn directories(self) -> DirBuilder {
        let mut builder = DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, self.directory);
        builder
    }
}

#[cfg(unix)]
fn narrow(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut permissions = fs::metadata(path)?.permissions();
    let found = permissions.mode();
    if found & 0o777 & !mode == 0 {
        return Ok(());
    }
    // The bits above 0o777 (setuid, setgid, sticky) are kept.
    permissions.set_mode(found & (mode | 0o7000));
    match fs::set_permissions(path, permissions) {
        // FAT and many network shares store no modes; they report a mode of the mount options.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported
            ) =>
        {
            let path = path.display();
            tracing::warn!(%error, %path, "the file system does not store permission bits");
            Ok(())
        }
        narrowed => narrowed,
    }
}

#[cfg(not(unix))]
fn narrow(_: &Path, _: u32) -> io::Result<()> {
    Ok(())
}

/// Serialization of modes as strings of octal digits.
mod octal {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes a reference"
    )]
    pub(super) fn serialize<S: Serializer>(mode: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{mode:04o}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        // Both `0700` and `0o700` are accepted.
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        u32::from_str_radix(text.trim_start_matches("0o"), 8).map_err(|_| {
            D::Error::custom(format_args!(
                "expected an octal mode such as \"0700\": found={text:?}"
            ))
        })
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path)
            .expect("the path exists")
            .permissions()
            .mode()
            & 0o777
    }

    #[test]
    fn modes_without_owner_access_are_invalid() {
        Modes::default().check("index.modes").unwrap();
        Modes {
            directory: 0o777,
            file: 0o666,
        }
        .check("index.modes")
        .unwrap();
        for wrong in [
            Modes {
                directory: 0o600,
                ..Modes::default()
            },
            Modes {
                directory: 0o1700,
                ..Modes::default()
            },
            Modes {
                file: 0o400,
                ..Modes::default()
            },
            Modes {
                file: 0o700,
                ..Modes::default()
            },
        ] {
            let error = wrong.check("index.modes").unwrap_err();
            assert!(
                error.kind() == ErrorKind::Invalid && error.to_string().contains("index.modes."),
                "{error}"
            );
        }
    }

    #[test]
    fn narrowing_removes_bits_and_adds_none() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        let wide = dir.path().join("inner/wide");
        let close = dir.path().join("close");
        fs::create_dir(&inner).unwrap();
        fs::write(&wide, b"").unwrap();
        fs::write(&close, b"").unwrap();
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&wide, fs::Permissions::from_mode(0o664)).unwrap();
        fs::set_permissions(&close, fs::Permissions::from_mode(0o400)).unwrap();
        Modes {
            directory: 0o750,
            file: 0o640,
        }
        .narrow_tree(dir.path())
        .unwrap();
        assert_eq!(
            (mode(&inner), mode(&wide), mode(&close)),
            (0o750, 0o640, 0o400)
        );
    }

    #[test]
    fn modes_are_octal_in_configurations() {
        let modes = Modes {
            directory: 0o750,
            ..Modes::default()
        };
        let json = serde_json::to_string(&modes).unwrap();
        assert_eq!(json, r#"{"directory":"0750","file":"0600"}"#);
        assert_eq!(serde_json::from_str::<Modes>(&json).unwrap(), modes);
        assert!(serde_json::from_str::<Modes>(r#"{"file":"0689"}"#).is_err());
    }
}
