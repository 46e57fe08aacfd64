//! Opening of a payload log.
//!
//! ```text
//! file with a record      kept; cut behind the last entry that a pointer has named
//! file without a record   removed if it is a segment of this log: a crash has left it.
//!                         Kept otherwise (I11)
//! record without a file   kept: reads of its values return `Corrupt`
//! ```
//!
//! Reads names, lengths and headers, never entries: the cost does not depend on the payloads.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::segment::{self, Segment, SegmentId};
use super::segment_record::{LogRecord, SegmentRecord};
use super::table::{HeadKind, SegmentTable};
use super::{LogState, OpenFiles, PayloadLog, Segments, remove_file};
use crate::modes::Modes;

/// Size of a dead segment from which it is not continued, in bytes. The first commit removes it.
const DEAD_BYTES_MIN: u64 = 1024 * 1024;

/// Purpose of an opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogAccess {
    /// Changes no file.
    Read,
    /// Removes what a crash has left.
    Write,
}

/// Parameters of an opening.
#[derive(Debug)]
pub(crate) struct Opening {
    /// Directory of the log. It need not exist.
    pub(crate) dir: PathBuf,
    /// Random id of the log.
    pub(crate) id: u128,
    pub(crate) modes: Modes,
    pub(crate) segment_bytes: u64,
    pub(crate) access: LogAccess,
}

impl PayloadLog {
    /// Opens a log with these records. Blocks on the disk.
    ///
    /// # Errors
    /// Errors of the file system when it lists the directory.
    pub(crate) fn open(
        opening: Opening,
        log: LogRecord,
        records: BTreeMap<SegmentId, SegmentRecord>,
    ) -> io::Result<Self> {
        let open_files = Arc::new(OpenFiles::default());
        let mut segments = Segments::new();
        let mut least = 0;
        let mut resumable = None;
        for (id, bytes) in files(&opening.dir)? {
            // A foreign file keeps its number.
            least = least.max(id.0.saturating_add(1));
            match records.get(&id) {
                Some(record) => {
                    if opening.access == LogAccess::Write {
                        cut(&opening.dir, id, record, bytes);
                    }
                    let is_dead = record.live_entries == 0 && record.end >= DEAD_BYTES_MIN;
                    let is_resumable =
                        bytes >= record.end && record.end < opening.segment_bytes && !is_dead;
                    resumable = is_resumable.then_some(id);
                }
                // A view may be opened beside files that a crash has left.
                None if opening.access == LogAccess::Read => {}
                None if remove_own(&opening.dir, opening.id, id) => continue,
                None => {}
            }
            let segment = Segment::new(&opening.dir, id, open_files.clone());
            segments.insert(id, Arc::new(segment));
        }
        for (id, record) in &records {
            if record.live_entries > 0 && !segments.contains_key(id) {
                tracing::error!(
                    segment = %id.path(&opening.dir).display(), payloads = record.live_entries,
                    "a segment of the payload log is missing: its payloads are lost"
                );
            }
        }
        let mut table = SegmentTable::new(log, records);
        if let Some(id) = resumable {
            table.set_head(HeadKind::Written, id);
        }
        Ok(Self {
            dir: opening.dir,
            id: opening.id,
            modes: opening.modes,
            segment_bytes: opening.segment_bytes,
            open_files,
            state: Mutex::new(LogState {
                table,
                segments: Arc::new(segments),
                retired: Vec::new(),
                moves: std::collections::VecDeque::new(),
                least,
                copied_bytes: 0,
                last_collection: None,
            }),
        })
    }
}

/// Returns the segments in a directory with their lengths, ascending. A missing directory is empty.
fn files(dir: &Path) -> io::Result<BTreeMap<SegmentId, u64>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let mut found = BTreeMap::new();
    for entry in entries {
        let entry = entry?;
        if let Some(id) = SegmentId::of_path(&entry.path()) {
            found.insert(id, fs::metadata(entry.path())?.len());
        }
    }
    Ok(found)
}

/// Cuts off the bytes behind the last entry that a pointer has named.
fn cut(dir: &Path, id: SegmentId, record: &SegmentRecord, bytes: u64) {
    let path = id.path(dir);
    if bytes < record.end {
        tracing::error!(
            path = %path.display(), bytes, expected = record.end,
            "a segment of the payload log is too short: some of its payloads are lost"
        );
        return;
    }
    if bytes == record.end {
        return;
    }
    let cut = File::options()
        .write(true)
        .open(&path)
        .and_then(|file| file.set_len(record.end));
    // The bytes do no harm: appends overwrite them.
    if let Err(error) = cut {
        tracing::warn!(%error, path = %path.display(), "failed to cut off unused bytes");
    }
}

/// Removes a segment without a record. Returns false if the file is not a segment of this log, or
/// can't be removed.
fn remove_own(dir: &Path, log: u128, id: SegmentId) -> bool {
    let path = id.path(dir);
    match segment::belongs_to(&path, log, id) {
        Ok(true) => {}
        Ok(false) => {
            tracing::warn!(path = %path.display(), "a file in the payload log is foreign: kept");
            return false;
        }
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "failed to read an unused segment");
            return false;
        }
    }
    remove_file(&path).is_ok_and(|()| true)
}
