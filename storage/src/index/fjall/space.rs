//! Accounts for the disk space of the index: decides which batches are accepted, and when the
//! reserve is released.
//!
//! ```text
//! free, without the reserve:   0 ────────┬───────────────────────┬────────────────────────> total
//!                              the reserve is released   batches that store         every batch is
//!                              for batches that free     data are refused: low      accepted
//!                              space
//!
//! a batch that stores data needs, in bytes:
//!     2 x (batch + queued)   the journal now, a table later
//!   + buffered               tables for the memtables
//!   + compacting             output of a compaction before it deletes its input
//!   + margin                 batches that free space
//!   + missing                missing bytes of the reserve
//! ```
//!
//! fjall fails permanently when one of its own writes finds no space. Therefore puts are refused
//! earlier, and the remaining space is kept for deletes. Guards I10 in part: a batch is refused
//! before it is submitted or not at all, because other decisions may already depend on a submitted
//! batch. The reserve file is in `reserve.rs`, the reclaiming of space in `reclaim.rs`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::reserve::Reserve;
use crate::env::Env;
use crate::index::{SpaceStats, no_space};
use crate::modes::Modes;
use crate::types::{Error, ErrorKind, Reason, Result};

const MIB: u64 = 1024 * 1024;
/// Divisor of the disk size: the reserve and the margin are each at most this fraction of the disk.
const SHARE_OF_DISK: u64 = 16;
/// Minimal number of segments of the payload log that fit on the disk, unless it is tiny.
const SEGMENTS_OF_DISK: u64 = 64;
/// Time for which a measurement of the disk is reused while space is plentiful, in milliseconds.
const MEASURE_MS: u64 = 100;
/// Assumed maximum that other processes write to the disk in [`MEASURE_MS`], in bytes.
const AMPLE_BYTES: u64 = 64 * MIB;
/// Space for other files that fjall may write because of a commit, in bytes.
const SLACK_BYTES: u64 = MIB / 16;
/// Minimum free space for a new index, in bytes. Its files take about 100 KiB.
const NEW_BYTES_MIN: u64 = MIB;

/// Sizes of a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DiskSizes {
    pub(super) total: u64,
    pub(super) free: u64,
}

/// Returns the sizes of the file system of this path, or `None` if the call fails.
#[cfg(unix)]
pub(super) fn disk(path: &Path) -> Option<DiskSizes> {
    let found = rustix::fs::statvfs(path).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Some(DiskSizes {
        total: bytes(found.f_blocks),
        free: bytes(found.f_bavail),
    })
}

/// Returns `None`: the sizes of the file system are unknown.
#[cfg(not(unix))]
pub(super) fn disk(_: &Path) -> Option<DiskSizes> {
    None
}

/// Returns the size of the reserve, which is also the size of the margin, on a disk of this size.
pub(super) fn share(limit: u64, total: u64) -> u64 {
    limit.min(total / SHARE_OF_DISK)
}

/// Bytes that must be free in addition to the bytes of a batch. The terms are in the module
/// documentation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SpaceDemand {
    pub(super) queued: u64,
    pub(super) buffered: u64,
    pub(super) compacting: u64,
    pub(super) margin: u64,
    pub(super) missing: u64,
}

impl SpaceDemand {
    /// Returns the free bytes required to accept a batch that stores `bytes`.
    pub(super) fn needed(&self, bytes: u64) -> u64 {
        let twice = bytes.saturating_add(self.queued).saturating_mul(2);
        [self.buffered, self.compacting, self.margin, self.missing]
            .into_iter()
            .fold(twice, u64::saturating_add)
    }
}

/// Returns the bytes of the reserve to release before a commit of `bytes`. The buffered bytes count
/// only if all of them would then fit, because a partial flush is useless. The last quarter of the
/// full reserve is kept until the commit itself could not be written without it, so that the next
/// open has space, too.
pub(super) fn give_up(free: u64, held: u64, bytes: u64, buffered: u64, share: u64) -> u64 {
    let must = bytes.saturating_mul(2).saturating_add(SLACK_BYTES);
    let should = must.saturating_add(buffered).saturating_add(share / 4);
    let last = share / 4;
    let lacking = should.saturating_sub(free);
    // A smaller release would not let the flush fit, and would be wasted.
    let early = if lacking <= held.saturating_sub(last) {
        lacking
    } else {
        0
    };
    let late = must.saturating_sub(free).min(held);
    early.max(late)
}

