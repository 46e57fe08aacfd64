//! A copy of an index, opened to be read: what a salvage reads of a damaged one.
//!
//! 1. lock the original and copy every file of it; not a byte of it is written
//! 2. journals: of each the intact batches, so that fjall reads all of them; numbers without gaps
//! 3. tables, blob files and manifests: what fjall can open (`mend.rs`)
//! 4. open the copy without background threads: a compaction would meet the damage and stop it
//!
//! Deliberately not here: what is copied out of it (`crate::salvage`).

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::check::HIGH_WATER;
use super::creation::{self, FJALL_META_KEYSPACE, LOCK, corrupt};
use super::journal::Journal;
use super::journals::{self, Scanned, Verdict};
use super::manifest::{self, Depth, Flaw};
use super::mark::{self, Reading};
use super::mend::{self, LostFile};
use super::{FjallIndex, FjallOptions, Table, database};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::modes::Modes;

/// A copy of an index, open for reads.
pub struct IndexCopy {
    /// The copy.
    pub index: FjallIndex,
    /// True if the journals held all that was acknowledged. Else tables of the index may be of
    /// different moments.
    pub has_whole_journals: bool,
    /// Files of which it is not known what keys they held: such keys may be absent in the copy, or
    /// have older values.
    pub lost_files: Vec<LostFile>,
}

impl FjallIndex {
    /// Copies the index in `dir` to the directory `to`, which must not exist, and opens the copy
    /// for reads. It needs as much space as the original. Blocks for the disk: call it through
    /// [`Env::blocking`].
    ///
    /// # Errors
    /// - [`ErrorKind::Invalid`] if there is no index in `dir`;
    /// - [`ErrorKind::AlreadyOpen`] if an engine has it open;
    /// - [`ErrorKind::Corrupt`] if it is so damaged that its tables can't be found;
    /// - [`ErrorKind::Unavailable`] if the file system fails.
    pub fn open_copy(dir: &Path, to: &Path, env: Env) -> Result<IndexCopy> {
        let _lock = lock(dir)?;
        let modes = Modes::default();
        copy_tree(dir, to, modes).map_err(|error| {
            let message = format!(
                "the index can't be copied: from={} to={}",
                dir.display(),
                to.display()
            );
            Error::new(ErrorKind::Unavailable, "salvage", message).with_source(error)
        })?;
        let has_whole_journals = mend_journals(to).map_err(|error| {
            let message = format!("the journals can't be read: dir={}", dir.display());
            Error::new(ErrorKind::Unavailable, "salvage", message).with_source(error)
        })?;
        let lost_files = mend_keyspaces(dir, to)?;
        modes.narrow_tree(to).map_err(|error| {
            let message = format!("the modes of the copy can't be set: to={}", to.display());
            Error::new(ErrorKind::Unavailable, "salvage", message).with_source(error)
        })?;
        let index = Self::open_with(to, env, FjallOptions::default(), 0)?;
        Ok(IndexCopy {
            index,
            has_whole_journals,
            lost_files,
        })
    }
}

/// Makes the keyspaces of a copy of `dir` ones that fjall can open; the files that are lost.
fn mend_keyspaces(dir: &Path, copy: &Path) -> Result<Vec<LostFile>> {
    let unreadable = |error| {
        let message = format!("the tables can't be read: dir={}", dir.display());
        Error::new(ErrorKind::Unavailable, "salvage", message).with_source(error)
    };
    let database = creation::database(copy);
    let keyspaces = creation::recorded_keyspaces(copy)?;
    let mut lost = Vec::new();
    for table in Table::ALL {
        let Some(&id) = keyspaces.get(table.name()) else {
            continue;
        };
        let losses = match mend::keyspace(&creation::keyspace(&database, id)).map_err(unreadable)? {
            Ok(losses) => losses,
            Err(flaw) => return Err(unmendable(&flaw, &database, &creation::database(dir))),
        };
        lost.extend(losses.into_iter().map(|(file, why)| {
            let file = PathBuf::from(format!("keyspaces/{id}/tables/{file}"));
            LostFile { table, file, why }
        }));
    }
    let own = creation::keyspace(&database, FJALL_META_KEYSPACE);
    let checked = manifest::flaws(&own, Depth::Whole).map_err(unreadable)?;
    if let Some(flaw) = checked.flaws.first() {
        tracing::warn!(file = %flaw.path.display(), what = flaw.what, "fjall's own keyspace is made anew");
        renew_own(copy, &own, &keyspaces)?;
    }
    Ok(lost)
}

/// Names the file of the original.
fn unmendable(flaw: &Flaw, copied: &Path, original: &Path) -> Error {
    let path = flaw
        .path
        .strip_prefix(copied)
        .map_or_else(|_| flaw.path.clone(), |path| original.join(path));
    let what = &flaw.what;
    corrupt(format!(
        "{what}: file={} (no other file says which tables count: restore a backup)",
        path.display()
    ))
}

