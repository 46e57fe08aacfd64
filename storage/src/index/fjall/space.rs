//! Space on the disk of the index: which batches there is room for, and when the reserve is given
//! up.
//!
//! ```text
//! free, without the reserve:   0 ────────┬───────────────────────┬────────────────────────> all of it
//!                              the reserve is given up   no batch that stores       every batch is taken
//!                              for batches that release  something is taken: low
//!
//! a batch that stores something needs, in bytes:
//!     2 x (batch + queued)   the journal now, a table later
//!   + buffered               tables for what lies in memory
//!   + compacting             what a compaction writes before it deletes its input
//!   + margin                 batches that release space
//!   + missing                what the reserve lacks
//! ```
//!
//! fjall fails for good when a write of its own finds no space. So puts end before it comes to
//! that, and what they leave is for deletes. Guards I10 in part: a batch is refused before it is
//! submitted or not at all, for others may already be decided on it. Deliberately not here: the
//! file (`reserve.rs`), and giving space back (`reclaim.rs`).

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::reserve::Reserve;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Reason, Result};
use crate::index::{SpaceStats, no_space};
use crate::modes::Modes;

const MIB: u64 = 1024 * 1024;
/// The reserve and the margin are each at most this part of the disk.
const SHARE_OF_DISK: u64 = 16;
/// How long a look at the disk is believed while there is plenty of space.
const LOOK_MS: u64 = 100;
/// Others that write to the disk are expected to write less than this in that time.
const AMPLE_BYTES: u64 = 64 * MIB;
/// Space for the files that a commit may lead fjall to touch, beside what the commit itself writes.
const SLACK_BYTES: u64 = MIB / 16;
/// Least free space for a new index: its files take some 100 KiB.
const NEW_BYTES_MIN: u64 = MIB;

/// Sizes of a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) total: u64,
    pub(super) free: u64,
}

/// The file system that holds this path; none if it can't be asked.
#[cfg(unix)]
pub(super) fn disk(path: &Path) -> Option<Disk> {
    let found = rustix::fs::statvfs(path).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Some(Disk {
        total: bytes(found.f_blocks),
        free: bytes(found.f_bavail),
    })
}

/// The file system that holds this path; none if it can't be asked.
#[cfg(not(unix))]
pub(super) fn disk(_: &Path) -> Option<Disk> {
    None
}

/// Size of the reserve, and of the margin, on a disk of this size.
pub(super) fn share(limit: u64, total: u64) -> u64 {
    limit.min(total / SHARE_OF_DISK)
}

/// What must be free, beside what a batch itself needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Demand {
    pub(super) queued: u64,
    pub(super) buffered: u64,
    pub(super) compacting: u64,
    pub(super) margin: u64,
    pub(super) missing: u64,
}

impl Demand {
    /// Free bytes without which a batch that stores so many is refused.
    pub(super) fn needed(&self, bytes: u64) -> u64 {
        let twice = bytes.saturating_add(self.queued).saturating_mul(2);
        [self.buffered, self.compacting, self.margin, self.missing]
            .into_iter()
            .fold(twice, u64::saturating_add)
    }
}

/// How much of the reserve is given up before a commit of so many bytes. What is buffered counts
/// only if there is then room for all of it, for a flush of a part is of no use. The last quarter
/// of the full size is kept until a commit could not be written at all without it, so that the next
/// open finds something too.
pub(super) fn give_up(free: u64, held: u64, bytes: u64, buffered: u64, share: u64) -> u64 {
    let must = bytes.saturating_mul(2).saturating_add(SLACK_BYTES);
    let should = must.saturating_add(buffered).saturating_add(share / 4);
    let last = share / 4;
    let lacking = should.saturating_sub(free);
    let early = if lacking <= held.saturating_sub(last) {
        lacking
    } else {
        0
    };
    let late = must.saturating_sub(free).min(held);
    early.max(late)
}

/// The space of one index while it is open.
pub(super) struct Space {
    env: Env,
    dir: PathBuf,
    limit: u64,
    reserve: Reserve,
    total: AtomicU64,
    free: AtomicU64,
    looked_ms: AtomicU64,
    /// Bytes written since that look.
    written: AtomicU64,
    queued: AtomicU64,
    compacting: AtomicU64,
    is_low: AtomicBool,
    /// A batch was refused since something was reclaimed.
    has_refused: AtomicBool,
    has_removed: AtomicBool,
    is_tidying: AtomicBool,
    tidying: Mutex<()>,
}

