//! The payload log of the simulated index: payloads become durable before the batch that names them.

use cenotaph_storage::index::Batch;
use cenotaph_storage::planted::Bug;

use super::{Inner, Medium};
use crate::disks::disk::payload_keys;
use crate::faults::Fault;

impl Inner {
    /// Returns whether payloads of these batches go to a payload log.
    pub(super) fn has_payload_log(&self, batches: &[Batch]) -> bool {
        matches!(self.medium, Medium::Simulated)
            && self.scheduler.durable_state().state().has_payload_log
            && batches
                .iter()
                .any(|batch| payload_keys(batch).next().is_some())
    }

    /// Appends the payloads to the log and syncs them. Returns false if the index is poisoned.
    pub(super) async fn log_payloads(&self, batches: &[Batch], changes: usize) -> bool {
        let durable_state = self.scheduler.durable_state();
        let size = || format!("{} batches, {changes} changes", batches.len());
        self.scheduler.pass("payload log write", size).await;
        batches
            .iter()
            .for_each(|batch| durable_state.disk.append_payloads(batch));
        // Planted bug: the batch may survive a crash that its payloads do not survive.
        if self.planted(Bug::PointerBeforePayload) {
            return true;
        }
        self.scheduler.pass("payload log sync", size).await;
        if durable_state.strikes(Fault::IndexSyncFails, size) {
            self.poison("the sync of the payload log failed");
            return false;
        }
        durable_state.disk.sync_payloads();
        true
    }
}
