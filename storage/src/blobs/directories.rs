//! Durable directory entries on the `fs` service.
//!
//! OpenDAL syncs the file that it closes, and no directory: after a power cut the bytes would be
//! there and the name would not. [`Directories`] syncs the directory of a new blob, and every
//! parent whose own entry is not known to be durable. Guards I2 (a revision is finished only when
//! its name is durable too) and I5 (a removal is settled only when it is durable).
//!
//! Syncs are shared, per directory:
//! 1. A caller takes a ticket after its file is closed (or removed).
//! 2. It waits for the directory's turn, which one sync holds at a time.
//! 3. If a sync that began after its ticket was taken has succeeded meanwhile, it is done. If one
//!    has failed: error.
//! 4. Else it syncs for all tickets taken so far. The sync records its own outcome, so that it
//!    counts even if the caller is gone.
//!
//! After a failed sync the kernel may have dropped what it could not write and call the next sync a
//! success. So a directory that failed to sync once is never believed again by this process.
//!
//! The root is held open, and its directories are opened relative to it: a root that is moved, or
//! whose path names another directory since (a mount that came or went), is synced and looked into
//! all the same, and the other one is not (I11).
//!
//! New files and their directories are created here too, for OpenDAL would give them other modes.
//!
//! The fan-out is made as a whole before the first blob, so that the number of directories does not
//! depend on what is written. No directory is removed under a writer, which is why "known to be
//! durable" stays true: only those that earlier builds made for long names are removed, once they
//! are empty, and no build that opens this store writes there.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use futures::{StreamExt, TryStreamExt};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::failure::failed_on_disk;
use super::path::fan_out;
use crate::directory_sync::sync_directory;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::modes::Modes;

/// Most directories remembered; beyond it those that nobody is syncing are forgotten, and synced
/// afresh when they return. The fan-out takes 256, blobs of earlier builds with long names take
/// more.
const DIRECTORIES_MAX: usize = 1024;
/// Directories that one call syncs at a time.
const CONCURRENT_SYNCS: usize = 8;

/// Makes directory entries under one root durable. Cheap to clone.
#[derive(Clone)]
pub struct Directories(Arc<Inner>);

struct Inner {
    root: PathBuf,
    /// The root itself, from the first use on.
    held: OnceLock<File>,
    env: Env,
    known: Mutex<BTreeMap<PathBuf, Arc<Directory>>>,
    syncs: AtomicU64,
    /// True from the first call on that makes the fan-out.
    fan_out_is_made: AtomicBool,
}

/// What is known of one directory.
#[derive(Default)]
struct Directory {
    /// Its own entry in its parent is durable.
    entered: AtomicBool,
    /// Tickets taken.
    tickets: AtomicU64,
    /// Every ticket up to this one is covered by a sync that succeeded.
    synced: AtomicU64,
    /// Why its syncs are no longer believed.
    failed: OnceLock<Error>,
    /// Held by the sync under way.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// What a missing directory means.
#[derive(Clone, Copy)]
enum IfMissing {
    /// The entry that was to be made durable is gone.
    Fail,
    /// So is everything that was removed from it.
    Ignore,
}

impl Directories {
    /// The directories under `root`, which must exist.
    pub fn new(root: PathBuf, env: Env) -> Self {
        let (held, known, syncs) = (OnceLock::new(), Mutex::default(), AtomicU64::new(0));
        Self(Arc::new(Inner {
            root,
            held,
            env,
            known,
            syncs,
            fan_out_is_made: AtomicBool::new(false),
        }))
    }

    /// Where they are.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// Returns whether the path of the root still names the directory that is held open; it is from
    /// the first call on.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the root can't be opened.
    pub async fn is_in_place(&self) -> Result<bool> {
        let inner = self.0.clone();
        self.0
            .env
            .blocking_on_blobs(move || inner.is_in_place())
            .await?
    }

