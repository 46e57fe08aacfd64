//! Relocations, at each commit: the payload moves to the current blob tier, and the object does not
//! change.
//!
//! Named checker: `tiers`. The bytes of the copies are checked with those of every row (I2), their
//! change too (I6).

use uuid::Uuid;

use super::format::Row;
use super::model::Model;
use crate::disks::blobs::tier_of;

impl Model {
    /// Returns the identity of the payload of a row in the blob tier: the first revision of its
    /// write.
    pub(super) fn payload_id(&self, row: &Row) -> Option<Uuid> {
        let first = row.revisions().first().copied()?;
        Some(self.payload_ids.get(&first).copied().unwrap_or(first))
    }

    /// Checks the row of a relocated payload against the row before.
    pub(super) fn check_relocated(&mut self, name: &str, row: &Row, old: &Row) {
        let rest = Row {
            body: old.body.clone(),
            relocated: old.relocated,
            ..row.clone()
        };
        if rest != *old {
            self.violated(
                "tiers",
                format!("relocation changes an object: object={name}"),
            );
        }
        let current = self.current_tier();
        let is_current = |revision: &Uuid| tier_of(revision) == current;
        if !row.revisions().iter().all(is_current) {
            let message = format!("copy is not in the current tier: object={name}");
            self.violated("tiers", message);
        }
        if old.revisions().iter().all(is_current) {
            let message = format!("payload of the current tier is relocated: object={name}");
            self.violated("tiers", message);
        }
        let payload = self.payload_id(old);
        if row.relocated != payload {
            let message = format!("relocated payload loses its identity: object={name}");
            self.violated("tiers", message);
        }
        if let (Some(first), Some(payload)) = (row.revisions().first(), payload) {
            self.payload_ids.insert(*first, payload);
        }
    }
}
