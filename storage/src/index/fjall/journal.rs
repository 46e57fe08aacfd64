//! fjall's journals, read without fjall and without changing them.
//!
//! A journal is a file `N.jnl` of batches, back to back. A new file is preallocated: zeros follow
//! the last batch. All numbers are little-endian.
//!
//! ```text
//! batch   start item{count} end
//! start   01 | count u32 | sequence number u64                                     not under the checksum
//! item    02 | type u8 | compression u8 | keyspace u64 | key length u16 | value length u32 | stored length u32
//!            | key | value                                                         type 0: put, 1: remove
//! end     03 | xxh3 of the items u64 | "FJL" 03
//! ```
//!
//! [`scan`] divides a file into *runs* of intact batches and *gaps* of other bytes. A batch is
//! intact if it has exactly `count` items, its checksum holds, and its sequence number is above
//! that of every batch before it: the checksum leaves out the start, and our one committer makes
//! sequence numbers rise. Behind a gap the scan looks for the next intact batch at every byte.
//! Memory is bounded, and no length is trusted before it is compared with the file.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::RangeInclusive;
use std::path::Path;

mod batch;
mod source;

pub(crate) use batch::Defect;
use batch::{BatchHead, read_batch};
pub(super) use batch::{START_BYTES, start};
use source::Source;

/// The first byte of a batch.
const TAG_START: u8 = 1;

/// The furthest a sequence number may lie above the one before it. Flushes and compactions take
/// some in between.
const SEQNO_STEP_MAX: u64 = 1 << 40;

/// The highest sequence number that a store can have reached.
const SEQNO_MAX: u64 = 1 << 56;

/// Most runs of one file. A file in more pieces is not described further.
const RUNS_MAX: usize = 1024;

/// Bytes that a search may read for each byte of the file, in attempts to read a batch where there
/// is none. An attempt that ends within [`SEARCH_FREE`] bytes costs nothing.
const SEARCH_FACTOR: u64 = 8;
const SEARCH_FREE: u64 = 64;

/// Intact batches without anything between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Where the first batch begins.
    pub(crate) start: u64,
    /// Where the last batch ends.
    pub(crate) end: u64,
    /// Number of batches, at least 1.
    pub(crate) batches: u64,
    /// Sequence number of the first batch.
    pub(crate) first_seqno: u64,
    /// Sequence number of the last batch.
    pub(crate) last_seqno: u64,
}

/// Bytes that are neither intact batches nor the zeros at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    /// The first of them.
    pub(crate) start: u64,
    /// The end of them: the next run, or the end of the last byte that is not zero.
    pub(crate) end: u64,
    /// Why there is no batch at `start`.
    pub(crate) defect: Defect,
}

/// The contents of one journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Journal {
    /// Length of the file in bytes, zeros at the end included.
    pub(crate) bytes: u64,
    /// Intact batches, in order.
    pub(crate) runs: Vec<Run>,
    /// Damage, in order.
    pub(crate) gaps: Vec<Gap>,
    /// The first sequence number that is not below [`Mode::witness`].
    pub(crate) witness: Option<u64>,
    /// True if the search for intact batches was given up in the last gap: some may lie in it.
    pub(crate) undecided: bool,
}

impl Journal {
    /// Sequence number of the last intact batch.
    pub(crate) fn last_seqno(&self) -> Option<u64> {
        self.runs.last().map(|run| run.last_seqno)
    }

    /// Sequence number of the first intact batch.
    pub(crate) fn first_seqno(&self) -> Option<u64> {
        self.runs.first().map(|run| run.first_seqno)
    }

    /// The gap that no intact batch follows, and that a torn write can have left.
    pub(crate) fn damaged_tail(&self) -> Option<Gap> {
        let torn = |gap: &Gap| !self.undecided && !matches!(gap.defect, Defect::Seqno(_));
        let gap = self.gaps.last().copied().filter(torn)?;
        self.runs
            .last()
            .is_none_or(|run| run.end <= gap.start)
            .then_some(gap)
    }

    /// The first gap that an intact batch follows, or may follow.
    pub(crate) fn damaged_middle(&self) -> Option<Gap> {
        let tail = usize::from(self.damaged_tail().is_some());
        self.gaps[..self.gaps.len() - tail].first().copied()
    }
}

/// What is known before a journal is read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mode {
    /// Sequence number of the last batch of the journals before it.
    pub(crate) after: Option<u64>,
    /// A sequence number of which the caller wants to know the next one that is there.
    pub(crate) witness: Option<u64>,
}