    /// Returns whether a file of this length lies there, in the directory that is held open. `path`
    /// is relative to the root.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the root can't be opened or the file system fails.
    pub async fn contains(&self, path: &str, bytes: u64) -> Result<bool> {
        let (inner, path) = (self.0.clone(), path.to_owned());
        self.0
            .env
            .blocking_on_blobs(move || inner.contains(&path, bytes))
            .await?
    }

    /// Creates an empty file, and the directories that it lacks, in the directory that is held
    /// open. A file that is there stays as it is. `path` is relative to the root.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the file system fails.
    pub async fn create_file(&self, path: &str, modes: Modes) -> Result<()> {
        let (inner, path) = (self.0.clone(), path.to_owned());
        let work = move || inner.create_file(Path::new(&path), modes);
        self.0
            .env
            .blocking_on_blobs(work)
            .await?
            .map_err(|error| failed_on_disk("write", error))
    }

    /// Makes what is missing of the fan-out, at the first call. What can't be made is no error: a
    /// file makes its directory, or fails.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if no work can be done any more.
    pub async fn make_fan_out(&self, modes: Modes) -> Result<()> {
        if self.0.fan_out_is_made.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let inner = self.0.clone();
        let made = self
            .0
            .env
            .blocking_on_blobs(move || inner.make_fan_out(modes))
            .await?;
        if let Err(error) = made {
            tracing::debug!(%error, "the fan-out of the blob tier could not be made");
        }
        Ok(())
    }

