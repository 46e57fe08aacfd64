//! The directory of the index: its lock and its creation. Its record is in `record.rs`.
//!
//! ```text
//! {dir}/reserve           space that is released on a full disk (`reserve.rs`)
//! {dir}/lock              locked while the index is open, shared by readers (`view.rs`);
//!                         never renamed, never removed
//! {dir}/store/record.json keyspaces and version marker of the database
//! {dir}/store/record.new  an interrupted change of the record; ignored
//! {dir}/store/database/   files of fjall
//! {dir}/store/payloads/   segments of the payload log (`../payload_log/`)
//! {dir}/store/high-water  lower bound of the journals' contents (`mark.rs`)
//! {dir}/store/tails/      ends of journals that were cut off (`check.rs`)
//! {dir}/store.creating/   an interrupted creation; the next open removes it
//! ```
//!
//! Guards I9 when an index is created and opened: a crash during creation leaves nothing or a
//! complete store, and a damaged directory is refused before fjall opens it. fjall deletes a
//! keyspace without a `current` file, creates a new database if its version marker is missing, and
//! panics at an unknown directory name. `check.rs` finds damage inside files.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::check::{self, CheckedStore};
use super::record::{Keyspaces, RECORD, Record, check_tables, read_record, write_record};
use super::reserve::RESERVE;
use crate::directory_sync::sync_directory_at;
use crate::index::payload_log::PAYLOADS;
use crate::modes::Modes;
use crate::types::{Error, ErrorKind, Result};

pub(super) const LOCK: &str = "lock";
const STORE: &str = "store";
const CREATING: &str = "store.creating";
pub(super) const DATABASE: &str = "database";

// Names of fjall's files, which are checked before fjall opens the directory.
pub(super) const FJALL_MARKER: &str = "version";
const FJALL_KEYSPACES: &str = "keyspaces";
pub(super) const FJALL_META_KEYSPACE: u64 = 0;
const FJALL_CURRENT: &str = "current";
const FJALL_JOURNAL: &str = "jnl";

/// Lock of a directory against other engines, in this process and others. A drop releases it.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    /// Returns the lock that this file holds.
    pub(super) fn held(file: File) -> Self {
        Self(file)
    }

    /// Writes the id of this process into the lock file. Called after the index is open, because a
    /// refused directory must not change. The id is only a hint: on a full disk it is missing.
    pub(super) fn note_holder(&self) {
        let mut file = &self.0;
        let noted = file
            .set_len(0)
            .and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
        if let Err(error) = noted {
            tracing::debug!(%error, "can't write the process id to the lock file");
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A close alone would not release the lock while a forked child process, before its exec,
        // still has a copy of the file descriptor.
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "can't unlock the index; closing the file releases the lock");
        }
    }
}

/// Returns whether `dir` contains a store, complete or not.
///
/// # Errors
/// [`ErrorKind::Unavailable`] if the file system fails.
pub(super) fn is_created(dir: &Path) -> Result<bool> {
    exists(&dir.join(STORE))
}

/// Locks `dir`, and creates it if it is absent. A foreign directory remains untouched.
///
/// # Errors
/// [`ErrorKind::Invalid`] if it holds files but no record of an index, [`ErrorKind::AlreadyOpen`]
/// if another engine holds the lock, [`ErrorKind::Unavailable`] if the file system fails.
pub(super) fn lock(dir: &Path, modes: Modes) -> Result<Lock> {
    create_dir_durably(dir, modes).map_err(|error| unavailable("create", dir, error))?;
    // Before the lock file is created, so that a foreign directory remains untouched.
    refuse_foreign(dir)?;
    let path = dir.join(LOCK);
    let file = modes
        .file_options()
        .read(true)
        .write(true)
        .create(true)
        // The file names the last holder until the open succeeds.
        .truncate(false)
        .open(&path);
    let file = file.map_err(|error| unavailable("open", &path, error))?;
    locked(file.try_lock(), dir)?;
    let lock = Lock(file);
    // Checked again under the lock: before it, the directory may have shown a half-done creation by
    // another engine.
    refuse_foreign(dir)?;
    Ok(lock)
}

/// Locks the index in `dir` for readers: other readers may share the lock, a writing engine may not
/// take it. Returns `None` if the directory has no lock file, because a reader creates none.
/// Writers are then not excluded.
///
/// # Errors
/// [`ErrorKind::AlreadyOpen`] if an engine holds the lock, [`ErrorKind::Unavailable`] if the file
/// system fails.
pub(super) fn lock_shared(dir: &Path) -> Result<Option<Lock>> {
    let path = dir.join(LOCK);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            tracing::warn!(
                dir = %dir.display(),
                "the index has no lock file: an engine may open it at the same time"
            );
            return Ok(None);
        }
        Err(error) => return Err(unavailable("open", &path, error)),
    };
    locked(file.try_lock_shared(), dir)?;
    Ok(Some(Lock(file)))
}

