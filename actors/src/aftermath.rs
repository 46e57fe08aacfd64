//! What a batch means for others than its caller, once it is durable: orphans for the sweeper, deadlines for the expirer.
//! Deliberately not here: who submits it.

use cenotaph_storage::Timestamp;
use cenotaph_storage::index::{Batch, Table};
use cenotaph_storage::rows::read_expiry_key;

use crate::shared::Common;

/// Whom a durable batch concerns beyond its caller.
pub(crate) struct Aftermath {
    leaves_orphans: bool,
    due: Option<Timestamp>,
}

impl Aftermath {
    pub(crate) fn of(batch: &Batch) -> Self {
        let puts =
            |wanted: Table| batch.changes().iter().filter(move |(table, _, value)| *table == wanted && value.is_some());
        let due = puts(Table::Expiry).filter_map(|(_, key, _)| read_expiry_key(key).ok()).map(|(due, _)| due).min();
        Self { leaves_orphans: puts(Table::Orphans).next().is_some(), due }
    }

    pub(crate) fn tell(&self, common: &Common) {
        if self.leaves_orphans {
            common.wake_sweeper();
        }
        if let Some(due) = self.due {
            common.is_due(due);
        }
    }
}