impl Space {
    /// The space of the index in this directory, which is there.
    pub(super) fn open(dir: &Path, env: Env, limit: u64, modes: Modes) -> Self {
        let space = Self {
            env,
            dir: dir.to_owned(),
            limit,
            reserve: Reserve::open(dir, modes),
            total: AtomicU64::new(0),
            free: AtomicU64::new(u64::MAX),
            looked_ms: AtomicU64::new(0),
            written: AtomicU64::new(0),
            queued: AtomicU64::new(0),
            compacting: AtomicU64::new(0),
            is_low: AtomicBool::new(false),
            has_refused: AtomicBool::new(false),
            // Whatever an earlier life removed may still take space.
            has_removed: AtomicBool::new(true),
            is_tidying: AtomicBool::new(false),
            tidying: Mutex::default(),
        };
        space.look();
        space
    }

    /// Returns whether there is room for a new index at this path, which may be absent.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if there is not.
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

    /// Returns whether a batch that stores so many bytes may be taken, while so many are buffered
    /// in memory.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if not: the disk is low.
    pub(super) fn room(&self, bytes: u64, buffered: u64) -> Result<()> {
        let needed = self.demand(buffered).needed(bytes);
        let free = self.free(needed);
        if free >= needed {
            return Ok(());
        }
        self.has_refused.store(true, Ordering::Relaxed);
        let least = self.demand(buffered).needed(0);
        self.note(free < least, free, least);
        Err(no_space("commit", free, needed))
    }

