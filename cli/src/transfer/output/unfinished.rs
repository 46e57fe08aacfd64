//! Temporary files of unfinished outputs, named `.cenotaph-XXXXXX.part`: creation, recognition, and
//! removal after a killed process.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use tempfile::NamedTempFile;

const PREFIX: &str = ".cenotaph-";
const SUFFIX: &str = ".part";
/// Number of random characters between prefix and suffix.
const RANDOM: usize = 6;

/// Creates a temporary file and locks it.
pub(super) fn create(dir: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    // The mode of a newly created file, reduced by the umask. tempfile's default is 0600.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let file = builder
        .prefix(PREFIX)
        .suffix(SUFFIX)
        .rand_bytes(RANDOM)
        .tempfile_in(dir)?;
    match file.as_file().try_lock() {
        // On a file system without locks no process can lock the file, so none removes it.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
        // Another process removes the file in this moment: see `remove_abandoned`.
        Err(TryLockError::WouldBlock) => Err(io::Error::other(
            "the new file is locked by another process",
        )),
    }
}

/// Returns whether this is the name of a temporary file.
pub(crate) fn is_unfinished(name: &OsStr) -> bool {
    let random = name
        .to_str()
        .and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX));
    random.is_some_and(|random| {
        random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// Removes the temporary files of a directory that no process writes any more. Errors are ignored:
/// the next call tries again.
pub(crate) fn remove_abandoned(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    let abandoned = entries
        .flatten()
        .filter(|entry| is_unfinished(&entry.file_name()));
    for entry in abandoned.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file())) {
        // The lock is held until the file is removed. A writer that has created the file but not
        // locked it yet finds it locked and fails, instead of writing to a removed file.
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
    fn only_generated_names_count_as_unfinished() {
        let dir = tempfile::tempdir().unwrap();
        let created = create(dir.path()).unwrap();
        assert!(is_unfinished(created.path().file_name().unwrap()));
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
    fn locked_file_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let locked = create(dir.path()).unwrap();
        let (_, abandoned) = create(dir.path()).unwrap().keep().unwrap();
        std::fs::write(dir.path().join("other.part"), b"x").unwrap();
        remove_abandoned(dir.path());
        assert!(locked.path().exists() && !abandoned.exists());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
