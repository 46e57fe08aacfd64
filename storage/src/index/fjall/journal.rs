//! Reads fjall's journals without fjall and without changing them.
//!
//! A journal is a file `N.jnl` of batches, back to back. A new file is preallocated: zeros follow
//! the last batch. All numbers are little-endian.
//!
//! ```text
//! batch   start item{count} end
//! start   01 | count u32 | sequence number u64                        not covered by the checksum
//! item    02 | type u8 | compression u8 | keyspace u64 | key length u16 | value length u32
//!            | stored length u32 | key | value                        type 0: put, 1: remove
//! end     03 | xxh3 of the items u64 | "FJL" 03
//! ```
//!
//! [`scan`] divides a file into *runs* of intact batches and *gaps* of other bytes. A batch is
//! intact if it has exactly `count` items, its checksum matches, and its sequence number is higher
//! than the sequence number of every earlier batch. The sequence number needs a check of its own,
//! because the checksum does not cover the start of a batch. It rises, because a single thread
//! commits. Behind a gap the scan tries to read a batch at every byte. Memory is bounded, and every
//! length is compared with the length of the file before use.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::RangeInclusive;
use std::path::Path;

mod batch;
mod source;

pub(crate) use batch::Defect;
use batch::{BatchHead, read_batch};
pub(super) use batch::{START_BYTES, start};
use source::JournalWindow;

/// First byte of a batch.
const TAG_START: u8 = 1;

/// Largest difference between the sequence numbers of consecutive batches. Flushes and compactions
/// take sequence numbers in between.
const SEQNO_STEP_MAX: u64 = 1 << 40;

/// Highest sequence number that a store can reach.
const SEQNO_MAX: u64 = 1 << 56;

/// Maximum number of runs of a file. Behind the last of these runs, the scan treats the rest of the
/// file as a single gap.
const RUNS_MAX: usize = 1024;

/// Bytes that the searches may read per byte of the file, in attempts to read a batch. Bounds the
/// time for files with many false starts of batches.
const SEARCH_FACTOR: u64 = 8;
/// Bytes of an attempt that do not count against this budget.
const SEARCH_FREE: u64 = 64;

/// A sequence of intact batches without other bytes between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchRun {
    /// Offset of the first batch.
    pub(crate) start: u64,
    /// End of the last batch.
    pub(crate) end: u64,
    /// Number of batches, at least 1.
    pub(crate) batches: u64,
    /// Sequence number of the first batch.
    pub(crate) first_seqno: u64,
    /// Sequence number of the last batch.
    pub(crate) last_seqno: u64,
}

/// A range of bytes that are neither intact batches nor the zeros at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct JournalGap {
    /// Offset of the first byte.
    pub(crate) start: u64,
    /// End of the range: the start of the next run, or the end of the last nonzero byte.
    pub(crate) end: u64,
    /// Reason why no intact batch begins at `start`.
    pub(crate) defect: Defect,
}

/// Contents of a journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Journal {
    /// Length of the file in bytes, including the zeros at its end.
    pub(crate) bytes: u64,
    /// Intact batches, in file order.
    pub(crate) runs: Vec<BatchRun>,
    /// Damaged ranges, in file order.
    pub(crate) gaps: Vec<JournalGap>,
    /// First sequence number that is at least [`Mode::witness`].
    pub(crate) witness: Option<u64>,
    /// True if the search in the last gap exceeded its budget: the gap may contain intact batches.
    pub(crate) undecided: bool,
}

impl Journal {
    /// Returns the sequence number of the last intact batch.
    pub(crate) fn last_seqno(&self) -> Option<u64> {
        self.runs.last().map(|run| run.last_seqno)
    }

    /// Returns the sequence number of the first intact batch.
    pub(crate) fn first_seqno(&self) -> Option<u64> {
        self.runs.first().map(|run| run.first_seqno)
    }

    /// Returns the gap at the end, if a torn write can be its cause: no intact batch follows it.
    pub(crate) fn damaged_tail(&self) -> Option<JournalGap> {
        let torn = |gap: &JournalGap| !self.undecided && !matches!(gap.defect, Defect::Seqno(_));
        let gap = self.gaps.last().copied().filter(torn)?;
        self.runs
            .last()
            .is_none_or(|run| run.end <= gap.start)
            .then_some(gap)
    }

    /// Returns the first gap that an intact batch follows or may follow.
    pub(crate) fn damaged_middle(&self) -> Option<JournalGap> {
        let tail = usize::from(self.damaged_tail().is_some());
        self.gaps[..self.gaps.len() - tail].first().copied()
    }
}

/// Input of a scan from outside the journal.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mode {
    /// Sequence number of the last batch of the earlier journals.
    pub(crate) after: Option<u64>,
    /// Lower bound of the sequence number that [`Journal::witness`] reports.
    pub(crate) witness: Option<u64>,
}

