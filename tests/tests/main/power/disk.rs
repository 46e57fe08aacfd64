//! A disk whose power can be cut: [`PowerDisk`].
//!
//! ```text
//! tmpfs ── image file ── loop device ── ext4 or XFS     cut: the file system is shut down without
//!                                                       a flush of its log; its cached data and
//!                                                       the metadata in memory are lost
//!                                                       restart: unmount, mount, log recovery
//! ```
//!
//! The loop device itself loses nothing: a file system that forgets to flush its device is not
//! found out.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use cenotaph_tests::small_disk::{SmallDisk, mount};

/// Size of the file system. XFS needs 300 MiB.
const MIB: u64 = 600;
/// Shuts a file system down: `FS_IOC_SHUTDOWN` with the flag `NOLOGFLUSH`.
const SHUTDOWN: &str = "import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";

/// Kind of a file system.
#[derive(Clone, Copy, Debug)]
pub(super) enum FileSystem {
    Ext4,
    Xfs,
}

/// A mounted file system on an image file. Dropping this value unmounts it.
pub(super) struct PowerDisk {
    /// Disk of the image, and the mount point.
    home: SmallDisk,
}

impl FileSystem {
    fn make(self, image: &Path) -> io::Result<()> {
        match self {
            Self::Ext4 => run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(image)),
            Self::Xfs => run(Command::new("mkfs.xfs").args(["-q", "-f"]).arg(image)),
        }
    }
}

impl PowerDisk {
    /// Creates and mounts a disk. Returns `None` with a message if this machine can't do so, or
    /// can't shut a file system down.
    pub(super) fn new(kind: FileSystem) -> Option<Self> {
        let disk = Self {
            home: SmallDisk::new(u32::try_from(MIB + 64).unwrap())?,
        };
        let skipped = match disk.make(kind) {
            Ok(()) => return Some(disk),
            Err(error) => error,
        };
        // Not `eprintln!`, which the test harness hides.
        let _ = writeln!(io::stderr(), "SKIPPED: power cuts on {kind:?}: {skipped}");
        None
    }

    fn make(&self, kind: FileSystem) -> io::Result<()> {
        File::create(self.image())?.set_len(MIB * 1024 * 1024)?;
        kind.make(&self.image())?;
        fs::create_dir(self.path())?;
        self.mount()?;
        self.shut_down()?;
        unmount(&self.path())?;
        self.mount()
    }

    /// Returns the root directory of the file system.
    pub(super) fn path(&self) -> PathBuf {
        self.home.path().join("mounted")
    }

    fn image(&self) -> PathBuf {
        self.home.path().join("image")
    }

    fn mount(&self) -> io::Result<()> {
        let image = self.image();
        let arguments = ["-o", "loop", image.to_str().expect("a path of ours")];
        if mount(&arguments, &self.path()) {
            Ok(())
        } else {
            Err(io::Error::other("mount -o loop failed"))
        }
    }

    /// Cuts the power: no write reaches the disk from now on.
    pub(super) fn cut(&self) {
        self.shut_down().expect("it worked at the creation");
    }

    fn shut_down(&self) -> io::Result<()> {
        let mut xfs_io = Command::new("xfs_io");
        xfs_io.args(["-x", "-c", "shutdown"]);
        let mut python = Command::new("python3");
        python.args(["-c", SHUTDOWN]);
        for mut program in [xfs_io, python] {
            // Programs may succeed without effect, so that the effect counts.
            let _ = run(program.arg(self.path()));
            if File::create(self.path().join("after the cut")).is_err() {
                return Ok(());
            }
        }
        let message = "neither xfs_io nor python3 shuts the file system down";
        Err(io::Error::other(message))
    }

    /// Mounts the file system again after a cut. No file on it may be open.
    pub(super) fn restart(&self) {
        unmount(&self.path()).unwrap();
        self.mount().unwrap();
    }

    /// Copies all files to a directory on another disk.
    pub(super) fn copy_to(&self, to: &Path) {
        let _ = run(Command::new("cp").arg("-a").arg(self.path()).arg(to));
    }
}

impl Drop for PowerDisk {
    fn drop(&mut self) {
        // Lazy: a failed test may still have files open.
        let _ = run(Command::new("umount").arg("-l").arg(self.path()));
    }
}

fn unmount(path: &Path) -> io::Result<()> {
    run(Command::new("umount").arg(path))
}

fn run(command: &mut Command) -> io::Result<()> {
    let program = command.get_program().to_owned();
    let failed = |why: &str| io::Error::other(format!("{}: {why}", program.display()));
    let output = command
        .output()
        .map_err(|error| failed(&error.to_string()))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(failed(&String::from_utf8_lossy(&output.stderr)))
    }
}
