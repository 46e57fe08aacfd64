//! An alarm: how an actor wakes itself later, once, however often it is set.
//!
//! Every setting has a number that travels in the message it will send. Only the newest rings, so
//! that timers that were overtaken by an earlier one fall silent instead of multiplying.

use cenotaph_storage::{Env, Timestamp};

/// When an actor will wake itself next.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    due: Option<Timestamp>,
    setting: TimerToken,
}

/// Which setting of an alarm rings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TimerToken(u64);

impl Timer {
    /// Rings at `due`, unless it is set to ring before that anyway.
    pub(crate) fn set(
        &mut self,
        env: &Env,
        due: Timestamp,
        ring: impl FnOnce(TimerToken) + Send + 'static,
    ) {
        if self.due.is_some_and(|set| set <= due) {
            return;
        }
        self.due = Some(due);
        self.setting = TimerToken(self.setting.0.wrapping_add(1));
        let setting = self.setting;
        // One millisecond more, so that it is due when we look, and never spins.
        let delay = due.since(env.steady_now()) + std::time::Duration::from_millis(1);
        let world = env.clone();
        env.spawn(async move {
            world.sleep(delay).await;
            ring(setting);
        });
    }

    /// Whether this ring is of the newest setting, which is over with that.
    pub(crate) fn is_current(&mut self, setting: TimerToken) -> bool {
        let newest = setting == self.setting && self.due.is_some();
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
    async fn only_the_newest_setting_rings_and_it_rings_once() {
        let env = Env::real().unwrap();
        let now = env.steady_now().as_millis();
        let mut alarm = Timer::default();
        let set = |alarm: &mut Timer, due| {
            alarm.set(&env, Timestamp::from_millis(due), drop);
            alarm.setting
        };
        let first = set(&mut alarm, now + 2000);
        let earlier = set(&mut alarm, now + 1000);
        let later = set(&mut alarm, now + 3000);
        assert_eq!(earlier, later, "a later setting does not count");
        assert_ne!(first, earlier, "an earlier one overtakes");
        assert!(!alarm.is_current(first));
        assert!(alarm.is_current(earlier));
        assert!(!alarm.is_current(earlier));
    }
}
