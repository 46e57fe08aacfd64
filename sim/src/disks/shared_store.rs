//! The store of a shared index beside its tables: its members and the tokens of commits. It
//! outlives every process. Requests are executed in `tiers/shared_index/server.rs`.
//!
//! ```text
//! member: joined ──> beats ──> left, or declared dead
//! token:  (none) ──commit──> committed      whichever comes first excludes the other
//!         (none) ──asked───> refused
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Store of a shared index.
#[derive(Default)]
pub(crate) struct SharedStore(Mutex<StoreState>);

/// Members and tokens.
#[derive(Default)]
pub(crate) struct StoreState {
    pub(crate) last_epoch: u64,
    pub(crate) members: BTreeMap<u64, StoredMember>,
    pub(crate) tokens: BTreeMap<u64, Token>,
}

/// Entry of a member.
#[derive(Clone, Debug)]
pub(crate) struct StoredMember {
    pub(crate) name: String,
    /// Time at which it joined, by the clock of the store.
    pub(crate) since_ms: u64,
    pub(crate) beat: u64,
    /// Time of the last beat, by the clock of the store.
    pub(crate) beaten_ms: u64,
    /// Time of the last beat, by the wall clock of the member. Only planted bugs use it.
    pub(crate) stamped_ms: u64,
}

/// Outcome of a commit, under its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// Committed, except for the batches at these positions, whose conditions did not hold.
    Committed(BTreeSet<usize>),
    /// Never committed, and never will be.
    Refused,
}

impl SharedStore {
    /// Returns the count of the heartbeats of each member, and the time with which the member has
    /// stamped the last. For planted bugs.
    #[cfg(feature = "planted")]
    pub(crate) fn stamps(&self) -> BTreeMap<u64, (u64, u64)> {
        let store = self.lock();
        let members = store.members.iter();
        members
            .map(|(&epoch, member)| (epoch, (member.beat, member.stamped_ms)))
            .collect()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, StoreState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
