//! Keeps the high-water mark while the store is open.
//!
//! The committer notes each acknowledged commit, which costs two loads and a lock. About once a
//! second, when something was committed, the mark is written between two commits, without a sync;
//! once more when fjall has let go of its files. A mark that can't be written is only older: it
//! fails no commit.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::journal;
use super::journals;
use super::mark::{JOURNALS_MAX, Mark, MarkFile};

/// Time between two marks.
const INTERVAL: Duration = Duration::from_secs(1);

/// The file of the mark, and what the next one will claim.
#[derive(Debug)]
pub(super) struct Marker {
    database: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: MarkFile,
    /// The last acknowledged batch has a sequence number from the first to below the second.
    acknowledged: Option<(u64, u64)>,
    /// True if something was acknowledged since the last mark.
    changed: bool,
    asked: Option<Duration>,
    /// Sequence numbers of the first batches of journals, which do not change.
    firsts: BTreeMap<u64, u64>,
}

impl Marker {
    /// `last` is the sequence number of the last batch that the journals hold durably.
    pub(super) fn new(database: &Path, file: MarkFile, last: Option<u64>) -> Self {
        let state = State {
            file,
            acknowledged: last.map(|last| (last, last.saturating_add(1))),
            changed: false,
            asked: None,
            firsts: BTreeMap::new(),
        };
        Self {
            database: database.to_owned(),
            state: Mutex::new(state),
        }
    }

    /// Notes that a batch is durable. `low` was the next sequence number before its commit, `high`
    /// the next one after.
    pub(super) fn acknowledged(&self, low: u64, high: u64) {
        let mut state = self.lock();
        state.acknowledged = Some((low, high));
        state.changed = true;
    }

    /// Returns whether a mark should be written now; says so once in an interval.
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

    /// Writes a mark, between two commits: on the thread that commits.
    pub(super) fn write(&self) {
        let mut state = self.lock();
        if let Err(error) = state
            .mark(&self.database, false)
            .and_then(|mark| state.file.write(&mark))
        {
            tracing::warn!(%error, "the high-water mark of the journals could not be written");
        }
        state.changed = false;
    }

    fn close(&self) {
        let mut state = self.lock();
        if let Err(error) = state
            .mark(&self.database, true)
            .and_then(|mark| state.file.write_twice(&mark))
        {
            tracing::warn!(%error, "the last high-water mark of the journals could not be written");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn mark(&mut self, database: &Path, closed: bool) -> io::Result<Mark> {
        let (low, high) = self.acknowledged.unwrap_or_default();
        let ids = journals::list(database)?;
        self.firsts.retain(|id, _| ids.contains(id));
        for &id in &ids {
            if !self.firsts.contains_key(&id)
                && let Some(first) = first_seqno(&journals::path(database, id))?
            {
                self.firsts.insert(id, first);
            }
        }
        // A journal that begins above holds nothing that is acknowledged yet, and may not even be
        // durable itself.
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

/// Sequence number of the first batch of a journal, if it has any.
fn first_seqno(path: &Path) -> io::Result<Option<u64>> {
    let mut start = Vec::new();
    match File::open(path) {
        Ok(file) => file
            .take(journal::START_BYTES as u64)
            .read_to_end(&mut start)?,
        // fjall has removed it meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(journal::start(&start).map(|(_, seqno)| seqno))
}

/// Writes the last mark of a life when it is dropped: after the database, before the lock.
#[derive(Debug)]
pub(super) struct LastMark(pub(super) Option<std::sync::Arc<Marker>>);

impl Drop for LastMark {
    fn drop(&mut self) {
        if let Some(marker) = &self.0 {
            marker.close();
        }
    }
}
