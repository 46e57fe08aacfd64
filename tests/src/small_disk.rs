//! A disk of a given size: a tmpfs, whose mount needs root.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A mounted tmpfs. Dropping this value unmounts it.
pub struct SmallDisk(TempDir);

impl SmallDisk {
    /// Mounts a disk, or returns `None` with a message if mounting is not permitted.
    pub fn new(mib: u32) -> Option<Self> {
        let disk = Self(TempDir::new().unwrap());
        let mounted = mount(
            &["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"],
            disk.path(),
        );
        if !mounted {
            // Not `eprintln!`, which the test harness hides.
            let _ = writeln!(
                io::stderr(),
                "SKIPPED: a small disk needs a mount, which needs root"
            );
            // Nothing was mounted, so `drop` must not unmount.
            disk.forget();
            return None;
        }
        Some(disk)
    }

    /// Returns the root directory of the disk.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Returns the directory for the store.
    pub fn store(&self) -> PathBuf {
        self.path().join("store")
    }

    /// Changes the size of the disk.
    pub fn resize(&self, mib: u32) {
        assert!(mount(&["-o", &format!("remount,size={mib}m")], self.path()));
    }

    /// Fills the disk to the last byte with a foreign file.
    pub fn fill(&self) {
        let mut file = File::create(self.path().join("theirs")).unwrap();
        let chunk = vec![7; 64 * 1024];
        let mut size = chunk.len();
        while size > 0 {
            match file.write(&chunk[..size]) {
                Ok(0) | Err(_) => size /= 2,
                Ok(_) => {}
            }
        }
    }

    /// Removes the foreign file.
    pub fn empty(&self) {
        fs::remove_file(self.path().join("theirs")).unwrap();
    }

    fn forget(self) {
        let this = std::mem::ManuallyDrop::new(self);
        drop(fs::remove_dir(this.0.path()));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazy unmount: a failed test may still have files open.
        drop(Command::new("umount").arg("-l").arg(self.path()).status());
    }
}

/// Mounts at this directory, with these arguments of `mount`. Returns `false` if that fails.
pub fn mount(arguments: &[&str], at: &Path) -> bool {
    Command::new("mount")
        .args(arguments)
        .arg(at)
        .output()
        .is_ok_and(|output| output.status.success())
}
