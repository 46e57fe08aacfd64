//! Scans that step over unreadable keys: [`PartialPage`] and [`UnreadableRange`].
//!
//! ```text
//! keys      a  b  c | d  e  f | g  h        a damaged block holds d to f
//! scan      error                           a plain scan returns no entry without the others
//! step over a  b  c, unreadable ["c\0", "f\0"), the rest from "f\0" on
//! ```
//!
//! 1. scan; a `Corrupt` halves the limit, until a scan of one entry fails
//! 2. gallop to a key from which a scan of one entry works; bisect back to the first such key
//! 3. bisect for the last key up to which a scan works: entries before the damage that a longer
//!    scan hides
//!
//! A key that is stored in several files is read in none of them within an unreadable range, so
//! that no older value of it is returned. Guards "never fewer objects without an error": the
//! unreadable range is part of the page.

use std::ops::Bound;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::{Range, Snapshot, Table};
use crate::error::{Error, ErrorKind, Result};

/// Most reads for one end of an unreadable range: 8 for each byte of a key of 1,024 bytes. The
/// range is reported larger than it is where that is not enough.
const PROBES_MAX: usize = 8 * 1024;
/// Bytes by which an end of an unreadable range may be longer than the longest key that was read.
const MARGIN_BYTES: usize = 16;
/// Most readable stretches that are looked for within one unreadable range.
const ISLANDS_MAX: usize = 64;

/// Keys of one table that could not be read. Of [`Table::Rows`] a key is the namespace, a zero byte
/// and the key of the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableRange {
    /// The table.
    pub table: Table,
    /// The first key of the range. Empty for the beginning of the table.
    pub from: Bytes,
    /// The first key behind the range. None for the end of the table.
    pub to: Option<Bytes>,
    /// The error of the index.
    pub why: String,
}

impl UnreadableRange {
    /// Returns whether the range contains this key.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.from[..] && self.to.as_ref().is_none_or(|to| key < &to[..])
    }

    /// The error for a caller that asked for all entries.
    pub fn into_error(self, operation: &'static str) -> Error {
        Error::new(ErrorKind::Corrupt, operation, self.to_string())
    }
}

impl std::fmt::Display for UnreadableRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "a range of keys can't be read: table={} from=\"{}\" to=",
            self.table.name(),
            self.from.escape_ascii()
        )?;
        match &self.to {
            Some(to) => write!(f, "\"{}\"", to.escape_ascii())?,
            None => f.write_str("the end")?,
        }
        write!(f, ": {}", self.why)
    }
}

/// Some entries, and the keys behind them that could not be read.
#[derive(Clone, Debug)]
#[must_use = "keys of the range may be unreadable"]
pub struct PartialPage<T> {
    /// The entries, in order. All of them lie before `unreadable`.
    pub entries: Vec<T>,
    /// The unreadable keys behind the entries.
    pub unreadable: Option<UnreadableRange>,
    /// The range that gives the next page. None at the end.
    pub rest: Option<Range>,
}

impl dyn Snapshot + '_ {
    /// A page of entries in key order, which ends before the first keys that can't be read.
    ///
    /// # Errors
    /// As [`Snapshot::scan`], but for [`ErrorKind::Corrupt`], which is in the page.
    pub async fn scan_over(
        &self,
        table: Table,
        range: Range,
    ) -> Result<PartialPage<(Bytes, Bytes)>> {
        let entry = |key, value| (key, value);
        Scan {
            snapshot: self,
            table,
            read: |range| self.scan(table, range),
            key: |(key, _)| key,
            entry,
        }
        .page(range)
        .await
    }

    /// A page of keys in order, which ends before the first keys that can't be read.
    ///
    /// # Errors
    /// As [`Snapshot::keys`], but for [`ErrorKind::Corrupt`], which is in the page.
    pub async fn keys_over(&self, table: Table, range: Range) -> Result<PartialPage<Bytes>> {
        let entry = |key, _| key;
        Scan {
            snapshot: self,
            table,
            read: |range| self.keys(table, range),
            key: |key| key,
            entry,
        }
        .page(range)
        .await
    }
}

/// How a table is read.
struct Scan<'a, R, T> {
    snapshot: &'a (dyn Snapshot + 'a),
    table: Table,
    read: R,
    key: fn(&T) -> &Bytes,
    entry: fn(Bytes, Bytes) -> T,
}