/// Replaces the keyspace in which fjall keeps the names of the others by that of a new database. It
/// is the same in every database that has the same keyspaces.
fn renew_own(copy: &Path, own: &Path, keyspaces: &creation::Keyspaces) -> Result<()> {
    let new = copy.join("renewed");
    let built = database::build(&new, &FjallOptions::default())?;
    if built != *keyspaces {
        return Err(corrupt(format!(
            "fjall's own keyspace is damaged: path={}",
            own.display()
        )));
    }
    let replace = || {
        fs::remove_dir_all(own).or_else(absent_is_fine)?;
        fs::rename(creation::keyspace(&new, FJALL_META_KEYSPACE), own)?;
        fs::remove_dir_all(&new)
    };
    replace().map_err(|error| {
        let message = format!(
            "fjall's own keyspace can't be replaced: path={}",
            own.display()
        );
        Error::new(ErrorKind::Unavailable, "salvage", message).with_source(error)
    })
}

fn absent_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound {
        Ok(())
    } else {
        Err(error)
    }
}

/// Leaves the intact batches in the journals of a copy; whether nothing that was acknowledged is
/// missing.
fn mend_journals(dir: &Path) -> io::Result<bool> {
    let (mark_path, database) = (
        creation::store(dir).join(HIGH_WATER),
        creation::database(dir),
    );
    let (mark, mark_is_sound) = match mark::read(&mark_path)? {
        Reading::Absent => (None, true),
        Reading::Sound { mark, .. } => (Some(mark), true),
        Reading::Damaged | Reading::Unknown(_) => (None, false),
    };
    let scanned = journals::scan(&database, mark.as_ref())?;
    let is_whole = match journals::judge(&scanned, mark.as_ref()) {
        Verdict::Sound | Verdict::Tail { .. } => mark_is_sound,
        Verdict::Damaged { .. }
        | Verdict::Missing { .. }
        | Verdict::Short { .. }
        | Verdict::Renumbered { .. } => false,
    };
    for scanned in scanned
        .iter()
        .filter(|scanned| !scanned.journal.gaps.is_empty())
    {
        keep_runs(&journals::path(&database, scanned.id), &scanned.journal)?;
    }
    close_ranks(&database, &scanned)?;
    // It claims what is not there any more.
    fs::remove_file(&mark_path).or_else(absent_is_fine)?;
    // An index that is in order has at least one.
    Ok(is_whole && !scanned.is_empty())
}

/// Numbers the journals without gaps, up to the newest, and makes an empty one if there is none.
fn close_ranks(database: &Path, scanned: &[Scanned]) -> io::Result<()> {
    let Some(newest) = scanned.last() else {
        return File::create_new(journals::path(database, 0)).map(drop);
    };
    for (number, scanned) in (0..=newest.id).rev().zip(scanned.iter().rev()) {
        if number != scanned.id {
            fs::rename(
                journals::path(database, scanned.id),
                journals::path(database, number),
            )?;
        }
    }
    Ok(())
}

/// Leaves the intact batches of a journal, back to back.
fn keep_runs(path: &Path, journal: &Journal) -> io::Result<()> {
    let kept = path.with_extension("kept");
    let (mut from, mut to) = (File::open(path)?, File::create(&kept)?);
    for run in &journal.runs {
        from.seek(SeekFrom::Start(run.start))?;
        io::copy(&mut (&mut from).take(run.end - run.start), &mut to)?;
    }
    fs::rename(kept, path)
}

/// Keeps engines away from an index while its files are read.
fn lock(dir: &Path) -> Result<Option<File>> {
    if !creation::is_index(dir)? {
        let message = format!("there is no index here: dir={}", dir.display());
        return Err(Error::new(ErrorKind::Invalid, "salvage", message));
    }
    let file = match File::open(dir.join(LOCK)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unavailable(dir, error)),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            let message = format!(
                "an engine has the index open: close it first: dir={}",
                dir.display()
            );
            Err(Error::new(ErrorKind::AlreadyOpen, "salvage", message))
        }
        Err(TryLockError::Error(error)) => Err(unavailable(dir, error)),
    }
}

fn unavailable(dir: &Path, error: io::Error) -> Error {
    let message = format!("the index can't be locked: dir={}", dir.display());
    Error::new(ErrorKind::Unavailable, "salvage", message).with_source(error)
}

fn copy_tree(from: &Path, to: &Path, modes: Modes) -> io::Result<()> {
    modes.create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_tree(&source, &target, modes)?;
        } else {
            io::copy(&mut File::open(&source)?, &mut modes.create_file(&target)?)?;
        }
    }
    Ok(())
}
