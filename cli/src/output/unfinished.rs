//! Files in the making by their names, `.cenotaph-XXXXXX.part`: created, recognised, and removed
//! where a killed process left them.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use tempfile::NamedTempFile;

const PREFIX: &str = ".cenotaph-";
const SUFFIX: &str = ".part";
/// Characters between them.
const RANDOM: usize = 6;

/// Creates one, and locks it.
pub(super) fn create(dir: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let file = builder
        .prefix(PREFIX)
        .suffix(SUFFIX)
        .rand_bytes(RANDOM)
        .tempfile_in(dir)?;
    match file.as_file().try_lock() {
        // A file system without locks: nobody can lock it, and nobody removes it.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(io::Error::other(
            "the new file is locked by another process",
        )),
    }
}

/// Returns whether a file of this name is one in the making.
pub(crate) fn is_unfinished(name: &OsStr) -> bool {
    let random = name
        .to_str()
        .and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX));
    random.is_some_and(|random| {
        random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// Removes those of a directory that nobody writes any more. One that can't be removed is left to
/// the next.
pub(crate) fn remove_abandoned(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    let abandoned = entries
        .flatten()
        .filter(|entry| is_unfinished(&entry.file_name()));
    for entry in abandoned.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file())) {
        // Locked until it is removed: its writer, if it begins just now, finds it locked and fails.
        let file = File::options().write(true).open(entry.path());
        if let Ok(file) = file
            && file.try_lock().is_ok()
        {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_as_they_are_made_count_as_unfinished() {
        let dir = tempfile::tempdir().unwrap();
        let made = create(dir.path()).unwrap();
        assert!(is_unfinished(made.path().file_name().unwrap()));
        for other in [
            ".cenotaph-.part",
            ".cenotaph-abcdefg.part",
            ".cenotaph-abc.ef.part",
            "cenotaph-abcdef.part",
            "part",
        ] {
            assert!(!is_unfinished(OsStr::new(other)), "{other}");
        }
    }

    #[test]
    fn a_file_that_is_being_written_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let made = create(dir.path()).unwrap();
        let (_, abandoned) = create(dir.path()).unwrap().keep().unwrap();
        std::fs::write(dir.path().join("other.part"), b"x").unwrap();
        remove_abandoned(dir.path());
        assert!(made.path().exists() && !abandoned.exists());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
