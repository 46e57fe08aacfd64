//! A repaired copy of a damaged index, opened for reads: the source of a salvage
//! (`crate::salvage`).
//!
//! 1. lock the original and copy all its files; no byte of the original changes
//! 2. journals: keep the intact batches, so that fjall reads all of them; number without gaps
//! 3. tables, blob files and manifests: repair them so that fjall can open them (`repair.rs`)
//! 4. open the copy without background threads: damage would stop a compaction

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::check::HIGH_WATER;
use super::creation::{self, FJALL_META_KEYSPACE, LOCK, Lock, corrupt};
use super::database::SEGMENTS;
use super::journal::Journal;
use super::journals::{self, JournalVerdict, Scanned};
use super::manifest::{self, Depth, Flaw};
use super::mark::{self, Reading};
use super::record;
use super::repair::{self, LostFile};
use super::{FjallIndex, FjallOptions, Table, database};
use crate::env::Env;
use crate::modes::Modes;
use crate::types::{Error, ErrorKind, Result};

/// Copy of an index, open for reads.
pub struct IndexCopy {
    /// The opened copy.
    pub index: FjallIndex,
    /// True if the journals contain all acknowledged batches. Otherwise the tables of the index may
    /// have states of different times.
    pub has_whole_journals: bool,
    /// Lost files with unknown keys. Their keys may be absent in the copy, or have older values.
    pub lost_files: Vec<LostFile>,
}

