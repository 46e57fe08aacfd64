//! Space of the disk under an index: [`SpaceStats`], and the error of a write without space.

use crate::types::{Error, ErrorKind, Reason};

/// Space of the file system that holds an index, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceStats {
    /// Free space that this process may use. The reserve is not part of it.
    pub free_bytes: u64,
    /// Free space below which the index refuses a batch that stores data. Covers the pending writes
    /// of accepted batches, and a margin for batches that release space.
    pub needed_bytes: u64,
    /// Size of the reserve: a file without content. The index shrinks it to commit deletes on a
    /// full disk. Zero if it is used up or not built yet.
    pub reserve_bytes: u64,
    /// True if the index currently refuses batches that store data.
    pub is_low: bool,
}

/// Returns the error of a write that does not fit on the disk. The write was not started.
pub fn no_space(operation: &'static str, free_bytes: u64, needed_bytes: u64) -> Error {
    let message = format!(
        "no space: delete objects, or free space on the disk: \
         free_bytes={free_bytes} needed_bytes={needed_bytes}"
    );
    Error::new(ErrorKind::Unavailable, operation, message).with_reason(Reason::NoSpace)
}
