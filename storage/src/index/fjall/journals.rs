//! Checks all journals of a database against each other and against the high-water mark, before
//! fjall reads them.
//!
//! fjall numbers its journals, removes the oldest first, and syncs a journal before it begins the
//! next. Our committer is a single thread, and syncs each batch before it writes the next.
//! Therefore damage before an intact batch affects acknowledged batches. Damage behind the last
//! intact batch is a batch that was never acknowledged, unless the mark contradicts.
//!
//! | found | verdict |
//! |---|---|
//! | intact batches to the end, and every batch that the mark claims | sound |
//! | one gap behind the last batch, and every batch that the mark claims before it | tail: cut |
//! | a gap with an intact batch behind it, or several gaps | damaged |
//! | a gap in the numbers of the journals | missing |
//! | fewer batches than the mark claims | short, renumbered or missing |
//!
//! Guards I9: no acknowledged batch is lost without an error. Undetected: damage behind the last
//! mark at the end of the journals; the removal of the oldest of several journals after a crash; a
//! mark and an end of the journals that were both replaced by older copies.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::journal::{self, Journal, JournalGap, Mode};
use super::mark::Mark;

const EXTENSION: &str = "jnl";

/// A journal and its contents.
#[derive(Clone, Debug)]
pub(crate) struct Scanned {
    /// Number of the journal, assigned by fjall in ascending order.
    pub(crate) id: u64,
    /// Contents of the journal.
    pub(crate) journal: Journal,
}

/// Result of the check of all journals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum JournalVerdict {
    /// All acknowledged batches are present and intact.
    Sound,
    /// Only a batch that was never acknowledged is torn or damaged. The gap may be cut off.
    Tail { id: u64, gap: JournalGap },
    /// Acknowledged batches are, or may be, damaged.
    Damaged { id: u64, gap: JournalGap },
    /// A journal is missing.
    Missing { id: u64 },
    /// An acknowledged batch is missing. `found` is the last sequence number found, `claimed` the
    /// lowest sequence number that the mark claims.
    Short {
        id: u64,
        found: Option<u64>,
        claimed: u64,
    },
    /// A batch has a sequence number outside `low..high`, the range that the mark claims.
    Renumbered {
        id: u64,
        found: u64,
        low: u64,
        high: u64,
    },
}

/// Returns the path of a journal.
pub(crate) fn path(database: &Path, id: u64) -> PathBuf {
    database.join(format!("{id}.{EXTENSION}"))
}

/// Returns the numbers of all journals, ascending.
///
/// # Errors
/// Errors of the file system; [`io::ErrorKind::InvalidData`] if the name of a journal is not a
/// number.
pub(crate) fn list(database: &Path) -> io::Result<Vec<u64>> {
    let mut ids = Vec::new();
    for entry in fs::read_dir(database)? {
        let name = entry?.file_name();
        let name = Path::new(&name);
        if name
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case(EXTENSION))
        {
            let id = name
                .file_stem()
                .and_then(OsStr::to_str)
                .and_then(|stem| stem.parse().ok());
            // `007.jnl` also parses as 7, but fjall never writes this name.
            let id = id.filter(|&id: &u64| name == Path::new(&format!("{id}.{EXTENSION}")));
            // No journal could follow it.
            let id = id.filter(|&id| id < u64::MAX);
            let wrong = || {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("the name of a journal is not a number: name={name:?}"),
                )
            };
            ids.push(id.ok_or_else(wrong)?);
        }
    }
    ids.sort_unstable();
    Ok(ids)
}

/// Reads all journals, oldest first.
///
/// # Errors
/// Same as [`list`].
pub(crate) fn scan(database: &Path, mark: Option<&Mark>) -> io::Result<Vec<Scanned>> {
    let mut last = None;
    let mut scanned = Vec::new();
    for id in list(database)? {
        let low = mark.filter(|mark| mark.claims()).map(|mark| mark.low);
        let journal = journal::scan(
            &path(database, id),
            Mode {
                after: last,
                witness: low,
            },
        )?;
        last = journal.last_seqno().or(last);
        scanned.push(Scanned { id, journal });
    }
    Ok(scanned)
}

