//! Whose tier it is (I11): the store in the index and the mark in the blob tier.

use cenotaph::MARKER_PATH;
use uuid::Uuid;

use super::format;
use super::monitor::Monitor;
use crate::blobs::Blobs;

impl Monitor {
    /// Returns whether the tier of the store carries its mark, durably, and the index knows.
    pub(crate) fn is_claimed(&self) -> bool {
        self.store.is_some_and(|(_, is_claimed)| is_claimed)
    }

    /// The index names its store: it never becomes another one, and the tier is claimed only once
    /// it carries the mark.
    pub(super) fn claims(&mut self, record: Option<(Uuid, u32)>, blobs: &Blobs) {
        let Some((id, tier @ 0..=1)) = record else {
            return self.violated("format", "the store record can't be read, or is gone");
        };
        let is_claimed = tier == 1;
        if self
            .store
            .is_some_and(|(known, was_claimed)| known != id || was_claimed && !is_claimed)
        {
            self.violated(
                "I11",
                format!(
                    "the store becomes another one, or its tier unclaimed: {:?}",
                    self.store
                ),
            );
        }
        self.store = Some((id, is_claimed));
        if is_claimed && mark(blobs) != Some(id) {
            self.violated("I11", "the tier is claimed, and does not carry the mark");
        }
    }

    /// The mark is in the tier: it is that of the store that the index holds already.
    pub(crate) fn marked(&mut self, blobs: &Blobs) {
        if self.store.map(|(id, _)| id) != mark(blobs) {
            self.violated(
                "I11",
                format!(
                    "the tier carries the mark of another store: {:?}",
                    mark(blobs)
                ),
            );
        }
    }
}

fn mark(blobs: &Blobs) -> Option<Uuid> {
    blobs
        .bytes(MARKER_PATH)
        .and_then(|marker| format::store_of_marker(&marker))
}
