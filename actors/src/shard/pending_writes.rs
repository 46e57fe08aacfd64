//! [`PendingWrites`]: the writes that a shard has submitted and the index has not made durable yet.
//!
//! A shard decides against the pending writes first, the durable state second. Every entry carries
//! the ticket of its batch. Batches become durable in order, so that one number separates the
//! entries still needed from the others. Guards I3: no two decisions rest on the same state. Only
//! the shard reads its pending writes (I7).

use std::collections::{BTreeMap, VecDeque};

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

    /// Forgets the writes that have become durable.
    pub(crate) fn trim(&mut self) {
        let durable = self.tickets.durable().newest();
        while self
            .order
            .front()
            .is_some_and(|(ticket, _)| *ticket <= durable)
        {
            let Some((ticket, entry)) = self.order.pop_front() else {
                return;
            };
            match entry {
                // An entry is removed only by its own ticket: a later batch may have replaced it.
                PendingEntry::RowState(key)
                    if self
                        .row_states
                        .get(&key)
                        .is_some_and(|(newest, _)| *newest == ticket) =>
                {
                    self.row_states.remove(&key);
                }
                PendingEntry::Settled(change) if self.settled.get(&change) == Some(&ticket) => {
                    self.settled.remove(&change);
                }
                PendingEntry::UploadRecord(key)
                    if self
                        .sessions
                        .get(&key)
                        .is_some_and(|(newest, _)| *newest == ticket) =>
                {
                    self.sessions.remove(&key);
                }
                PendingEntry::RowState(_)
                | PendingEntry::Settled(_)
                | PendingEntry::UploadRecord(_) => {}
            }
        }
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
}