/// Returns the verdict on all journals, by the table in the module documentation.
pub(crate) fn judge(scanned: &[Scanned], mark: Option<&Mark>) -> JournalVerdict {
    // fjall removes only the oldest journals: their numbers are contiguous.
    for pair in scanned.windows(2) {
        if pair[0].id + 1 != pair[1].id {
            return JournalVerdict::Missing { id: pair[0].id + 1 };
        }
    }
    let mut gaps = scanned
        .iter()
        .flat_map(|Scanned { id, journal }| journal.gaps.iter().map(|&gap| (*id, gap)));
    let gap = gaps.next();
    if let Some((id, gap)) = gap {
        // Batches in later journals follow the gap, too: fjall syncs a journal before it begins the
        // next.
        let behind = scanned
            .iter()
            .filter(|later| later.id > id)
            .any(|later| !later.journal.runs.is_empty());
        let own = scanned.iter().find(|scanned| scanned.id == id);
        let in_the_middle = own.is_none_or(|own| own.journal.damaged_middle().is_some());
        if behind || in_the_middle || gaps.next().is_some() {
            return JournalVerdict::Damaged { id, gap };
        }
    }
    if let Some(mark) = mark.filter(|mark| mark.claims())
        && let Some(verdict) = contradiction(scanned, mark)
    {
        return match (verdict, gap) {
            // The damaged batch is the batch that the mark claims, hence an acknowledged batch.
            (JournalVerdict::Short { .. }, Some((id, gap))) => JournalVerdict::Damaged { id, gap },
            (verdict, _) => verdict,
        };
    }
    gap.map_or(JournalVerdict::Sound, |(id, gap)| JournalVerdict::Tail {
        id,
        gap,
    })
}

/// Returns the first contradiction between the journals and the mark.
fn contradiction(scanned: &[Scanned], mark: &Mark) -> Option<JournalVerdict> {
    let claimed = mark.newest()?;
    let Some(newest) = scanned.last() else {
        return Some(JournalVerdict::Missing { id: claimed });
    };
    if newest.id < claimed {
        return Some(JournalVerdict::Missing { id: claimed });
    }
    for &(id, first) in &mark.journals {
        let Some(listed) = scanned.iter().find(|scanned| scanned.id == id) else {
            continue;
        };
        match listed.journal.first_seqno() {
            Some(found) if found == first => {}
            Some(found) => {
                return Some(JournalVerdict::Renumbered {
                    id,
                    found,
                    low: first,
                    high: first.saturating_add(1),
                });
            }
            None => {
                return Some(JournalVerdict::Short {
                    id,
                    found: None,
                    claimed: first,
                });
            }
        }
    }
    // The batch that the mark claims must exist, with a sequence number in `low..high`.
    let last = scanned
        .iter()
        .filter_map(|scanned| scanned.journal.last_seqno())
        .max();
    let oldest = scanned.first().map_or(claimed, |oldest| oldest.id);
    if oldest <= claimed {
        let witness = scanned
            .iter()
            .find_map(|scanned| Some((scanned.id, scanned.journal.witness?)));
        return match witness {
            Some((id, found)) if id == claimed && found >= mark.high => {
                Some(JournalVerdict::Renumbered {
                    id,
                    found,
                    low: mark.low,
                    high: mark.high,
                })
            }
            Some((id, _)) if id == claimed => oldest_missing(mark, oldest, last),
            Some(_) | None => Some(JournalVerdict::Short {
                id: claimed,
                found: last,
                claimed: mark.low,
            }),
        };
    }
    // fjall removes a journal when its tables hold all batches of the journal, so the journal of
    // the mark may be absent.
    oldest_missing(mark, oldest, last)
}

/// Checks that the oldest journal is present. After an orderly close all journals are present,
/// unless a build without marks has used the store since.
fn oldest_missing(mark: &Mark, oldest: u64, last: Option<u64>) -> Option<JournalVerdict> {
    let untouched = mark.closed && last.is_none_or(|last| last < mark.high);
    (untouched && oldest > mark.oldest).then_some(JournalVerdict::Missing { id: mark.oldest })
}

#[cfg(test)]
mod tests;
