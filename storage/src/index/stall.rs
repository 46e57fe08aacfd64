//! How long a commit has been under way: [`StallWatch`].
//!
//! A process may be paused: by a debugger, `docker pause`, a suspended virtual machine, a machine
//! that swaps. No disk hangs then, and no commit is overdue. So the time between two looks counts
//! only up to a quarter of the deadline: whoever looked only before and after a pause has not seen
//! a commit hang.
//!
//! ```text
//! looks      |  1 s  |  1 s  |           36 s, paused           |  1 s  |
//! counts        1 s     1 s              7.5 s                     1 s      10.5 s of 30 s
//! ```
//!
//! Guards I10: a commit that is called overdue poisons the index, and its outcome counts as
//! unknown.

use std::time::Duration;

/// How much of the deadline the time between two looks may count for at most.
const LOOKS_MIN: u32 = 4;

/// Measures the commit in flight against its deadline.
#[derive(Clone, Debug)]
pub struct StallWatch {
    deadline: Duration,
    /// The last look at the commit in flight, or its beginning; none if no commit is in flight.
    last_look: Option<Duration>,
    under_way: Duration,
}

impl StallWatch {
    /// A commit is overdue when it has been under way for longer than `deadline`, as seen by at
    /// least five looks.
    pub fn new(deadline: Duration) -> Self {
        Self {
            deadline,
            last_look: None,
            under_way: Duration::ZERO,
        }
    }

    /// A commit begins at `now`, by [`Env::monotonic`](crate::Env::monotonic).
    pub fn begin(&mut self, now: Duration) {
        self.last_look = Some(now);
        self.under_way = Duration::ZERO;
    }

    /// The commit has ended.
    pub fn end(&mut self) {
        self.last_look = None;
    }

    /// Looks at the commit in flight. Returns how long it has been under way if it is overdue.
    pub fn look(&mut self, now: Duration) -> Option<Duration> {
        let since = now.saturating_sub(self.last_look?);
        self.last_look = Some(now);
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
    fn a_commit_that_is_looked_at_for_its_deadline_is_overdue() {
        let mut watch = StallWatch::new(DEADLINE);
        assert_eq!(watch.look(at(100)), None, "no commit is in flight");
        watch.begin(at(100));
        assert!((101..=130).all(|second| watch.look(at(second)).is_none()));
        assert_eq!(watch.look(at(131)), Some(at(31)));
    }

    #[test]
    fn a_pause_of_any_length_makes_no_commit_overdue() {
        let mut watch = StallWatch::new(DEADLINE);
        watch.begin(at(1));
        assert_eq!(watch.look(at(2)), None);
        assert_eq!(watch.look(at(100_000)), None);
        assert!(
            (100_001..100_020).all(|second| watch.look(at(second)).is_none()),
            "it goes on"
        );
        watch.end();
        watch.begin(at(200_000));
        assert_eq!(
            watch.look(at(200_001)),
            None,
            "another commit begins at zero"
        );
    }

    #[test]
    fn seldom_looks_find_a_hung_commit_too() {
        let mut watch = StallWatch::new(DEADLINE);
        watch.begin(at(0));
        let looks = (1..).find(|look| watch.look(at(look * 3600)).is_some());
        assert_eq!(looks, Some(5));
    }
}