/// Reads a whole journal.
///
/// # Errors
/// Errors of the file system. Damage is not an error.
pub(crate) fn scan(path: &Path, mode: Mode) -> io::Result<Journal> {
    let mut source = JournalWindow::new(File::open(path)?)?;
    let mut journal = Journal {
        bytes: source.len(),
        ..Journal::default()
    };
    let mut budget = source.len().saturating_mul(SEARCH_FACTOR);
    let mut last = mode.after;
    let mut at = 0;
    while at < source.len() {
        let defect = match read_batch(&mut source, at, None)? {
            // The batch is whole, so the scan continues at its end. Its number makes it damage.
            Ok(head) if !bounds(last).contains(&head.seqno) => {
                add_misnumbered(&mut journal.gaps, at, head);
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
                at = head.end;
                last = Some(head.seqno);
                continue;
            }
            Err(defect) => defect,
        };
        // fjall preallocates journals: only zeros up to the end of the file are no damage.
        let used = source.used_end(at)?;
        if used == at {
            break;
        }
        // A torn batch is followed by nothing. An intact batch behind the gap means that
        // acknowledged batches are damaged.
        let found = match search(&mut source, at + 1, used, &bounds(last), &mut budget)? {
            SearchOutcome::Found(next) if journal.runs.len() < RUNS_MAX => Some(next),
            SearchOutcome::Found(_) | SearchOutcome::GivenUp => {
                journal.undecided = true;
                None
            }
            SearchOutcome::Nothing => None,
        };
        journal.gaps.push(JournalGap {
            start: at,
            end: found.unwrap_or(used),
            defect,
        });
        at = found.unwrap_or(source.len());
    }
    Ok(journal)
}

/// Copies only the intact batches of a journal to `to`, in order.
///
/// # Errors
/// Errors of the file system.
pub(crate) fn copy_intact(path: &Path, journal: &Journal, to: &mut impl Write) -> io::Result<()> {
    let mut file = File::open(path)?;
    for run in &journal.runs {
        file.seek(SeekFrom::Start(run.start))?;
        let copied = io::copy(&mut (&file).take(run.end - run.start), to)?;
        // The file was cut after the scan.
        if copied < run.end - run.start {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// Returns the valid sequence numbers of the batch that follows sequence number `last`.
fn bounds(last: Option<u64>) -> RangeInclusive<u64> {
    match last {
        Some(last) => last.saturating_add(1)..=last.saturating_add(SEQNO_STEP_MAX),
        None => 0..=SEQNO_MAX,
    }
}

/// Adds a batch to the last run if it follows directly, or begins a new run.
fn extend(runs: &mut Vec<BatchRun>, at: u64, head: BatchHead) {
    match runs.last_mut() {
        Some(run) if run.end == at => {
            run.end = head.end;
            run.batches += 1;
            run.last_seqno = head.seqno;
        }
        Some(_) | None => {
            runs.push(BatchRun {
                start: at,
                end: head.end,
                batches: 1,
                first_seqno: head.seqno,
                last_seqno: head.seqno,
            });
        }
    }
}

/// Adds a whole batch with a wrong sequence number to the gaps. [`Journal::damaged_tail`] never
/// returns this gap: a torn write does not produce a whole batch with a wrong number.
fn add_misnumbered(gaps: &mut Vec<JournalGap>, at: u64, head: BatchHead) {
    match gaps.last_mut() {
        Some(gap) if gap.end == at && matches!(gap.defect, Defect::Seqno(_)) => gap.end = head.end,
        Some(_) | None => gaps.push(JournalGap {
            start: at,
            end: head.end,
            defect: Defect::Seqno(head.seqno),
        }),
    }
}

/// Outcome of a [`search`].
enum SearchOutcome {
    /// Offset of the intact batch.
    Found(u64),
    /// No intact batch.
    Nothing,
    /// The budget is used up.
    GivenUp,
}

/// Searches for the first intact batch in `from..end`, starting at every byte.
fn search(
    source: &mut JournalWindow,
    from: u64,
    end: u64,
    seqnos: &RangeInclusive<u64>,
    budget: &mut u64,
) -> io::Result<SearchOutcome> {
    let mut at = from;
    while let Some(candidate) = source.find(TAG_START, at, end)? {
        let before = source.bytes_read();
        if read_batch(source, candidate, Some(seqnos))?.is_ok() {
            return Ok(SearchOutcome::Found(candidate));
        }
        // Each `01` byte may be a false start of a batch of any length. The budget keeps the scan
        // linear.
        match budget.checked_sub((source.bytes_read() - before).saturating_sub(SEARCH_FREE)) {
            Some(left) => *budget = left,
            None => return Ok(SearchOutcome::GivenUp),
        }
        at = candidate + 1;
    }
    Ok(SearchOutcome::Nothing)
}

#[cfg(test)]
mod tests;
