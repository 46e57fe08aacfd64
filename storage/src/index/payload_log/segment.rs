//! Segment: one append-only file of the payload log.
//!
//! ```text
//! {store}/payloads/{number, 16 hexadecimal digits}.log
//!
//! offset 0   "CENOPLOG"                               every number is little-endian
//!        8   format u8 = 1, zeros
//!       16   id of the log u128
//!       32   number of the segment u64
//!       40   zeros
//!       56   xxh3 of the 56 bytes before u64
//!       64   entries (`entry.rs`)
//! ```
//!
//! Reads never use the header. An opening of the log uses it to tell its own files from others:
//! a file with another id is never removed (I11).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use super::buffers::Buffer;
use super::entry;
use super::open_files::OpenFiles;
use super::pointer::Pointer;
use super::positioned;
use crate::types::{Checksum, Error, ErrorKind, Result};

/// Length of the header, and position of the first entry, in bytes.
pub(crate) const HEADER_BYTES: u64 = HEADER_LENGTH as u64;

/// [`HEADER_BYTES`] as the length of an array.
const HEADER_LENGTH: usize = 64;

const MAGIC: &[u8; 8] = b"CENOPLOG";
const FORMAT: u8 = 1;
const CHECKED_BYTES: usize = 56;
const EXTENSION: &str = "log";

/// Number of a segment. Numbers ascend and are never reused within a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SegmentId(pub(crate) u64);

impl SegmentId {
    /// Returns the path of the segment in the directory of the log.
    pub(crate) fn path(self, dir: &Path) -> PathBuf {
        dir.join(format!("{:016x}.{EXTENSION}", self.0))
    }

    /// Returns the number of the segment with this path, or `None` for any other file.
    pub(crate) fn of_path(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let digits = name.strip_suffix(EXTENSION)?.strip_suffix('.')?;
        let number = u64::from_str_radix(digits, 16).ok()?;
        // `from_str_radix` also accepts other spellings of the same number.
        (name == format!("{number:016x}.{EXTENSION}")).then_some(Self(number))
    }
}