/// Reads a journal from its beginning to its end.
///
/// # Errors
/// Errors of the file system. Damage is no error.
pub(crate) fn scan(path: &Path, mode: Mode) -> io::Result<Journal> {
    let mut source = Source::new(File::open(path)?)?;
    let mut journal = Journal {
        bytes: source.len(),
        ..Journal::default()
    };
    let mut budget = source.len().saturating_mul(SEARCH_FACTOR);
    let mut last = mode.after;
    let mut at = 0;
    while at < source.len() {
        let defect = match read_batch(&mut source, at, None)? {
            Ok(head) if !bounds(last).contains(&head.seqno) => {
                misnumber(&mut journal.gaps, at, head);
                at = head.end;
                continue;
            }
            Ok(head) => {
                extend(&mut journal.runs, at, head);
                if journal.witness.is_none()
                    && mode.witness.is_some_and(|least| head.seqno >= least)
                {
                    journal.witness = Some(head.seqno);
                }
                (at, last) = (head.end, Some(head.seqno));
                continue;
            }
            Err(defect) => defect,
        };
        let used = source.used_end(at)?;
        if used == at {
            break;
        }
        let found = match search(&mut source, at + 1, used, &bounds(last), &mut budget)? {
            Search::Found(next) if journal.runs.len() < RUNS_MAX => Some(next),
            Search::Found(_) | Search::GivenUp => {
                journal.undecided = true;
                None
            }
            Search::Nothing => None,
        };
        journal.gaps.push(Gap {
            start: at,
            end: found.unwrap_or(used),
            defect,
        });
        at = found.unwrap_or(source.len());
    }
    Ok(journal)
}

/// Copies the intact batches of a journal to `to`, one behind the other, and nothing else.
///
/// # Errors
/// Errors of the file system.
pub(crate) fn copy_intact(path: &Path, journal: &Journal, to: &mut impl Write) -> io::Result<()> {
    let mut file = File::open(path)?;
    for run in &journal.runs {
        file.seek(SeekFrom::Start(run.start))?;
        let copied = io::copy(&mut (&file).take(run.end - run.start), to)?;
        if copied < run.end - run.start {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// What sequence number the next batch may have.
fn bounds(last: Option<u64>) -> RangeInclusive<u64> {
    match last {
        Some(last) => last.saturating_add(1)..=last.saturating_add(SEQNO_STEP_MAX),
        None => 0..=SEQNO_MAX,
    }
}

fn extend(runs: &mut Vec<Run>, at: u64, head: BatchHead) {
    match runs.last_mut() {
        Some(run) if run.end == at => {
            run.end = head.end;
            run.batches += 1;
            run.last_seqno = head.seqno;
        }
        Some(_) | None => {
            let (first_seqno, last_seqno) = (head.seqno, head.seqno);
            runs.push(Run {
                start: at,
                end: head.end,
                batches: 1,
                first_seqno,
                last_seqno,
            });
        }
    }
}

/// No torn write leaves a whole batch with a wrong number, so that such a gap is never a tail.
fn misnumber(gaps: &mut Vec<Gap>, at: u64, head: BatchHead) {
    match gaps.last_mut() {
        Some(gap) if gap.end == at && matches!(gap.defect, Defect::Seqno(_)) => gap.end = head.end,
        Some(_) | None => gaps.push(Gap {
            start: at,
            end: head.end,
            defect: Defect::Seqno(head.seqno),
        }),
    }
}

enum Search {
    Found(u64),
    Nothing,
    GivenUp,
}

/// Looks for an intact batch at every byte from `from` on.
fn search(
    source: &mut Source,
    from: u64,
    end: u64,
    seqnos: &RangeInclusive<u64>,
    budget: &mut u64,
) -> io::Result<Search> {
    let mut at = from;
    while let Some(candidate) = source.find(TAG_START, at, end)? {
        let before = source.bytes_read();
        if read_batch(source, candidate, Some(seqnos))?.is_ok() {
            return Ok(Search::Found(candidate));
        }
        match budget.checked_sub((source.bytes_read() - before).saturating_sub(SEARCH_FREE)) {
            Some(left) => *budget = left,
            None => return Ok(Search::GivenUp),
        }
        at = candidate + 1;
    }
    Ok(Search::Nothing)
}

#[cfg(test)]
mod tests;
