//! [`PendingWrites`]: the writes that a shard has submitted and the index has not made durable yet.
//!
//! A shard decides against the pending writes first, the durable state second. Every entry carries
//! the ticket of its batch. Batches become durable in order, so that one number separates the
//! entries still needed from the others. Guards I3: no two decisions rest on the same state. Only
//! the shard reads its pending writes (I7).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use cenotaph_storage::decide::{Plan, RowState};
use cenotaph_storage::index::Table;
use cenotaph_storage::{ObjectId, OperationId};

use crate::runtime::ticket::{Durable, Ticket, Tickets};

/// The writes of a shard that are submitted and not yet durable.
#[derive(Default)]
pub(crate) struct PendingWrites {
    tickets: Tickets,
    row_states: BTreeMap<Bytes, (Ticket, RowState)>,
    settled: BTreeMap<OperationId, Ticket>,
    sessions: BTreeMap<Bytes, (Ticket, Option<Bytes>)>,
    order: VecDeque<(Ticket, PendingEntry)>,
    /// Batches that were not committed, and whose entries are not forgotten yet.
    changed: BTreeSet<Ticket>,
    /// Objects of batches that were not committed, with the newest ticket that may rest on them.
    doomed: BTreeMap<Bytes, Ticket>,
}

enum PendingEntry {
    RowState(Bytes),
    Settled(OperationId),
    UploadRecord(Bytes),
}

impl PendingWrites {
    /// Returns the progress of this shard, to be updated by completions.
    pub(crate) fn durable(&self) -> Durable {
        self.tickets.durable().clone()
    }

    /// Returns the ticket of the next batch.
    pub(crate) fn next_ticket(&mut self) -> Ticket {
        self.tickets.next()
    }

    /// Returns the pending state of an object, if any.
    pub(crate) fn row_state(&self, id: &ObjectId) -> Option<&RowState> {
        self.row_states
            .get(id.encoded())
            .map(|(_, row_state)| row_state)
    }

    /// Returns whether a pending batch has settled or fenced this change.
    pub(crate) fn is_settled(&self, change: OperationId) -> bool {
        self.settled.contains_key(&change)
    }

    /// Sets the state of an object as of this batch.
    pub(crate) fn set_state(&mut self, ticket: Ticket, id: &ObjectId, row_state: RowState) {
        self.row_states
            .insert(id.encoded().clone(), (ticket, row_state));
        self.order
            .push_back((ticket, PendingEntry::RowState(id.encoded().clone())));
    }

    /// Records a plan that is about to be submitted, and returns the ticket of its batch.
    pub(crate) fn record<T>(&mut self, plan: &Plan<T>) -> Ticket {
        let ticket = self.next_ticket();
        for (id, row_state) in &plan.rows {
            self.set_state(ticket, id, row_state.clone());
        }
        for &change in &plan.settled {
            self.settled.insert(change, ticket);
            self.order
                .push_back((ticket, PendingEntry::Settled(change)));
        }
        let uploads = plan.batch.ops().iter();
        for (_, key, value) in uploads.filter(|(table, ..)| *table == Table::Uploads) {
            self.sessions.insert(key.clone(), (ticket, value.clone()));
            self.order
                .push_back((ticket, PendingEntry::UploadRecord(key.clone())));
        }
        ticket
    }

    /// Returns the pending value of a key of the upload table: a value, or `Some(None)` for a
    /// pending removal.
    pub(crate) fn session(&self, key: &[u8]) -> Option<Option<&Bytes>> {
        self.sessions.get(key).map(|(_, value)| value.as_ref())
    }