impl std::fmt::Display for SegmentId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Returns the header of a segment.
pub(crate) fn encode_header(log: u128, id: SegmentId) -> [u8; HEADER_LENGTH] {
    let mut header = [0; HEADER_LENGTH];
    header[..8].copy_from_slice(MAGIC);
    header[8] = FORMAT;
    header[16..32].copy_from_slice(&log.to_le_bytes());
    header[32..40].copy_from_slice(&id.0.to_le_bytes());
    let checksum = Checksum::of(&header[..CHECKED_BYTES]).get();
    header[CHECKED_BYTES..].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// Returns whether a file is a segment of this log, according to its header.
///
/// # Errors
/// Errors of the file system.
pub(crate) fn belongs_to(path: &Path, log: u128, id: SegmentId) -> io::Result<bool> {
    let mut header = [0; HEADER_LENGTH];
    let read = positioned::read_up_to(&File::open(path)?, &mut header, 0)?;
    // A crash may leave a new segment without its header.
    let is_empty = header[..read].iter().all(|&byte| byte == 0);
    Ok(is_empty || header == encode_header(log, id))
}

/// A segment of a state of the log. Its file is opened at the first read.
#[derive(Debug)]
pub(crate) struct Segment {
    path: PathBuf,
    file: RwLock<Option<Arc<File>>>,
    open_files: Arc<OpenFiles>,
}

impl Segment {
    pub(crate) fn new(dir: &Path, id: SegmentId, open_files: Arc<OpenFiles>) -> Self {
        Self {
            path: id.path(dir),
            file: RwLock::new(None),
            open_files,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads and verifies a value. Blocks on the disk. `expected` is the checksum of the value, if
    /// the caller knows it.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if the entry is damaged or missing, [`ErrorKind::Unavailable`] if the
    /// file cannot be read.
    pub(crate) fn read(
        self: &Arc<Self>,
        pointer: &Pointer,
        key: &[u8],
        expected: Option<Checksum>,
    ) -> Result<Bytes> {
        let file = self.file().map_err(|error| self.failed(pointer, error))?;
        let mut buffer = self.open_files.buffers.take(unpadded_bytes(pointer, key));
        positioned::read_exact(&file, buffer.filled(), pointer.offset)
            .map_err(|error| self.failed(pointer, error))?;
        self.verify(pointer, key, expected, buffer)
    }

    /// Reads and verifies a value if all of it is in memory. Returns `None` if it is not, or if the
    /// system cannot tell: then [`read`](Self::read) is needed. Does not wait for the disk.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if the entry is damaged.
    pub(crate) fn read_resident(
        &self,
        pointer: &Pointer,
        key: &[u8],
        expected: Option<Checksum>,
    ) -> Result<Option<Bytes>> {
        // A file that is not open yet is not opened here: opening may wait for the disk.
        let Some(file) = self.opened() else {
            return Ok(None);
        };
        let mut buffer = self.open_files.buffers.take(unpadded_bytes(pointer, key));
        if !positioned::read_resident(&file, buffer.filled(), pointer.offset) {
            return Ok(None);
        }
        self.verify(pointer, key, expected, buffer).map(Some)
    }

    fn verify(
        &self,
        pointer: &Pointer,
        key: &[u8],
        expected: Option<Checksum>,
        buffer: Buffer,
    ) -> Result<Bytes> {
        entry::value_of(&buffer.freeze(), key, expected).map_err(|defect| {
            let message = format!(
                "{defect}: segment={} offset={}",
                self.path.display(),
                pointer.offset
            );
            Error::new(ErrorKind::Corrupt, "get", message)
        })
    }

    fn failed(&self, pointer: &Pointer, error: io::Error) -> Error {
        let (kind, what) = match error.kind() {
            io::ErrorKind::NotFound => (ErrorKind::Corrupt, "a segment is missing"),
            io::ErrorKind::UnexpectedEof => (ErrorKind::Corrupt, "a segment is too short"),
            _ => (ErrorKind::Unavailable, "a segment can't be read"),
        };
        let message = format!(
            "{what}: segment={} offset={}",
            self.path.display(),
            pointer.offset
        );
        Error::new(kind, "get", message).with_source(error)
    }

    /// Returns the file if it is open.
    fn opened(&self) -> Option<Arc<File>> {
        let file = self.file.read().unwrap_or_else(PoisonError::into_inner);
        file.clone()
    }

    /// Returns the file, and opens it if necessary.
    fn file(self: &Arc<Self>) -> io::Result<Arc<File>> {
        if let Some(file) = self.opened() {
            return Ok(file);
        }
        let mut slot = self.file.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &*slot {
            return Ok(file.clone());
        }
        let file = Arc::new(File::open(&self.path)?);
        *slot = Some(file.clone());
        drop(slot);
        self.open_files.opened(self);
        Ok(file)
    }

    /// Closes the file. The next read opens it again.
    pub(super) fn close(&self) {
        let file = self
            .file
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(file);
    }
}

fn unpadded_bytes(pointer: &Pointer, key: &[u8]) -> usize {
    entry::HEADER_BYTES + key.len() + pointer.value_bytes as usize
}

/// Error of a pointer to a segment that is not in the directory.
pub(crate) fn missing(dir: &Path, pointer: &Pointer) -> Error {
    let message = format!(
        "a segment of the payload log is missing: segment={} offset={}",
        pointer.segment.path(dir).display(),
        pointer.offset
    );
    Error::new(ErrorKind::Corrupt, "get", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_only_in_their_own_spelling() {
        let dir = Path::new("d");
        assert_eq!(SegmentId(0x1f).path(dir), dir.join("000000000000001f.log"));
        assert_eq!(
            SegmentId::of_path(&SegmentId(0x1f).path(dir)),
            Some(SegmentId(0x1f))
        );
        for other in [
            "1f.log",
            "000000000000001F.log",
            "000000000000001f.lo",
            "+00000000000001f.log",
        ] {
            assert_eq!(SegmentId::of_path(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn stored_form_of_a_header_is_stable() {
        let header = encode_header(0x0102, SegmentId(3));
        assert_eq!(header[..17], *b"CENOPLOG\x01\0\0\0\0\0\0\0\x02");
        assert_eq!(header[17], 1);
        assert_eq!(header[32], 3);
        assert_eq!(
            header[56..],
            Checksum::of(&header[..56]).get().to_le_bytes()
        );
    }
}