/// Disk space accounting of an open index.
pub(super) struct Space {
    env: Env,
    dir: PathBuf,
    limit: u64,
    reserve: Reserve,
    /// Size of the disk at the last measurement.
    total: AtomicU64,
    /// Free bytes at the last measurement.
    free: AtomicU64,
    /// Monotonic time of the last measurement.
    measured_ms: AtomicU64,
    /// Estimated bytes written since the last measurement.
    written: AtomicU64,
    /// Bytes of submitted batches that are not committed yet.
    queued: AtomicU64,
    /// Bytes that a compaction may write before it deletes its input.
    compacting: AtomicU64,
    is_low: AtomicBool,
    /// True if a batch was refused since the last reclaim.
    has_refused: AtomicBool,

    /// True if keys were removed whose space may not be reclaimed yet.
    has_removed: AtomicBool,
    is_tidying: AtomicBool,
    /// Held while space is reclaimed and the reserve rebuilt.
    tidying: Mutex<()>,
}

impl Space {
    /// Opens the accounting of the existing index in this directory.
    pub(super) fn open(dir: &Path, env: Env, limit: u64, modes: Modes) -> Self {
        let space = Self {
            env,
            dir: dir.to_owned(),
            limit,
            reserve: Reserve::open(dir, modes),
            total: AtomicU64::new(0),
            free: AtomicU64::new(u64::MAX),
            measured_ms: AtomicU64::new(0),
            written: AtomicU64::new(0),
            queued: AtomicU64::new(0),
            compacting: AtomicU64::new(0),
            is_low: AtomicBool::new(false),
            has_refused: AtomicBool::new(false),
            // Keys removed before the last close may still occupy space.
            has_removed: AtomicBool::new(true),
            is_tidying: AtomicBool::new(false),
            tidying: Mutex::default(),
        };
        space.measure();
        space
    }

