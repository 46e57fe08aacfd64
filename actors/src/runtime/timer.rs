//! [`Timer`]: a wake-up that an actor sends to itself, at most one at a time.
//!
//! Each setting has a token that travels in the message it sends. Only the newest token is current,
//! so that a setting that was replaced by an earlier one sends a message without effect.

use cenotaph_storage::{Env, Timestamp};

/// The next wake-up of an actor.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    due: Option<Timestamp>,
    token: TimerToken,
}

/// Identity of a setting of a timer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TimerToken(u64);

impl Timer {
    /// Calls `fire` at `due`, unless the timer is set to an earlier time already.
    pub(crate) fn set(
        &mut self,
        env: &Env,
        due: Timestamp,
        fire: impl FnOnce(TimerToken) + Send + 'static,
    ) {
        if self.due.is_some_and(|set| set <= due) {
            return;
        }
        self.due = Some(due);
        self.token = TimerToken(self.token.0.wrapping_add(1));
        let token = self.token;
        // One millisecond more: the work is due when the pass begins, and the timer never spins.
        let delay = due.since(env.steady_now()) + std::time::Duration::from_millis(1);
        let sleeper = env.clone();
        env.spawn(async move {
            sleeper.sleep(delay).await;
            fire(token);
        });
    }

    /// Returns whether this token is of the newest setting, and ends that setting.
    pub(crate) fn is_current(&mut self, token: TimerToken) -> bool {
        let newest = token == self.token && self.due.is_some();
        if newest {
            self.due = None;
        }
        newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_newest_setting_fires_and_only_once() {
        let env = Env::real().unwrap();
        let now = env.steady_now().as_millis();
        let mut timer = Timer::default();
        let set = |timer: &mut Timer, due| {
            timer.set(&env, Timestamp::from_millis(due), drop);
            timer.token
        };
        let first = set(&mut timer, now + 2000);
        let earlier = set(&mut timer, now + 1000);
        let later = set(&mut timer, now + 3000);
        assert_eq!(earlier, later, "a later setting is ignored");
        assert_ne!(first, earlier, "an earlier setting replaces a later one");
        assert!(!timer.is_current(first));
        assert!(timer.is_current(earlier));
        assert!(!timer.is_current(earlier));
    }
}
