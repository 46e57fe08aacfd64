//! All journals of a database against each other and against the high-water mark, before fjall
//! reads them.
//!
//! fjall numbers its journals, removes the oldest first, and syncs one before it begins the next.
//! Our one committer syncs each batch before it writes another. Hence damage that an intact batch
//! follows is damage to acknowledged history. Damage that nothing follows is a batch that was never
//! acknowledged, unless the mark says otherwise.
//!
//! | found | verdict |
//! |---|---|
//! | intact batches to the end, and all that the mark claims | sound |
//! | one gap, nothing intact behind it, and all that the mark claims before it | cut the tail |
//! | a gap with an intact batch behind it, or more than one gap | damaged |
//! | a number missing between two journals | missing |
//! | less than the mark claims | short, older or missing |
//!
//! Guards I9: no acknowledged batch is lost in silence. What stays undetected: damage to what was
//! written after the last mark, if nothing follows it; the oldest of several journals removed after
//! a crash; the mark and the end of the journal taken back together.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::journal::{self, Gap, Journal, Mode};
use super::mark::Mark;

const EXTENSION: &str = "jnl";

/// A journal, and what is in it.
#[derive(Clone, Debug)]
pub(crate) struct Scanned {
    /// Its number: fjall counts them.
    pub(crate) id: u64,
    /// Its contents.
    pub(crate) journal: Journal,
}

/// What the check says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing is wrong.
    Sound,
    /// A batch that was never acknowledged is torn or damaged. It may be cut off.
    Tail { id: u64, gap: Gap },
    /// Acknowledged batches are damaged, or may be.
    Damaged { id: u64, gap: Gap },
    /// A journal is not there.
    Missing { id: u64 },
    /// An acknowledged batch is not there: the last one found, and that which the mark claims at
    /// least.
    Short {
        id: u64,
        found: Option<u64>,
        claimed: u64,
    },
    /// A batch has another sequence number than the mark says.
    Renumbered {
        id: u64,
        found: u64,
        low: u64,
        high: u64,
    },
}

/// The path of a journal.
pub(crate) fn path(database: &Path, id: u64) -> PathBuf {
    database.join(format!("{id}.{EXTENSION}"))
}

/// The numbers of all journals, ascending.
///
/// # Errors
/// Errors of the file system; [`io::ErrorKind::InvalidData`] if a journal has no number.
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
            let id = id.filter(|&id: &u64| name == Path::new(&format!("{id}.{EXTENSION}")));
            let wrong = || {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("a journal has no number: {name:?}"),
                )
            };
            ids.push(id.ok_or_else(wrong)?);
        }
    }
    ids.sort_unstable();
    Ok(ids)
}

/// Reads all journals, the oldest first.
///
/// # Errors
/// As [`list`].
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

/// Decides.
pub(crate) fn judge(scanned: &[Scanned], mark: Option<&Mark>) -> Verdict {
    for pair in scanned.windows(2) {
        if pair[0].id + 1 != pair[1].id {
            return Verdict::Missing { id: pair[0].id + 1 };
        }
    }
    let mut gaps = scanned
        .iter()
        .flat_map(|Scanned { id, journal }| journal.gaps.iter().map(|&gap| (*id, gap)));
    let gap = gaps.next();
    if let Some((id, gap)) = gap {
        let behind = scanned
            .iter()
            .filter(|later| later.id > id)
            .any(|later| !later.journal.runs.is_empty());
        let own = scanned.iter().find(|scanned| scanned.id == id);
        let in_the_middle = own.is_none_or(|own| own.journal.damaged_middle().is_some());
        if behind || in_the_middle || gaps.next().is_some() {
            return Verdict::Damaged { id, gap };
        }
    }
    if let Some(mark) = mark.filter(|mark| mark.claims())
        && let Some(verdict) = against(scanned, mark)
    {
        return match (verdict, gap) {
            // The batch that the mark claims is the damaged one.
            (Verdict::Short { .. }, Some((id, gap))) => Verdict::Damaged { id, gap },
            (verdict, _) => verdict,
        };
    }
    gap.map_or(Verdict::Sound, |(id, gap)| Verdict::Tail { id, gap })
}

/// What is less than the mark claims.
fn against(scanned: &[Scanned], mark: &Mark) -> Option<Verdict> {
    let claimed = mark.newest()?;
    let Some(newest) = scanned.last() else {
        return Some(Verdict::Missing { id: claimed });
    };
    if newest.id < claimed {
        return Some(Verdict::Missing { id: claimed });
    }
    for &(id, first) in &mark.journals {
        let Some(listed) = scanned.iter().find(|scanned| scanned.id == id) else {
            continue;
        };
        match listed.journal.first_seqno() {
            Some(found) if found == first => {}
            Some(found) => {
                return Some(Verdict::Renumbered {
                    id,
                    found,
                    low: first,
                    high: first + 1,
                });
            }
            None => {
                return Some(Verdict::Short {
                    id,
                    found: None,
                    claimed: first,
                });
            }
        }
    }
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
            Some((id, found)) if id == claimed && found >= mark.high => Some(Verdict::Renumbered {
                id,
                found,
                low: mark.low,
                high: mark.high,
            }),
            Some((id, _)) if id == claimed => oldest_missing(mark, oldest, last),
            Some(_) | None => Some(Verdict::Short {
                id: claimed,
                found: last,
                claimed: mark.low,
            }),
        };
    }
    // fjall removes a journal when its tables hold all that is in it.
    oldest_missing(mark, oldest, last)
}

/// After an orderly end all journals are there, unless a build without marks has used the store
/// since.
fn oldest_missing(mark: &Mark, oldest: u64, last: Option<u64>) -> Option<Verdict> {
    let untouched = mark.closed && last.is_none_or(|last| last < mark.high);
    (untouched && oldest > mark.oldest).then_some(Verdict::Missing { id: mark.oldest })
}

#[cfg(test)]
mod tests;
