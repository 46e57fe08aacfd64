//! The payload log: append-only segments that hold large values outside of fjall.
//!
//! fjall writes a value twice, first to its journal and then to a file of its tables, and returns
//! the space of removed values late. The log writes a value once, and returns the space of a segment
//! as soon as no value in it is in use (I12).
//!
//! ```text
//! commit of a group                                read
//! 1 append the values to the head (`writer.rs`)    1 the key has a pointer in fjall
//! 2 fdatasync                                        (`pointer.rs`)
//! 3 fjall batch: rows, pointers, segment records   2 read the entry from its segment
//!   (`segment_record.rs`), and its sync              (`segment.rs`), and verify it
//! 4 publish the state with its segments
//! ```
//!
//! Guards I9 and I7 for values in the log: a pointer never names bytes that are not durable. Guards
//! I8: a state of the index holds its segments, and the file of a removed segment is deleted only
//! when no state holds it.
//!
//! `entry.rs`, `segment.rs`, `pointer.rs` and `segment_record.rs` define the stored forms, `table.rs`
//! the rules of removal and collection.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::modes::Modes;
use crate::types::{Error, ErrorKind, Result};

mod buffers;
mod entry;
mod open_files;
mod opening;
mod pointer;
mod positioned;
mod scan;
mod segment;
mod segment_record;
mod stats;
mod table;
mod writer;

pub(crate) use open_files::OpenFiles;
pub(crate) use opening::{LogAccess, Opening};
pub(crate) use pointer::{POINTER_BYTES, Pointer, is_logged};
pub(crate) use scan::{ScanDepth, SegmentScan};
pub(crate) use segment::{Segment, SegmentId};
pub(crate) use segment_record::{LOG_KEY, LogRecord, SegmentRecord, segment_key, segment_of};
pub use stats::{CollectionStats, PayloadLogStats};
pub(crate) use table::{HeadKind, SegmentTable, TableChanges};
pub(crate) use writer::LogWriter;

/// Name of the directory of the log, in the directory of the store.
pub(crate) const PAYLOADS: &str = "payloads";

/// Segments of a state of the index.
pub(crate) type Segments = BTreeMap<SegmentId, Arc<Segment>>;

/// Move of a value by a collection: the pointer of `key` becomes `new` if it still is `old`.
#[derive(Clone, Debug)]
pub(crate) struct Move {
    pub(crate) key: Bytes,
    pub(crate) old: Pointer,
    pub(crate) new: Pointer,
}

/// Payload log of an open index.
#[derive(Debug)]
pub(crate) struct PayloadLog {
    dir: PathBuf,
    /// Random id, which the headers of its segments carry.
    id: u128,
    modes: Modes,
    /// Size at which a segment is full, in bytes.
    segment_bytes: u64,
    open_files: Arc<OpenFiles>,
    state: Mutex<LogState>,
}

/// Changing part of a [`PayloadLog`].
#[derive(Debug)]
pub(crate) struct LogState {
    pub(crate) table: SegmentTable,
    segments: Arc<Segments>,
    /// Removed segments whose files still exist, because an older state may read them.
    retired: Vec<Arc<Segment>>,
    /// Moves that wait for the next commit.
    moves: VecDeque<Move>,
    /// Lower bound of the number of a new segment.
    least: u64,
    /// Size of the entries that collections have copied, in bytes.
    copied_bytes: u64,
    last_collection: Option<CollectionStats>,
}

