//! Conversion of fjall's errors and panics to errors of the index.
//!
//! Guards I10 in part: the kind of an error determines the caller's reaction, and the original
//! error is its source. `committer.rs` treats the outcome of every failed commit as unknown, for
//! any error of fjall.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::types::{Error, ErrorKind, Result};

/// Runs a read of fjall, and converts its panic to [`ErrorKind::Corrupt`]. fjall panics at some
/// kinds of damage.
pub(super) fn caught<T>(operation: &'static str, read: impl FnOnce() -> Result<T>) -> Result<T> {
    // Unwind safe: a read changes only fjall's block cache, which inserts complete blocks.
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| {
        Err(Error::new(
            ErrorKind::Corrupt,
            operation,
            "fjall panicked at damaged files",
        ))
    })
}

/// Converts an error of fjall in `operation`.
pub(super) fn failed(operation: &'static str, error: fjall::Error) -> Error {
    let (kind, message) = match &error {
        fjall::Error::Storage(error) => tree(error),
        fjall::Error::Io(error) => file(error),
        fjall::Error::JournalRecovery(_) => (ErrorKind::Corrupt, "the journal is damaged"),
        fjall::Error::InvalidVersion(_) => (
            ErrorKind::UnknownFormat,
            "another version of fjall wrote this",
        ),
        fjall::Error::Decompress(_) => (ErrorKind::Corrupt, "a block can't be decompressed"),
        fjall::Error::InvalidTrailer | fjall::Error::InvalidTag(_) => {
            (ErrorKind::Corrupt, "the journal is damaged")
        }
        fjall::Error::Poisoned => (
            ErrorKind::Unavailable,
            "fjall has failed before: reopen the index",
        ),
        fjall::Error::KeyspaceDeleted => (ErrorKind::Corrupt, "a keyspace was deleted"),
        fjall::Error::Locked => (ErrorKind::AlreadyOpen, "fjall's own lock is held"),
        fjall::Error::Unrecoverable => (ErrorKind::Corrupt, "fjall can't recover the database"),
        // The enum is `#[non_exhaustive]`.
        _ => (ErrorKind::Unavailable, "fjall failed"),
    };
    Error::new(kind, operation, message).with_source(error)
}

/// Returns the kind and message for an error of a table tree.
fn tree(error: &fjall::LsmError) -> (ErrorKind, &'static str) {
    use fjall::LsmError as Tree;
    match error {
        Tree::Io(error) => file(error),
        Tree::InvalidVersion(_) => (
            ErrorKind::UnknownFormat,
            "another version of fjall wrote this",
        ),
        Tree::Decompress(_) => (ErrorKind::Corrupt, "a block can't be decompressed"),
        Tree::Unrecoverable => (ErrorKind::Corrupt, "a table file is missing or damaged"),
        Tree::ChecksumMismatch { .. } => (ErrorKind::Corrupt, "a checksum does not match"),
        Tree::InvalidTag(_) | Tree::InvalidTrailer | Tree::InvalidHeader(_) | Tree::Utf8(_) => {
            (ErrorKind::Corrupt, "a table file is damaged")
        }
        // The enum is `#[non_exhaustive]`.
        _ => (ErrorKind::Unavailable, "fjall failed"),
    }
}

/// Returns the kind and message for an error of the file system.
fn file(error: &io::Error) -> (ErrorKind, &'static str) {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
            (ErrorKind::Corrupt, "a file is damaged")
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (
            ErrorKind::Unavailable,
            "no space: free space on the disk, then open the index again",
        ),
        _ => (ErrorKind::Unavailable, "the file system failed"),
    }
}
