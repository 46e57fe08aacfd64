//! Seals journals before fjall opens, if the disk is nearly full.
//!
//! fjall removes a journal when its tables contain all batches of the journal, but it begins a new
//! journal only when the old journal has 64 MB. On a small or full disk the journal itself fills
//! the disk. An empty journal with the next number makes fjall treat the older journals as sealed
//! at the next open: fjall flushes their contents and removes them. This file removes nothing.
//! Guards I9: a crash in between preserves the same batches in the same order.
//!
//! ```text
//! open ──> measure the unflushed bytes ── scarce space, and they fit ──> close, seal, reopen, wait
//! ```

use std::fs;
use std::io;
use std::path::Path;

use super::space::Space;
use crate::directory_sync::sync_directory_at;
use crate::modes::Modes;
use crate::types::{Error, ErrorKind, Result};

/// Minimum size of the journals for which sealing is worthwhile, in bytes.
const BYTES_MIN: u64 = 256 * 1024;

/// Returns whether to seal the journals of this database, and releases a part of the reserve for
/// it. `unflushed` returns the bytes of the journals that no table contains yet. It is called only
/// if space is scarce. If it fails, the result is false.
pub(super) fn is_wanted(
    database: &Path,
    space: &Space,
    unflushed: impl FnOnce() -> Result<u64>,
) -> bool {
    // Sealing is optional: the open itself reports an unreadable directory.
    let Ok((_, bytes)) = journals(database) else {
        return false;
    };
    let free = space.free_now();
    let share = space.share();
    if !is_scarce(bytes, free, share) {
        return false;
    }
    let Ok(unflushed) = unflushed() else {
        return false;
    };
    // The flush must fit, because fjall fails permanently if it does not.
    fits(unflushed, free, space.reserved(), share) && space.make_way_for_flush(unflushed).is_ok()
}

/// Seals the journals of a closed database.
///
/// # Errors
/// [`ErrorKind::Unavailable`] if the directory cannot be read or written.
pub(super) fn seal(database: &Path, modes: Modes) -> Result<()> {
    let (newest, bytes) = journals(database).map_err(|error| unavailable(database, error))?;
    let Some(newest) = newest else { return Ok(()) };
    begin(database, newest + 1, modes).map_err(|error| unavailable(database, error))?;
    tracing::info!(
        path = %database.display(),
        journal_bytes = bytes,
        "sealed the journals to free disk space"
    );
    Ok(())
}

/// Returns whether the journals are large compared with the free space.
fn is_scarce(journals: u64, free: u64, share: u64) -> bool {
    journals >= BYTES_MIN && free < journals.saturating_mul(3).saturating_add(2 * share)
}

/// Returns whether the tables for the unflushed bytes fit on the disk.
fn fits(unflushed: u64, free: u64, reserve: u64, share: u64) -> bool {
    free.saturating_add(reserve) >= unflushed.saturating_add(share / 4)
}

fn unavailable(database: &Path, error: io::Error) -> Error {
    let message = format!("failed to seal the journals: path={}", database.display());
    Error::new(ErrorKind::Unavailable, "open", message).with_source(error)
}

/// Returns the highest number of a journal, and the allocated bytes of all journals.
pub(super) fn journals(database: &Path) -> io::Result<(Option<u64>, u64)> {
    let mut newest = None;
    let mut bytes = 0;
    for entry in fs::read_dir(database)? {
        let entry = entry?;
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.strip_suffix(".jnl")?.parse::<u64>().ok());
        if number.is_some() {
            newest = newest.max(number);
            bytes += allocated(&entry.metadata()?);
        }
    }
    Ok((newest, bytes))
}

/// Returns the allocated bytes of a file. A new journal is mostly a hole.
#[cfg(unix)]
fn allocated(metadata: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(metadata).saturating_mul(512)
}

#[cfg(not(unix))]
fn allocated(metadata: &fs::Metadata) -> u64 {
    metadata.len()
}

/// Creates the empty journal with this number, durably.
pub(super) fn begin(database: &Path, number: u64, modes: Modes) -> io::Result<()> {
    let path = database.join(format!("{number}.jnl"));
    modes
        .file_options()
        .write(true)
        // An existing journal must never be truncated.
        .create_new(true)
        .open(path)?
        .sync_all()?;
    sync_directory_at(database)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journals_are_sealed_only_if_space_is_scarce_and_suffices() {
        const MIB: u64 = 1024 * 1024;
        assert!(is_scarce(8 * MIB, 14 * MIB, MIB));
        assert!(!is_scarce(8 * MIB, 1 << 40, MIB), "space is plentiful");
        assert!(!is_scarce(BYTES_MIN - 1, 0, MIB), "the journals are small");
        assert!(fits(8 * MIB, 14 * MIB, MIB, MIB));
        assert!(!fits(8 * MIB, 2 * MIB, MIB, MIB));
        assert!(
            fits(8 * MIB, 2 * MIB, 7 * MIB, MIB),
            "the reserve is included"
        );
        assert!(fits(0, MIB, 0, MIB), "no byte is unflushed");
    }
}
