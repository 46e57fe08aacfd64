//! The second look: how a walk reads what may be damaged, and confirms it on the newest state.
//!
//! A read of one key that fails as [`Corrupt`](ErrorKind::Corrupt) is a finding about that key, a
//! scan that does is one about a range. Every other error ends the walk. What a shard can confirm
//! is left to the shard.

use bytes::Bytes;

use super::finding::{Found, Remedy};
use crate::decide::SeenEntry;
use crate::error::{Error, ErrorKind, Result};
use crate::index::{Index, Page, Range, Snapshot, Table};

/// A page of entries as one snapshot has them, and what is wrong with the keys behind them.
pub(super) struct Entries {
    pub(super) snapshot: Box<dyn Snapshot>,
    pub(super) page: Page,
    pub(super) found: Vec<Found>,
    pub(super) rest: Option<Range>,
}

/// A page of entries. Keys that can't be read are tried a second time.
pub(super) async fn entries(index: &dyn Index, table: Table, range: Range) -> Result<Entries> {
    let mut snapshot = index.snapshot()?;
    let mut page = snapshot.scan_over(table, range.clone()).await?;
    if page.unreadable.is_some() {
        snapshot = newest(index).await?;
        page = snapshot.scan_over(table, range).await?;
    }
    let found = page
        .unreadable
        .into_iter()
        .map(|range| Found {
            damage: range.into(),
            remedy: Remedy::None,
        })
        .collect();
    Ok(Entries {
        snapshot,
        page: page.entries,
        found,
        rest: page.rest,
    })
}

/// A state of the index that has all that was submitted before. One that has failed makes nothing
/// durable any more, so that what it shows is the newest state.
pub(super) async fn newest(index: &dyn Index) -> Result<Box<dyn Snapshot>> {
    if let Err(error) = index.barrier().await {
        tracing::debug!(%error, "a scrub goes on over an index that has failed");
    }
    index.snapshot()
}

/// Returns whether the newest value of a key is still wrong.
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

/// What was read, or why it is damaged. All other errors are errors.
pub(super) fn readable<T>(read: Result<T>) -> Result<Result<T, Error>> {
    match read {
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(Err(error)),
        read => read.map(Ok),
    }
}

/// The value of a key as far as it can be read.
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

/// Returns whether a key is there, as far as that can be read.
pub(super) async fn contains(
    snapshot: &dyn Snapshot,
    table: Table,
    key: &Bytes,
) -> Result<SeenEntry<()>> {
    use std::ops::Bound::Included;
    let only = Range {
        start: Included(key.clone()),
        end: Included(key.clone()),
        limit: 1,
    };
    Ok(match readable(snapshot.keys(table, only).await)? {
        Ok(keys) if keys.is_empty() => SeenEntry::Absent,
        Ok(_) => SeenEntry::Whole(()),
        Err(_) => SeenEntry::Broken,
    })
}

/// Shows every entry that can be read; whether all of them can.
pub(super) async fn visit(
    snapshot: &dyn Snapshot,
    table: Table,
    mut range: Range,
    mut visit: impl FnMut(&Bytes, &Bytes) -> Result<()>,
) -> Result<bool> {
    let mut all_read = true;
    loop {
        let page = snapshot.scan_over(table, range).await?;
        for (key, value) in &page.entries {
            all_read &= visit(key, value).is_ok();
        }
        all_read &= page.unreadable.is_none();
        match page.rest {
            Some(rest) => range = rest,
            None => return Ok(all_read),
        }
    }
}
