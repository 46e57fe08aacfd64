//! Scans of a table: pages of entries, or of keys. They leave out the gaps that are known
//! (`gaps.rs`), and remember the steps that took long. Deliberately not here: what a damaged range
//! becomes (`step_over.rs`).

use std::ops::Bound;

use bytes::Bytes;
use fjall::{Guard, Readable};

use super::failure::{caught, failed};
use super::gaps::{Found, behind};
use super::published::State;
use super::{KEY_BYTES_MAX, Store};
use crate::env::Env;
use crate::error::Result;
use crate::index::{Page, Range, Table};

/// A state of the index, and the means to scan it.
pub(super) struct Walker<'a> {
    pub(super) store: &'a Store,
    pub(super) state: &'a State,
    pub(super) env: &'a Env,
}

impl Walker<'_> {
    pub(super) fn scan(&self, table: Table, range: Range) -> Result<Page> {
        self.walk("scan", table, range, |entry| {
            let (key, value) = entry.into_inner()?;
            let key = Bytes::from(key);
            Ok((key.clone(), (key, Bytes::from(value))))
        })
    }

    /// Values that lie apart from their keys are not read.
    pub(super) fn keys(&self, table: Table, range: Range) -> Result<Vec<Bytes>> {
        self.walk("keys", table, range, |entry| {
            let key = Bytes::from(entry.key()?);
            Ok((key.clone(), key))
        })
    }

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
        let (mut page, mut slow) = (Vec::new(), Vec::new());
        caught(operation, || {
            while page.len() < range.limit {
                let stretch = self.store.gaps.stretch(table, at, self.state.commit);
                let Some(from) = stretch.from.filter(|from| is_before(from, end.as_ref())) else {
                    break;
                };
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

    /// Up to `limit` entries of a stretch that crosses no gap, and the steps that took long.
    fn walk_stretch<T>(
        &self,
        table: Table,
        (from, to): &(Bytes, Option<Bytes>),
        limit: usize,
        read: impl Fn(Guard) -> fjall::Result<(Bytes, T)>,
        (page, slow): (&mut Vec<T>, &mut Vec<Found>),
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
            if took >= self.store.slow_step {
                let from = last.as_ref().map_or_else(|| from.clone(), behind);
                let to = step
                    .as_ref()
                    .map(|(key, _)| key.clone())
                    .or_else(|| to.clone());
                if is_before(&from, to.as_ref()) {
                    slow.push(Found { from, to, took });
                }
            }
            let Some((key, item)) = step else { break };
            page.push(item);
            (last, begun) = (Some(key), now);
        }
        Ok(())
    }
}

fn is_before(key: &Bytes, end: Option<&Bytes>) -> bool {
    end.is_none_or(|end| key < end)
}

/// The first key of a range, and the first one behind it, as fjall bears them; none if no key lies
/// in it.
fn bounds(start: Bound<Bytes>, end: Bound<Bytes>) -> Option<(Bytes, Option<Bytes>)> {
    // No key is longer than KEY_BYTES_MAX, so those above a longer bound are those above its first
    // bytes.
    let start = match start {
        Bound::Included(key) | Bound::Excluded(key) if key.len() > KEY_BYTES_MAX => {
            behind(&key.slice(..KEY_BYTES_MAX))
        }
        Bound::Excluded(key) => behind(&key),
        // No key is empty.
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
