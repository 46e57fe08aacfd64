//! [`Heartbeats`]: the decision that another member of a shared index is dead. Pure.
//!
//! ```text
//! count of a heartbeat        since the last reading          decision
//! changed                                                     it lives
//! unchanged                   shorter than the lease in sum   it may live
//! unchanged                   the lease in sum                declare it dead
//! member not among them       it was before                   it is gone: its work is left to others
//! ```
//!
//! Guards I6 (only the work of a member that is gone is taken over). Safety does not depend on this
//! decision: the index refuses every commit of a member that was declared dead. The decision uses the
//! monotonic clock of this process alone. Only time between two successful readings counts, and of each
//! gap at most [`GAP_MAX`] readings: while the index does not answer, no member can count up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cenotaph_storage::index::Member;
use cenotaph_storage::{Epoch, Result};

use crate::context::Context;

/// Longest gap between two readings that counts in full, in intervals between readings.
const GAP_MAX: u32 = 2;

/// Heartbeats of the other members, as this member has read them.
#[derive(Debug, Default)]
pub(crate) struct Heartbeats {
    seen: BTreeMap<Epoch, Heartbeat>,
    /// Time of the last reading.
    read: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Heartbeat {
    beat: u64,
    /// Time for which it has been seen to stand still.
    still: Duration,
}

/// Result of a reading of all members.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct MemberReading {
    /// Members to declare dead, with the counts of their heartbeats.
    pub(crate) overdue: Vec<(Epoch, u64)>,
    /// True if a member is gone since the last reading.
    pub(crate) is_gone: bool,
}

impl Heartbeats {
    /// Notes a reading of all members that began at the monotonic time `now`.
    pub(crate) fn note(
        &mut self,
        members: &[Member],
        own: Epoch,
        now: Duration,
        (interval, lease): (Duration, Duration),
    ) -> MemberReading {
        let gap = self.read.map_or(Duration::ZERO, |read| {
            now.saturating_sub(read)
                .min(interval.saturating_mul(GAP_MAX))
        });
        self.read = Some(now);
        let mut seen = BTreeMap::new();
        let mut reading = MemberReading::default();
        for member in members.iter().filter(|member| member.epoch != own) {
            let still = match self.seen.remove(&member.epoch) {
                Some(last) if last.beat == member.beat => last.still.saturating_add(gap),
                Some(_) | None => Duration::ZERO,
            };
            if still >= lease {
                reading.overdue.push((member.epoch, member.beat));
            }
            let beat = member.beat;
            seen.insert(member.epoch, Heartbeat { beat, still });
        }
        // All that are left were members before.
        reading.is_gone = !self.seen.is_empty();
        self.seen = seen;
        reading
    }
}

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

    /// Returns `true` if another member has declared this one dead, so that none of its unfinished
    /// writes can commit.
    pub(crate) fn is_declared_dead(&self) -> bool {
        self.index.is_shared() && self.index.poisoned().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cenotaph_storage::WallTime;

    const OWN: Epoch = Epoch::new(9);
    const INTERVAL: Duration = Duration::from_secs(1);
    const LEASE: Duration = Duration::from_secs(5);

    fn member(epoch: u64, beat: u64) -> Member {
        Member {
            epoch: Epoch::new(epoch),
            name: "m".to_owned(),
            since: WallTime::from_millis(0),
            beat,
            beaten: WallTime::from_millis(0),
        }
    }

    fn note(heartbeats: &mut Heartbeats, second: u64, members: &[Member]) -> MemberReading {
        let now = Duration::from_secs(second);
        heartbeats.note(members, OWN, now, (INTERVAL, LEASE))
    }

    #[test]
    fn member_whose_heartbeat_stands_still_for_the_lease_is_overdue() {
        let mut heartbeats = Heartbeats::default();
        for second in 0..5 {
            let read = note(&mut heartbeats, second, &[member(1, 7), member(2, second)]);
            assert_eq!(read, MemberReading::default(), "second={second}");
        }
        let read = note(&mut heartbeats, 5, &[member(1, 7), member(2, 5)]);
        assert_eq!(read.overdue, [(Epoch::new(1), 7)]);
    }

    #[test]
    fn a_beat_begins_the_lease_anew() {
        let mut heartbeats = Heartbeats::default();
        for second in 0..20 {
            let read = note(&mut heartbeats, second, &[member(1, second / 4)]);
            assert_eq!(read.overdue, [], "second={second}");
        }
    }

    #[test]
    fn time_without_readings_hardly_counts() {
        let mut heartbeats = Heartbeats::default();
        note(&mut heartbeats, 0, &[member(1, 7)]);
        // The server was away for an hour.
        let read = note(&mut heartbeats, 3600, &[member(1, 7)]);
        assert_eq!(read.overdue, []);
        note(&mut heartbeats, 3601, &[member(1, 7)]);
        note(&mut heartbeats, 3602, &[member(1, 7)]);
        let read = note(&mut heartbeats, 3603, &[member(1, 7)]);
        assert_eq!(read.overdue, [(Epoch::new(1), 7)]);
    }

    #[test]
    fn own_heartbeat_is_not_judged() {
        let mut heartbeats = Heartbeats::default();
        for second in 0..60 {
            let read = note(&mut heartbeats, second, &[member(OWN.get(), 1)]);
            assert_eq!(read, MemberReading::default());
        }
    }

    #[test]
    fn member_that_is_no_longer_there_is_gone_once() {
        let mut heartbeats = Heartbeats::default();
        assert!(!note(&mut heartbeats, 0, &[member(1, 1), member(2, 1)]).is_gone);
        assert!(note(&mut heartbeats, 1, &[member(2, 2)]).is_gone);
        assert!(!note(&mut heartbeats, 2, &[member(2, 3), member(3, 0)]).is_gone);
    }
}
