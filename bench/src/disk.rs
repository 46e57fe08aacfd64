//! The directory of a run, and the bytes that the process has written to disks.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// Type of tmpfs in the result of `statfs`.
const TMPFS: i64 = 0x0102_1994;

/// Directory for the stores of all contenders. Removed on drop.
pub(crate) struct Scratch(TempDir);

impl Scratch {
    /// Creates the directory below `parent`, or below a directory for temporary files that is on a
    /// disk.
    pub(crate) fn new(parent: Option<&Path>) -> Self {
        let temporary = [std::env::temp_dir(), PathBuf::from("/var/tmp")];
        let on_disk = || temporary.iter().find(|dir| dir.exists() && !is_tmpfs(dir));
        let parent = parent
            .or_else(|| on_disk().map(PathBuf::as_path))
            .expect("no directory for temporary files is on a disk: name one with --dir");
        if is_tmpfs(parent) {
            eprintln!("warning: a sync on tmpfs costs nothing, so that the figures mean nothing");
        }
        Self(TempDir::with_prefix_in("cenotaph-bench-", parent).expect("the directory is writable"))
    }

    /// Creates an empty directory.
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir(&path).expect("the directory is writable");
        path
    }

    /// Removes all contents, and waits until the file system has written the removal.
    pub(crate) fn clear(&self) {
        for entry in fs::read_dir(self.0.path()).expect("the directory is readable") {
            let path = entry.expect("the directory is readable").path();
            fs::remove_dir_all(path).expect("the stores are closed");
        }
        let dir = File::open(self.0.path()).expect("the directory is readable");
        dir.sync_all().expect("the file system works");
    }
}

#[allow(
    clippy::unnecessary_cast,
    reason = "the type of the field differs between systems"
)]
fn is_tmpfs(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type as i64 == TMPFS)
}

/// Returns the bytes that this process has caused to be written, or `None` if the system does not
/// count them.
pub(crate) fn written_bytes() -> Option<u64> {
    let counters = fs::read_to_string("/proc/self/io").ok()?;
    let line = |line: &str| line.strip_prefix("write_bytes: ")?.trim().parse().ok();
    counters.lines().find_map(line)
}