    /// Returns the pending values of all keys with this prefix, in key order.
    pub(crate) fn sessions_below<'a>(
        &'a self,
        prefix: &'a [u8],
    ) -> impl Iterator<Item = (&'a Bytes, Option<&'a Bytes>)> {
        let from = self.sessions.range(Bytes::copy_from_slice(prefix)..);
        from.take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(key, (_, value))| (key, value.as_ref()))
    }

    /// Forgets the writes whose batches have ended: those that have become durable, and those that were
    /// not committed, with all later writes of the same objects, which rest on them.
    pub(crate) fn trim(&mut self) {
        // The progress first: each batch up to it that was not committed is noted by then.
        let ended = self.tickets.durable().newest();
        self.changed.extend(self.tickets.durable().take_changed());
        while self
            .order
            .front()
            .is_some_and(|(ticket, _)| *ticket <= ended)
        {
            let Some((ticket, entry)) = self.order.pop_front() else {
                return;
            };
            self.forget(ticket, &entry);
            if self.changed.contains(&ticket) {
                self.doom(ticket, entry);
            }
        }
        self.changed.retain(|ticket| *ticket > ended);
        self.doomed.retain(|_, horizon| *horizon > ended);
    }

    /// Forgets an entry, unless a later batch has replaced it.
    fn forget(&mut self, ticket: Ticket, entry: &PendingEntry) {
        match entry {
            PendingEntry::RowState(key) => {
                let newest = self.row_states.get(key).map(|(newest, _)| *newest);
                if newest == Some(ticket) {
                    self.row_states.remove(key);
                }
            }
            PendingEntry::Settled(change) => {
                if self.settled.get(change) == Some(&ticket) {
                    self.settled.remove(change);
                }
            }
            PendingEntry::UploadRecord(key) => {
                let newest = self.sessions.get(key).map(|(newest, _)| *newest);
                if newest == Some(ticket) {
                    self.sessions.remove(key);
                }
            }
        }
    }

    /// Forgets the later writes of an entry whose batch was not committed. They rest on it, so that
    /// their batches are not committed either, unless they were decided after an earlier failure.
    fn doom(&mut self, ticket: Ticket, entry: PendingEntry) {
        let key = match entry {
            PendingEntry::RowState(key) | PendingEntry::UploadRecord(key) => key,
            PendingEntry::Settled(_) => return,
        };
        if self
            .doomed
            .get(&key)
            .is_some_and(|horizon| ticket <= *horizon)
        {
            return;
        }
        self.row_states.remove(&key);
        self.sessions.remove(&key);
        self.doomed.insert(key, self.tickets.last());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cenotaph_storage::Version;

    fn absent(version: u64) -> RowState {
        RowState::New(Version::new(version))
    }

    #[test]
    fn durable_writes_are_forgotten_and_the_newest_counts() {
        let id = ObjectId::try_from("k").unwrap();
        let mut pending = PendingWrites::default();
        let first = pending.next_ticket();
        let second = pending.next_ticket();
        pending.set_state(first, &id, absent(1));
        pending.set_state(second, &id, absent(2));
        pending.trim();
        assert_eq!(
            pending.row_state(&id),
            Some(&absent(2)),
            "nothing is durable yet"
        );
        pending.durable().reached(first);
        pending.trim();
        assert_eq!(
            pending.row_state(&id),
            Some(&absent(2)),
            "the newest write is not durable yet"
        );
        pending.durable().reached(second);
        pending.trim();
        assert_eq!(pending.row_state(&id), None);
    }

    #[test]
    fn writes_that_rest_on_an_uncommitted_one_are_forgotten_with_it() {
        let [hot, other] = ["hot", "other"].map(|key| ObjectId::try_from(key).unwrap());
        let mut pending = PendingWrites::default();
        let tickets: Vec<_> = (0..3).map(|_| pending.next_ticket()).collect();
        for (ticket, version) in tickets.iter().zip(1..) {
            pending.set_state(*ticket, &hot, absent(version));
            pending.set_state(*ticket, &other, absent(version));
        }
        // Another member has written `hot`. The newest write of `other` rests on a doomed one, too.
        pending.durable().changed(tickets[0]);
        pending.trim();
        assert_eq!(pending.row_state(&hot), None);
        // Decided again, on what the index shows.
        let again = pending.next_ticket();
        pending.set_state(again, &hot, absent(9));
        for doomed in &tickets[1..] {
            pending.durable().changed(*doomed);
            pending.trim();
            assert_eq!(pending.row_state(&hot), Some(&absent(9)));
        }
        pending.durable().reached(again);
        pending.trim();
        assert_eq!(pending.row_state(&hot), None);
        assert!(pending.doomed.is_empty() && pending.order.is_empty());
    }
}