    /// Makes the directory entry of a closed file durable, and those of its directories. `path` is
    /// relative to the root.
    ///
    /// Dropping the returned future is safe: it has then promised nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if a directory can't be synced: the entry may or may not be
    /// durable.
    pub async fn sync_file_entry(&self, path: &str) -> Result<()> {
        let Some(mut parent) = Path::new(path).parent() else {
            return Ok(());
        };
        self.sync(parent, IfMissing::Fail).await?;
        // Upwards, until an entry is known to be durable: whoever found that out has synced all
        // that lies above.
        let mut entered = Vec::new();
        loop {
            let directory = self.directory(parent);
            if directory.entered.load(Ordering::Acquire) {
                break;
            }
            entered.push(directory);
            let Some(above) = parent.parent() else {
                self.sync_above_root().await?;
                break;
            };
            self.sync(above, IfMissing::Fail).await?;
            parent = above;
        }
        for directory in entered {
            directory.entered.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Makes the removal of these files durable. Paths are relative to the root.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if a directory can't be synced: the removals in it may be undone
    /// by a power cut.
    pub async fn sync_removed(
        &self,
        paths: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<()> {
        let mut parents: Vec<PathBuf> = paths
            .into_iter()
            .filter_map(|path| Path::new(path.as_ref()).parent().map(Path::to_owned))
            .collect();
        parents.sort_unstable();
        parents.dedup();
        self.sync_all(parents).await
    }

    /// Removes the directories of these files, from the lowest up to the fan-out, as far as they
    /// are empty. Makes the removal of the files from those that stay durable. Paths are relative
    /// to the root. No file may be written to such a directory.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the root can't be opened, or a directory that stays can't be
    /// synced.
    pub async fn remove_emptied(&self, paths: &[String]) -> Result<()> {
        if paths.is_empty() {
            return Ok(());
        }
        let (inner, paths) = (self.0.clone(), paths.to_vec());
        let work = move || {
            paths
                .iter()
                .filter_map(|path| inner.remove_emptied(path).transpose())
                .collect()
        };
        let staying: Result<BTreeSet<PathBuf>> = self.0.env.blocking_on_blobs(work).await?;
        self.sync_all(staying?).await
    }

    async fn sync_all(&self, directories: impl IntoIterator<Item = PathBuf>) -> Result<()> {
        futures::stream::iter(directories)
            .map(|directory| async move { self.sync(&directory, IfMissing::Ignore).await })
            .buffer_unordered(CONCURRENT_SYNCS)
            .try_collect()
            .await
    }

    /// Checks that none of these files lies in the directory that is held open. Paths are relative
    /// to the root.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if one does, or the file system fails.
    pub async fn check_removed(&self, paths: Vec<String>) -> Result<()> {
        let inner = self.0.clone();
        let work = move || paths.iter().try_for_each(|path| inner.check_removed(path));
        self.0.env.blocking_on_blobs(work).await?
    }

    /// Directory syncs done so far.
    pub fn syncs(&self) -> u64 {
        self.0.syncs.load(Ordering::Relaxed)
    }

    async fn sync(&self, path: &Path, if_missing: IfMissing) -> Result<()> {
        let directory = self.directory(path);
        let ticket = directory.tickets.fetch_add(1, Ordering::AcqRel) + 1;
        let turn = directory.turn.clone().lock_owned().await;
        if directory.synced.load(Ordering::Acquire) >= ticket {
            return Ok(());
        }
        if let Some(error) = directory.failed.get() {
            return Err(error.clone());
        }
        let (inner, path) = (self.0.clone(), path.to_owned());
        let work = move || {
            // The turn is over when the sync is, not when its caller has lost interest.
            let _turn = turn;
            inner.sync_now(&directory, &path, if_missing)
        };
        self.0.env.blocking_on_blobs(work).await?
    }

    /// The root was made by somebody else, and nobody may have synced its entry, or its parents'.
    async fn sync_above_root(&self) -> Result<()> {
        let (inner, root) = (self.0.clone(), self.directory(Path::new("")));
        let work = move || {
            inner
                .root
                .ancestors()
                .skip(1)
                .try_for_each(|above| inner.sync_above(&root, above))
        };
        self.0.env.blocking_on_blobs(work).await?
    }

    fn directory(&self, path: &Path) -> Arc<Directory> {
        let mut known = self.0.known();
        if known.len() >= DIRECTORIES_MAX && !known.contains_key(path) {
            // One that failed stays, however long it is idle: it must not be believed again.
            known.retain(|_, directory| {
                Arc::strong_count(directory) > 1 || directory.failed.get().is_some()
            });
        }
        match known.entry(path.to_owned()) {
            Entry::Occupied(directory) => directory.get().clone(),
            Entry::Vacant(place) => place.insert(Arc::default()).clone(),
        }
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.0.known().len()
    }
}

impl Inner {
    fn known(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Arc<Directory>>> {
        // The map is whole even if a holder panicked: each of its changes is a single call.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The root, opened once: everything below it is reached through this handle.
    fn held(&self) -> io::Result<&File> {
        if let Some(held) = self.held.get() {
            return Ok(held);
        }
        let opened = File::open(&self.root)?;
        Ok(self.held.get_or_init(|| opened))
    }

    fn open(&self, directory: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let path = if directory.as_os_str().is_empty() {
            Path::new(".")
        } else {
            directory
        };
        Ok(rustix::fs::openat(self.held()?, path, flags, Mode::empty())?.into())
    }

    fn make_fan_out(&self, modes: Modes) -> io::Result<()> {
        let held = self.held()?;
        let mut missing: BTreeSet<String> = fan_out().collect();
        for entry in Dir::read_from(held)? {
            if let Ok(name) = entry?.file_name().to_str() {
                missing.remove(name);
            }
        }
        for name in missing {
            match rustix::fs::mkdirat(held, name, mode(modes.directory)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn is_in_place(&self) -> Result<bool> {
        let held = self
            .held()
            .and_then(File::metadata)
            .map_err(|error| unreadable(&self.root, error))?;
        match std::fs::metadata(&self.root) {
            Ok(named) => Ok((named.dev(), named.ino()) == (held.dev(), held.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(unreadable(&self.root, error)),
        }
    }

    fn contains(&self, path: &str, bytes: u64) -> Result<bool> {
        let held = self.held().map_err(|error| unreadable(&self.root, error))?;
        match rustix::fs::statat(held, path, AtFlags::empty()) {
            Ok(found) => Ok(
                FileType::from_raw_mode(found.st_mode) == FileType::RegularFile
                    && u64::try_from(found.st_size) == Ok(bytes),
            ),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(error) => Err(unreadable(&self.root.join(path), error.into())),
        }
    }

    fn create_file(&self, path: &Path, modes: Modes) -> io::Result<()> {
        let held = self.held()?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        let create = || rustix::fs::openat(held, path, flags, mode(modes.file)).map(drop);
        match create() {
            Err(Errno::NOENT) => {}
            created => return Ok(created?),
        }
        let missing: Vec<&Path> = path
            .ancestors()
            .skip(1)
            .filter(|above| !above.as_os_str().is_empty())
            .collect();
        for directory in missing.into_iter().rev() {
            match rustix::fs::mkdirat(held, directory, mode(modes.directory)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(create()?)
    }

    /// The lowest directory of this file that is there and not empty, the fan-out left out.
    fn remove_emptied(&self, path: &str) -> Result<Option<PathBuf>> {
        let held = self.held().map_err(|error| unreadable(&self.root, error))?;
        let is_fan_out = |directory: &Path| {
            directory
                .parent()
                .is_none_or(|above| above.as_os_str().is_empty())
        };
        for directory in Path::new(path)
            .ancestors()
            .skip(1)
            .take_while(|directory| !is_fan_out(directory))
        {
            match rustix::fs::unlinkat(held, directory, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                // Not empty, or not ours to remove, which is no reason to keep the orphan.
                Err(_) => return Ok(Some(directory.to_owned())),
            }
        }
        Ok(None)
    }

    fn check_removed(&self, path: &str) -> Result<()> {
        let held = self.held().map_err(|error| unreadable(&self.root, error))?;
        match rustix::fs::statat(held, path, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(error) => Err(unreadable(&self.root.join(path), error.into())),
            Ok(_) => {
                let message = format!("a deleted file is still in the blob tier: path={path}");
                Err(Error::new(ErrorKind::Unavailable, "delete", message))
            }
        }
    }

    fn sync_now(&self, directory: &Directory, path: &Path, if_missing: IfMissing) -> Result<()> {
        let covered = directory.tickets.load(Ordering::Acquire);
        let opened = self.open(path);
        let path = &self.root.join(path);
        match (opened, if_missing) {
            (Ok(opened), IfMissing::Fail | IfMissing::Ignore) => {
                self.syncs.fetch_add(1, Ordering::Relaxed);
                if let Err(error) = sync_directory(&opened) {
                    return Err(directory
                        .failed
                        .get_or_init(|| unsynced(path, error))
                        .clone());
                }
            }
            (Err(error), IfMissing::Ignore) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(());
            }
            (Err(error), IfMissing::Fail | IfMissing::Ignore) => return Err(unsynced(path, error)),
        }
        directory.synced.fetch_max(covered, Ordering::AcqRel);
        Ok(())
    }

    /// A directory above the root that we may not read is none that our user's processes made.
    fn sync_above(&self, root: &Directory, path: &Path) -> Result<()> {
        match File::open(path) {
            Ok(opened) => {
                self.syncs.fetch_add(1, Ordering::Relaxed);
                match sync_directory(&opened) {
                    Err(error) if error.kind() != io::ErrorKind::ReadOnlyFilesystem => {
                        Err(root.failed.get_or_init(|| unsynced(path, error)).clone())
                    }
                    Ok(()) | Err(_) => Ok(()),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            Err(error) => Err(unsynced(path, error)),
        }
    }
}

/// Permission bits as the operating system takes them: 16 of them on some.
fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode(u16::try_from(bits).unwrap_or(0o700).into())
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    let message = format!(
        "the directory of the blob tier can't be read: path={}",
        path.display()
    );
    Error::new(ErrorKind::Unavailable, "open", message).with_source(error)
}

fn unsynced(path: &Path, error: io::Error) -> Error {
    let message = format!(
        "a directory of the blob tier can't be synced: path={}",
        path.display()
    );
    Error::new(ErrorKind::Unavailable, "sync", message).with_source(error)
}
