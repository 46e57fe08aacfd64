//! The overlay: what a shard has decided and the index has not yet made durable.
//!
//! Shards never wait for the disk: they decide against the overlay first, the durable state second.
//! Every entry carries the ticket of the batch it stands in; batches become durable in order, so
//! one number says which entries are no longer needed. Guards I3 against deciding twice on the same
//! state. Nobody but its shard reads it (I7).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use cenotaph_storage::decide::{Plan, Standing};
use cenotaph_storage::index::Table;
use cenotaph_storage::{ObjectId, OperationId};

/// The place of a batch in the order of its shard's submissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

/// How far a shard's batches are durable. Written by completions, read by the shard.
#[derive(Clone, Default)]
pub(crate) struct Durable(Arc<AtomicU64>);

impl Durable {
    /// All up to this ticket is durable.
    pub(crate) fn reached(&self, ticket: Ticket) {
        self.0.fetch_max(ticket.0, Ordering::AcqRel);
    }
}

/// What is decided and not yet durable.
#[derive(Default)]
pub(crate) struct PendingWrites {
    last: u64,
    durable: Durable,
    standings: BTreeMap<Bytes, (Ticket, Standing)>,
    settled: BTreeMap<OperationId, Ticket>,
    sessions: BTreeMap<Bytes, (Ticket, Option<Bytes>)>,
    order: VecDeque<(Ticket, Entry)>,
}

enum Entry {
    Standing(Bytes),
    Settled(OperationId),
    Session(Bytes),
}

impl PendingWrites {
    /// Where completions say how far the batches are durable.
    pub(crate) fn durable(&self) -> Durable {
        self.durable.clone()
    }

    /// Begins the next batch.
    pub(crate) fn next_ticket(&mut self) -> Ticket {
        self.last += 1;
        self.ticket()
    }

    /// The ticket of the batch begun last.
    pub(crate) fn ticket(&self) -> Ticket {
        Ticket(self.last)
    }

    /// How an object stands, if that is not yet durable.
    pub(crate) fn standing(&self, id: &ObjectId) -> Option<&Standing> {
        self.standings
            .get(id.encoded())
            .map(|(_, standing)| standing)
    }

    /// Whether this change has been settled or fenced by a batch that is not yet durable.
    pub(crate) fn is_settled(&self, change: OperationId) -> bool {
        self.settled.contains_key(&change)
    }

    /// Notes that an object stands so once this batch is durable.
    pub(crate) fn stand(&mut self, ticket: Ticket, id: &ObjectId, standing: Standing) {
        self.standings
            .insert(id.encoded().clone(), (ticket, standing));
        self.order
            .push_back((ticket, Entry::Standing(id.encoded().clone())));
    }

    /// Records a plan that is about to be submitted, and returns the ticket of its batch.
    pub(crate) fn record<T>(&mut self, plan: &Plan<T>) -> Ticket {
        let ticket = self.next_ticket();
        for (id, standing) in &plan.rows {
            self.stand(ticket, id, standing.clone());
        }
        for &change in &plan.settled {
            self.settled.insert(change, ticket);
            self.order.push_back((ticket, Entry::Settled(change)));
        }
        let uploads = plan.batch.changes().iter();
        for (_, key, value) in uploads.filter(|(table, ..)| *table == Table::Sessions) {
            self.sessions.insert(key.clone(), (ticket, value.clone()));
            self.order.push_back((ticket, Entry::Session(key.clone())));
        }
        ticket
    }

    /// What the session table will hold under this key, if that is not yet durable: a value, or
    /// nothing.
    pub(crate) fn session(&self, key: &[u8]) -> Option<Option<&Bytes>> {
        self.sessions.get(key).map(|(_, value)| value.as_ref())
    }

    /// The same for all keys that begin so, in order.
    pub(crate) fn sessions_below<'a>(
        &'a self,
        prefix: &'a [u8],
    ) -> impl Iterator<Item = (&'a Bytes, Option<&'a Bytes>)> {
        let from = self.sessions.range(Bytes::copy_from_slice(prefix)..);
        from.take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(key, (_, value))| (key, value.as_ref()))
    }

    /// Forgets what has become durable.
    pub(crate) fn trim(&mut self) {
        let durable = Ticket(self.durable.0.load(Ordering::Acquire));
        while self
            .order
            .front()
            .is_some_and(|(ticket, _)| *ticket <= durable)
        {
            let Some((ticket, entry)) = self.order.pop_front() else {
                return;
            };
            match entry {
                Entry::Standing(key)
                    if self
                        .standings
                        .get(&key)
                        .is_some_and(|(newest, _)| *newest == ticket) =>
                {
                    self.standings.remove(&key);
                }
                Entry::Settled(change) if self.settled.get(&change) == Some(&ticket) => {
                    self.settled.remove(&change);
                }
                Entry::Session(key)
                    if self
                        .sessions
                        .get(&key)
                        .is_some_and(|(newest, _)| *newest == ticket) =>
                {
                    self.sessions.remove(&key);
                }
                Entry::Standing(_) | Entry::Settled(_) | Entry::Session(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cenotaph_storage::Version;

    fn absent(version: u64) -> Standing {
        Standing::Absent(Version::new(version))
    }

    #[test]
    fn only_what_is_durable_is_forgotten_and_the_newest_counts() {
        let id = ObjectId::try_from("k").unwrap();
        let mut pending = PendingWrites::default();
        let (first, second) = (pending.next_ticket(), pending.next_ticket());
        pending.stand(first, &id, absent(1));
        pending.stand(second, &id, absent(2));
        pending.trim();
        assert_eq!(
            pending.standing(&id),
            Some(&absent(2)),
            "nothing is durable yet"
        );
        pending.durable().reached(first);
        pending.trim();
        assert_eq!(
            pending.standing(&id),
            Some(&absent(2)),
            "the newest is not durable yet"
        );
        pending.durable().reached(second);
        pending.trim();
        assert_eq!(pending.standing(&id), None);
    }
}