impl<'a, T: 'a, R: Fn(Range) -> BoxFuture<'a, Result<Vec<T>>>> Scan<'a, R, T> {
    /// Step 1.
    async fn page(&self, range: Range) -> Result<PartialPage<T>> {
        let (mut rest, mut entries, mut limit) = (range.clone(), Vec::new(), range.limit);
        loop {
            rest.limit = limit.min(range.limit - entries.len());
            match (self.read)(rest.clone()).await {
                Ok(page) => {
                    let is_last = page.len() < rest.limit;
                    let last = page.last().map(|entry| (self.key)(entry).clone());
                    entries.extend(page);
                    let Some(last) = last.filter(|_| !is_last) else {
                        return Ok(PartialPage {
                            entries,
                            unreadable: None,
                            rest: None,
                        });
                    };
                    rest = rest.after(last);
                    if entries.len() == range.limit {
                        return Ok(PartialPage {
                            entries,
                            unreadable: None,
                            rest: Some(Range {
                                limit: range.limit,
                                ..rest
                            }),
                        });
                    }
                }
                Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
                Err(_) if rest.limit > 1 => limit = rest.limit / 2,
                Err(error) => return self.gap(range, rest, entries, &error).await,
            }
        }
    }

    /// Steps 2 and 3: `rest` begins with the damage.
    async fn gap(
        &self,
        range: Range,
        rest: Range,
        mut entries: Vec<T>,
        error: &Error,
    ) -> Result<PartialPage<T>> {
        let from = first_key(&rest.start);
        let to = self.behind(&rest, &from).await?;
        let limit = range.limit - entries.len();
        let (from, hidden) = self.before(&rest, from, to.as_ref(), limit).await?;
        let is_full = hidden.len() == limit;
        entries.extend(hidden);
        if is_full {
            // The next page begins with the damage, and reports it.
            return Ok(PartialPage {
                entries,
                unreadable: None,
                rest: Some(Range {
                    start: Bound::Included(from),
                    ..range
                }),
            });
        }
        let rest = to
            .clone()
            .map(|to| Range {
                start: Bound::Included(to),
                ..range
            })
            .filter(may_hold_keys);
        let unreadable = UnreadableRange {
            table: self.table,
            from,
            to,
            why: format!("{error:?}"),
        };
        Ok(PartialPage {
            entries,
            unreadable: Some(unreadable),
            rest,
        })
    }

    /// Returns the length of the key of the first entry from this key on, 0 if there is none, or
    /// `None` if it can't be read. Past the end of the range there is none to be read.
    async fn key_bytes(&self, range: &Range, from: &Bytes) -> Result<Option<usize>> {
        let one = Range {
            start: Bound::Included(from.clone()),
            end: range.end.clone(),
            limit: 1,
        };
        if !may_hold_keys(&one) {
            return Ok(Some(0));
        }
        let read = self.try_read(one).await?;
        Ok(read.map(|page| page.first().map_or(0, |entry| (self.key)(entry).len())))
    }