    /// Checks the free space for a new index at this path, which may be absent.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if the free space is too small.
    pub(super) fn check_new(dir: &Path) -> Result<()> {
        let existing = dir
            .ancestors()
            .find(|ancestor| ancestor.is_dir())
            .unwrap_or(Path::new("."));
        match disk(existing) {
            Some(disk) if disk.free < NEW_BYTES_MIN => {
                Err(no_space("open", disk.free, NEW_BYTES_MIN))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Checks the free space for a batch that stores `bytes`, while `buffered` bytes are in
    /// memtables.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if the batch must be refused.
    pub(super) fn room(&self, bytes: u64, buffered: u64) -> Result<()> {
        let needed = self.demand(buffered).needed(bytes);
        let free = self.free(needed);
        if free >= needed {
            return Ok(());
        }
        // A refused batch requests a reclaim, even if the disk is not low for smaller batches.
        self.has_refused.store(true, Ordering::Relaxed);
        // The disk is low only if even an empty batch is refused. A large batch alone proves
        // nothing.
        let least = self.demand(buffered).needed(0);
        self.update_low(free < least, free, least);
        Err(no_space("commit", free, needed))
    }

    /// Ensures space for a commit that was already accepted: releases a part of the reserve if
    /// required.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if the commit still does not fit. No part of
    /// it was written.
    pub(super) fn make_way(&self, bytes: u64, buffered: u64) -> Result<()> {
        let share = self.share();
        let enough = bytes
            .saturating_mul(2)
            .saturating_add(buffered)
            .saturating_add(SLACK_BYTES + share / 4);
        let free = self.free(enough);
        if free >= enough {
            return Ok(());
        }
        let given = give_up(free, self.reserve.held(), bytes, buffered, share);
        if given > 0 {
            self.reserve.shrink_by(given);
        }
        // Measure again: the file system may return fewer blocks than were released.
        let free = self.measure();
        self.update_low(true, free, enough);
        if free < bytes {
            Err(no_space("commit", free, bytes))
        } else {
            Ok(())
        }
    }

    /// Ensures space for a flush of `buffered` bytes.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if the flush still does not fit: fjall would
    /// fail permanently.
    pub(super) fn make_way_for_flush(&self, buffered: u64) -> Result<()> {
        self.make_way(0, buffered)?;
        // The release may be smaller than the flush requires.
        let free = self.measure();
        let needed = buffered.saturating_add(SLACK_BYTES);
        if free < needed {
            Err(no_space("flush", free, needed))
        } else {
            Ok(())
        }
    }

    /// Returns the error, with the full disk named as its cause if the disk is full: fjall reports
    /// only that it has failed.
    pub(super) fn explain(&self, error: Error) -> Error {
        let free = self.measure();
        let share = self.share();
        // An error with a reason is already explained.
        if error.kind() != ErrorKind::Unavailable || error.reason().is_some() || free >= share {
            return error;
        }
        let message = format!(
            "no space: free space on the disk, then open the index again: free_bytes={free}"
        );
        Error::new(ErrorKind::Unavailable, "commit", message)
            .with_reason(Reason::NoSpace)
            .with_source(error)
    }

    /// Records a batch of `bytes` that waits for its commit.
    pub(super) fn queue(&self, bytes: u64) {
        self.queued.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Records the commit of `bytes`. `has_removed` is true if a key was removed.
    pub(super) fn committed(&self, bytes: u64, has_removed: bool) {
        let less = |queued: u64| Some(queued.saturating_sub(bytes));
        let _ = self
            .queued
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        self.written
            // Twice: the journal now, a table later.
            .fetch_add(bytes.saturating_mul(2), Ordering::Relaxed);
        if has_removed {
            self.has_removed.store(true, Ordering::Relaxed);
        }
    }

    /// Measures the disk again and updates the low state, with `buffered` bytes in memtables and at
    /// most `compacting` bytes of compaction output.
    pub(super) fn refresh(&self, buffered: u64, compacting: u64) {
        self.compacting.store(compacting, Ordering::Relaxed);
        let free = self.measure();
        let needed = self.demand(buffered).needed(0);
        self.update_low(free < needed, free, needed);
        metrics::gauge!("cenotaph_index_free_bytes").set(free as f64);
        metrics::gauge!("cenotaph_index_reserve_bytes").set(self.reserve.held() as f64);
        metrics::gauge!("cenotaph_index_low").set(if free < needed { 1.0 } else { 0.0 });
    }

    /// Returns whether space is scarce and removed keys may still occupy some. Returns true only
    /// once: the caller must then reclaim.
    pub(super) fn take_garbage(&self) -> bool {
        let has_garbage = self.has_garbage();
        self.has_refused.store(false, Ordering::Relaxed);
        // The swap lets exactly one caller reclaim.
        has_garbage && self.has_removed.swap(false, Ordering::Relaxed)
    }

    /// Returns whether space is scarce and removed keys may still occupy some.
    pub(super) fn has_garbage(&self) -> bool {
        self.is_wanted() && self.has_removed.load(Ordering::Relaxed)
    }

    /// Returns whether the disk is low or a batch was refused.
    pub(super) fn is_wanted(&self) -> bool {
        self.is_low.load(Ordering::Relaxed) || self.has_refused.load(Ordering::Relaxed)
    }

    /// Returns whether the reserve is incomplete and its missing bytes fit on the disk.
    pub(super) fn may_rebuild(&self, buffered: u64) -> bool {
        let demand = self.demand(buffered);
        demand.missing > 0 && self.free(demand.needed(0)) >= demand.needed(0)
    }

    /// Extends the reserve to its full size, if the missing bytes fit on the disk. Blocks on the
    /// disk.
    pub(super) fn rebuild(&self, buffered: u64) {
        // Checked again: the free space may have changed since the caller decided.
        if self.may_rebuild(buffered) {
            self.reserve.grow_to(self.share());
            self.measure();
        }
    }

    /// Locks the reclaiming of space. Waits for the current holder.
    pub(super) fn tidying(&self) -> MutexGuard<'_, ()> {
        self.tidying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true and marks reclaiming as running, unless it is already running.
    pub(super) fn begin_tidying(&self) -> bool {
        !self.is_tidying.swap(true, Ordering::AcqRel)
    }

    /// Marks reclaiming as ended.
    pub(super) fn end_tidying(&self) {
        self.is_tidying.store(false, Ordering::Release);
    }

    /// Measures the free bytes.
    pub(super) fn free_now(&self) -> u64 {
        self.measure()
    }

    /// Returns the statistics of the space.
    pub(super) fn stats(&self, buffered: u64) -> SpaceStats {
        let needed_bytes = self.demand(buffered).needed(0);
        let free_bytes = self.measure();
        let is_low = free_bytes < needed_bytes;
        SpaceStats {
            free_bytes,
            needed_bytes,
            reserve_bytes: self.reserve.held(),
            is_low,
        }
    }

    /// Returns the size of a segment of the payload log: `most`, or less on a small disk, so that
    /// single removals free space.
    pub(super) fn segment_bytes(&self, most: u64) -> u64 {
        let total = self.total.load(Ordering::Relaxed);
        // The total is 0 if the disk can't be measured.
        if total == 0 {
            return most;
        }
        most.min((total / SEGMENTS_OF_DISK).max(MIB))
    }

    /// Returns the full size of the reserve, which is also the size of the margin.
    pub(super) fn share(&self) -> u64 {
        share(self.limit, self.total.load(Ordering::Relaxed))
    }

    /// Returns the bytes that the reserve holds.
    pub(super) fn reserved(&self) -> u64 {
        self.reserve.held()
    }

    fn demand(&self, buffered: u64) -> SpaceDemand {
        let share = self.share();
        SpaceDemand {
            queued: self.queued.load(Ordering::Relaxed),
            buffered,
            compacting: self.compacting.load(Ordering::Relaxed),
            margin: share,
            missing: share.saturating_sub(self.reserve.held()),
        }
    }

    /// Returns the free bytes. Reuses the last measurement for [`MEASURE_MS`] if it exceeds
    /// `needed` by [`AMPLE_BYTES`].
    fn free(&self, needed: u64) -> u64 {
        let age_ms = self
            .now_ms()
            .saturating_sub(self.measured_ms.load(Ordering::Relaxed));
        let free = self
            .free
            .load(Ordering::Relaxed)
            .saturating_sub(self.written.load(Ordering::Relaxed));
        if age_ms < MEASURE_MS && free >= needed.saturating_add(AMPLE_BYTES) {
            free
        } else {
            self.measure()
        }
    }

    /// Measures the free bytes. If the measurement fails, the free space counts as unlimited,
    /// and only fjall detects a full disk.
    fn measure(&self) -> u64 {
        let disk = disk(&self.dir).unwrap_or(DiskSizes {
            total: 0,
            free: u64::MAX,
        });
        self.total.store(disk.total, Ordering::Relaxed);
        self.free.store(disk.free, Ordering::Relaxed);
        self.written.store(0, Ordering::Relaxed);
        self.measured_ms.store(self.now_ms(), Ordering::Relaxed);
        disk.free
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.env.monotonic().as_millis()).unwrap_or(u64::MAX)
    }

    /// Updates the low state, and logs each change of it.
    fn update_low(&self, is_low: bool, free_bytes: u64, needed_bytes: u64) {
        let was_low = self.is_low.swap(is_low, Ordering::Relaxed);
        let dir = self.dir.display();
        let reserve_bytes = self.reserve.held();
        if is_low && !was_low {
            tracing::warn!(
                %dir, free_bytes, needed_bytes, reserve_bytes,
                "no space: puts are refused, deletes are accepted"
            );
        } else if was_low && !is_low {
            tracing::info!(
                %dir, free_bytes, needed_bytes, reserve_bytes,
                "enough space again: puts are accepted"
            );
        }
    }
}

#[cfg(test)]
mod tests;
