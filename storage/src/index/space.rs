//! Space of the disk under an index: [`SpaceStats`], and the error of a write that finds none.

use crate::error::{Error, ErrorKind, Reason};

/// Space of the file system that holds an index, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceStats {
    /// Free space that is open to this process. The reserve is not part of it.
    pub free_bytes: u64,
    /// Free space without which the index takes no batch that stores something: what it has still
    /// to write for batches that it has taken, and a margin for batches that release space.
    pub needed_bytes: u64,
    /// Size of the reserve: a file without content that is given up to commit deletes on a full
    /// disk. Zero if it is used up, or has not been built yet.
    pub reserve_bytes: u64,
    /// True if batches that store something are refused now.
    pub is_low: bool,
}

/// The error of a write that the disk has no room for. Nothing was started.
pub fn no_space(operation: &'static str, free_bytes: u64, needed_bytes: u64) -> Error {
    let message = format!(
        "no space: delete objects, or free space on the disk: free_bytes={free_bytes} needed_bytes={needed_bytes}"
    );
    Error::new(ErrorKind::Unavailable, operation, message).with_reason(Reason::NoSpace)
}
