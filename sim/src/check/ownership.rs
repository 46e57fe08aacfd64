//! Ownership of the blob tier (I11): the store record in the index and the marker in the blob tier.

use cenotaph::MARKER_PATH;
use uuid::Uuid;

use super::format;
use super::model::Model;
use crate::disks::blobs::StoredBlobs;

impl Model {
    /// Returns true if the store record durably claims the tier.
    pub(crate) fn is_claimed(&self) -> bool {
        self.store.is_some_and(|(_, is_claimed)| is_claimed)
    }

    /// Checks the store record: the store id never changes, and the tier is claimed only while it
    /// carries the marker.
    pub(super) fn claims(&mut self, record: Option<(Uuid, u32)>, blobs: &StoredBlobs) {
        // 0 is an unclaimed tier, 1 a claimed tier.
        let Some((id, tier @ 0..=1)) = record else {
            return self.violated("format", "store record is removed or can't be decoded");
        };
        let is_claimed = tier == 1;
        if self
            .store
            .is_some_and(|(known, was_claimed)| known != id || was_claimed && !is_claimed)
        {
            self.violated(
                "I11",
                format!(
                    "store record changes its id or gives up its tier: before={:?}",
                    self.store
                ),
            );
        }
        self.store = Some((id, is_claimed));
        if is_claimed && marker_of(blobs) != Some(id) {
            self.violated("I11", "claimed tier does not carry the marker");
        }
    }

    /// Checks that a marker in the tier is that of the store in the index.
    pub(crate) fn marked(&mut self, blobs: &StoredBlobs) {
        if self.store.map(|(id, _)| id) != marker_of(blobs) {
            self.violated(
                "I11",
                format!(
                    "tier carries the marker of another store: found={:?}",
                    marker_of(blobs)
                ),
            );
        }
    }
}

/// Returns the store id of the marker in the tier.
fn marker_of(blobs: &StoredBlobs) -> Option<Uuid> {
    blobs
        .bytes(MARKER_PATH)
        .and_then(|marker| format::store_of_marker(&marker))
}
