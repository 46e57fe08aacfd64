//! Scans of a table, which return pages of entries or of keys. A scan skips the known gaps
//! (`gaps.rs`) and records slow steps. Damaged ranges are handled in `step_over.rs`.

use std::ops::Bound;

use bytes::Bytes;
use fjall::{Guard, Readable};

use super::failure::{caught, failed};
use super::gaps::{FoundGap, behind};
use super::published::State;
use super::{KEY_BYTES_MAX, Store};
use crate::env::Env;
use crate::index::{Page, Range, Table};
use crate::types::Result;

/// Scanner of one state of the index.
pub(super) struct Walker<'a> {
    pub(super) store: &'a Store,
    pub(super) state: &'a State,
    pub(super) env: &'a Env,
}

impl Walker<'_> {
    /// Returns a page of entries.
    pub(super) fn scan(&self, table: Table, range: Range) -> Result<Page> {
        let mut page = self.scan_stored(table, range)?;
        if table == Table::Payloads {
            for (key, value) in &mut page {
                let stored = std::mem::take(value);
                *value = self.store.resolve(self.state, table, key, stored, None)?;
            }
        }
        Ok(page)
    }

    /// Returns a page of entries with the values that fjall has, which may be pointers.
    pub(super) fn scan_stored(&self, table: Table, range: Range) -> Result<Page> {
        self.walk("scan", table, range, |entry| {
            let (key, value) = entry.into_inner()?;
            let key = Bytes::from(key);
            Ok((key.clone(), (key, Bytes::from(value))))
        })
    }

    /// Returns a page of keys. Does not read values that are stored apart from their keys.
    pub(super) fn keys(&self, table: Table, range: Range) -> Result<Vec<Bytes>> {
        self.walk("keys", table, range, |entry| {
            let key = Bytes::from(entry.key()?);
            Ok((key.clone(), key))
        })
    }

    /// Reads up to `range.limit` entries, stretch by stretch between the gaps.
    fn walk<T>(
        &self,
        operation: &'static str,
        table: Table,
        range: Range,
        read: impl Fn(Guard) -> fjall::Result<(Bytes, T)>,
    ) -> Result<Vec<T>> {
        let Some((mut at, end)) = bounds(range.start, range.end) else {
            return Ok(Vec::new());
        };
        let mut page = Vec::new();
        let mut slow = Vec::new();
        caught(operation, || {
            while page.len() < range.limit {
                let stretch = self.store.gaps.stretch(table, at, self.state.commit);
                let Some(from) = stretch.from.filter(|from| is_before(from, end.as_ref())) else {
                    break;
                };
                // A gap behind the end of the range does not concern this scan.
                let gap = stretch.gap.filter(|gap| is_before(gap, end.as_ref()));
                let to = gap.clone().or_else(|| end.clone());
                let stretch = (from, to);
                self.walk_stretch(table, &stretch, range.limit, &read, (&mut page, &mut slow))
                    .map_err(|error| failed(operation, error))?;
                match gap {
                    Some(gap) => at = gap,
                    None => break,
                }
            }
            Ok(())
        })?;
        if !slow.is_empty() {
            self.store.gaps.remember(table, slow, self.state.commit);
        }
        Ok(page)
    }

    /// Reads a stretch without gaps until the page has `limit` entries. Adds slow steps to `slow`.
    fn walk_stretch<T>(
        &self,
        table: Table,
        (from, to): &(Bytes, Option<Bytes>),
        limit: usize,
        read: impl Fn(Guard) -> fjall::Result<(Bytes, T)>,
        (page, slow): (&mut Vec<T>, &mut Vec<FoundGap>),
    ) -> fjall::Result<()> {
        let end = to.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let bounds = (Bound::Included(from.clone()), end);
        let mut begun = self.env.monotonic();
        let mut entries = self
            .state
            .snapshot
            .range(self.store.tables.of(table), bounds);
        let mut last = None;
        while page.len() < limit {
            let step = entries.next().map(&read).transpose()?;
            let now = self.env.monotonic();
            let took = now.saturating_sub(begun);
            // A step is slow if fjall passes over many deleted entries. A later scan skips their
            // range.
            if took >= self.store.slow_step {
                let from = last.as_ref().map_or_else(|| from.clone(), behind);
                let to = step
                    .as_ref()
                    .map(|(key, _)| key.clone())
                    .or_else(|| to.clone());
                if is_before(&from, to.as_ref()) {
                    slow.push(FoundGap { from, to, took });
                }
            }
            let Some((key, item)) = step else { break };
            page.push(item);
            last = Some(key);
            begun = now;
        }
        Ok(())
    }
}

fn is_before(key: &Bytes, end: Option<&Bytes>) -> bool {
    end.is_none_or(|end| key < end)
}

/// Returns the first key of a range and the first key behind it, within the key length limit of
/// fjall. Returns `None` if the range is empty.
fn bounds(start: Bound<Bytes>, end: Bound<Bytes>) -> Option<(Bytes, Option<Bytes>)> {
    // No key is longer than KEY_BYTES_MAX. Hence the keys above a longer bound are the keys above
    // its first KEY_BYTES_MAX bytes.
    let start = match start {
        Bound::Included(key) | Bound::Excluded(key) if key.len() > KEY_BYTES_MAX => {
            behind(&key.slice(..KEY_BYTES_MAX))
        }
        Bound::Excluded(key) => behind(&key),
        // fjall has no empty key.
        Bound::Included(key) if key.is_empty() => Bytes::from_static(&[0]),
        Bound::Included(key) => key,
        Bound::Unbounded => Bytes::from_static(&[0]),
    };
    let end = match end {
        Bound::Included(key) | Bound::Excluded(key) if key.len() > KEY_BYTES_MAX => {
            Some(behind(&key.slice(..KEY_BYTES_MAX)))
        }
        Bound::Included(key) => Some(behind(&key)),
        Bound::Excluded(key) => Some(key),
        Bound::Unbounded => None,
    };
    is_before(&start, end.as_ref()).then_some((start, end))
}
