//! [`Timer`]: a wake-up that an actor sends to itself, at most one at a time.
//!
//! A setting sleeps in a task of its own. The task ends when the setting is replaced by an earlier
//! one, or when the timer is dropped with its actor. Otherwise the task of a distant deadline would
//! keep the environment of an engine that has long been closed.
//!
//! Each setting has a token that travels in the message it sends. Only the newest token is current,
//! so that a message that was already sent by a replaced setting has no effect.

use cenotaph_storage::{Env, Timestamp};
use tokio::sync::oneshot;

/// The next wake-up of an actor.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    due: Option<Timestamp>,
    token: TimerToken,
    /// Ends the task of the newest setting when it is dropped.
    task: Option<oneshot::Sender<()>>,
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
        let (task, mut dropped) = oneshot::channel();
        self.task = Some(task);
        env.spawn(async move {
            tokio::select! {
                biased;
                _ = &mut dropped => return,
                () = sleeper.sleep(delay) => {}
            }
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
    use std::sync::{Arc, Weak};
    use std::time::Duration;

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

    /// Waits until all clones of a marker are dropped.
    async fn dropped<T>(env: &Env, marker: &Weak<T>) {
        let waiting = async {
            while marker.strong_count() > 0 {
                tokio::task::yield_now().await;
            }
        };
        let dropped = env.deadline(Duration::from_secs(30), waiting).await;
        dropped.expect("the task of the setting ends");
    }

    /// Sets a timer, and returns a marker that its task holds.
    fn set_marked(timer: &mut Timer, env: &Env, due: Timestamp) -> Weak<()> {
        let held = Arc::new(());
        let marker = Arc::downgrade(&held);
        timer.set(env, due, move |_| drop(held));
        marker
    }

    #[tokio::test]
    async fn task_ends_with_the_timer_or_when_its_setting_is_replaced() {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        let env = Env::real().unwrap();
        let now = env.steady_now();
        let mut timer = Timer::default();
        let replaced = set_marked(&mut timer, &env, now.after(2 * DAY));
        let newest = set_marked(&mut timer, &env, now.after(DAY));
        dropped(&env, &replaced).await;
        assert_eq!(newest.strong_count(), 1, "the newest setting sleeps");
        drop(timer);
        dropped(&env, &newest).await;
    }
}
