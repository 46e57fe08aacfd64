//! What a batch means for others than its caller, once it is durable: orphans for the sweeper,
//! deadlines for the expirer. Deliberately not here: who submits it.

use cenotaph_storage::Timestamp;
use cenotaph_storage::index::{Batch, CommitError, Table};
use cenotaph_storage::rows::read_expiry_key;

use crate::runtime::backlog::BacklogUpdate;
use crate::runtime::context::Context;

/// Whom a durable batch concerns beyond its caller.
pub(crate) struct PostCommit {
    backlog: BacklogUpdate,
    due: Option<Timestamp>,
}

impl PostCommit {
    pub(crate) fn of(batch: &Batch) -> Self {
        let puts = |wanted: Table| {
            batch
                .changes()
                .iter()
                .filter(move |(table, _, value)| *table == wanted && value.is_some())
        };
        let due = puts(Table::Expiry)
            .filter_map(|(_, key, _)| read_expiry_key(key).ok())
            .map(|(due, _)| due)
            .min();
        Self {
            backlog: BacklogUpdate::of(batch),
            due,
        }
    }

    pub(crate) fn tell(&self, common: &Context) {
        common.backlog.note(&self.backlog);
        self.wake(common);
    }

    /// Wakes the sweeper and the expirer. For a batch that is in the backlog already: noted again
    /// it would overwrite what a later batch has noted.
    pub(crate) fn wake(&self, common: &Context) {
        if self.backlog.adds_orphans() {
            common.wake_sweeper();
        }
        if let Some(due) = self.due {
            common.is_due(due);
        }
    }

    /// Notes that the outcome of the batch is an error.
    pub(crate) fn failed(&self, common: &Context, error: &CommitError) {
        if matches!(error, CommitError::Unknown(_)) {
            common.backlog.doubt(&self.backlog);
        }
        common.fail_if_poisoned();
    }
}
