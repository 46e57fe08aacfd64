//! [`PostCommit`]: the background work that a durable batch causes, beyond its reply.

use cenotaph_storage::Timestamp;
use cenotaph_storage::index::{Batch, CommitError, Table};
use cenotaph_storage::records::{last_versions_prefix, read_expiry_key};

use crate::context::Context;
use crate::context::backlog::BacklogUpdate;

/// The entries of a batch that concern background work: changes and orphans for the backlog, the
/// earliest deadline for the expirer, the number of last versions for the pruner.
pub(crate) struct PostCommit {
    backlog: BacklogUpdate,
    due: Option<Timestamp>,
    last_versions: u64,
}

impl PostCommit {
    /// Reads the background work of a batch.
    pub(crate) fn of(batch: &Batch) -> Self {
        let puts = |wanted: Table| {
            batch
                .ops()
                .iter()
                .filter(move |(table, _, value)| *table == wanted && value.is_some())
        };
        let due = puts(Table::Expiry)
            .filter_map(|(_, key, _)| read_expiry_key(key).ok())
            .map(|(due, _)| due)
            .min();
        let last_versions = puts(Table::Meta)
            .filter(|(_, key, _)| key.starts_with(&last_versions_prefix()))
            .count() as u64;
        Self {
            backlog: BacklogUpdate::of(batch),
            due,
            last_versions,
        }
    }

    /// Notes the durable batch in the backlog and wakes the actors that it concerns.
    pub(crate) fn notify(&self, context: &Context) {
        context.backlog.note(&self.backlog);
        self.wake(context);
    }

    /// Wakes the sweeper, the expirer and the pruner.
    ///
    /// For a batch that is in the backlog already: noting it twice could overwrite the entry of a
    /// later batch.
    pub(crate) fn wake(&self, context: &Context) {
        if self.backlog.adds_orphans() {
            context.wake_sweeper();
        }
        if let Some(due) = self.due {
            context.is_due(due);
        }
        if self.last_versions > 0 {
            context.note_last_versions(self.last_versions);
        }
    }

    /// Notes that the batch has failed. A batch of unknown outcome makes the next passes scan.
    pub(crate) fn failed(&self, context: &Context, error: &CommitError) {
        if matches!(error, CommitError::Unknown(_)) {
            context.backlog.doubt(&self.backlog);
        }
        context.fail_if_poisoned();
    }
}
