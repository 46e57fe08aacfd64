//! [`ExpiryCursor`]: the start of the expirer's next pass, in the expiry index and in time.
//!
//! ```text
//! commits ──deadline──> earliest ──┐
//! begin: from the earlier of `read_to` and `earliest`; no wake-ups until the pass ends
//! end:   next pass at the earlier of the next entry seen and the deadlines committed meanwhile
//! ```
//!
//! Every durable deadline passes here, so that no entry is missed, however late it is committed.
//! Entries already read are not read again, because the index is slow where many entries were
//! removed.

use std::sync::{Mutex, MutexGuard, PoisonError};

use cenotaph_storage::Timestamp;

/// Position of the expirer in the expiry index.
#[derive(Default)]
pub(crate) struct ExpiryCursor(Mutex<State>);

struct State {
    /// Due time of the next pass; `None` while a pass runs or a wake-up is on its way.
    next_pass: Option<Timestamp>,
    /// The earliest deadline that became durable since the last pass began.
    earliest: Option<Timestamp>,
    /// The expirer has read all entries that were due before this time.
    read_to: Timestamp,
}

impl Default for State {
    fn default() -> Self {
        Self {
            next_pass: None,
            earliest: None,
            read_to: Timestamp::from_millis(0),
        }
    }
}

impl ExpiryCursor {
    /// Notes a durable deadline. Returns whether the expirer must be woken for it.
    pub(crate) fn is_due(&self, deadline: Timestamp) -> bool {
        let mut state = self.state();
        state.earliest = Some(
            state
                .earliest
                .map_or(deadline, |earliest| earliest.min(deadline)),
        );
        match state.next_pass {
            Some(next) if deadline < next => {
                // Cleared, so that later deadlines do not wake the expirer a second time.
                state.next_pass = None;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Begins a pass, and returns the deadline at which it starts.
    pub(crate) fn begin(&self) -> Timestamp {
        let mut state = self.state();
        state.next_pass = None;
        let begin = state
            .earliest
            .take()
            .map_or(state.read_to, |earliest| earliest.min(state.read_to));
        // If this pass fails, the next pass begins here too.
        state.read_to = begin;
        begin
    }

    /// Ends a pass that has read all entries due before `read_to`. `next_due` is the due time of
    /// the first entry after it. Returns the due time of the next pass.
    pub(crate) fn end(&self, read_to: Timestamp, next_due: Option<Timestamp>) -> Option<Timestamp> {
        let mut state = self.state();
        state.read_to = read_to;
        let due = [next_due, state.earliest].into_iter().flatten().min();
        // Without any entry every new deadline is early enough to wake the expirer.
        state.next_pass = Some(due.unwrap_or(Timestamp::from_millis(u64::MAX)));
        due
    }

    /// Starts over for a new expirer, whose predecessor may have died during a pass.
    pub(crate) fn begin_anew(&self) {
        self.state().read_to = Timestamp::from_millis(0);
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
    fn pass_begins_at_last_end_or_at_earlier_deadline() {
        let expiry_cursor = ExpiryCursor::default();
        assert_eq!(expiry_cursor.begin(), at(0));
        expiry_cursor.end(at(1000), Some(at(5000)));
        assert_eq!(
            expiry_cursor.begin(),
            at(1000),
            "entries already read are not read again"
        );
        expiry_cursor.end(at(2000), None);
        assert!(expiry_cursor.is_due(at(3)), "committed far behind");
        assert_eq!(expiry_cursor.begin(), at(3));
        assert_eq!(
            expiry_cursor.begin(),
            at(3),
            "the pass failed: the next pass begins there too"
        );
    }

    #[test]
    fn no_wake_up_during_a_pass_and_no_deadline_is_missed() {
        let expiry_cursor = ExpiryCursor::default();
        expiry_cursor.begin();
        assert!(!expiry_cursor.is_due(at(3000)), "a pass is running");
        assert_eq!(
            expiry_cursor.end(at(1000), Some(at(9000))),
            Some(at(3000)),
            "a deadline committed during the pass"
        );
        assert!(!expiry_cursor.is_due(at(4000)), "the next pass is earlier");
        assert!(expiry_cursor.is_due(at(2000)));
        assert!(!expiry_cursor.is_due(at(1500)), "it is woken already");
    }
}
