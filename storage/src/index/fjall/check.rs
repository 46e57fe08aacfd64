//! The check of what fjall would read, before it reads it.
//!
//! 1. every manifest and the end of every file that it names: on damage Corrupt, and nothing was
//!    touched
//! 2. the high-water mark and all journals (`journals.rs`): on damage Corrupt, and nothing was
//!    touched
//! 3. a tail that was never acknowledged: copy it aside, cut it off, sync
//! 4. the mark, durably: a life has begun
//!
//! Guards I9: fjall drops in silence what follows the first byte that it cannot read, and aborts at
//! some damage.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::creation::{corrupt, unavailable};
use super::journal::Gap;
use super::journals::{self, Scanned, Verdict};
use super::manifest::{self, Depth};
use super::mark::{self, Mark, MarkFile, Reading};
use crate::directory_sync::sync_directory_at;
use crate::error::{Error, ErrorKind, Result};
use crate::modes::Modes;

pub(super) const HIGH_WATER: &str = "high-water";
pub(super) const TAILS: &str = "tails";

/// Most tails that are kept. The oldest go first.
const TAILS_MAX: usize = 8;

/// What the check leaves to whoever opens fjall.
#[derive(Debug)]
pub(super) struct Checked {
    /// The mark; none if the disk has no room for one.
    pub(super) marks: Option<MarkFile>,
    /// Sequence number of the last batch in the journals.
    pub(super) last_seqno: Option<u64>,
}

/// A store that has passed the check, and was not touched.
#[derive(Debug)]
pub(super) struct Looked {
    mark: Option<Mark>,
    /// The journals, in order.
    pub(super) scanned: Vec<Scanned>,
    /// A tail that was never acknowledged, and its journal.
    tail: Option<(u64, Gap)>,
}

/// Checks a store, and cuts off a tail that was never acknowledged. `keyspaces` are the names of
/// their directories.
///
/// # Errors
/// [`ErrorKind::Corrupt`] if acknowledged data is or may be damaged, [`ErrorKind::UnknownFormat`]
/// if a later build wrote the mark; nothing was touched then. [`ErrorKind::Unavailable`] if the
/// file system fails.
pub(super) fn before_open(
    store: &Path,
    database: &Path,
    keyspaces: &[u64],
    modes: Modes,
) -> Result<Checked> {
    let Looked {
        mark,
        scanned,
        tail,
    } = look(store, database, keyspaces)?;
    if let Some((id, gap)) = tail {
        cut(store, database, id, gap, modes)?;
    }
    let last_seqno = scanned
        .iter()
        .filter_map(|scanned| scanned.journal.last_seqno())
        .max();
    let marks = begin(
        &store.join(HIGH_WATER),
        &Mark {
            closed: false,
            ..mark.unwrap_or_default()
        },
        modes,
    )?;
    Ok(Checked { marks, last_seqno })
}

/// Checks a store without touching it.
///
/// # Errors
/// As [`before_open`].
pub(super) fn look(store: &Path, database: &Path, keyspaces: &[u64]) -> Result<Looked> {
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
        journals::scan(database, mark.as_ref()).map_err(|error| unlisted(database, error))?;
    let tail = match journals::judge(&scanned, mark.as_ref()) {
        Verdict::Sound => None,
        Verdict::Tail { id, gap } => Some((id, gap)),
        wrong @ (Verdict::Damaged { .. }
        | Verdict::Missing { .. }
        | Verdict::Short { .. }
        | Verdict::Renumbered { .. }) => {
            return Err(corrupt(format!("{} {WAYS_OUT}", told(&wrong, database))));
        }
    };
    Ok(Looked {
        mark,
        scanned,
        tail,
    })
}

/// How to go on after an error.
pub(super) const WAYS_OUT: &str = "(`cenotaph doctor DIR` explains the damage, `cenotaph salvage OLD NEW` copies what can be read)";

