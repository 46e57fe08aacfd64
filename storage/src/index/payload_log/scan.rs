//! Walk over the entries of a segment: [`SegmentScan`].
//!
//! A walk needs no index. It steps over damage: behind a damaged entry it continues at the next
//! position with an intact entry. A value that contains the bytes of an entry can be found that way,
//! so that callers compare each position with the pointer of its key.

use std::fs::File;
use std::io;
use std::path::Path;

use bytes::Bytes;

use super::entry::{self, ALIGNMENT, EntryHeader};
use super::positioned;
use super::segment;

/// Bytes that are searched for the next entry at once.
const WINDOW_BYTES: usize = 256 * 1024;

/// Position and key of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundEntry {
    pub(crate) offset: u64,
    pub(crate) key: Bytes,
    pub(crate) value_bytes: usize,
}

/// Depth of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScanDepth {
    /// Reads headers and keys. A damaged length may hide entries.
    Keys,
    /// Also verifies each entry. Damaged entries are skipped.
    Whole,
}

/// Iterator over the entries of a segment, up to a position.
pub(crate) struct SegmentScan {
    file: File,
    at: u64,
    end: u64,
    depth: ScanDepth,
}

impl SegmentScan {
    /// Opens a segment whose entries end at `end`.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn open(path: &Path, end: u64, depth: ScanDepth) -> io::Result<Self> {
        Ok(Self {
            file: File::open(path)?,
            at: segment::HEADER_BYTES,
            end,
            depth,
        })
    }

    /// Returns the next entry, or `None` at the end.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn next(&mut self) -> io::Result<Option<FoundEntry>> {
        while self.at < self.end {
            if let Some(found) = self.entry_at(self.at, self.depth)? {
                self.at += entry::padded_bytes(found.key.len(), found.value_bytes);
                return Ok(Some(found));
            }
            match self.find_intact()? {
                Some(at) => self.at = at,
                None => break,
            }
        }
        Ok(None)
    }

    /// Returns the entry at this position, or `None` if there is none.
    fn entry_at(&self, at: u64, depth: ScanDepth) -> io::Result<Option<FoundEntry>> {
        let mut bytes = [0; entry::HEADER_BYTES];
        if positioned::read_up_to(&self.file, &mut bytes, at)? < bytes.len() {
            return Ok(None);
        }
        let Some(header) = EntryHeader::decode(&bytes) else {
            return Ok(None);
        };
        // The lengths are not verified yet: they bound the memory, and the end of the segment
        // bounds them.
        if at + header.bytes() as u64 > self.end {
            return Ok(None);
        }
        let read_bytes = match depth {
            ScanDepth::Keys => entry::HEADER_BYTES + header.key_bytes,
            ScanDepth::Whole => header.bytes(),
        };
        let mut read = vec![0; read_bytes];
        if positioned::read_up_to(&self.file, &mut read, at)? < read_bytes {
            return Ok(None);
        }
        if depth == ScanDepth::Whole && !entry::is_intact(&header, &read) {
            return Ok(None);
        }
        let key = entry::HEADER_BYTES..entry::HEADER_BYTES + header.key_bytes;
        Ok(Some(FoundEntry {
            offset: at,
            key: Bytes::copy_from_slice(&read[key]),
            value_bytes: header.value_bytes,
        }))
    }

    /// Returns the position of the next intact entry behind the current position.
    fn find_intact(&self) -> io::Result<Option<u64>> {
        let mut window = vec![0; WINDOW_BYTES];
        let mut from = self.at + ALIGNMENT as u64;
        while from < self.end {
            let read = positioned::read_up_to(&self.file, &mut window, from)?;
            if read < entry::HEADER_BYTES {
                break;
            }
            // A header at the end of the window is found in the next one.
            let last = read - entry::HEADER_BYTES;
            for offset in (0..=last).step_by(ALIGNMENT) {
                let at = from + offset as u64;
                if EntryHeader::decode(&window[offset..]).is_some()
                    && self.entry_at(at, ScanDepth::Whole)?.is_some()
                {
                    return Ok(Some(at));
                }
            }
            from += (last / ALIGNMENT * ALIGNMENT + ALIGNMENT) as u64;
        }
        Ok(None)
    }
}
