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

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Index, Member};
use crate::env::Env;
use crate::types::{Epoch, Error, ErrorKind, Result};

/// Longest gap between two readings that counts in full, in intervals between readings.
const GAP_MAX: u32 = 2;

/// Times by which a member judges others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTimes {
    /// Time between two readings.
    pub interval: Duration,
    /// Time for which a heartbeat must stand still.
    pub lease: Duration,
}

/// Heartbeats of the other members, as this member has read them.
#[derive(Debug, Default)]
pub struct Heartbeats {
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
pub struct MemberReading {
    /// Members to declare dead, with the counts of their heartbeats.
    pub overdue: Vec<(Epoch, u64)>,
    /// True if a member is gone since the last reading.
    pub is_gone: bool,
}

impl Heartbeats {
    /// Notes a reading of all members that began at the monotonic time `now`.
    pub fn note(
        &mut self,
        members: &[Member],
        own: Epoch,
        now: Duration,
        LeaseTimes { interval, lease }: LeaseTimes,
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

/// Waits until this member is the only one. Declares the others dead whose heartbeats stand still.
///
/// # Errors
/// [`AlreadyOpen`](ErrorKind::AlreadyOpen) as soon as another member has been seen to live, with
/// `why` as the message; the errors of reading the members.
pub(crate) async fn wait_until_alone(
    index: &dyn Index,
    env: &Env,
    times: LeaseTimes,
    why: &'static str,
) -> Result<()> {
    let Some(shared) = index.shared() else {
        return Ok(());
    };
    let mut heartbeats = Heartbeats::default();
    let mut first: Option<BTreeMap<Epoch, u64>> = None;
    loop {
        let begun = env.monotonic();
        let members = shared.members().await?;
        let others = members
            .iter()
            .filter(|member| member.epoch != shared.epoch());
        let beats: BTreeMap<_, _> = others.map(|member| (member.epoch, member.beat)).collect();
        if beats.is_empty() {
            return Ok(());
        }
        let first = first.get_or_insert_with(|| beats.clone());
        if beats
            .iter()
            .any(|(epoch, beat)| first.get(epoch) != Some(beat))
        {
            return Err(Error::new(ErrorKind::AlreadyOpen, "open", why));
        }
        let reading = heartbeats.note(&members, shared.epoch(), begun, times);
        for (member, beat) in reading.overdue {
            shared.declare_dead(member, beat).await?;
        }
        env.sleep(times.interval).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::WallTime;

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
        let times = LeaseTimes {
            interval: INTERVAL,
            lease: LEASE,
        };
        heartbeats.note(members, OWN, now, times)
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
