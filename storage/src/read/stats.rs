//! What reads have met that should not be: counted here, for [`ReadStats`] and for the `metrics`
//! facade alike.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::id::ObjectId;

/// What reads have met since the store was opened. Both are 0 in a healthy store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadStats {
    /// Reads that found a blob gone although it was named. Metric: `cenotaph_missing_blobs_total`.
    pub missing_blobs: u64,
    /// Reads that found a block or an inline payload not matching its checksum. Metric:
    /// `cenotaph_corrupt_blocks_total`.
    pub corrupt_blocks: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    missing_blobs: AtomicU64,
    corrupt_blocks: AtomicU64,
}

impl Counters {
    /// A blob is gone that is pinned and named. Nobody but an operator can act on it, so this is
    /// where it is logged.
    pub(super) fn missing(&self, id: &ObjectId) {
        tracing::error!(object = %id, "a blob is gone although the object's row names it");
        metrics::counter!("cenotaph_missing_blobs_total").increment(1);
        self.missing_blobs.fetch_add(1, Ordering::Relaxed);
    }

    /// Stored bytes do not match their checksum. The reader hears it as an error.
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
