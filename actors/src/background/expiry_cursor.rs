//! The horizon: from where to where the expirer looks, and when it looks next.
//!
//! ```text
//! commits ──deadline──> earliest ──┐
//! begin: from the earlier of what was looked at last and `earliest` on; nobody is to wake the expirer while it looks
//! end:   the next look is at the earlier of the next entry seen and what was committed meanwhile
//! ```
//!
//! Every deadline that becomes durable passes here, so that no entry is missed, however late it is
//! filed, and what has been looked at is not looked at again: the index is slow where much was
//! removed. Deliberately not here: what is done about an entry (`expirer.rs`).

use std::sync::{Mutex, MutexGuard, PoisonError};

use cenotaph_storage::Timestamp;

/// See the head of this file.
#[derive(Default)]
pub(crate) struct ExpiryCursor(Mutex<State>);

struct State {
    /// When the expirer looks next; none while it does, or is about to.
    looks: Option<Timestamp>,
    /// The earliest deadline that became durable since it began to look.
    earliest: Option<Timestamp>,
    /// All that was due before has been looked at.
    looked: Timestamp,
}

impl Default for State {
    fn default() -> Self {
        Self {
            looks: None,
            earliest: None,
            looked: Timestamp::from_millis(0),
        }
    }
}

impl ExpiryCursor {
    /// A deadline has become durable; whether the expirer must be woken for it.
    pub(crate) fn is_due(&self, deadline: Timestamp) -> bool {
        let mut state = self.state();
        state.earliest = Some(
            state
                .earliest
                .map_or(deadline, |earliest| earliest.min(deadline)),
        );
        match state.looks {
            Some(looks) if deadline < looks => {
                state.looks = None;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Begins to look; from where on.
    pub(crate) fn begin(&self) -> Timestamp {
        let mut state = self.state();
        state.looks = None;
        let begin = state
            .earliest
            .take()
            .map_or(state.looked, |earliest| earliest.min(state.looked));
        // Should the look fail, the next one begins there too.
        state.looked = begin;
        begin
    }

    /// All that was due before `looked` has been looked at, and the first entry behind it is due
    /// then: when to look next.
    pub(crate) fn end(&self, looked: Timestamp, next_due: Option<Timestamp>) -> Option<Timestamp> {
        let mut state = self.state();
        state.looked = looked;
        let due = [next_due, state.earliest].into_iter().flatten().min();
        state.looks = Some(due.unwrap_or(Timestamp::from_millis(u64::MAX)));
        due
    }

    /// A new expirer begins: its predecessor may have died while it looked.
    pub(crate) fn begin_anew(&self) {
        self.state().looked = Timestamp::from_millis(0);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn a_look_begins_where_the_last_one_ended_or_where_something_was_filed_behind_it() {
        let expiry_cursor = ExpiryCursor::default();
        assert_eq!(expiry_cursor.begin(), at(0));
        expiry_cursor.end(at(1000), Some(at(5000)));
        assert_eq!(
            expiry_cursor.begin(),
            at(1000),
            "what was looked at is not looked at again"
        );
        expiry_cursor.end(at(2000), None);
        assert!(expiry_cursor.is_due(at(3)), "filed far behind");
        assert_eq!(expiry_cursor.begin(), at(3));
        assert_eq!(
            expiry_cursor.begin(),
            at(3),
            "the look failed: the next one begins there too"
        );
    }

    #[test]
    fn nobody_wakes_it_while_it_looks_and_nothing_is_missed() {
        let expiry_cursor = ExpiryCursor::default();
        expiry_cursor.begin();
        assert!(!expiry_cursor.is_due(at(3000)), "it looks");
        assert_eq!(
            expiry_cursor.end(at(1000), Some(at(9000))),
            Some(at(3000)),
            "what was filed meanwhile"
        );
        assert!(!expiry_cursor.is_due(at(4000)), "it looks before that");
        assert!(expiry_cursor.is_due(at(2000)));
        assert!(!expiry_cursor.is_due(at(1500)), "it is woken already");
    }
}
