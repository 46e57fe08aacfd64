//! The fourth walk: each payload, and each revision's block checksums, is named by a row or a part.
//!
//! ```text
//! one snapshot: some keys of payloads ─> minus those that any row or part names ─> strays
//! ```
//!
//! Nothing leads from a payload to its row, so that all rows are read for each million payloads. A payload is filed under an
//! id that is fresh for each write, put in the batch of the row or part that names it, and handed on from part to row and from
//! row to row; so one that neither names in some snapshot is never named again, and whoever finds it may remove it.

use std::collections::BTreeSet;
use std::vec;

use bytes::Bytes;

use super::finding::{Cure, Damage, Found, RawKey, Remedy};
use super::report::Tally;
use super::sessions::visit_parts;
use super::{last_of, page_range};
use crate::error::Result;
use crate::index::{Batch, Index, Snapshot, Table};
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
#[derive(Default)]
pub(super) struct Strays {
    after: Option<Bytes>,
    is_over: bool,
    /// Found, and not yet handed over.
    waiting: vec::IntoIter<Bytes>,
    may_be_needed: bool,
}

impl Strays {
    /// Some strays, perhaps none; or that this was all.
    pub(super) async fn page(&mut self, index: &dyn Index, tally: &Tally) -> Result<Option<Vec<Found>>> {
        if self.waiting.len() == 0 {
            if self.is_over {
                return Ok(None);
            }
            self.partition(index, tally).await?;
        }
        let may_be_needed = self.may_be_needed;
        Ok(Some(self.waiting.by_ref().take(STRAYS_PAGE).map(|key| stray(key, may_be_needed)).collect()))
    }

    async fn partition(&mut self, index: &dyn Index, tally: &Tally) -> Result<()> {
        let snapshot = index.snapshot()?;
        // What is no id is named by nothing.
        let (mut ids, mut strays, mut after) = (BTreeSet::new(), Vec::new(), self.after.clone());
        loop {
            let page = snapshot.keys(Table::Payloads, page_range(after, KEYS_PAGE)).await?;
            tally.entries(page.len());
            after = last_of(page.iter(), KEYS_PAGE);
            for key in page {
                if let Ok(id) = <[u8; 16]>::try_from(&key[..]) {
                    ids.insert(id);
                } else {
                    strays.push(key);
                }
            }
            if after.is_none() || ids.len() >= PARTITION {
                break;
            }
        }
        let rows_read = visit_rows(&*snapshot, |row| {
            for key in row.belongings() {
                ids.remove(&key[..]);
            }
        })
        .await?;
        let parts_read = visit_parts(&*snapshot, |part| {
            ids.remove(part.extent.revision.as_bytes());
        })
        .await?;
        strays.extend(ids.into_iter().map(|id| Bytes::copy_from_slice(&id)));
        self.may_be_needed = !rows_read || !parts_read;
        self.waiting = strays.into_iter();
        self.is_over = after.is_none();
        self.after = after;
        Ok(())
    }
}

fn stray(key: Bytes, may_be_needed: bool) -> Found {
    let damage = Damage::PayloadWithoutRow { key: RawKey(key.clone()) };
    if may_be_needed {
        return Found { damage, remedy: Remedy::Withheld };
    }
    let mut batch = Batch::new();
    batch.remove(Table::Payloads, key);
    Found { damage, remedy: Remedy::Safe(Cure::Commit(batch)) }
}

/// Shows every row that can be read; whether all of them can.
pub(super) async fn visit_rows(snapshot: &dyn Snapshot, mut visit: impl FnMut(&Row)) -> Result<bool> {
    let (mut after, mut all_read) = (None, true);
    loop {
        let page = snapshot.scan(Table::Rows, page_range(after, ROWS_PAGE)).await?;
        for (_, value) in &page {
            match Row::decode(value) {
                Ok(row) => visit(&row),
                Err(_) => all_read = false,
            }
        }
        after = last_of(page.iter().map(|(key, _)| key), ROWS_PAGE);
        if after.is_none() {
            return Ok(all_read);
        }
    }
}
