//! Ownership of the blob tiers (I11): the store record in the index and the markers in the tiers.
//!
//! Also checks that a tier is released only when nothing names a revision in it.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::format::{self, Row, Store};
use super::model::Model;
use super::sessions::UploadHistory;
use crate::disks::blobs::{StoredBlobs, tier_of};
use crate::trace::coverage::Coverage;

impl Model {
    /// Returns true if the store record durably claims the tier.
    pub(crate) fn is_claimed(&self) -> bool {
        self.store.as_ref().is_some_and(|store| store.is_claimed)
    }

    /// Returns the number of the current tier.
    pub(crate) fn current_tier(&self) -> usize {
        self.store
            .as_ref()
            .map_or(0, |store| store.current.0.into())
    }

    /// Returns true if a tier that was current before is not released.
    pub(crate) fn has_older_tiers(&self) -> bool {
        self.store
            .as_ref()
            .is_some_and(|store| !store.older.is_empty())
    }

    /// Checks the store record: the store id never changes, the current tier is claimed only while
    /// it carries the marker, and each change is one that the drawings allow.
    pub(super) fn claims(
        &mut self,
        record: Option<Store>,
        blobs: &StoredBlobs,
        coverage: &mut Coverage,
    ) {
        let Some(now) = record else {
            return self.violated("format", "store record is removed or can't be decoded");
        };
        if let Some(was) = self.store.clone() {
            if was.id != now.id || was.is_claimed && !now.is_claimed {
                let message =
                    format!("store record changes its id or gives up its tier: before={was:?}");
                self.violated("I11", message);
            }
            self.check_tiers(&was, &now, coverage);
        }
        let marker = marker_of(now.current.0.into(), blobs);
        if now.is_claimed && marker != Some((now.id, now.current.1)) {
            self.violated("I11", "claimed tier does not carry the marker");
        }
        self.store = Some(now);
    }

    /// Checks a change of the tiers: one is added, or some are released.
    fn check_tiers(&mut self, was: &Store, now: &Store, coverage: &mut Coverage) {
        if was.current != now.current {
            coverage.count("tiers: another tier is current");
            let mut older = was.older.clone();
            older.push(was.current);
            if was.next != Some(now.current) || now.older != older || now.next.is_some() {
                self.violated(
                    "I11",
                    format!("unexpected tiers: before={was:?} now={now:?}"),
                );
            }
            return;
        }
        if now.older.iter().any(|tier| !was.older.contains(tier)) {
            self.violated(
                "I11",
                format!("unexpected tiers: before={was:?} now={now:?}"),
            );
        }
        if let Some(next) = now.next.filter(|next| next.0 != now.current.0 + 1) {
            self.violated(
                "I11",
                format!("unexpected next tier: tier={next:?} now={now:?}"),
            );
        }
        let released = was.older.iter().filter(|tier| !now.older.contains(tier));
        let released: Vec<usize> = released.map(|tier| tier.0.into()).collect();
        if released.is_empty() {
            return;
        }
        coverage.count("tiers: a tier is released");
        let named = self.named_revisions();
        if let Some(named) = named
            .iter()
            .find(|named| released.contains(&tier_of(named)))
        {
            let message = format!("released tier holds a named revision: revision={named}");
            self.violated("tiers", message);
        }
    }

    /// Returns every revision that the index names.
    fn named_revisions(&self) -> BTreeSet<Uuid> {
        let rows = self.rows.values().flat_map(Row::revisions);
        let parts = self.uploads.values().flat_map(UploadHistory::revisions);
        let changes = self.changes.values().flat_map(|change| &change.revisions);
        let orphans = self.orphans.keys();
        rows.chain(parts)
            .chain(changes.chain(orphans).copied())
            .collect()
    }

    /// Checks that a marker in a tier is one of the store in the index.
    pub(crate) fn marked(&mut self, tier: usize, blobs: &StoredBlobs) {
        let found = marker_of(tier, blobs);
        let is_ours = found.map(|(store, _)| store) == self.store.as_ref().map(|store| store.id);
        if !is_ours || found.is_some_and(|(_, id)| id.is_some() != (tier > 0)) {
            let message = format!("tier carries another marker: tier={tier} found={found:?}");
            self.violated("I11", message);
        }
    }

    /// Checks at rest that all blobs are in a tier of the store, which carries its marker.
    pub(super) fn check_tiers_at_rest(&mut self, blobs: &StoredBlobs) {
        self.marked(self.current_tier(), blobs);
        let store = self.store.clone();
        let numbers = store
            .iter()
            .flat_map(|store| store.older.iter().chain([&store.current]));
        let numbers: BTreeSet<usize> = numbers.map(|tier| tier.0.into()).collect();
        for path in blobs.paths() {
            if let Some(revision) = format::revision_of_path(&path)
                && !numbers.contains(&tier_of(&revision))
            {
                self.violated("tiers", format!("blob is in a released tier: path={path}"));
            }
        }
    }
}

/// Returns the ids of the marker in a tier.
fn marker_of(tier: usize, blobs: &StoredBlobs) -> Option<(Uuid, Option<Uuid>)> {
    blobs
        .marker(tier)
        .and_then(|marker| format::ids_of_marker(&marker))
}
