//! The check of an index's files before fjall opens them.
//!
//! 1. check every manifest and the end of every file that it names; damage is Corrupt, and no file
//!    changes
//! 2. check the high-water mark and all journals (`journals.rs`); damage is Corrupt, and no file
//!    changes
//! 3. copy an unacknowledged tail aside, cut it off, sync
//! 4. write the mark durably: the index is open
//!
//! Guards I9: without the check, fjall silently drops all batches after the first unreadable byte,
//! and aborts at some kinds of damage.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::creation::{corrupt, unavailable};
use super::journal::JournalGap;
use super::journals::{self, JournalVerdict, Scanned};
use super::manifest::{self, Depth};
use super::mark::{self, Mark, MarkFile, Reading};
use crate::directory_sync::sync_directory_at;
use crate::modes::Modes;
use crate::types::{Error, ErrorKind, Result};

/// File name of the high-water mark.
pub(super) const HIGH_WATER: &str = "high-water";
/// Directory of the tails that were cut off.
pub(super) const TAILS: &str = "tails";

/// Maximal number of kept tails. The oldest are deleted first.
const TAILS_MAX: usize = 8;

/// Results of the check that the open of fjall needs.
#[derive(Debug)]
pub(super) struct CheckedStore {
    /// File of the high-water mark. `None` if the disk has no room for it.
    pub(super) marks: Option<MarkFile>,
    /// Sequence number of the last batch in the journals.
    pub(super) last_seqno: Option<u64>,
}

/// Unchanged store that has passed the check.
#[derive(Debug)]
pub(super) struct Inspected {
    mark: Option<Mark>,
    /// Journals, in order.
    pub(super) scanned: Vec<Scanned>,
    /// Unacknowledged tail and the number of its journal.
    tail: Option<(u64, JournalGap)>,
}

/// Checks a store, and cuts off an unacknowledged tail. `keyspaces` are the numbers of the keyspace
/// directories.
///
/// # Errors
/// [`ErrorKind::Corrupt`] if acknowledged data is or may be damaged, [`ErrorKind::UnknownFormat`]
/// if a later build wrote the mark; no file changes then. [`ErrorKind::Unavailable`] if the file
/// system fails.
pub(super) fn before_open(
    store: &Path,
    database: &Path,
    keyspaces: &[u64],
    modes: Modes,
) -> Result<CheckedStore> {
    let Inspected {
        mark,
        scanned,
        tail,
    } = look(store, database, keyspaces)?;
    // Cut before the mark is written: a crash in between leaves the old mark, which claims
    // acknowledged batches only.
    if let Some((id, gap)) = tail {
        cut_tail(store, database, id, gap, modes)?;
    }
    let last_seqno = scanned
        .iter()
        .filter_map(|scanned| scanned.journal.last_seqno())
        .max();
    let marks = write_mark(
        &store.join(HIGH_WATER),
        &Mark {
            // Stays false until a clean close writes the next mark.
            closed: false,
            ..mark.unwrap_or_default()
        },
        modes,
    )?;
    Ok(CheckedStore { marks, last_seqno })
}

/// Checks a store without changing a file.
///
/// # Errors
/// As [`before_open`].
pub(super) fn look(store: &Path, database: &Path, keyspaces: &[u64]) -> Result<Inspected> {
    for id in keyspaces {
        let keyspace = database.join("keyspaces").join(id.to_string());
        let checked = manifest::flaws(&keyspace, Depth::Ends);
        let checked = checked.map_err(|error| unavailable("read", &keyspace, error))?;
        if let Some(flaw) = checked.flaws.first() {
            return Err(corrupt(format!(
                "{}: file={} {WAYS_OUT}",
                flaw.what,
                flaw.path.display()
            )));
        }
    }
    let mark = read_mark(&store.join(HIGH_WATER))?;
    let scanned =
        journals::scan(database, mark.as_ref()).map_err(|error| scan_error(database, error))?;
    let tail = match journals::judge(&scanned, mark.as_ref()) {
        JournalVerdict::Sound => None,
        JournalVerdict::Tail { id, gap } => Some((id, gap)),
        wrong @ (JournalVerdict::Damaged { .. }
        | JournalVerdict::Missing { .. }
        | JournalVerdict::Short { .. }
        | JournalVerdict::Renumbered { .. }) => {
            return Err(corrupt(format!("{} {WAYS_OUT}", told(&wrong, database))));
        }
    };
    Ok(Inspected {
        mark,
        scanned,
        tail,
    })
}

/// Remedies that an error message names.
pub(super) const WAYS_OUT: &str = "(`cenotaph doctor DIR` explains the damage, \
    `cenotaph salvage OLD NEW` copies what can be read)";

