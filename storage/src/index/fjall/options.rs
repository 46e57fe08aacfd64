//! Options of fjall: [`FjallOptions`] and their bounds. Guards that fjall sees no option at which
//! it panics.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::modes::Modes;

pub(super) const MIB: u64 = 1024 * 1024;

/// Options of fjall. What shapes the files is fixed when they are created and is no option.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FjallOptions {
    /// Memory for blocks that were read, in bytes, at least 1 MiB. 32 MiB by default.
    pub cache_bytes: u64,
    /// Size of the journals from which fjall flushes tables to be rid of them, in bytes, at least
    /// 64 MiB. Opening after a crash reads as much. 128 MiB by default.
    pub journal_bytes_max: u64,
    /// Threads that flush and compact, 1 or 2. 2 by default.
    pub worker_threads: usize,
    /// A commit under way for longer poisons the index, in milliseconds, at least 1. 30,000 by
    /// default.
    pub commit_deadline_ms: u64,
    /// Size of the reserve in bytes, at most 1 GiB: a file that takes space on the disk of the
    /// index for as long as there is some, and is given up to commit deletes when the disk is full.
    /// It takes a sixteenth of the disk at most. As much again is left free by the index itself,
    /// which takes only deletes from then on. 16 MiB by default; 0 for neither.
    pub reserve_bytes: u64,
    /// A step of a scan that takes longer than this, in microseconds, crosses entries that were
    /// removed, and is remembered in memory, so that later scans leave it out. 200 by default; 0
    /// remembers each step.
    pub slow_step_us: u64,
    /// Permission bits of the data directory, the directory of the index and everything in it,
    /// where they are created. The files that fjall creates later have what the umask leaves them:
    /// the directories above keep others away from them.
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
            modes: Modes::default(),
        }
    }
}

impl FjallOptions {
    /// fjall panics at some of what this refuses.
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
        } else {
            return self.modes.check("index.modes");
        };
        Err(Error::new(ErrorKind::Invalid, "open", wrong))
    }
}
