//! Checks of the members of a shared index: who may commit, who may be declared dead, and whose
//! changes may be fenced.
//!
//! Named checkers: `epoch` (epochs are unique, a change has that of its member), `members` (no commit
//! of a member that is gone), `lease` (a member is declared dead only after its lease), I6 (no change
//! of a live member is fenced).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::format::{Change, reader_pin};
use super::model::Model;
use crate::trace::coverage::Coverage;

/// Members of the shared index.
#[derive(Default)]
pub(crate) struct Members {
    /// Live members, each with the time of its last heartbeat in virtual time.
    live: BTreeMap<u64, Duration>,
    last_epoch: u64,
    /// Least time without a heartbeat after which a member may be declared dead. `None` if no plan
    /// configures the engine.
    lease: Option<Duration>,
    /// Pins of readers: revision and epoch.
    pins: BTreeSet<(Uuid, u64)>,
    /// Changes of members that are gone, settled by others.
    fenced: BTreeMap<Uuid, u64>,
    /// Members that ended without a close.
    crashed: BTreeSet<u64>,
    /// Member whose batch is being checked.
    committer: u64,
}

impl Model {
    /// Declares that several members share the index.
    pub(crate) fn share(&mut self) {
        self.members.get_or_insert_default();
    }

    /// Sets the lease of the members.
    pub(crate) fn set_lease(&mut self, lease: Duration) {
        if let Some(members) = &mut self.members {
            // A member measures the time between two requests, which may be on their way for long.
            members.lease = Some(lease / 2);
        }
    }

    /// Returns true if several members share the index.
    pub(super) fn is_shared(&self) -> bool {
        self.members.is_some()
    }

    /// Records a new member.
    pub(crate) fn member_joined(&mut self, epoch: u64, at: Duration) {
        let members = self.members.get_or_insert_default();
        let is_fresh = epoch > members.last_epoch;
        members.last_epoch = epoch;
        members.live.insert(epoch, at);
        if !is_fresh {
            self.violated("epoch", format!("epoch is used again: epoch={epoch}"));
        }
    }

    /// Records a heartbeat.
    pub(crate) fn member_beats(&mut self, epoch: u64, at: Duration) {
        if let Some(members) = &mut self.members {
            members.live.insert(epoch, at);
        }
    }

    /// Records that a member has closed.
    pub(crate) fn member_left(&mut self, epoch: u64) {
        if let Some(members) = &mut self.members {
            members.live.remove(&epoch);
        }
    }

    /// Checks that a member that is declared dead has not shown a heartbeat for its lease.
    pub(crate) fn member_died(&mut self, epoch: u64, at: Duration) {
        let Some(members) = &mut self.members else {
            return;
        };
        let beaten_at = members.live.remove(&epoch).unwrap_or_default();
        let silence = at.saturating_sub(beaten_at);
        if let Some(lease) = members.lease.filter(|lease| silence < *lease) {
            let message = format!(
                "live member is declared dead: epoch={epoch} silence={silence:?} lease={lease:?}"
            );
            self.violated("lease", message);
        }
    }

    /// Records that the process of a member has ended without a close.
    pub(crate) fn member_crashed(&mut self, epoch: u64) {
        if let Some(members) = &mut self.members {
            members.crashed.insert(epoch);
        }
    }

    /// Returns true if the blob of this revision may remain until a scrub: its member was paused
    /// until its change was swept, finished the blob, and ended before it could delete it.
    pub(super) fn is_stray(&self, revision: Uuid) -> bool {
        let Some(members) = &self.members else {
            return false;
        };
        let change = self.fate.get(&revision);
        let member = change.and_then(|change| members.fenced.get(change));
        member.is_some_and(|member| members.crashed.contains(member))
    }

    /// Checks that a member may commit the batch that is checked next.
    pub(crate) fn commits_as(&mut self, epoch: u64) {
        let Some(members) = &mut self.members else {
            return;
        };
        members.committer = epoch;
        if !members.live.contains_key(&epoch) {
            let message = format!("member that is gone has committed: epoch={epoch}");
            self.violated("members", message);
        }
    }

    /// Returns true if this is a reader of a process that was declared dead, or has ended. Its blobs
    /// need not be kept.
    pub(super) fn is_of_dead_member(&self, reader: Option<u64>) -> bool {
        let (Some(members), Some(epoch)) = (&self.members, reader) else {
            return false;
        };
        !members.live.contains_key(&epoch)
    }

    /// Returns true if a member has stored a pin on this revision.
    pub(super) fn has_pin(&self, revision: Uuid, epoch: u64) -> bool {
        self.members
            .as_ref()
            .is_some_and(|members| members.pins.contains(&(revision, epoch)))
    }

    /// Takes the pin of a reader, or its removal, into the model. Returns `None` if it can't be
    /// decoded.
    pub(super) fn pin(
        &mut self,
        key: &[u8],
        value: Option<&Bytes>,
        coverage: &mut Coverage,
    ) -> Option<()> {
        let (revision, epoch) = reader_pin(key)?;
        let Some(members) = &mut self.members else {
            return None;
        };
        match value {
            Some(value) if value[..] == [1] => {
                coverage.count("members: a reader's pin stored");
                let is_own = epoch == members.committer;
                members.pins.insert((revision, epoch));
                if !is_own {
                    let message = format!("pin is of another member: epoch={epoch}");
                    self.violated("members", message);
                }
            }
            Some(_) => return None,
            None => drop(members.pins.remove(&(revision, epoch))),
        }
        Some(())
    }

    /// Returns the number of members that live.
    pub(crate) fn live_members(&self) -> usize {
        self.members
            .as_ref()
            .map_or(0, |members| members.live.len())
    }

    /// Checks that a change has the epoch of the engine that records it.
    pub(super) fn check_epoch(&mut self, id: Uuid, change: &Change) {
        let current = match &self.members {
            Some(members) => members.committer,
            None => self.epoch,
        };
        if change.epoch != current {
            let message = format!(
                "change has the epoch of another engine: change={id} epoch={} current={current}",
                change.epoch
            );
            self.violated("epoch", message);
        }
    }

    /// Checks that a change is settled by its own member, or after the end of that member.
    pub(super) fn check_settler(&mut self, id: Uuid, change: &Change) {
        let Some(members) = &mut self.members else {
            return;
        };
        let is_own = change.epoch == members.committer;
        if !is_own {
            members.fenced.insert(id, change.epoch);
        }
        if !is_own && members.live.contains_key(&change.epoch) {
            let message = format!(
                "change of a live member is settled by another: change={id} epoch={} by={}",
                change.epoch, members.committer
            );
            self.violated("I6", message);
        }
    }
}
