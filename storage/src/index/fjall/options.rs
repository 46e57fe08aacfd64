//! Options of fjall, [`FjallOptions`], and their bounds. Guards that fjall receives no option at
//! which it panics.

use serde::{Deserialize, Serialize};

use crate::modes::Modes;
use crate::types::{Error, ErrorKind, Result};

pub(super) const MIB: u64 = 1024 * 1024;

/// Options of fjall. Parameters that are fixed at the creation of the files are no options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FjallOptions {
    /// Memory for cached blocks, in bytes, at least 1 MiB. 32 MiB by default.
    pub cache_bytes: u64,
    /// Size of the journals at which fjall flushes tables to delete journals, in bytes, at least 64
    /// MiB. An open after a crash reads as much. 128 MiB by default.
    pub journal_bytes_max: u64,
    /// Number of threads that flush and compact, 1 or 2. 2 by default.
    pub worker_threads: usize,
    /// Duration after which a commit poisons the index, in milliseconds, at least 1. 30,000 by
    /// default.
    pub commit_deadline_ms: u64,
    /// Size of the reserve in bytes, at most 1 GiB. The reserve is a file that takes space on the
    /// disk of the index. When the disk is full, the index shrinks it to commit deletes. It takes
    /// at most a sixteenth of the disk. The index also leaves as much space free: it refuses all
    /// batches except deletes from there on. 16 MiB by default; 0 disables both.
    pub reserve_bytes: u64,
    /// Duration of a slow step of a scan, in microseconds. A slower step crosses removed entries.
    /// The index remembers it in memory, so that later scans skip it. 200 by default; 0 remembers
    /// every step.
    pub slow_step_us: u64,
    /// Size at which a segment of the payload log is full, in bytes, from 1 MiB to 1 GiB. 64 MiB by
    /// default. A larger payload has a segment of its own.
    pub segment_bytes: u64,
    /// Bytes per second that a collection of the payload log copies while other batches are
    /// committed, at least 1 MiB. 32 MiB by default. A collection copies faster if no batches are
    /// committed, or if more than half of the log is dead.
    pub collect_bytes_per_second: u64,
    /// Permission bits of the data directory, the directory of the index and all files in it at
    /// their creation. Files that fjall creates later have the permissions of the umask, and are
    /// protected by the directories above them.
    pub modes: Modes,
}

impl Default for FjallOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 32 * MIB,
            journal_bytes_max: 128 * MIB,
            worker_threads: 2,
            commit_deadline_ms: 30_000,
            reserve_bytes: 16 * MIB,
            slow_step_us: 200,
            segment_bytes: 64 * MIB,
            collect_bytes_per_second: 32 * MIB,
            modes: Modes::default(),
        }
    }
}

impl FjallOptions {
    /// Checks all bounds. fjall panics at some values out of bounds.
    pub(super) fn check(&self) -> Result<()> {
        let wrong = if self.cache_bytes < MIB {
            format!(
                "cache_bytes must be at least 1 MiB: cache_bytes={}",
                self.cache_bytes
            )
        } else if self.journal_bytes_max < 64 * MIB {
            format!(
                "journal_bytes_max must be at least 64 MiB: journal_bytes_max={}",
                self.journal_bytes_max
            )
        } else if !(1..=2).contains(&self.worker_threads) {
            format!(
                "worker_threads must be 1 or 2: worker_threads={}",
                self.worker_threads
            )
        } else if self.commit_deadline_ms == 0 {
            "commit_deadline_ms must be at least 1".to_owned()
        } else if self.reserve_bytes > 1024 * MIB {
            format!(
                "reserve_bytes must be at most 1 GiB: reserve_bytes={}",
                self.reserve_bytes
            )
        } else if !(MIB..=1024 * MIB).contains(&self.segment_bytes) {
            format!(
                "segment_bytes must be from 1 MiB to 1 GiB: segment_bytes={}",
                self.segment_bytes
            )
        } else if self.collect_bytes_per_second < MIB {
            format!(
                "collect_bytes_per_second must be at least 1 MiB: collect_bytes_per_second={}",
                self.collect_bytes_per_second
            )
        } else {
            return self.modes.check("index.modes");
        };
        Err(Error::new(ErrorKind::Invalid, "open", wrong))
    }
}
