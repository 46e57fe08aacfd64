//! Makes directory entries on the `fs` service durable: [`Directories`].
//!
//! OpenDAL syncs the file that it closes, but no directory: after a power cut the bytes might exist
//! without the name. [`Directories`] syncs the directory of a new blob, and every parent whose own
//! entry is not known to be durable. Guards I2 (a revision is finished only when its name is
//! durable) and I5 (a removal is settled only when it is durable).
//!
//! Callers share syncs, per directory:
//! 1. A caller takes a ticket after its file is closed (or removed).
//! 2. The caller waits for the directory's turn, a lock that is held during a sync.
//! 3. If a sync that began after the ticket was taken has succeeded, the caller is done. If a sync
//!    of the directory has ever failed, the caller receives its error.
//! 4. Otherwise the caller syncs for all tickets taken so far. The sync itself records its outcome,
//!    so that it counts even if the caller was dropped.
//!
//! After a failed sync the kernel may have dropped the data that it could not write, and the next
//! sync may succeed without writing it. So every later sync of that directory fails, until the
//! process ends.
//!
//! The root is held open, and its directories are opened relative to it. If the root is moved, or
//! its path names another directory (a mount that appeared or disappeared), syncs and checks still
//! reach the directory that was opened, and never the other directory (I11).
//!
//! New files and their directories are created here, because OpenDAL would create them with the
//! default modes.
//!
//! The fan-out is created as a whole before the first blob, so the number of directories does not
//! depend on the objects. A directory that may contain a file being written is never removed, so a
//! directory entry that is known to be durable remains durable. Only empty directories that earlier
//! builds created for long names are removed; no build that opens this store writes to them.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use futures::{StreamExt, TryStreamExt};

use super::failure::failed_on_disk;
use crate::env::Env;
use crate::modes::Modes;
use crate::types::{Error, Result};

mod on_disk;

/// Most directories whose state is kept in memory. Beyond this number, directories that no caller
/// is syncing are forgotten, and synced again when they are used. The fan-out has 256 directories.
/// Blobs of earlier builds with long names are in further directories.
const DIRECTORIES_MAX: usize = 1024;
/// Most directories that a call syncs at the same time.
const CONCURRENT_SYNCS: usize = 8;

/// The directories under a root, and the durability of their entries. Cheap to clone.
#[derive(Clone)]
pub struct Directories(Arc<Inner>);

struct Inner {
    root: PathBuf,
    /// The open root directory; empty before the first use.
    held: OnceLock<File>,
    env: Env,
    known: Mutex<BTreeMap<PathBuf, Arc<Directory>>>,
    /// Number of directory syncs.
    syncs: AtomicU64,
    /// True from the first call that creates the fan-out.
    fan_out_is_made: AtomicBool,
}

/// Sync state of a directory.
#[derive(Default)]
struct Directory {
    /// True if the entry of the directory in its parent is durable.
    entered: AtomicBool,
    /// Number of tickets taken.
    tickets: AtomicU64,
    /// Highest ticket that a successful sync covers.
    synced: AtomicU64,
    /// Error of the first failed sync, which all later syncs return.
    failed: OnceLock<Error>,
    /// Lock held during a sync.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// Outcome of a sync whose directory does not exist.
#[derive(Clone, Copy)]
enum IfMissing {
    /// An error: the entry that the sync should make durable does not exist.
    Fail,
    /// Success: the removed entries do not exist either.
    Ignore,
}

impl Directories {
    /// Creates a handle of the directories under `root`, which must exist.
    pub fn new(root: PathBuf, env: Env) -> Self {
        Self(Arc::new(Inner {
            root,
            held: OnceLock::new(),
            env,
            known: Mutex::default(),
            syncs: AtomicU64::new(0),
            fan_out_is_made: AtomicBool::new(false),
        }))
    }

    /// Returns the path of the root.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// Returns whether the path of the root still names the directory that is held open. The root
    /// is opened by the first method that accesses it.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) if the root cannot be opened.
    pub async fn is_in_place(&self) -> Result<bool> {
        let inner = self.0.clone();
        self.0
            .env
            .blocking_on_blobs(move || inner.is_in_place())
            .await?
    }

