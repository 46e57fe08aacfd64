//! [`Tickets`]: the order of a shard's submissions, and how far they are durable.
//!
//! Batches of a shard become durable in the order of their tickets, so that one number separates
//! durable batches from others.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Position of a batch in the order of its shard's submissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

/// Progress of a shard: the newest ticket whose batch has ended, and the batches that have ended
/// without a commit. Written by completions, read by the shard.
#[derive(Clone, Default)]
pub(crate) struct Durable(Arc<Progress>);

#[derive(Default)]
struct Progress {
    newest: AtomicU64,
    changed: Mutex<Vec<Ticket>>,
}

/// Tickets of a shard.
#[derive(Default)]
pub(crate) struct Tickets {
    last: u64,
    durable: Durable,
}

impl Durable {
    /// Notes that all batches up to this ticket are durable.
    pub(crate) fn reached(&self, ticket: Ticket) {
        // A maximum: the progress never goes back.
        self.0.newest.fetch_max(ticket.0, Ordering::AcqRel);
    }

    /// Notes that the batch of this ticket was not committed, because another member of a shared index
    /// has changed an entry that it rests on. All batches before it have ended.
    pub(crate) fn changed(&self, ticket: Ticket) {
        // Before the progress: the shard must not take the batch for durable.
        self.0.changed().push(ticket);
        self.reached(ticket);
    }

    /// Returns the tickets of the batches that were not committed, since the last call.
    pub(crate) fn take_changed(&self) -> Vec<Ticket> {
        std::mem::take(&mut *self.0.changed())
    }

    /// Returns the newest durable ticket.
    pub(crate) fn newest(&self) -> Ticket {
        Ticket(self.0.newest.load(Ordering::Acquire))
    }
}

impl Progress {
    fn changed(&self) -> MutexGuard<'_, Vec<Ticket>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tickets {
    /// Returns the ticket of the next batch.
    pub(crate) fn next(&mut self) -> Ticket {
        self.last += 1;
        Ticket(self.last)
    }

    /// Returns the newest ticket.
    pub(crate) fn last(&self) -> Ticket {
        Ticket(self.last)
    }

    /// Returns the progress of the shard, to be updated by completions.
    pub(crate) fn durable(&self) -> &Durable {
        &self.durable
    }
}
