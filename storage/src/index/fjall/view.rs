//! A view of an index: a directory of copies and links that is opened for reads only, because fjall
//! writes whenever it opens.
//!
//! ```text
//! {parent}/cenotaph-view-{random}/      mode 0700, locked, removed with the last index handle
//!   version, lock                       a copy; a new file
//!   {number}.jnl                        a copy of the intact batches, without a torn tail
//!   keyspaces/{id}/current, v{number}   copies
//!   keyspaces/{id}/tables/, blobs/      symbolic links to the files of the index
//! ```
//!
//! 1. take the shared lock of the index, if it has a lock file: no engine opens the index while the
//!    view exists
//! 2. check record, manifests, mark and journals as an engine does (`check.rs`), without any write
//! 3. copy and link
//! 4. open the view without workers: fjall neither flushes nor compacts
//!
//! Guards that no byte, name or timestamp of the index changes. fjall cuts journals, and removes
//! files that no manifest names. In the view these files are copies and links, and removing a link
//! keeps its file. fjall opens tables and blob files only for reading. Batches are refused in
//! `../read_only.rs`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fjall::Database;

use super::check::{self, Inspected};
use super::creation::{self, Lock, unavailable};
use super::database::TableKeyspaces;
use super::journal::copy_intact;
use super::space::Space;
use super::{FjallIndex, FjallOptions, OpenedStore, database, journals, payloads};
use crate::env::Env;
use crate::index::payload_log::{LogAccess, Opening, PAYLOADS, PayloadLog};
use crate::modes::Modes;
use crate::types::{Error, ErrorKind, Result};

/// Prefix of the name of a view's directory.
const PREFIX: &str = "cenotaph-view-";
/// fjall's own lock file. fjall opens no database without it.
const FJALL_LOCK: &str = "lock";
/// Directories of a keyspace whose files never change after they are written.
const WRITTEN_ONCE: [&str; 2] = ["tables", "blobs"];

impl FjallIndex {
    /// Opens the index in `dir` for reads only, through a view in a new directory below `parent`.
    /// The call changes nothing in `dir` and needs no write permission there. The view takes as
    /// much space as the batches in the journals: at most
    /// [`journal_bytes_max`](FjallOptions::journal_bytes_max) plus one journal. Blocks on the disk:
    /// call it through [`Env::blocking`].
    ///
    /// Other readers may have the index open. A submitted batch would be lost with the view: wrap
    /// the index in a [`ReadOnlyIndex`](crate::index::ReadOnlyIndex).
    ///
    /// # Errors
    /// As [`open`](Self::open), but [`ErrorKind::Invalid`] if `dir` contains no index, and
    /// [`ErrorKind::AlreadyOpen`] only if an engine with write access has the index open.
    pub fn open_view(dir: &Path, parent: &Path, env: Env, options: FjallOptions) -> Result<Self> {
        options.check()?;
        let name = format!("{:016x}{:016x}", env.random_u64(), env.random_u64());
        let viewed = view(dir, parent, &name, &options)?;
        let space = Arc::new(Space::open(&viewed.path, env.clone(), 0, Modes::default()));
        Self::start(
            env,
            &options,
            OpenedStore {
                tables: viewed.tables,
                database: viewed.database,
                marker: None,
                log: viewed.log,
                held: viewed.held,
                space,
            },
        )
    }
}

/// An opened view.
// The order of the fields is the order of their drops.
pub(super) struct Viewed {
    pub(super) tables: TableKeyspaces,
    pub(super) database: Database,
    pub(super) log: Arc<PayloadLog>,
    pub(super) held: HeldLock,
    path: PathBuf,
}

/// Opens a view of the index in `dir`, in a new directory below `parent`. `name` makes the name of
/// the directory unique.
///
/// # Errors
/// As [`FjallIndex::open_view`].
pub(super) fn view(
    dir: &Path,
    parent: &Path,
    name: &str,
    options: &FjallOptions,
) -> Result<Viewed> {
    if !creation::is_index(dir)? {
        let message = format!("there is no store here: dir={}", dir.display());
        return Err(Error::new(ErrorKind::Invalid, "open", message));
    }
    // Held as long as the view: no engine may change the files that the view links to.
    let lock = creation::lock_shared(dir)?;
    let (original, record) = creation::recorded(dir)?;
    let looked = check::look(&creation::store(dir), &original, &record.directories())?;
    let view = View::create(parent, name)?;
    let path = view.path.clone();
    fill(&path, &original, &record.directories(), &looked).map_err(|error| {
        let message = format!(
            "failed to create the view of the index: view={}",
            path.display()
        );
        Error::new(ErrorKind::Unavailable, "open", message).with_source(error)
    })?;
    // 0 workers: fjall neither flushes nor compacts.
    let (tables, database) = database::open(&path, options, 0, record.keyspaces())?;
    // The segments are read where they are: no engine changes them while the lock is held.
    let log = payloads::open_log(
        &tables,
        Opening {
            id: record.log_id()?.unwrap_or_default(),
            dir: creation::store(dir).join(PAYLOADS),
            modes: options.modes,
            segment_bytes: options.segment_bytes,
            access: LogAccess::Read,
        },
    )?;
    let held = HeldLock {
        _view: Some(view),
        _lock: lock,
    };
    Ok(Viewed {
        tables,
        database,
        log,
        held,
        path,
    })
}