/// Converts the outcome of a lock call.
fn locked(outcome: Result<(), TryLockError>, dir: &Path) -> Result<()> {
    match outcome {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let message = format!(
                "another engine has the index open, in this process or another: dir={}",
                dir.display()
            );
            Err(Error::new(ErrorKind::AlreadyOpen, "open", message))
        }
        Err(TryLockError::Error(error)) => Err(unavailable("lock", &dir.join(LOCK), error)),
    }
}

/// Returns whether the lock file names this process as its last holder.
pub(super) fn is_held_here(dir: &Path) -> bool {
    fs::read_to_string(dir.join(LOCK)).is_ok_and(|holder| holder == std::process::id().to_string())
}

/// Store that has passed the check.
#[derive(Debug)]
pub(super) struct ExistingStore {
    pub(super) database: PathBuf,
    /// Directory of the payload log, which may be absent.
    pub(super) payloads: PathBuf,
    /// Id of the payload log, or `None` for a store of an earlier build.
    pub(super) log_id: Option<u128>,
    pub(super) keyspaces: Keyspaces,
    pub(super) checked: CheckedStore,
}

/// Creates the store if it does not exist, checks it, and returns the path of its database.
///
/// `build` creates a database at a path, closes it, and returns its keyspaces. `log_id` becomes the
/// id of the payload log of a new store.
///
/// 1. remove an interrupted creation
/// 2. build under a temporary name, write the record, set the modes, sync every file and directory
/// 3. rename, sync the parent: from here on the store exists
/// 4. compare the record with the directory; any difference is an error, and no file changes
/// 5. check the files that fjall would read (`check.rs`); damage is an error, and no file changes
///
/// # Errors
/// Errors of `build`; [`ErrorKind::UnknownFormat`] for a record of another version,
/// [`ErrorKind::Corrupt`] if an expected file is missing or an unexpected keyspace exists,
/// [`ErrorKind::Invalid`] if a foreign directory lies among the keyspaces,
/// [`ErrorKind::Unavailable`] if the file system fails.
pub(super) fn create_or_check(
    dir: &Path,
    _lock: &Lock,
    modes: Modes,
    log_id: u128,
    build: impl FnOnce(&Path) -> Result<Keyspaces>,
) -> Result<ExistingStore> {
    let store = store(dir);
    let creating = dir.join(CREATING);
    if exists(&creating)? {
        fs::remove_dir_all(&creating).map_err(|error| unavailable("remove", &creating, error))?;
    }
    if !exists(&store)? {
        modes
            .create_dir(&creating)
            .map_err(|error| unavailable("create", &creating, error))?;
        // Removed on failure, because a half-built database would take space on a possibly full
        // disk.
        let built = build(&creating.join(DATABASE))
            .and_then(|keyspaces| write_record(&creating, keyspaces, log_id));
        if let Err(error) = built {
            drop(fs::remove_dir_all(&creating));
            return Err(error);
        }
        modes
            .narrow_tree(&creating)
            .map_err(|error| unavailable("set the modes in", &creating, error))?;
        // All files are durable before the rename makes the store visible.
        sync_tree(&creating).map_err(|error| unavailable("sync", &creating, error))?;
        fs::rename(&creating, &store).map_err(|error| unavailable("rename", &creating, error))?;
        sync_directory_at(dir).map_err(|error| unavailable("sync", dir, error))?;
    }
    let (database, record) = recorded(dir)?;
    let checked = check::before_open(&store, &database, &record.directories(), modes)?;
    Ok(ExistingStore {
        database,
        payloads: store.join(PAYLOADS),
        log_id: record.log_id()?,
        keyspaces: record.keyspaces().clone(),
        checked,
    })
}

/// Returns the path of the database and its record, after a comparison with the directory. Changes
/// no file.
///
/// # Errors
/// As [`create_or_check`].
pub(super) fn recorded(dir: &Path) -> Result<(PathBuf, Record)> {
    let record = read_record(&store(dir).join(RECORD))?;
    let database = database(dir);
    check_tables(&record)?;
    check_database(&database, &record)?;
    Ok((database, record))
}

/// Returns the path of the database, and the name and number of each keyspace. Changes no file.
///
/// # Errors
/// As [`create_or_check`].
pub(super) fn inspect(dir: &Path) -> Result<(PathBuf, Vec<(String, u64)>)> {
    let (database, record) = recorded(dir)?;
    let own = ("fjall's own".to_owned(), FJALL_META_KEYSPACE);
    Ok((
        database,
        std::iter::once(own)
            .chain(record.keyspaces().clone())
            .collect(),
    ))
}

/// Returns the directory of a keyspace.
pub(super) fn keyspace(database: &Path, id: u64) -> PathBuf {
    database.join(FJALL_KEYSPACES).join(id.to_string())
}

