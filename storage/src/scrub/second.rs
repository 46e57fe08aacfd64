//! Reads of entries that may be damaged, and their confirmation on the newest state.
//!
//! A read of a key that fails with [`Corrupt`](ErrorKind::Corrupt) is a finding about the key, a
//! scan that fails so is a finding about a range. Every other error ends the walk. A finding that a
//! shard can confirm is not confirmed here.

use bytes::Bytes;

use super::finding::{FoundDamage, RepairPolicy};
use crate::decide::SeenEntry;
use crate::index::{Index, Page, Range, Snapshot, Table};
use crate::types::{Error, ErrorKind, Result};

/// A page of entries from one snapshot, and the damage to the keys behind them.
pub(super) struct EntryPage {
    pub(super) snapshot: Box<dyn Snapshot>,
    pub(super) page: Page,
    pub(super) found: Vec<FoundDamage>,
    pub(super) rest: Option<Range>,
}

/// Reads a page of entries. If a range is unreadable, reads the page again from the newest state.
pub(super) async fn entries(index: &dyn Index, table: Table, range: Range) -> Result<EntryPage> {
    let mut snapshot = index.snapshot()?;
    let mut page = snapshot.scan_over(table, range.clone()).await?;
    if page.unreadable.is_some() {
        // The first snapshot may be at fault, not the index (docs/adr/0015).
        snapshot = newest(index).await?;
        page = snapshot.scan_over(table, range).await?;
    }
    let found = page
        .unreadable
        .into_iter()
        .map(|range| FoundDamage {
            damage: range.into(),
            policy: RepairPolicy::None,
        })
        .collect();
    Ok(EntryPage {
        snapshot,
        page: page.entries,
        found,
        rest: page.rest,
    })
}

/// Returns a snapshot that contains all batches submitted before. A failed index makes no further
/// batch durable, so that its current state is already the newest.
pub(super) async fn newest(index: &dyn Index) -> Result<Box<dyn Snapshot>> {
    if let Err(error) = index.barrier().await {
        tracing::debug!(%error, "the index has failed: the scrub continues on its last state");
    }
    index.snapshot()
}

/// Returns whether the newest value of a key is still wrong. A value that cannot be read is wrong,
/// a missing value is not.
pub(super) async fn is_still(
    index: &dyn Index,
    table: Table,
    key: &[u8],
    is_wrong: impl Fn(&Bytes) -> bool,
) -> Result<bool> {
    let snapshot = newest(index).await?;
    let is_still = match readable(snapshot.get(table, key).await)? {
        Ok(value) => value.is_some_and(|value| is_wrong(&value)),
        Err(_) => true,
    };
    Ok(is_still)
}

/// Returns the result of a read, with [`ErrorKind::Corrupt`] as the inner error. Other errors are
/// passed through.
pub(super) fn readable<T>(read: Result<T>) -> Result<Result<T, Error>> {
    match read {
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(Err(error)),
        read => read.map(Ok),
    }
}

/// Reads the value of a key.
pub(super) async fn entry(
    snapshot: &dyn Snapshot,
    table: Table,
    key: &[u8],
) -> Result<SeenEntry<Bytes>> {
    Ok(match readable(snapshot.get(table, key).await)? {
        Ok(None) => SeenEntry::Absent,
        Ok(Some(value)) => SeenEntry::Whole(value),
        Err(_) => SeenEntry::Broken,
    })
}

/// Returns whether a key exists. Reads no value.
pub(super) async fn contains(
    snapshot: &dyn Snapshot,
    table: Table,
    key: &Bytes,
) -> Result<SeenEntry<()>> {
    use std::ops::Bound::Included;
    let only = Range {
        start: Included(key.clone()),
        end: Included(key.clone()),
        // A scan of keys reads no value, which may be large.
        limit: 1,
    };
    Ok(match readable(snapshot.keys(table, only).await)? {
        Ok(keys) if keys.is_empty() => SeenEntry::Absent,
        Ok(_) => SeenEntry::Whole(()),
        Err(_) => SeenEntry::Broken,
    })
}

/// Calls `visit` for every readable entry. Returns whether all entries are readable and every call
/// returned `Ok`.
pub(crate) async fn visit(
    snapshot: &dyn Snapshot,
    table: Table,
    mut range: Range,
    mut visit: impl FnMut(&Bytes, &Bytes) -> Result<()>,
) -> Result<bool> {
    let mut all_read = true;
    loop {
        let page = snapshot.scan_over(table, range).await?;
        for (key, value) in &page.entries {
            // An undecodable entry may name anything: the caller must then withhold its repairs.
            all_read &= visit(key, value).is_ok();
        }
        all_read &= page.unreadable.is_none();
        match page.rest {
            Some(rest) => range = rest,
            None => return Ok(all_read),
        }
    }
}