/// The lock of an open index, and the directory of its view if it is open for reads only. The view
/// is dropped before the lock.
#[derive(Debug)]
pub(super) struct HeldLock {
    _view: Option<View>,
    _lock: Option<Lock>,
}

impl HeldLock {
    /// Creates the value for an index with a single engine.
    pub(super) fn alone(lock: Lock) -> Self {
        Self {
            _view: None,
            _lock: Some(lock),
        }
    }
}

/// The directory of a view. Removed on drop.
#[derive(Debug)]
struct View {
    path: PathBuf,
    /// A shared BSD lock, which prevents cleaners of temporary directories (systemd-tmpfiles) from
    /// removing files of the view by age.
    _lock: Option<File>,
}

impl View {
    fn create(parent: &Path, name: &str) -> Result<Self> {
        let path = std::path::absolute(parent.join(format!("{PREFIX}{name}")))
            .map_err(|error| unavailable("find", parent, error))?;
        Modes::default()
            .create_dir(&path)
            .map_err(|error| unavailable("create", &path, error))?;
        let lock =
            File::open(&path).and_then(|directory| directory.lock_shared().map(|()| directory));
        if let Err(error) = &lock {
            tracing::debug!(
                %error,
                "failed to lock a view: cleaners of temporary directories may remove its files"
            );
        }
        Ok(Self {
            path,
            _lock: lock.ok(),
        })
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // `remove_dir_all` does not follow links: the files of the index remain.
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(
                %error,
                path = %self.path.display(),
                "failed to remove the view of an index"
            );
        }
    }
}

/// Copies the journals and the small files of the database to the view, and links the others.
fn fill(view: &Path, original: &Path, keyspaces: &[u64], looked: &Inspected) -> io::Result<()> {
    let modes = Modes::default();
    // A link with a relative target would be resolved from the view.
    let original = &fs::canonicalize(original)?;
    copy(
        &original.join(creation::FJALL_MARKER),
        &view.join(creation::FJALL_MARKER),
    )?;
    // A new file: a link would lock the file of the index itself.
    modes.create_file(&view.join(FJALL_LOCK))?;
    for scanned in &looked.scanned {
        let mut to = modes.create_file(&journals::path(view, scanned.id))?;
        let path = journals::path(original, scanned.id);
        // A writer may have died before its sync. Data that a reader receives must be durable (I7).
        // A sync changes no byte and no timestamp.
        if let Err(error) = File::open(&path)?.sync_data() {
            tracing::warn!(
                %error,
                "failed to sync a journal: a power cut may undo data that was read"
            );
        }
        copy_intact(&path, &scanned.journal, &mut to)?;
        to.flush()?;
    }
    for &id in keyspaces {
        fill_keyspace(
            &creation::keyspace(view, id),
            &creation::keyspace(original, id),
        )?;
    }
    Ok(())
}

/// Copies the manifests of a keyspace to the view, and links its tables and blob files.
fn fill_keyspace(view: &Path, original: &Path) -> io::Result<()> {
    let modes = Modes::default();
    modes.create_dir_all(view)?;
    for entry in fs::read_dir(original)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            copy(&entry.path(), &view.join(entry.file_name()))?;
        }
    }
    for name in WRITTEN_ONCE {
        let from = original.join(name);
        let to = view.join(name);
        if !from.is_dir() {
            continue;
        }
        modes.create_dir(&to)?;
        for entry in fs::read_dir(&from)? {
            let entry = entry?;
            // fjall refuses a directory with names that are not numbers. Such a file is not a file
            // of fjall.
            if entry
                .file_name()
                .to_str()
                .is_some_and(|name| name.parse::<u64>().is_ok())
            {
                link(&entry.path(), &to.join(entry.file_name()))?;
            }
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    io::copy(
        &mut File::open(from)?,
        &mut Modes::default().create_file(to)?,
    )
    .map(drop)
}

#[cfg(unix)]
fn link(file: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(file, link)
}

/// Copies the file: on these systems links may need a privilege.
#[cfg(not(unix))]
fn link(file: &Path, link: &Path) -> io::Result<()> {
    copy(file, link)
}