impl FjallIndex {
    /// Copies the index in `dir` to the directory `to`, which must not exist, and opens the copy
    /// for reads. The copy takes as much space as the original. Blocks on the disk: call it through
    /// [`Env::blocking`].
    ///
    /// # Errors
    /// - [`ErrorKind::Invalid`] if `dir` contains no index;
    /// - [`ErrorKind::AlreadyOpen`] if an engine has the index open;
    /// - [`ErrorKind::Corrupt`] if the damage hides the tables of the index;
    /// - [`ErrorKind::Unavailable`] if the file system fails.
    pub fn open_copy(dir: &Path, to: &Path, env: Env) -> Result<IndexCopy> {
        // Held until the copy is open: no engine may write to the original meanwhile.
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
        let has_whole_journals = repair_journals(to).map_err(|error| {
            let message = format!("the journals can't be read: dir={}", dir.display());
            Error::new(ErrorKind::Unavailable, "salvage", message).with_source(error)
        })?;
        let lost_files = repair_keyspaces(dir, to)?;
        // Repairs create files with the modes of the umask.
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

/// Repairs the keyspaces of a copy of `dir`, so that fjall can open them. Returns the lost files.
fn repair_keyspaces(dir: &Path, copy: &Path) -> Result<Vec<LostFile>> {
    let unreadable = |error| {
        let message = format!("the tables can't be read: dir={}", dir.display());
        Error::new(ErrorKind::Unavailable, "salvage", message).with_source(error)
    };
    let database = creation::database(copy);
    let keyspaces = record::recorded_keyspaces(copy)?;
    let mut lost = Vec::new();
    for table in Table::ALL {
        let Some(&id) = keyspaces.get(table.name()) else {
            continue;
        };
        let losses =
            match repair::keyspace(&creation::keyspace(&database, id)).map_err(unreadable)? {
                Ok(losses) => losses,
                Err(flaw) => return Err(unrepairable(&flaw, &database, &creation::database(dir))),
            };
        lost.extend(losses.into_iter().map(|(file, why)| {
            let file = PathBuf::from(format!("keyspaces/{id}/tables/{file}"));
            LostFile { table, file, why }
        }));
    }
    if let Some(&id) = keyspaces.get(SEGMENTS) {
        // A read of a payload does not need the records of the segments, so their loss is none.
        let repaired = repair::keyspace(&creation::keyspace(&database, id)).map_err(unreadable)?;
        if let Err(flaw) = repaired {
            return Err(unrepairable(&flaw, &database, &creation::database(dir)));
        }
    }
    let own = creation::keyspace(&database, FJALL_META_KEYSPACE);
    let checked = manifest::flaws(&own, Depth::Whole).map_err(unreadable)?;
    if let Some(flaw) = checked.flaws.first() {
        tracing::warn!(
            file = %flaw.path.display(), what = flaw.what,
            "replacing the damaged meta keyspace of fjall"
        );
        replace_meta_keyspace(copy, &own, &keyspaces)?;
    }
    Ok(lost)
}

/// Returns the error of a keyspace that can't be repaired. It names the file in the original.
fn unrepairable(flaw: &Flaw, copied: &Path, original: &Path) -> Error {
    let path = flaw
        .path
        .strip_prefix(copied)
        .map_or_else(|_| flaw.path.clone(), |path| original.join(path));
    let what = &flaw.what;
    corrupt(format!(
        "{what}: file={} (no other file lists the valid tables: restore a backup)",
        path.display()
    ))
}

/// Replaces the keyspace in which fjall stores the names of all keyspaces by that of a new
/// database.
// Its contents are the same in every database with the same keyspaces.
fn replace_meta_keyspace(copy: &Path, own: &Path, keyspaces: &record::Keyspaces) -> Result<()> {
    let new = copy.join("renewed");
    let built = database::build(&new, &FjallOptions::default())?;
    // The new keyspace is of use only if it has the same names and numbers.
    if built != *keyspaces {
        return Err(corrupt(format!(
            "fjall's own keyspace is damaged: path={}",
            own.display()
        )));
    }
    let replace = || {
        fs::remove_dir_all(own).or_else(ignore_not_found)?;
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

/// Converts "not found" to success.
fn ignore_not_found(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound {
        Ok(())
    } else {
        Err(error)
    }
}

/// Cuts damage out of the journals of a copy. Returns whether they contain all acknowledged
/// batches.
fn repair_journals(dir: &Path) -> io::Result<bool> {
    let mark_path = creation::store(dir).join(HIGH_WATER);
    let database = creation::database(dir);
    let (mark, mark_is_sound) = match mark::read(&mark_path)? {
        Reading::Absent => (None, true),
        Reading::Sound { mark, .. } => (Some(mark), true),
        Reading::Damaged | Reading::Unknown(_) => (None, false),
    };
    let scanned = journals::scan(&database, mark.as_ref())?;
    let is_whole = match journals::judge(&scanned, mark.as_ref()) {
        JournalVerdict::Sound | JournalVerdict::Tail { .. } => mark_is_sound,
        JournalVerdict::Damaged { .. }
        | JournalVerdict::Missing { .. }
        | JournalVerdict::Short { .. }
        | JournalVerdict::Renumbered { .. } => false,
    };
    for scanned in scanned
        .iter()
        .filter(|scanned| !scanned.journal.gaps.is_empty())
    {
        keep_intact_batches(&journals::path(&database, scanned.id), &scanned.journal)?;
    }
    renumber(&database, &scanned)?;
    // The mark claims batches that the copy may no longer contain.
    fs::remove_file(&mark_path).or_else(ignore_not_found)?;
    // An undamaged index has at least one journal.
    Ok(is_whole && !scanned.is_empty())
}

/// Numbers the journals without gaps, up to the newest. Creates an empty journal if none exists.
fn renumber(database: &Path, scanned: &[Scanned]) -> io::Result<()> {
    let Some(newest) = scanned.last() else {
        return File::create_new(journals::path(database, 0)).map(drop);
    };
    // From the newest down, so that no rename hits an existing journal.
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

/// Replaces a journal by its intact batches.
fn keep_intact_batches(path: &Path, journal: &Journal) -> io::Result<()> {
    let kept = path.with_extension("kept");
    let mut from = File::open(path)?;
    let mut to = File::create(&kept)?;
    for run in &journal.runs {
        from.seek(SeekFrom::Start(run.start))?;
        io::copy(&mut (&mut from).take(run.end - run.start), &mut to)?;
    }
    fs::rename(kept, path)
}

/// Locks an index against engines while its files are read. Returns `None` if it has no lock file.
fn lock(dir: &Path) -> Result<Option<Lock>> {
    if !creation::is_index(dir)? {
        let message = format!("no index in the directory: dir={}", dir.display());
        return Err(Error::new(ErrorKind::Invalid, "salvage", message));
    }
    let file = match File::open(dir.join(LOCK)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unavailable(dir, error)),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(Lock::held(file))),
        Err(TryLockError::WouldBlock) => {
            let message = format!(
                "the index is open in an engine: close the engine first: dir={}",
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
        let source = entry.path();
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&source, &target, modes)?;
        } else {
            io::copy(&mut File::open(&source)?, &mut modes.create_file(&target)?)?;
        }
    }
    Ok(())
}
