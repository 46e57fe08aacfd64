//! Reads a file at any offset through a window of bounded size.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use xxhash_rust::xxh3::Xxh3;

/// Size of the window in bytes.
const WINDOW_BYTES: usize = 128 * 1024;
static ZEROS: [u8; WINDOW_BYTES] = [0; WINDOW_BYTES];

/// A file with a read window.
pub(super) struct JournalWindow {
    file: File,
    len: u64,
    window: Vec<u8>,
    window_start: u64,
    /// Bytes requested through [`bytes`](Self::bytes) and [`hash`](Self::hash).
    bytes_read: u64,
}

impl JournalWindow {
    pub(super) fn new(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self {
            file,
            len,
            window: Vec::with_capacity(WINDOW_BYTES),
            window_start: 0,
            bytes_read: 0,
        })
    }

    /// Returns the length of the file in bytes. The value drops if the file is cut while it is
    /// read.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Returns the number of bytes requested through [`bytes`](Self::bytes) and
    /// [`hash`](Self::hash).
    pub(super) fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Returns the `N` bytes at `at`, or `None` if the file ends before them.
    pub(super) fn bytes<const N: usize>(&mut self, at: u64) -> io::Result<Option<[u8; N]>> {
        self.bytes_read += N as u64;
        let mut bytes = [0; N];
        let mut filled = 0;
        while filled < N {
            let chunk = self.chunk(at + filled as u64)?;
            if chunk.is_empty() {
                return Ok(None);
            }
            let length = chunk.len().min(N - filled);
            bytes[filled..filled + length].copy_from_slice(&chunk[..length]);
            filled += length;
        }
        Ok(Some(bytes))
    }

    /// Feeds the `length` bytes at `at` to a hash. Returns false if the file ends before them.
    pub(super) fn hash(&mut self, at: u64, length: u64, hash: &mut Xxh3) -> io::Result<bool> {
        let Some(end) = at.checked_add(length).filter(|&end| end <= self.len) else {
            return Ok(false);
        };
        self.bytes_read += length;
        let mut at = at;
        while at < end {
            let chunk = bounded(self.chunk(at)?, end - at);
            if chunk.is_empty() {
                return Ok(false);
            }
            hash.update(chunk);
            at += chunk.len() as u64;
        }
        Ok(true)
    }

    /// Returns the first offset of `byte` in `at..end`.
    pub(super) fn find(&mut self, byte: u8, at: u64, end: u64) -> io::Result<Option<u64>> {
        let mut at = at;
        while at < end {
            let chunk = bounded(self.chunk(at)?, end - at);
            if let Some(place) = chunk.iter().position(|&found| found == byte) {
                return Ok(Some(at + place as u64));
            }
            if chunk.is_empty() {
                break;
            }
            at += chunk.len() as u64;
        }
        Ok(None)
    }

    /// Returns the end of the last nonzero byte at or behind `at`, or `at` if all bytes are zero.
    pub(super) fn used_end(&mut self, at: u64) -> io::Result<u64> {
        let mut used = at;
        let mut at = at;
        loop {
            let chunk = self.chunk(at)?;
            if chunk.is_empty() {
                return Ok(used);
            }
            // A new journal ends in 64 MiB of zeros. Comparing whole chunks costs little more than
            // reading them.
            if chunk != &ZEROS[..chunk.len()]
                && let Some(place) = chunk.iter().rposition(|&byte| byte != 0)
            {
                used = at + place as u64 + 1;
            }
            at += chunk.len() as u64;
        }
    }

    /// Returns the bytes of the window from `at` on. Empty only at the end of the file.
    fn chunk(&mut self, at: u64) -> io::Result<&[u8]> {
        let window_end = self.window_start + self.window.len() as u64;
        if !(self.window_start..window_end).contains(&at) {
            self.window.clear();
            self.window_start = at;
            self.file.seek(SeekFrom::Start(at))?;
            let wanted = self.len.saturating_sub(at).min(WINDOW_BYTES as u64);
            (&self.file).take(wanted).read_to_end(&mut self.window)?;
            // The file was cut after its length was read.
            if (self.window.len() as u64) < wanted {
                self.len = at + self.window.len() as u64;
            }
        }
        let from = usize::try_from(at - self.window_start).unwrap_or(usize::MAX);
        Ok(self.window.get(from..).unwrap_or_default())
    }
}

/// Returns at most `length` bytes of a chunk.
fn bounded(chunk: &[u8], length: u64) -> &[u8] {
    &chunk[..chunk
        .len()
        .min(usize::try_from(length).unwrap_or(usize::MAX))]
}