/// Returns the message of a verdict.
pub(super) fn told(verdict: &JournalVerdict, database: &Path) -> String {
    let file = |id: u64| journals::path(database, id).display().to_string();
    match *verdict {
        JournalVerdict::Sound => "the journals are sound".to_owned(),
        JournalVerdict::Tail { id, gap } => format!(
            "the journal ends with an unacknowledged batch: {}: file={} at={} bytes={}",
            gap.defect,
            file(id),
            gap.start,
            gap.end - gap.start
        ),
        JournalVerdict::Damaged { id, gap } => format!(
            "the journal is damaged in acknowledged batches: {}: file={} at={} bytes={}",
            gap.defect,
            file(id),
            gap.start,
            gap.end - gap.start
        ),
        JournalVerdict::Missing { id } => format!("journal missing: file={}", file(id)),
        JournalVerdict::Short { id, found, claimed } => format!(
            "the journal is older or shorter than it was: \
             file={} last_batch={} expected_batch={claimed}",
            file(id),
            found.map_or("none".to_owned(), |found| found.to_string())
        ),
        JournalVerdict::Renumbered {
            id,
            found,
            low,
            high,
        } => {
            format!(
                "the sequence number of a batch is damaged: \
                 file={} found={found} expected={low}..{high}",
                file(id)
            )
        }
    }
}

/// Reads the high-water mark. Returns `None` if the file is absent.
fn read_mark(path: &Path) -> Result<Option<Mark>> {
    match mark::read(path).map_err(|error| unavailable("read", path, error))? {
        Reading::Absent => Ok(None),
        Reading::Sound {
            mark,
            other_damaged,
        } => {
            if other_damaged {
                tracing::warn!(
                    path = %path.display(),
                    "a slot of the high-water mark is damaged; the other slot is used"
                );
            }
            Ok(Some(mark))
        }
        Reading::Damaged => Err(corrupt(format!(
            "the high-water mark is damaged: file={} \
             (removing the file gives up the check of the end of the journal)",
            path.display()
        ))),
        Reading::Unknown(format) => {
            let message = format!(
                "this build does not know the format of the mark: format={format} file={}",
                path.display()
            );
            Err(Error::new(ErrorKind::UnknownFormat, "open", message))
        }
    }
}

/// Writes the mark of an open index. Returns `None` if it can't be written, for example on a full
/// disk.
fn write_mark(path: &Path, mark: &Mark, modes: Modes) -> Result<Option<MarkFile>> {
    let error = match MarkFile::open(path, mark, modes) {
        Ok(marks) => return Ok(Some(marks)),
        Err(error) => error,
    };
    // An old mark may say "closed". It must not outlive the next change of the journals.
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(unavailable("remove", path, error)),
    }
    tracing::warn!(
        %error, path = %path.display(),
        "can't write the high-water mark: the journals are unchecked at the next open"
    );
    Ok(None)
}

/// Copies a tail aside and cuts it off its journal.
fn cut_tail(store: &Path, database: &Path, id: u64, gap: JournalGap, modes: Modes) -> Result<()> {
    let path = journals::path(database, id);
    let kept = keep_tail(store, &path, id, gap, modes);
    let kept = match kept {
        Ok(kept) => kept.display().to_string(),
        // The tail was never acknowledged, and a full disk must not stop the store from opening.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ) =>
        {
            "nowhere: the disk is full".to_owned()
        }
        Err(error) => return Err(unavailable("copy the end of", &path, error)),
    };
    let cut = || {
        let file = File::options().write(true).open(&path)?;
        file.set_len(gap.start)?;
        file.sync_all()
    };
    cut().map_err(|error| unavailable("cut", &path, error))?;
    tracing::warn!(
        path = %path.display(), at = gap.start, bytes = gap.end - gap.start,
        defect = %gap.defect, kept,
        "cut off an unacknowledged batch at the end of the journal"
    );
    Ok(())
}

/// Copies a tail to a new file in the directory of tails, and deletes the oldest tails there.
fn keep_tail(
    store: &Path,
    journal: &Path,
    id: u64,
    gap: JournalGap,
    modes: Modes,
) -> io::Result<PathBuf> {
    let dir = store.join(TAILS);
    modes.create_dir_all(&dir)?;
    let mut kept: Vec<(u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(&dir)? {
        let entry = entry?;
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.split('-').next()?.parse().ok())
            // No tail can follow it, so this build did not write it.
            .filter(|&number| number < u64::MAX);
        kept.extend(number.map(|number| (number, entry.path())));
    }
    // By number and not by name: "10-…" follows "9-…".
    kept.sort();
    // One less than the limit: the new tail is the last.
    for (_, old) in kept.iter().rev().skip(TAILS_MAX - 1) {
        fs::remove_file(old)?;
    }
    let number = kept.last().map_or(0, |(number, _)| number + 1);
    let path = dir.join(format!("{number}-of-{id}.jnl-at-{}", gap.start));
    let mut from = File::open(journal)?;
    from.seek(SeekFrom::Start(gap.start))?;
    // The copy is durable before the caller cuts the journal.
    let copied = modes.create_file(&path).and_then(|mut to| {
        io::copy(&mut from.take(gap.end - gap.start), &mut to)?;
        to.sync_all()?;
        sync_directory_at(&dir)?;
        sync_directory_at(store)
    });
    // A partial copy must not count as a kept tail.
    if let Err(error) = copied {
        let _ = fs::remove_file(&path);
        return Err(error);
    }
    Ok(path)
}

/// Converts an error of the scan of all journals.
fn scan_error(database: &Path, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::InvalidData {
        return corrupt(format!(
            "the journals can't be listed: path={} {WAYS_OUT}",
            database.display()
        ))
        .with_source(error);
    }
    unavailable("read the journals of", database, error)
}
