//! [`Tickets`]: the order of a shard's submissions, and how far they are durable.
//!
//! Batches of a shard become durable in the order of their tickets, so that one number separates
//! durable batches from others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Position of a batch in the order of its shard's submissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

/// Progress of a shard: the newest durable ticket. Raised by completions, read by the shard.
#[derive(Clone, Default)]
pub(crate) struct Durable(Arc<AtomicU64>);

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
        self.0.fetch_max(ticket.0, Ordering::AcqRel);
    }

    /// Returns the newest durable ticket.
    pub(crate) fn newest(&self) -> Ticket {
        Ticket(self.0.load(Ordering::Acquire))
    }
}

impl Tickets {
    /// Returns the ticket of the next batch.
    pub(crate) fn next(&mut self) -> Ticket {
        self.last += 1;
        Ticket(self.last)
    }

    /// Returns the progress of the shard, to be updated by completions.
    pub(crate) fn durable(&self) -> &Durable {
        &self.durable
    }
}
