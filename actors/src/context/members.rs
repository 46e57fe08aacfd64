//! The members of a shared index, as this one asks about them.

use std::collections::BTreeSet;

use cenotaph_storage::index::LeaseTimes;
use cenotaph_storage::{Epoch, Result};

use crate::context::Context;

impl Context {
    /// Returns the epochs of all members of a shared index, or `None` for an index with a single owner.
    ///
    /// A change or a pin that was read before the call belongs to a live owner only if its epoch is
    /// among them.
    ///
    /// # Errors
    /// The errors of reading the index.
    pub(crate) async fn live_epochs(&self) -> Result<Option<BTreeSet<Epoch>>> {
        let Some(shared) = self.index.shared() else {
            return Ok(None);
        };
        let members = shared.members().await?;
        Ok(Some(members.iter().map(|member| member.epoch).collect()))
    }

    /// Returns whether another member has the store open.
    ///
    /// # Errors
    /// The errors of reading the index.
    pub(crate) async fn has_other_members(&self) -> Result<bool> {
        let live = self.live_epochs().await?;
        Ok(live.is_some_and(|live| live.len() > 1))
    }

    /// Returns `true` if another member has declared this one dead, so that none of its unfinished
    /// writes can commit.
    pub(crate) fn is_declared_dead(&self) -> bool {
        self.index.is_shared() && self.index.poisoned().is_some()
    }

    /// Returns the times by which other members are judged.
    pub(crate) fn lease_times(&self) -> LeaseTimes {
        LeaseTimes {
            interval: self.limits.heartbeat,
            lease: self.limits.members.lease,
        }
    }
}