    /// Returns whether a file of this length exists at `path` in the root that is held open. `path`
    /// is relative to the root.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) if the root cannot be opened or
    /// the file system fails.
    pub async fn contains(&self, path: &str, bytes: u64) -> Result<bool> {
        let inner = self.0.clone();
        let path = path.to_owned();
        self.0
            .env
            .blocking_on_blobs(move || inner.contains(&path, bytes))
            .await?
    }

    /// Creates an empty file and its missing directories in the root that is held open. An existing
    /// file is not changed. `path` is relative to the root.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) if the file system fails.
    pub async fn create_file(&self, path: &str, modes: Modes) -> Result<()> {
        let inner = self.0.clone();
        let path = path.to_owned();
        let work = move || inner.create_file(Path::new(&path), modes);
        self.0
            .env
            .blocking_on_blobs(work)
            .await?
            .map_err(|error| failed_on_disk("write", error))
    }

    /// Creates the missing directories of the fan-out on the first call. A directory that cannot be
    /// created is logged only: creating a file in it creates the directory or fails.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) if the environment runs no more
    /// work.
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
            tracing::debug!(%error, "the fan-out of the blob tier could not be created");
        }
        Ok(())
    }

    /// Makes the directory entries of a closed file and of its directories durable. `path` is
    /// relative to the root.
    ///
    /// Dropping the returned future is safe. The entries may or may not be durable then.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) if a directory cannot be synced.
    /// The entries may or may not be durable then.
    pub async fn sync_file_entry(&self, path: &str) -> Result<()> {
        let Some(mut parent) = Path::new(path).parent() else {
            return Ok(());
        };
        self.sync(parent, IfMissing::Fail).await?;
        // Upwards, until an entry is known to be durable. A caller marks an entry only after it has
        // synced all directories above.
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
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) if a directory cannot be synced. A
    /// power cut may undo the removals in it then.
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

    /// Removes the empty directories of these files, from the lowest up to the fan-out, which
    /// stays. In directories that are not empty, makes the removal of the files durable. Paths are
    /// relative to the root. No file may be written to these directories.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) if the root cannot be opened, or a
    /// remaining directory cannot be synced.
    pub async fn remove_emptied(&self, paths: &[String]) -> Result<()> {
        if paths.is_empty() {
            return Ok(());
        }
        let inner = self.0.clone();
        let paths = paths.to_vec();
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

    /// Checks that none of these files exists in the root that is held open. Paths are relative to
    /// the root.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) if a file exists, or the file
    /// system fails.
    pub async fn check_removed(&self, paths: Vec<String>) -> Result<()> {
        let inner = self.0.clone();
        let work = move || paths.iter().try_for_each(|path| inner.check_removed(path));
        self.0.env.blocking_on_blobs(work).await?
    }

    /// Returns the number of directory syncs so far.
    pub fn syncs(&self) -> u64 {
        self.0.syncs.load(Ordering::Relaxed)
    }

    async fn sync(&self, path: &Path, if_missing: IfMissing) -> Result<()> {
        let directory = self.directory(path);
        let ticket = directory.tickets.fetch_add(1, Ordering::AcqRel) + 1;
        let turn = directory.turn.clone().lock_owned().await;
        // Checked after the wait: a sync that began after the ticket was taken covers this caller.
        if directory.synced.load(Ordering::Acquire) >= ticket {
            return Ok(());
        }
        if let Some(error) = directory.failed.get() {
            return Err(error.clone());
        }
        let inner = self.0.clone();
        let path = path.to_owned();
        let work = move || {
            // The turn is held until the sync ends, even if its caller is dropped before.
            let _turn = turn;
            inner.sync_now(&directory, &path, if_missing)
        };
        self.0.env.blocking_on_blobs(work).await?
    }

    /// Syncs the directories above the root. The root was created elsewhere, so its entry and those
    /// of its parents may not be durable.
    async fn sync_above_root(&self) -> Result<()> {
        let inner = self.0.clone();
        let root = self.directory(Path::new(""));
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
            // A directory whose sync failed is kept: forgetting the failure would allow a later
            // sync to succeed.
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
        // The map is consistent even if a holder panicked: each change is a single call.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
