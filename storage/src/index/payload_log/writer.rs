//! Appends to the payload log: [`LogWriter`].
//!
//! ```text
//! 1 create a segment if the head is full or sealed: file, header, sync of the directory
//! 2 append a run of entries with vectored writes
//! 3 fdatasync
//!   again from 1 while entries are left
//! ```
//!
//! Guards I9 for payloads: every returned pointer names durable bytes. A crash before the pointers
//! are durable leaves entries that nothing names. The next opening cuts them off.

use std::fs::File;
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::PayloadLog;
use super::entry::{self, ALIGNMENT};
use super::pointer::Pointer;
use super::segment::{self, SegmentId};
use super::table::HeadKind;
use crate::directory_sync::sync_directory_at;

/// Maximal number of slices of a vectored write. Linux accepts 1,024.
const SLICES_MAX: usize = 1020;

/// Writer of one head of the log.
#[derive(Debug)]
pub(crate) struct LogWriter {
    log: Arc<PayloadLog>,
    kind: HeadKind,
    head: Option<HeadSegment>,
}

/// The segment to which entries are appended.
#[derive(Debug)]
struct HeadSegment {
    id: SegmentId,
    file: File,
    /// Position behind the last entry, in bytes.
    end: u64,
}

impl LogWriter {
    pub(crate) fn new(log: Arc<PayloadLog>, kind: HeadKind) -> Self {
        Self {
            log,
            kind,
            head: None,
        }
    }

    /// Returns the directory of the log.
    pub(crate) fn dir(&self) -> &Path {
        &self.log.dir
    }

    /// Appends entries and makes them durable. Returns their pointers, in order. Blocks on the
    /// disk. The keys and values must fit into entries.
    ///
    /// # Errors
    /// Errors of the file system. Part of the entries may be on the disk, and nothing names them.
    pub(crate) fn append(&mut self, entries: &[(&Bytes, &Bytes)]) -> io::Result<Vec<Pointer>> {
        let appended = self.append_runs(entries);
        if appended.is_err() {
            // The position in the file is unknown. Bytes that earlier moves name may be behind the
            // end in the record, so that the segment can't be continued either.
            self.head = None;
            self.log.lock().table.seal(self.kind);
        }
        appended
    }

    fn append_runs(&mut self, entries: &[(&Bytes, &Bytes)]) -> io::Result<Vec<Pointer>> {
        let segment_bytes = self.log.segment_bytes;
        let mut pointers = Vec::with_capacity(entries.len());
        let mut rest = entries;
        while let Some((key, value)) = rest.first() {
            let first_bytes = entry::padded_bytes(key.len(), value.len());
            let head = self.head_with_room(first_bytes)?;
            let (run, behind) = rest.split_at(run_length(rest, head.end, segment_bytes));
            append_run(&mut head.file, run)?;
            head.file.sync_data()?;
            for (key, value) in run {
                pointers.push(Pointer {
                    segment: head.id,
                    offset: head.end,
                    value_bytes: u32::try_from(value.len()).expect("the caller has checked it"),
                });
                head.end += entry::padded_bytes(key.len(), value.len());
            }
            rest = behind;
        }
        Ok(pointers)
    }

    /// Returns the head if it has room for an entry, or else a new one.
    fn head_with_room(&mut self, bytes: u64) -> io::Result<&mut HeadSegment> {
        let segment_bytes = self.log.segment_bytes;
        let sealed_or_none = self.log.lock().table.head(self.kind);
        let current = self
            .head
            .take()
            .filter(|head| Some(head.id) == sealed_or_none);
        let current = match (current, sealed_or_none) {
            (Some(head), _) => Some(head),
            // The opening has selected a segment to continue.
            (None, Some(id)) => self.resume(id)?,
            (None, None) => None,
        };
        let has_room = |head: &HeadSegment| {
            head.end == segment::HEADER_BYTES || head.end + bytes <= segment_bytes
        };
        let head = match current {
            Some(head) if has_room(&head) => head,
            Some(_) | None => {
                self.log.lock().table.seal(self.kind);
                self.create()?
            }
        };
        Ok(self.head.insert(head))
    }

    fn resume(&self, id: SegmentId) -> io::Result<Option<HeadSegment>> {
        let Some(record) = self.log.lock().table.record(id) else {
            return Ok(None);
        };
        let mut file = File::options().write(true).open(id.path(&self.log.dir))?;
        file.seek(SeekFrom::Start(record.end))?;
        Ok(Some(HeadSegment {
            id,
            file,
            end: record.end,
        }))
    }

    /// Creates a segment and makes it the head.
    fn create(&self) -> io::Result<HeadSegment> {
        let dir = &self.log.dir;
        create_directory(dir, &self.log)?;
        let id = self.log.next_segment();
        let mut file = self.log.modes.create_file(&id.path(dir))?;
        file.write_all(&segment::encode_header(self.log.id, id))?;
        // The name is durable before a pointer names the segment.
        sync_directory_at(dir)?;
        self.log.add_segment(self.kind, id);
        Ok(HeadSegment {
            id,
            file,
            end: segment::HEADER_BYTES,
        })
    }
}

/// Creates the directory of the log, if it does not exist.
fn create_directory(dir: &Path, log: &PayloadLog) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    log.modes.create_dir(dir)?;
    let parent = dir.parent().map(PathBuf::from);
    parent.map_or(Ok(()), |parent| sync_directory_at(&parent))
}

/// Returns the number of entries that fit into a segment which ends at `start`, at least 1.
fn run_length(entries: &[(&Bytes, &Bytes)], start: u64, segment_bytes: u64) -> usize {
    let mut end = start;
    let fitting = entries.iter().take_while(|(key, value)| {
        end += entry::padded_bytes(key.len(), value.len());
        end <= segment_bytes
    });
    // An entry that is larger than a segment has a segment of its own.
    fitting.count().max(1)
}

/// Appends entries to a file with as few writes as possible, and without a copy of the values.
fn append_run(file: &mut File, entries: &[(&Bytes, &Bytes)]) -> io::Result<()> {
    let mut heads = Vec::new();
    let mut ends = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        entry::encode_head(&mut heads, key, value);
        ends.push(heads.len());
    }
    let mut slices = Vec::with_capacity(entries.len() * 3);
    let mut start = 0;
    for ((key, value), end) in entries.iter().zip(ends) {
        slices.push(IoSlice::new(&heads[start..end]));
        slices.push(IoSlice::new(value));
        let padded = entry::padded_bytes(key.len(), value.len());
        let padding = padded - (entry::HEADER_BYTES + key.len() + value.len()) as u64;
        slices.push(IoSlice::new(
            &ZEROS[..usize::try_from(padding).expect("below 8")],
        ));
        start = end;
    }
    write_all(file, &mut slices)
}

const ZEROS: [u8; ALIGNMENT] = [0; ALIGNMENT];

fn write_all(file: &mut File, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    // Removes empty slices at the start.
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        let count = slices.len().min(SLICES_MAX);
        match file.write_vectored(&slices[..count]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