/// Returns the path of the store in a directory.
pub(super) fn store(dir: &Path) -> PathBuf {
    dir.join(STORE)
}

/// Returns the path of the database in a directory.
pub(super) fn database(dir: &Path) -> PathBuf {
    dir.join(STORE).join(DATABASE)
}

/// Refuses a directory that contains files but no record. A lock file, a reserve and an interrupted
/// creation are no foreign files.
fn refuse_foreign(dir: &Path) -> Result<()> {
    if exists(&dir.join(STORE).join(RECORD))? {
        return Ok(());
    }
    for name in names(dir)? {
        if name != LOCK && name != CREATING && name != RESERVE {
            let message = format!(
                "the directory holds files but no index: dir={} file={name}",
                dir.display()
            );
            return Err(Error::new(ErrorKind::Invalid, "open", message));
        }
    }
    Ok(())
}

/// Returns whether the directory contains an index, damaged or not.
pub(super) fn is_index(dir: &Path) -> Result<bool> {
    exists(&dir.join(STORE).join(RECORD))
}

/// Compares the database with its record. Reads only names and the version marker, and changes no
/// file.
fn check_database(database: &Path, record: &Record) -> Result<()> {
    let marker = database.join(FJALL_MARKER);
    if !exists(&marker)? {
        return Err(corrupt(format!(
            "fjall's version marker is missing: path={}",
            marker.display()
        )));
    }
    let bytes = fs::read(&marker).map_err(|error| unavailable("read", &marker, error))?;
    if bytes != record.fjall_marker() {
        return Err(corrupt(format!(
            "fjall's version marker has changed: path={}",
            marker.display()
        )));
    }
    if !names(database)?.iter().any(|name| {
        Path::new(name)
            .extension()
            .is_some_and(|end| end == FJALL_JOURNAL)
    }) {
        return Err(corrupt(format!(
            "the journal is missing: path={}",
            database.display()
        )));
    }
    let keyspaces = database.join(FJALL_KEYSPACES);
    let mut expected = BTreeMap::from([(FJALL_META_KEYSPACE.to_string(), "fjall's own")]);
    expected.extend(
        record
            .keyspaces()
            .iter()
            .map(|(name, id)| (id.to_string(), name.as_str())),
    );
    for (id, name) in &expected {
        let current = keyspaces.join(id).join(FJALL_CURRENT);
        if !exists(&current)? {
            let message = format!(
                "a keyspace is missing or damaged: keyspace={name} file={}",
                current.display()
            );
            return Err(corrupt(message));
        }
    }
    check_other_directories(&keyspaces, &expected, record)
}

/// Refuses directories that are no expected keyspaces.
fn check_other_directories(
    keyspaces: &Path,
    expected: &BTreeMap<String, &str>,
    record: &Record,
) -> Result<()> {
    let last = record
        .keyspaces()
        .values()
        .copied()
        .max()
        .unwrap_or_default();
    let mut interrupted = record.is_without_log();
    names(keyspaces)?
        .into_iter()
        .filter(|name| !expected.contains_key(name))
        .try_for_each(|name| {
            let path = keyspaces.join(&name);
            // fjall ignores files, and panics at unknown directories.
            if !path.is_dir() {
                return Ok(());
            }
            if let Ok(id) = name.parse::<u64>() {
                // A crash has interrupted `add_log`.
                if interrupted && id > last {
                    interrupted = false;
                    return Ok(());
                }
                return Err(corrupt(format!(
                    "unknown keyspace: path={}",
                    path.display()
                )));
            }
            let message = format!(
                "foreign directory in the index: move it away: path={}",
                path.display()
            );
            Err(Error::new(ErrorKind::Invalid, "open", message))
        })
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let read = || {
        fs::read_dir(dir)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    };
    let names: io::Result<_> = read();
    names.map_err(|error| unavailable("list", dir, error))
}

fn exists(path: &Path) -> Result<bool> {
    path.try_exists()
        .map_err(|error| unavailable("look for", path, error))
}

/// Creates a directory and its parents durably, with a sync of each parent.
fn create_dir_durably(dir: &Path, modes: Modes) -> io::Result<()> {
    let dir = std::path::absolute(dir)?;
    let absent: Vec<_> = dir
        .ancestors()
        .take_while(|ancestor| !ancestor.exists())
        .collect();
    modes.create_dir_all(&dir)?;
    absent
        .iter()
        .filter_map(|created| created.parent())
        .try_for_each(sync_directory_at)
}

fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            sync(&entry.path())?;
        }
    }
    sync_directory_at(dir)
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

pub(super) fn corrupt(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, "open", message)
}

pub(super) fn unavailable(verb: &str, path: &Path, error: io::Error) -> Error {
    let message = format!("could not {verb}: path={}", path.display());
    Error::new(ErrorKind::Unavailable, "open", message).with_source(error)
}