/// A verdict as a message.
pub(super) fn told(verdict: &Verdict, database: &Path) -> String {
    let file = |id: u64| journals::path(database, id).display().to_string();
    match *verdict {
        Verdict::Sound => "the journals are sound".to_owned(),
        Verdict::Tail { id, gap } => format!(
            "the journal ends in a batch that was never acknowledged: {}: file={} at={} bytes={}",
            gap.defect,
            file(id),
            gap.start,
            gap.end - gap.start
        ),
        Verdict::Damaged { id, gap } => format!(
            "the journal is damaged in acknowledged batches: {}: file={} at={} bytes={}",
            gap.defect,
            file(id),
            gap.start,
            gap.end - gap.start
        ),
        Verdict::Missing { id } => format!("a journal is missing: file={}", file(id)),
        Verdict::Short { id, found, claimed } => format!(
            "the journal is older or shorter than it was: file={} last_batch={} expected_batch={claimed}",
            file(id),
            found.map_or("none".to_owned(), |found| found.to_string())
        ),
        Verdict::Renumbered {
            id,
            found,
            low,
            high,
        } => {
            format!(
                "the sequence number of a batch is damaged: file={} found={found} expected={low}..{high}",
                file(id)
            )
        }
    }
}

fn read_mark(path: &Path) -> Result<Option<Mark>> {
    match mark::read(path).map_err(|error| unavailable("read", path, error))? {
        Reading::Absent => Ok(None),
        Reading::Sound {
            mark,
            other_damaged,
        } => {
            if other_damaged {
                tracing::warn!(path = %path.display(), "a slot of the high-water mark is damaged; the other one counts");
            }
            Ok(Some(mark))
        }
        Reading::Damaged => Err(corrupt(format!(
            "the high-water mark is damaged: file={} (removing the file gives up the check of the end of the journal)",
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

fn begin(path: &Path, mark: &Mark, modes: Modes) -> Result<Option<MarkFile>> {
    let error = match MarkFile::open(path, mark, modes) {
        Ok(marks) => return Ok(Some(marks)),
        Err(error) => error,
    };
    // A mark that says "closed" must not outlive the next change of the journals.
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(unavailable("remove", path, error)),
    }
    tracing::warn!(%error, path = %path.display(), "there is no high-water mark in this life: it can't be written");
    Ok(None)
}

fn cut(store: &Path, database: &Path, id: u64, gap: Gap, modes: Modes) -> Result<()> {
    let path = journals::path(database, id);
    let kept = keep(store, &path, id, gap, modes);
    let kept = match kept {
        Ok(kept) => kept.display().to_string(),
        // The tail was never acknowledged, and a full disk must not stop the store from opening.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ) =>
        {
            "nowhere, for the disk is full".to_owned()
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
        path = %path.display(), at = gap.start, bytes = gap.end - gap.start, defect = %gap.defect, kept,
        "the journal ended in a batch that was never acknowledged: it was cut off"
    );
    Ok(())
}

/// Copies a tail to a file of its own.
fn keep(store: &Path, journal: &Path, id: u64, gap: Gap, modes: Modes) -> io::Result<PathBuf> {
    let dir = store.join(TAILS);
    modes.create_dir_all(&dir)?;
    let mut kept: Vec<(u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(&dir)? {
        let entry = entry?;
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.split('-').next()?.parse().ok());
        kept.extend(number.map(|number| (number, entry.path())));
    }
    kept.sort();
    for (_, old) in kept.iter().rev().skip(TAILS_MAX - 1) {
        fs::remove_file(old)?;
    }
    let number = kept.last().map_or(0, |(number, _)| number + 1);
    let path = dir.join(format!("{number}-of-{id}.jnl-at-{}", gap.start));
    let mut from = File::open(journal)?;
    from.seek(SeekFrom::Start(gap.start))?;
    let copied = modes.create_file(&path).and_then(|mut to| {
        io::copy(&mut from.take(gap.end - gap.start), &mut to)?;
        to.sync_all()?;
        sync_directory_at(&dir)?;
        sync_directory_at(store)
    });
    if let Err(error) = copied {
        let _ = fs::remove_file(&path);
        return Err(error);
    }
    Ok(path)
}

fn unlisted(database: &Path, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::InvalidData {
        return corrupt(format!(
            "the journals can't be listed: path={} {WAYS_OUT}",
            database.display()
        ))
        .with_source(error);
    }
    unavailable("read the journals of", database, error)
}
