//! A view of an index: what is opened for reads only, because fjall writes whenever it opens.
//!
//! ```text
//! {parent}/cenotaph-view-{random}/      mode 0700, locked, removed when the last holder lets go of the index
//!   version, lock                       a copy; a new one
//!   {number}.jnl                        a copy of the intact batches, without a tail that was never acknowledged
//!   keyspaces/{id}/current, v{number}   copies
//!   keyspaces/{id}/tables/, blobs/      symbolic links to the files of the index
//! ```
//!
//! 1. share the lock of the index, where it has one: its engine is kept out as long as the view
//!    lives
//! 2. check record, manifests, mark and journals as an engine does (`check.rs`); nothing is cut or
//!    written
//! 3. copy and link
//! 4. open the view without workers: nothing is flushed or compacted
//!
//! Guards that no byte, name or time of the index changes. fjall cuts journals, and removes files
//! that no manifest names: here these are copies and links, and removing a link leaves its file. It
//! opens tables and blob files for reading only. Deliberately not here: refusing batches
//! (`../read_only.rs`).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::check::{self, Looked};
use super::creation::{self, Lock, unavailable};
use super::journal::copy_intact;
use super::space::Space;
use super::{FjallIndex, FjallOptions, Opened, database, journals};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::modes::Modes;

/// The beginning of the name of a view's directory.
const PREFIX: &str = "cenotaph-view-";
/// fjall's own lock file: it opens none that is not there.
const FJALL_LOCK: &str = "lock";
/// Directories of a keyspace whose files are written once.
const WRITTEN_ONCE: [&str; 2] = ["tables", "blobs"];

impl FjallIndex {
    /// Opens the index in `dir` for reads only, through a view in a new directory below `parent`.
    /// Nothing in `dir` is written, created, removed or touched, and no right to write there is
    /// needed. The view takes as much space as the batches in the journals, at most
    /// [`journal_bytes_max`](FjallOptions::journal_bytes_max) and a journal more. Blocks for the
    /// disk: call it through [`Env::blocking`].
    ///
    /// Other readers may have the index open. A batch that is submitted would be lost with the
    /// view: wrap it in a [`ReadOnlyIndex`](crate::index::ReadOnlyIndex).
    ///
    /// # Errors
    /// As [`open`](Self::open), but [`ErrorKind::Invalid`] if there is no index in `dir`, and
    /// [`ErrorKind::AlreadyOpen`] only if an engine that may write has it open.
    pub fn open_view(dir: &Path, parent: &Path, env: Env, options: FjallOptions) -> Result<Self> {
        options.check()?;
        if !creation::is_index(dir)? {
            let message = format!("there is no store here: dir={}", dir.display());
            return Err(Error::new(ErrorKind::Invalid, "open", message));
        }
        let lock = creation::lock_shared(dir)?;
        let (original, record) = creation::recorded(dir)?;
        let looked = check::look(&creation::store(dir), &original, &record.directories())?;
        let view = View::create(parent, &env)?;
        fill(&view.path, &original, &record.directories(), &looked).map_err(|error| {
            let message = format!(
                "the view of the index can't be made: view={}",
                view.path.display()
            );
            Error::new(ErrorKind::Unavailable, "open", message).with_source(error)
        })?;
        let (tables, database) = database::open(&view.path, &options, 0, record.keyspaces())?;
        let space = Arc::new(Space::open(&view.path, env.clone(), 0, Modes::default()));
        let held = Held {
            _view: Some(view),
            _lock: lock,
        };
        Self::start(
            env,
            &options,
            Opened {
                tables,
                database,
                marker: None,
                held,
                space,
            },
        )
    }
}

/// The lock that keeps an open index from others, and, for reads only, the directory that goes with
/// it. Dropped in this order.
#[derive(Debug)]
pub(super) struct Held {
    _view: Option<View>,
    _lock: Option<Lock>,
}

impl Held {
    /// An index of which this is the only engine.
    pub(super) fn alone(lock: Lock) -> Self {
        Self {
            _view: None,
            _lock: Some(lock),
        }
    }
}

/// The directory of a view, removed when it is dropped.
#[derive(Debug)]
struct View {
    path: PathBuf,
    /// Holds a shared BSD lock, which keeps cleaners of temporary directories (systemd-tmpfiles)
    /// from ageing the view.
    _lock: Option<File>,
}

impl View {
    fn create(parent: &Path, env: &Env) -> Result<Self> {
        let name = format!("{PREFIX}{:016x}{:016x}", env.random_u64(), env.random_u64());
        let path = std::path::absolute(parent.join(name))
            .map_err(|error| unavailable("find", parent, error))?;
        Modes::default()
            .create_dir(&path)
            .map_err(|error| unavailable("create", &path, error))?;
        let lock =
            File::open(&path).and_then(|directory| directory.lock_shared().map(|()| directory));
        if let Err(error) = &lock {
            tracing::debug!(%error, "a view can't be locked: cleaners of temporary directories may age it");
        }
        Ok(Self {
            path,
            _lock: lock.ok(),
        })
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // It follows no link.
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "the view of an index could not be removed");
        }
    }
}

fn fill(view: &Path, original: &Path, keyspaces: &[u64], looked: &Looked) -> io::Result<()> {
    let modes = Modes::default();
    let original = &fs::canonicalize(original)?;
    copy(
        &original.join(creation::FJALL_MARKER),
        &view.join(creation::FJALL_MARKER),
    )?;
    modes.create_file(&view.join(FJALL_LOCK))?;
    for scanned in &looked.scanned {
        let mut to = modes.create_file(&journals::path(view, scanned.id))?;
        let path = journals::path(original, scanned.id);
        // A writer may have died before its sync: what is shown must be on the disk (I7). This
        // changes no byte and no time.
        if let Err(error) = File::open(&path)?.sync_data() {
            tracing::warn!(%error, "a journal can't be synced; a power cut may take back what is read");
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
        let (from, to) = (original.join(name), view.join(name));
        if !from.is_dir() {
            continue;
        }
        modes.create_dir(&to)?;
        for entry in fs::read_dir(&from)? {
            let entry = entry?;
            // fjall refuses names that are no numbers; such a file is not its own.
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

/// Where links need a privilege, files are copied.
#[cfg(not(unix))]
fn link(file: &Path, link: &Path) -> io::Result<()> {
    copy(file, link)
}