impl PayloadLog {
    pub(crate) fn lock(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the statistics.
    pub(crate) fn stats(&self) -> PayloadLogStats {
        let state = self.lock();
        PayloadLogStats {
            copied_bytes: state.copied_bytes,
            last_collection: state.last_collection,
            ..state.table.usage()
        }
    }

    /// Records that a collection has copied entries.
    pub(crate) fn copied(&self, bytes: u64) {
        metrics::counter!("cenotaph_index_log_copied_bytes_total").increment(bytes);
        self.lock().copied_bytes += bytes;
    }

    /// Records a collection that has ended.
    pub(crate) fn collected(&self, collection: CollectionStats) {
        metrics::counter!("cenotaph_index_log_freed_bytes_total").increment(collection.freed_bytes);
        self.lock().last_collection = Some(collection);
    }

    /// Returns the current segments, for a new state of the index.
    pub(crate) fn segments(&self) -> Arc<Segments> {
        self.lock().segments.clone()
    }

    /// Returns the segment of a pointer in a state of the index.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if the segment is missing.
    pub(crate) fn segment<'a>(
        &self,
        segments: &'a Segments,
        pointer: &Pointer,
    ) -> Result<&'a Arc<Segment>> {
        segments
            .get(&pointer.segment)
            .ok_or_else(|| segment::missing(&self.dir, pointer))
    }

    /// Returns the path of a segment.
    pub(crate) fn path(&self, id: SegmentId) -> PathBuf {
        id.path(&self.dir)
    }

    /// Removes a segment from later states. Its file is deleted by
    /// [`delete_retired`](Self::delete_retired).
    pub(crate) fn retire(&self, id: SegmentId) {
        let mut state = self.lock();
        let mut segments = Segments::clone(&state.segments);
        if let Some(segment) = segments.remove(&id) {
            state.segments = Arc::new(segments);
            state.retired.push(segment);
        }
    }

    /// Deletes the files of removed segments that no state holds. Returns the number of files that
    /// remain. Blocks on the disk.
    pub(crate) fn delete_retired(&self) -> usize {
        let retired = std::mem::take(&mut self.lock().retired);
        let mut kept = Vec::new();
        for segment in retired {
            // No new reference can be made: the segment is in no current state.
            if Arc::strong_count(&segment) > 1 {
                kept.push(segment);
                continue;
            }
            if let Err(error) = remove_file(segment.path()) {
                tracing::warn!(
                    %error, path = %segment.path().display(),
                    "failed to delete a dead segment: the next opening tries again"
                );
            }
        }
        let mut state = self.lock();
        state.retired.append(&mut kept);
        state.retired.len()
    }

    /// Returns whether files of removed segments wait for their deletion.
    pub(crate) fn has_retired(&self) -> bool {
        !self.lock().retired.is_empty()
    }

    /// Seals all heads without an entry in use. The next commit removes them.
    pub(crate) fn seal_dead_heads(&self) {
        let mut state = self.lock();
        while let Some(kind) = state.table.dead_head(1) {
            state.table.seal(kind);
        }
    }

    /// Queues moves for the next commit.
    pub(crate) fn queue_moves(&self, moves: impl IntoIterator<Item = Move>) {
        self.lock().moves.extend(moves);
    }

    /// Takes all queued moves.
    pub(crate) fn take_moves(&self) -> VecDeque<Move> {
        std::mem::take(&mut self.lock().moves)
    }

    /// Returns the number of a new segment.
    fn next_segment(&self) -> SegmentId {
        let mut state = self.lock();
        let least = state.least;
        state.table.next(least)
    }

    /// Adds a new segment to later states, as the head.
    fn add_segment(&self, kind: HeadKind, id: SegmentId) {
        let segment = Arc::new(Segment::new(&self.dir, id, self.open_files.clone()));
        let mut state = self.lock();
        let mut segments = Segments::clone(&state.segments);
        segments.insert(id, segment);
        state.segments = Arc::new(segments);
        state.table.set_head(kind, id);
    }
}

/// Removes a file. A missing file is not an error.
fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Converts an error of the file system at an opening or a commit.
pub(crate) fn unavailable(operation: &'static str, dir: &Path, error: io::Error) -> Error {
    let message = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "no space for the payload log: free space on the disk, then open the index again"
        }
        _ => "the payload log failed",
    };
    let message = format!("{message}: dir={}", dir.display());
    Error::new(ErrorKind::Unavailable, operation, message).with_source(error)
}

#[cfg(test)]
mod tests;
