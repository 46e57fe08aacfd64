//! Statistics of a payload log: [`PayloadLogStats`].

use crate::types::Timestamp;

/// Dead bytes that cause no collection, whatever the live bytes.
const DEAD_BYTES_ALLOWED: u64 = 16 * 1024 * 1024;
/// Dead bytes that cause no collection, as a divisor of the live bytes.
const DEAD_DIVISOR: u64 = 4;

/// Space of a payload log, and its last collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PayloadLogStats {
    /// Number of segments.
    pub segments: u64,
    /// Size of all entries that are in use, in bytes.
    pub live_bytes: u64,
    /// Size of all entries that are no longer in use, in bytes.
    pub dead_bytes: u64,
    /// Size of the entries that collections have copied since the index was opened, in bytes.
    pub copied_bytes: u64,
    /// Last collection since the index was opened.
    pub last_collection: Option<CollectionStats>,
}

impl PayloadLogStats {
    /// Returns the size of all entries, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.live_bytes.saturating_add(self.dead_bytes)
    }

    /// Returns the number of dead bytes beyond those that cause no collection.
    pub(crate) fn excess(&self) -> u64 {
        let allowed = DEAD_BYTES_ALLOWED.max(self.live_bytes / DEAD_DIVISOR);
        self.dead_bytes.saturating_sub(allowed)
    }
}

/// Result of a collection of the payload log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectionStats {
    /// Time of its end.
    pub ended: Timestamp,
    /// Size of the segments that were removed meanwhile, by the collection or because their last
    /// entry was removed, in bytes.
    pub freed_bytes: u64,
    /// Size of the entries that it copied, in bytes.
    pub copied_bytes: u64,
}