    async fn try_read(&self, range: Range) -> Result<Option<Vec<T>>> {
        match (self.read)(range).await {
            Ok(page) => Ok(Some(page)),
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The first key behind the damage; none if it reaches to the end of the table.
    async fn behind(&self, range: &Range, from: &Bytes) -> Result<Option<Bytes>> {
        let (mut damaged, mut readable) = (from.clone(), None);
        // Between two neighbouring keys there are longer ones, without end.
        let mut bytes_max = from.len() + MARGIN_BYTES;
        for key in farther(from) {
            if let Some(bytes) = self.key_bytes(range, &key).await? {
                bytes_max = bytes_max.max(bytes + MARGIN_BYTES);
                readable = Some(key);
                break;
            }
            damaged = key;
        }
        let end = end_key(&range.end);
        let Some(mut readable) = readable.or_else(|| end.clone()) else {
            return Ok(None);
        };
        for _ in 0..ISLANDS_MAX {
            (damaged, readable) = self
                .border(range, damaged, readable, &mut bytes_max)
                .await?;
            // There may be damage beyond readable keys, which the search has jumped over.
            let Some(island) = self.island(range, from, &damaged).await? else {
                break;
            };
            (damaged, readable) = (from.clone(), island);
        }
        Ok(Some(match end {
            Some(end) if end < readable => end,
            Some(_) | None => readable,
        }))
    }

    /// The two keys between which damage ends. `bytes_max` grows to the longest key that is read,
    /// and a margin.
    async fn border(
        &self,
        range: &Range,
        mut damaged: Bytes,
        mut readable: Bytes,
        bytes_max: &mut usize,
    ) -> Result<(Bytes, Bytes)> {
        for _ in 0..PROBES_MAX {
            let Some(middle) = between(&damaged, &readable).filter(|key| key.len() <= *bytes_max)
            else {
                break;
            };
            match self.key_bytes(range, &middle).await? {
                Some(bytes) => {
                    *bytes_max = (*bytes_max).max(bytes + MARGIN_BYTES);
                    readable = middle;
                }
                None => damaged = middle,
            }
        }
        Ok((damaged, readable))
    }

    /// A key before the end of some damage from which on an entry can be read.
    async fn island(&self, range: &Range, from: &Bytes, damaged: &Bytes) -> Result<Option<Bytes>> {
        for key in nearer(damaged).filter(|key| key > from) {
            if self.key_bytes(range, &key).await?.is_some() {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    /// The first key of the damage, and the entries before it.
    async fn before(
        &self,
        range: &Range,
        from: Bytes,
        to: Option<&Bytes>,
        limit: usize,
    ) -> Result<(Bytes, Vec<T>)> {
        let up_to = |key: &Bytes| Range {
            start: range.start.clone(),
            end: Bound::Included(key.clone()),
            limit,
        };
        let Some(mut found) = self.try_read(up_to(&from)).await? else {
            return Ok((from, Vec::new()));
        };
        let bytes_max = from.len().max(to.map_or(0, Bytes::len)) + MARGIN_BYTES;
        let mut readable = from;
        let mut damaged = to
            .cloned()
            .unwrap_or_else(|| Bytes::from_static(&[u8::MAX; 2]));
        for _ in 0..PROBES_MAX {
            let Some(middle) = between(&readable, &damaged).filter(|key| key.len() <= bytes_max)
            else {
                break;
            };
            match self.try_read(up_to(&middle)).await? {
                Some(page) => (readable, found) = (middle, page),
                None => damaged = middle,
            }
        }
        if found.len() == limit {
            let next = found
                .last()
                .map_or(readable, |last| after((self.key)(last)));
            return Ok((next, found));
        }
        // The last entry before the damage can be read, but no scan returns it: the damage is met
        // before that.
        match self.snapshot.get(self.table, &damaged).await {
            Ok(Some(value)) => {
                found.push((self.entry)(damaged.clone(), value));
                Ok((after(&damaged), found))
            }
            Err(error) if error.kind() != ErrorKind::Corrupt => Err(error),
            Ok(None) | Err(_) => Ok((after(&readable), found)),
        }
    }
}

/// The smallest key above this one.
fn after(key: &Bytes) -> Bytes {
    [&key[..], &[0]].concat().into()
}

fn first_key(start: &Bound<Bytes>) -> Bytes {
    match start {
        Bound::Included(key) => key.clone(),
        Bound::Excluded(key) => after(key),
        Bound::Unbounded => Bytes::new(),
    }
}

/// The first key behind the range.
fn end_key(end: &Bound<Bytes>) -> Option<Bytes> {
    match end {
        Bound::Included(key) => Some(after(key)),
        Bound::Excluded(key) => Some(key.clone()),
        Bound::Unbounded => None,
    }
}

fn may_hold_keys(range: &Range) -> bool {
    end_key(&range.end).is_none_or(|end| first_key(&range.start) < end)
}

/// Keys above this one, in order, each about twice as far away as the one before.
fn farther(from: &[u8]) -> impl Iterator<Item = Bytes> {
    let lengths = (0..from.len().max(1)).rev();
    lengths.flat_map(move |at| {
        let byte = u32::from(from.get(at).copied().unwrap_or(0));
        let steps = (0..8)
            .map(move |power| byte + (1 << power))
            .take_while(|&byte| byte <= u32::from(u8::MAX));
        steps.map(move |byte| {
            [&from[..at], &[u8::try_from(byte).unwrap_or(u8::MAX)]]
                .concat()
                .into()
        })
    })
}

/// Keys below this one, in descending order, each about twice as far away as the one before.
fn nearer(to: &[u8]) -> impl Iterator<Item = Bytes> {
    (0..to.len()).rev().flat_map(move |at| {
        let steps = (0..8).map_while(move |power| u32::from(to[at]).checked_sub(1 << power));
        steps.map(move |byte| {
            [&to[..at], &[u8::try_from(byte).unwrap_or(0)]]
                .concat()
                .into()
        })
    })
}

/// A key between these two, about half-way; none if there is none.
fn between(low: &[u8], high: &[u8]) -> Option<Bytes> {
    let at = low
        .iter()
        .zip(high)
        .take_while(|(low, high)| low == high)
        .count();
    let ceiling = u16::from(*high.get(at)?);
    // One more than the byte, so that the end of a key comes before every byte.
    let floor = low.get(at).map_or(0, |&byte| u16::from(byte) + 1);
    let key = |prefix: &[u8], above: u16, below: u16| {
        let middle = u8::try_from((above + below) / 2).unwrap_or(u8::MAX);
        Some([prefix, &[middle]].concat().into())
    };
    if floor < ceiling {
        return key(&low[..at], floor, ceiling - 1);
    }
    if high.len() > at + 1 {
        return Some(Bytes::copy_from_slice(&high[..=at]));
    }
    if low.len() == at {
        // `high` is the smallest key above `low`.
        return None;
    }
    // The bytes at `at` are neighbours: a key that is longer than `low`, or greater behind `at`.
    let raised = (at + 1..low.len())
        .find(|&at| low[at] < u8::MAX)
        .unwrap_or(low.len());
    let floor = low.get(raised).map_or(0, |&byte| u16::from(byte) + 1);
    key(&low[..raised], floor, u16::from(u8::MAX))
}

#[cfg(test)]
#[path = "step_over_tests.rs"]
mod tests;
