//! The fourth walk: each payload, and each revision's block checksums, is named by a row or a part.
//!
//! ```text
//! one snapshot: some keys of payloads ─> minus those that any row or part names ─> suspects
//! a newer one:  those that are still there ─> minus those that any row or part names ─> strays
//! ```
//!
//! Nothing leads from a payload to its row, so that all rows are read for each million payloads. A
//! payload is filed under an id that is fresh for each write, put in the batch of the row or part
//! that names it, and handed on from part to row and from row to row; so one that neither names in
//! some snapshot is never named again, and whoever finds it may remove it.

use std::collections::BTreeSet;
use std::vec;

use bytes::Bytes;

use super::damage::{Damage, RawKey};
use super::finding::{Cure, Found, Remedy};
use super::report::Tally;
use super::second::{contains, newest, visit};
use super::sessions::visit_parts;
use crate::decide::SeenEntry;
use crate::error::Result;
use crate::index::{Batch, Index, Range, Snapshot, Table};
use crate::rows::Row;

/// Payloads looked at together: 16 bytes each, and the tree that holds them.
const PARTITION: usize = 1_000_000;
/// Keys read at once.
const KEYS_PAGE: usize = 10_000;
/// Rows read at once.
const ROWS_PAGE: usize = 1000;
/// Strays handed over at once.
const STRAYS_PAGE: usize = 1000;

/// The walk over the payloads.
pub(super) struct Strays {
    /// What is still to be read.
    rest: Option<Range>,
    /// Found, and not yet handed over.
    waiting: vec::IntoIter<Bytes>,
    /// Keys that can't be read, and are not yet handed over.
    unreadable: Vec<Found>,
    may_be_needed: bool,
}

impl Default for Strays {
    fn default() -> Self {
        let (waiting, unreadable) = (Vec::new().into_iter(), Vec::new());
        Self {
            rest: Some(Range::all(KEYS_PAGE)),
            waiting,
            unreadable,
            may_be_needed: false,
        }
    }
}

impl Strays {
    /// Some strays, perhaps none; or that this was all.
    pub(super) async fn page(
        &mut self,
        index: &dyn Index,
        tally: &Tally,
    ) -> Result<Option<Vec<Found>>> {
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

    async fn partition(
        &mut self,
        index: &dyn Index,
        mut range: Range,
        tally: &Tally,
    ) -> Result<()> {
        let snapshot = index.snapshot()?;
        // What is no id is named by nothing.
        let (mut ids, mut strays) = (BTreeSet::new(), Vec::new());
        loop {
            let page = snapshot.keys_over(Table::Payloads, range).await?;
            tally.entries(page.entries.len());
            let unreadable = page.unreadable.map(|range| Found {
                damage: range.into(),
                remedy: Remedy::None,
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
        drop(snapshot);
        if !ids.is_empty() || !strays.is_empty() {
            // The second look.
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

/// Removes the ids that a row or a part names; whether all rows and parts could be read.
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

async fn still_there(snapshot: &dyn Snapshot, keys: Vec<Bytes>) -> Result<Vec<Bytes>> {
    let mut there = Vec::new();
    for key in keys {
        if contains(snapshot, Table::Payloads, &key).await? == SeenEntry::Whole(()) {
            there.push(key);
        }
    }
    Ok(there)
}

fn stray(key: Bytes, may_be_needed: bool) -> Found {
    let damage = Damage::PayloadWithoutRow {
        key: RawKey(key.clone()),
    };
    if may_be_needed {
        return Found {
            damage,
            remedy: Remedy::Withheld,
        };
    }
    let mut batch = Batch::new();
    batch.remove(Table::Payloads, key);
    Found {
        damage,
        remedy: Remedy::Safe(Cure::Commit(batch)),
    }
}

/// Shows every row that can be read; whether all of them can.
pub(super) async fn visit_rows(
    snapshot: &dyn Snapshot,
    mut show: impl FnMut(&Row),
) -> Result<bool> {
    visit(snapshot, Table::Rows, Range::all(ROWS_PAGE), |_, value| {
        Row::decode(value).map(|row| show(&row))
    })
    .await
}
