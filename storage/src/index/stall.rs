//! Duration of the commit in flight, without pauses of the process: [`StallWatch`].
//!
//! A debugger, `docker pause`, a suspended virtual machine or swapping may pause a process. No disk
//! hangs during a pause, and no commit is overdue. The time between two checks therefore counts
//! only up to a quarter of the deadline.
//!
//! ```text
//! checks     |  1 s  |  1 s  |           36 s, paused           |  1 s  |
//! counts        1 s     1 s              7.5 s                     1 s      10.5 s of 30 s
//! ```
//!
//! Guards I10: an overdue commit poisons the index, and its outcome is unknown.

use std::time::Duration;

/// Divisor of the deadline: the time between two checks counts for at most this share of it.
const LOOKS_MIN: u32 = 4;

/// Timer of the commit in flight, compared with its deadline.
#[derive(Clone, Debug)]
pub struct StallWatch {
    deadline: Duration,
    /// Time of the last check of the commit in flight, or of its start. `None` if no commit is in
    /// flight.
    last_look: Option<Duration>,
    under_way: Duration,
}

impl StallWatch {
    /// Creates a timer. A commit is overdue when at least five checks have found that it takes
    /// longer than `deadline`.
    pub fn new(deadline: Duration) -> Self {
        Self {
            deadline,
            last_look: None,
            under_way: Duration::ZERO,
        }
    }

    /// Starts the timer of a commit at `now`, read from [`Env::monotonic`](crate::Env::monotonic).
    pub fn begin(&mut self, now: Duration) {
        self.last_look = Some(now);
        self.under_way = Duration::ZERO;
    }

    /// Stops the timer: the commit has ended.
    pub fn end(&mut self) {
        self.last_look = None;
    }

    /// Checks the commit in flight. Returns its duration if it is overdue.
    pub fn look(&mut self, now: Duration) -> Option<Duration> {
        let since = now.saturating_sub(self.last_look?);
        self.last_look = Some(now);
        // The cap keeps a pause of the process from counting as a hung disk.
        self.under_way = self
            .under_way
            .saturating_add(since.min(self.deadline / LOOKS_MIN));
        (self.under_way > self.deadline).then_some(self.under_way)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn checked_commit_is_overdue_after_its_deadline() {
        let mut watch = StallWatch::new(DEADLINE);
        assert_eq!(watch.look(at(100)), None, "no commit is in flight");
        watch.begin(at(100));
        assert!((101..=130).all(|second| watch.look(at(second)).is_none()));
        assert_eq!(watch.look(at(131)), Some(at(31)));
    }

    #[test]
    fn pause_of_any_length_makes_no_commit_overdue() {
        let mut watch = StallWatch::new(DEADLINE);
        watch.begin(at(1));
        assert_eq!(watch.look(at(2)), None);
        assert_eq!(watch.look(at(100_000)), None);
        assert!(
            (100_001..100_020).all(|second| watch.look(at(second)).is_none()),
            "the commit continues"
        );
        watch.end();
        watch.begin(at(200_000));
        assert_eq!(
            watch.look(at(200_001)),
            None,
            "the next commit starts at zero"
        );
    }

    #[test]
    fn rare_checks_find_a_hung_commit_too() {
        let mut watch = StallWatch::new(DEADLINE);
        watch.begin(at(0));
        let looks = (1..).find(|look| watch.look(at(look * 3600)).is_some());
        assert_eq!(looks, Some(5));
    }
}
