//! Sealing journals before fjall opens, where the disk is nearly full.
//!
//! fjall drops a journal once everything in it lies in tables, but it begins a new journal only
//! when the old one has 64 MB. On a small or full disk the journal itself is then what fills it. An
//! empty journal with the next number makes fjall treat the older ones as sealed when it opens: it
//! flushes what they hold and deletes them. Nothing is deleted here. Guards I9: a crash in between
//! leaves the same batches in the same order.
//!
//! ```text
//! open ──> how much of the journals is in no table yet? ── worth it, and fits ──> close, seal, open again, wait
//! ```

use std::fs;
use std::io;
use std::path::Path;

use super::space::Space;
use crate::directory_sync::sync_directory_at;
use crate::error::{Error, ErrorKind, Result};
use crate::modes::Modes;

/// Journals with less are not worth it.
const BYTES_MIN: u64 = 256 * 1024;

/// Returns whether the journals of this database should be sealed. Makes way for it. `unflushed`
/// counts the bytes of them that are in no table yet; it is asked only where space is scarce, and
/// an error of it means no.
pub(super) fn is_wanted(
    database: &Path,
    space: &Space,
    unflushed: impl FnOnce() -> Result<u64>,
) -> bool {
    let Ok((_, bytes)) = journals(database) else {
        return false;
    };
    let (free, share) = (space.free_now(), space.share());
    if !is_scarce(bytes, free, share) {
        return false;
    }
    let Ok(unflushed) = unflushed() else {
        return false;
    };
    fits(unflushed, free, space.reserved(), share) && space.make_way_for_flush(unflushed).is_ok()
}

/// Seals the journals of this database, which is closed.
///
/// # Errors
/// [`ErrorKind::Unavailable`] if the directory can't be read or written.
pub(super) fn seal(database: &Path, modes: Modes) -> Result<()> {
    let (newest, bytes) = journals(database).map_err(|error| unavailable(database, error))?;
    let Some(newest) = newest else { return Ok(()) };
    begin(database, newest + 1, modes).map_err(|error| unavailable(database, error))?;
    tracing::info!(path = %database.display(), journal_bytes = bytes, "the journals are sealed, to free space");
    Ok(())
}

/// Returns whether the journals take much of what is free.
fn is_scarce(journals: u64, free: u64, share: u64) -> bool {
    journals >= BYTES_MIN && free < journals.saturating_mul(3).saturating_add(2 * share)
}

/// Returns whether what is in no table yet fits into one.
fn fits(unflushed: u64, free: u64, reserve: u64, share: u64) -> bool {
    free.saturating_add(reserve) >= unflushed.saturating_add(share / 4)
}

fn unavailable(database: &Path, error: io::Error) -> Error {
    let message = format!(
        "the journals could not be sealed: path={}",
        database.display()
    );
    Error::new(ErrorKind::Unavailable, "open", message).with_source(error)
}

/// The highest number of a journal, and the bytes that all of them take.
fn journals(database: &Path) -> io::Result<(Option<u64>, u64)> {
    let (mut newest, mut bytes) = (None, 0);
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

/// A journal is mostly a hole at first.
#[cfg(unix)]
fn allocated(metadata: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(metadata).saturating_mul(512)
}

#[cfg(not(unix))]
fn allocated(metadata: &fs::Metadata) -> u64 {
    metadata.len()
}

fn begin(database: &Path, number: u64, modes: Modes) -> io::Result<()> {
    let path = database.join(format!("{number}.jnl"));
    modes
        .file_options()
        .write(true)
        .create_new(true)
        .open(path)?
        .sync_all()?;
    sync_directory_at(database)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journals_are_sealed_only_where_space_is_scarce_and_suffices() {
        const MIB: u64 = 1024 * 1024;
        assert!(is_scarce(8 * MIB, 14 * MIB, MIB));
        assert!(!is_scarce(8 * MIB, 1 << 40, MIB), "there is plenty");
        assert!(!is_scarce(BYTES_MIN - 1, 0, MIB), "there is little to gain");
        assert!(fits(8 * MIB, 14 * MIB, MIB, MIB));
        assert!(!fits(8 * MIB, 2 * MIB, MIB, MIB));
        assert!(fits(8 * MIB, 2 * MIB, 7 * MIB, MIB), "with the reserve");
        assert!(fits(0, MIB, 0, MIB), "all of it lies in tables");
    }
}