    /// Makes way for a commit that has been taken: gives up some of the reserve where it must.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if the commit can't be written even so.
    /// Nothing of it has been.
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
        let free = self.look();
        self.note(true, free, enough);
        if free < bytes {
            Err(no_space("commit", free, bytes))
        } else {
            Ok(())
        }
    }

    /// Makes way for a flush of so many bytes.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if it would not fit even so: fjall would fail
    /// for good.
    pub(super) fn make_way_for_flush(&self, buffered: u64) -> Result<()> {
        self.make_way(0, buffered)?;
        let (free, needed) = (self.look(), buffered.saturating_add(SLACK_BYTES));
        if free < needed {
            Err(no_space("flush", free, needed))
        } else {
            Ok(())
        }
    }

    /// The same error, or what it comes from if that is the full disk: fjall says only that it has
    /// failed.
    pub(super) fn explain(&self, error: Error) -> Error {
        let (free, share) = (self.look(), self.share());
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

    /// A batch of so many bytes waits for its commit.
    pub(super) fn queue(&self, bytes: u64) {
        self.queued.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many bytes of batches have been committed; whether they removed something.
    pub(super) fn committed(&self, bytes: u64, has_removed: bool) {
        let less = |queued: u64| Some(queued.saturating_sub(bytes));
        let _ = self
            .queued
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        self.written
            .fetch_add(bytes.saturating_mul(2), Ordering::Relaxed);
        if has_removed {
            self.has_removed.store(true, Ordering::Relaxed);
        }
    }

    /// Looks at the disk again, and whether it is low while so many bytes are buffered and a
    /// compaction may write so many.
    pub(super) fn refresh(&self, buffered: u64, compacting: u64) {
        self.compacting.store(compacting, Ordering::Relaxed);
        let (free, needed) = (self.look(), self.demand(buffered).needed(0));
        self.note(free < needed, free, needed);
        metrics::gauge!("cenotaph_index_free_bytes").set(free as f64);
        metrics::gauge!("cenotaph_index_reserve_bytes").set(self.reserve.held() as f64);
        metrics::gauge!("cenotaph_index_low").set(if free < needed { 1.0 } else { 0.0 });
    }

    /// Returns whether space is wanted, and something was removed that may still take some. The
    /// question is answered once: whoever hears yes reclaims.
    pub(super) fn take_garbage(&self) -> bool {
        let has_garbage = self.has_garbage();
        self.has_refused.store(false, Ordering::Relaxed);
        has_garbage && self.has_removed.swap(false, Ordering::Relaxed)
    }

    /// Returns whether space is wanted, and something was removed that may still take some.
    pub(super) fn has_garbage(&self) -> bool {
        self.is_wanted() && self.has_removed.load(Ordering::Relaxed)
    }

    /// Returns whether the disk is low, or a batch was refused.
    pub(super) fn is_wanted(&self) -> bool {
        self.is_low.load(Ordering::Relaxed) || self.has_refused.load(Ordering::Relaxed)
    }

    /// Returns whether the reserve lacks something, and there is room for it.
    pub(super) fn may_rebuild(&self, buffered: u64) -> bool {
        let demand = self.demand(buffered);
        demand.missing > 0 && self.free(demand.needed(0)) >= demand.needed(0)
    }

    /// Builds what the reserve lacks, if there is room for it. Blocks for the disk.
    pub(super) fn rebuild(&self, buffered: u64) {
        if self.may_rebuild(buffered) {
            self.reserve.grow_to(self.share());
            self.look();
        }
    }

    /// Keeps others from tidying up; waits for those that do.
    pub(super) fn tidying(&self) -> MutexGuard<'_, ()> {
        self.tidying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins tidying up, unless that is under way.
    pub(super) fn begin_tidying(&self) -> bool {
        !self.is_tidying.swap(true, Ordering::AcqRel)
    }

    /// Tidying up has ended.
    pub(super) fn end_tidying(&self) {
        self.is_tidying.store(false, Ordering::Release);
    }

    /// Free bytes, as last seen and less what was written since.
    pub(super) fn free_now(&self) -> u64 {
        self.look()
    }

    /// What there is to tell.
    pub(super) fn stats(&self, buffered: u64) -> SpaceStats {
        let needed_bytes = self.demand(buffered).needed(0);
        let free_bytes = self.look();
        let is_low = free_bytes < needed_bytes;
        SpaceStats {
            free_bytes,
            needed_bytes,
            reserve_bytes: self.reserve.held(),
            is_low,
        }
    }

    /// Size of the reserve and of the margin.
    pub(super) fn share(&self) -> u64 {
        share(self.limit, self.total.load(Ordering::Relaxed))
    }

    /// Bytes that the reserve holds.
    pub(super) fn reserved(&self) -> u64 {
        self.reserve.held()
    }

    fn demand(&self, buffered: u64) -> Demand {
        let share = self.share();
        Demand {
            queued: self.queued.load(Ordering::Relaxed),
            buffered,
            compacting: self.compacting.load(Ordering::Relaxed),
            margin: share,
            missing: share.saturating_sub(self.reserve.held()),
        }
    }

    /// Free bytes. The last look is believed for a while if it leaves plenty beyond `needed`.
    fn free(&self, needed: u64) -> u64 {
        let age_ms = self
            .now_ms()
            .saturating_sub(self.looked_ms.load(Ordering::Relaxed));
        let free = self
            .free
            .load(Ordering::Relaxed)
            .saturating_sub(self.written.load(Ordering::Relaxed));
        if age_ms < LOOK_MS && free >= needed.saturating_add(AMPLE_BYTES) {
            free
        } else {
            self.look()
        }
    }

    /// A disk that can't be asked counts as empty: then fjall alone finds out.
    fn look(&self) -> u64 {
        let disk = disk(&self.dir).unwrap_or(Disk {
            total: 0,
            free: u64::MAX,
        });
        self.total.store(disk.total, Ordering::Relaxed);
        self.free.store(disk.free, Ordering::Relaxed);
        self.written.store(0, Ordering::Relaxed);
        self.looked_ms.store(self.now_ms(), Ordering::Relaxed);
        disk.free
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.env.monotonic().as_millis()).unwrap_or(u64::MAX)
    }

    fn note(&self, is_low: bool, free_bytes: u64, needed_bytes: u64) {
        let was_low = self.is_low.swap(is_low, Ordering::Relaxed);
        let (dir, reserve_bytes) = (self.dir.display(), self.reserve.held());
        if is_low && !was_low {
            tracing::warn!(%dir, free_bytes, needed_bytes, reserve_bytes, "no space: only deletes are taken");
        } else if was_low && !is_low {
            tracing::info!(%dir, free_bytes, needed_bytes, reserve_bytes, "there is space again: puts are taken");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needed_space_covers_journal_table_buffer_compaction_and_margin() {
        let demand = Demand {
            queued: 10,
            buffered: 100,
            compacting: 1_000,
            margin: 10_000,
            missing: 100_000,
        };
        assert_eq!(demand.needed(5), 2 * 15 + 111_100);
        assert_eq!(
            Demand {
                buffered: u64::MAX,
                ..demand
            }
            .needed(5),
            u64::MAX,
            "it saturates"
        );
    }

    #[test]
    fn reserve_is_a_bounded_share_of_the_disk() {
        assert_eq!(share(16 * MIB, 24 * MIB), 24 * MIB / 16);
        assert_eq!(share(16 * MIB, 1 << 50), 16 * MIB);
        assert_eq!(share(16 * MIB, 0), 0, "the disk is not known");
    }

    #[test]
    fn reserve_is_given_up_step_by_step_and_its_end_last() {
        let share = 16 * MIB;
        assert_eq!(
            give_up(1 << 40, share, 1000, 8 * MIB, share),
            0,
            "there is plenty"
        );
        // A flush of what is buffered would not fit: three quarters may go for that, if they
        // suffice.
        assert_eq!(give_up(0, share, 0, 4 * MIB, share), SLACK_BYTES + 8 * MIB);
        assert_eq!(
            give_up(0, share, 0, 64 * MIB, share),
            SLACK_BYTES,
            "as for a commit alone"
        );
        // Without the last quarter the commit itself would not fit.
        assert_eq!(
            give_up(0, share / 4, MIB / 2, 64 * MIB, share),
            MIB + SLACK_BYTES
        );
        assert_eq!(give_up(0, 100, MIB, 0, share), 100, "no more than there is");
    }
}
