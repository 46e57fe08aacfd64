//! Walk 4: each payload, and the block checksums of each revision, are named by a row or a part.
//!
//! ```text
//! one snapshot:     payload keys ─> minus all keys that a row or part names ─> suspects
//! newer snapshot:   suspects that still exist ─> minus all keys that a row or part names ─> strays
//! ```
//!
//! A payload does not refer to its row, so all rows are read for each million payloads. The id of a
//! payload is unique per write. Its entry is put in the batch of the row or part that names it, and
//! ownership passes only from part to row or from row to row. Therefore a payload that no row or
//! part names in some snapshot is never named again, and may be removed.

use std::collections::BTreeSet;
use std::vec;

use bytes::Bytes;

use super::damage::{Damage, RawKey};
use super::finding::{FoundDamage, RepairAction, RepairPolicy};
use super::report::ScrubTally;
use super::second::{contains, newest, visit};
use super::sessions::visit_parts;
use crate::decide::SeenEntry;
use crate::index::{Batch, Index, Range, Snapshot, Table};
use crate::records::Row;
use crate::types::Result;

/// Number of payload keys per pass over all rows: 16 bytes each, plus the tree.
const PARTITION: usize = 1_000_000;
/// Keys per read.
const KEYS_PAGE: usize = 10_000;
/// Rows per read.
const ROWS_PAGE: usize = 1000;
/// Strays returned per step.
const STRAYS_PAGE: usize = 1000;

/// The walk over the payloads.
pub(super) struct Strays {
    /// Range that remains, or `None` at the end.
    rest: Option<Range>,
    /// Strays not yet returned.
    waiting: vec::IntoIter<Bytes>,
    /// Unreadable ranges of keys not yet returned.
    unreadable: Vec<FoundDamage>,
    /// True if a row or part was unreadable: it may name the strays.
    may_be_needed: bool,
}

impl Default for Strays {
    fn default() -> Self {
        Self {
            rest: Some(Range::all(KEYS_PAGE)),
            waiting: Vec::new().into_iter(),
            unreadable: Vec::new(),
            may_be_needed: false,
        }
    }
}

impl Strays {
    /// Returns the next strays, possibly none, or `None` at the end of the walk.
    pub(super) async fn page(
        &mut self,
        index: &dyn Index,
        tally: &ScrubTally,
    ) -> Result<Option<Vec<FoundDamage>>> {
        if self.waiting.len() == 0 {
            let Some(rest) = self.rest.take() else {
                return Ok(None);
            };
            self.partition(index, rest, tally).await?;
        }
        let may_be_needed = self.may_be_needed;
        let mut found = std::mem::take(&mut self.unreadable);
        found.extend(
            self.waiting
                .by_ref()
                .take(STRAYS_PAGE)
                .map(|key| stray(key, may_be_needed)),
        );
        Ok(Some(found))
    }

    /// Reads the next group of payload keys, and keeps the keys that no row or part names.
    async fn partition(
        &mut self,
        index: &dyn Index,
        mut range: Range,
        tally: &ScrubTally,
    ) -> Result<()> {
        let snapshot = index.snapshot()?;
        // A key that is not an id is never named by a row or part.
        let mut ids = BTreeSet::new();
        let mut strays = Vec::new();
        loop {
            let page = snapshot.keys_over(Table::Payloads, range).await?;
            tally.entries(page.entries.len());
            let unreadable = page.unreadable.map(|range| FoundDamage {
                damage: range.into(),
                policy: RepairPolicy::None,
            });
            self.unreadable.extend(unreadable);
            for key in page.entries {
                if let Ok(id) = <[u8; 16]>::try_from(&key[..]) {
                    ids.insert(id);
                } else {
                    strays.push(key);
                }
            }
            match page.rest {
                Some(rest) if ids.len() < PARTITION => range = rest,
                rest => {
                    self.rest = rest;
                    break;
                }
            }
        }
        let mut all_read = remove_named(&*snapshot, &mut ids).await?;
        // The confirmation needs a newer snapshot; two held snapshots would keep more old versions.
        drop(snapshot);
        if !ids.is_empty() || !strays.is_empty() {
            // Confirm on the newest state, before the payloads may be removed (docs/adr/0015).
            let snapshot = newest(index).await?;
            all_read &= remove_named(&*snapshot, &mut ids).await?;
            strays.extend(ids.into_iter().map(|id| Bytes::copy_from_slice(&id)));
            strays = still_there(&*snapshot, strays).await?;
        }
        self.may_be_needed = !all_read;
        self.waiting = strays.into_iter();
        Ok(())
    }
}

/// Removes the ids that a row or a part names. Returns whether all rows and parts were readable.
async fn remove_named(snapshot: &dyn Snapshot, ids: &mut BTreeSet<[u8; 16]>) -> Result<bool> {
    let rows_read = visit_rows(snapshot, |row| {
        for key in row.belongings() {
            ids.remove(&key[..]);
        }
    })
    .await?;
    let parts_read = visit_parts(snapshot, |part| {
        ids.remove(part.extent.revision.as_bytes());
    })
    .await?;
    Ok(rows_read && parts_read)
}

/// Returns the keys that still exist.
async fn still_there(snapshot: &dyn Snapshot, keys: Vec<Bytes>) -> Result<Vec<Bytes>> {
    let mut there = Vec::new();
    for key in keys {
        // An unreadable key is reported as a range, not as a stray.
        if contains(snapshot, Table::Payloads, &key).await? == SeenEntry::Whole(()) {
            there.push(key);
        }
    }
    Ok(there)
}

/// Returns the damage of a payload without a row, with its removal as the repair.
fn stray(key: Bytes, may_be_needed: bool) -> FoundDamage {
    let damage = Damage::PayloadWithoutRow {
        key: RawKey(key.clone()),
    };
    if may_be_needed {
        return FoundDamage {
            damage,
            policy: RepairPolicy::Withheld,
        };
    }
    let mut batch = Batch::new();
    batch.remove(Table::Payloads, key);
    FoundDamage {
        damage,
        policy: RepairPolicy::Safe(RepairAction::Commit(batch)),
    }
}

/// Calls `show` for every readable row. Returns whether all rows are readable.
pub(crate) async fn visit_rows(
    snapshot: &dyn Snapshot,
    mut show: impl FnMut(&Row),
) -> Result<bool> {
    visit(snapshot, Table::Rows, Range::all(ROWS_PAGE), |_, value| {
        Row::decode(value).map(|row| show(&row))
    })
    .await
}
