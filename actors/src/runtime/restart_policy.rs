//! Restart policy: the delay before a dead actor is restarted, and the limit of restarts. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use crate::limits::RestartLimits;

/// The recent restarts of all actors together.
#[derive(Debug, Default)]
pub(crate) struct RestartPolicy {
    restarts: VecDeque<Duration>,
}

impl RestartPolicy {
    /// Returns the delay of a restart requested at `now` (monotonic), or `None` if there were too
    /// many restarts within the window.
    pub(crate) fn restart(&mut self, now: Duration, limits: &RestartLimits) -> Option<Duration> {
        while self
            .restarts
            .front()
            .is_some_and(|&at| now.saturating_sub(at) > limits.within)
        {
            self.restarts.pop_front();
        }
        if self.restarts.len() >= limits.max {
            return None;
        }
        // Each recent restart doubles the delay.
        let doublings = u32::try_from(self.restarts.len()).unwrap_or(u32::MAX);
        self.restarts.push_back(now);
        Some(backoff(limits.backoff_min, limits.backoff_max, doublings))
    }
}

/// Returns `min * 2^doublings`, at most `max`.
pub(crate) fn backoff(min: Duration, max: Duration, doublings: u32) -> Duration {
    min.saturating_mul(1u32.checked_shl(doublings).unwrap_or(u32::MAX))
        .min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_slow_down_then_stop_then_recover() {
        let limits = RestartLimits {
            max: 3,
            within: Duration::from_secs(10),
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_millis(25),
        };
        let mut policy = RestartPolicy::default();
        let at = Duration::from_secs;
        assert_eq!(
            policy.restart(at(0), &limits),
            Some(Duration::from_millis(10))
        );
        assert_eq!(
            policy.restart(at(1), &limits),
            Some(Duration::from_millis(20))
        );
        assert_eq!(
            policy.restart(at(2), &limits),
            Some(Duration::from_millis(25))
        );
        assert_eq!(
            policy.restart(at(3), &limits),
            None,
            "the fourth restart within ten seconds exceeds the limit"
        );
        assert_eq!(
            policy.restart(at(11), &limits),
            Some(Duration::from_millis(25)),
            "the first restart is outside the window"
        );
    }
}
