//! Counts the damage that reads find, for [`ReadStats`] and for the `metrics` facade.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::types::ObjectId;

/// Damage that reads have found since the store was opened. Both counters are 0 in a healthy store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadStats {
    /// Number of reads that found the blob of a row missing. Metric:
    /// `cenotaph_missing_blobs_total`.
    pub missing_blobs: u64,
    /// Number of reads of a block or an inline payload that did not match its checksum. Metric:
    /// `cenotaph_corrupt_blocks_total`.
    pub corrupt_blocks: u64,
}

#[derive(Debug, Default)]
pub(super) struct ReadCounters {
    missing_blobs: AtomicU64,
    corrupt_blocks: AtomicU64,
}

impl ReadCounters {
    /// Counts a missing blob that is pinned and named by a row.
    pub(super) fn missing(&self, id: &ObjectId) {
        // Logged here as well as returned, because only an operator can repair it.
        tracing::error!(object = %id, "a blob that the row of an object names is missing");
        metrics::counter!("cenotaph_missing_blobs_total").increment(1);
        self.missing_blobs.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts stored bytes that do not match their checksum. The reader receives an error.
    pub(super) fn corrupt(&self) {
        metrics::counter!("cenotaph_corrupt_blocks_total").increment(1);
        self.corrupt_blocks.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> ReadStats {
        ReadStats {
            missing_blobs: self.missing_blobs.load(Ordering::Relaxed),
            corrupt_blocks: self.corrupt_blocks.load(Ordering::Relaxed),
        }
    }
}
