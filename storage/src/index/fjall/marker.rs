//! Writes the high-water mark while the store is open.
//!
//! The committer records each acknowledged commit, at the cost of two loads and a lock. If commits
//! were recorded, it writes the mark about once per second, between two commits and without a sync.
//! The last mark is written after fjall has released its files, and replaces the journals if their
//! batches were flushed (`closing.rs`). A failed write of the mark fails no
//! commit: the mark on disk is only older.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::closing;
use super::journal;
use super::journals;
use super::mark::{JOURNALS_MAX, Mark, MarkFile};
use crate::modes::Modes;

/// Minimum time between two marks.
const INTERVAL: Duration = Duration::from_secs(1);

/// The writer of the high-water mark.
#[derive(Debug)]
pub(super) struct MarkWriter {
    database: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: MarkFile,
    /// Range `low..high` of the sequence number of the last acknowledged batch.
    acknowledged: Option<(u64, u64)>,
    /// True if a batch was acknowledged since the last mark.
    changed: bool,
    /// Time of the last mark that was due.
    asked: Option<Duration>,
    /// Modes of a new journal if all batches of the journals are in tables.
    flushed: Option<Modes>,
    /// Sequence number of the first batch of each journal. These numbers never change.
    firsts: BTreeMap<u64, u64>,
}

impl MarkWriter {
    /// Creates the writer. `last` is the sequence number of the last durable batch in the journals.
    pub(super) fn new(database: &Path, file: MarkFile, last: Option<u64>) -> Self {
        let state = State {
            file,
            acknowledged: last.map(|last| (last, last.saturating_add(1))),
            changed: false,
            asked: None,
            flushed: None,
            firsts: BTreeMap::new(),
        };
        Self {
            database: database.to_owned(),
            state: Mutex::new(state),
        }
    }

    /// Returns the directory of the database.
    pub(super) fn database(&self) -> &Path {
        &self.database
    }

    /// Records a durable batch. `low` was the next sequence number before its commit, and `high` is
    /// the next sequence number after its commit.
    pub(super) fn acknowledged(&self, low: u64, high: u64) {
        let mut state = self.lock();
        state.acknowledged = Some((low, high));
        state.changed = true;
    }

    /// Returns whether a mark must be written now. Returns true at most once per [`INTERVAL`].
    pub(super) fn due(&self, now: Duration) -> bool {
        let mut state = self.lock();
        let due = state.changed
            && state
                .asked
                .is_none_or(|asked| now.saturating_sub(asked) >= INTERVAL);
        if due {
            state.asked = Some(now);
        }
        due
    }

    /// Writes a mark. Must be called on the committing thread, between two commits.
    pub(super) fn write(&self) {
        let mut state = self.lock();
        if let Err(error) = state
            .mark(&self.database, false)
            .and_then(|mark| state.file.write(&mark))
        {
            tracing::warn!(%error, "failed to write the high-water mark of the journals");
        }
        // Also after an error: the next commit sets the flag again.
        state.changed = false;
    }

    /// Records that tables contain all batches of the journals, durably, and that no batch follows.
    /// The last mark then replaces the journals by an empty one with these modes.
    pub(super) fn flushed(&self, modes: Modes) {
        self.lock().flushed = Some(modes);
    }

    fn close(&self) {
        let mut state = self.lock();
        if let Some(modes) = state.flushed {
            match state.replace_journals(&self.database, modes) {
                Ok(()) => return,
                // The journals, or some of them, are still there: the usual mark describes them.
                Err(error) => tracing::warn!(%error, "failed to remove the flushed journals"),
            }
        }
        if let Err(error) = state
            .mark(&self.database, true)
            // No later write repairs a damaged slot of the last mark, so both slots receive it.
            .and_then(|mark| state.file.write_twice(&mark))
        {
            tracing::warn!(%error, "failed to write the last high-water mark of the journals");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Carries out steps 2 to 4 of `closing.rs`.
    fn replace_journals(&mut self, database: &Path, modes: Modes) -> io::Result<()> {
        let next = closing::begin_journal(database, modes)?;
        let mark = Mark {
            closed: true,
            oldest: next,
            ..Mark::default()
        };
        self.file.write_twice(&mark)?;
        // Otherwise a power cut could leave a mark that claims batches of the removed journals.
        self.file.sync()?;
        closing::remove_journals(database, next)
    }

    /// Builds the mark of the current state.
    fn mark(&mut self, database: &Path, closed: bool) -> io::Result<Mark> {
        let (low, high) = self.acknowledged.unwrap_or_default();
        let ids = journals::list(database)?;
        // Forget the journals that fjall has removed.
        self.firsts.retain(|id, _| ids.contains(id));
        for &id in &ids {
            if !self.firsts.contains_key(&id)
                && let Some(first) = first_seqno(&journals::path(database, id))?
            {
                self.firsts.insert(id, first);
            }
        }
        // A journal that begins at or above `high` contains no acknowledged batch yet. The journal
        // itself may not be durable.
        let listed = self
            .firsts
            .iter()
            .filter(|&(_, &first)| first < high)
            .map(|(&id, &first)| (id, first));
        let mut listed: Vec<_> = listed.collect();
        listed.drain(..listed.len().saturating_sub(JOURNALS_MAX));
        let oldest = ids.first().copied().unwrap_or_default();
        Ok(Mark {
            generation: 0,
            closed,
            low,
            high,
            oldest,
            journals: listed,
        })
    }
}

/// Returns the sequence number of the first batch of a journal, or `None` if the journal is empty
/// or absent.
fn first_seqno(path: &Path) -> io::Result<Option<u64>> {
    let mut start = Vec::new();
    match File::open(path) {
        Ok(file) => file
            .take(journal::START_BYTES as u64)
            .read_to_end(&mut start)?,
        // fjall has removed the journal since it was listed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(journal::start(&start).map(|(_, seqno)| seqno))
}

/// Writes the last mark when it is dropped: after the database, before the lock.
#[derive(Debug)]
pub(super) struct LastMark(pub(super) Option<std::sync::Arc<MarkWriter>>);

impl Drop for LastMark {
    fn drop(&mut self) {
        if let Some(marker) = &self.0 {
            marker.close();
        }
    }
}
