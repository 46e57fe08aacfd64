//! Scans that step over unreadable keys: [`PartialPage`] and [`UnreadableRange`].
//!
//! ```text
//! keys      a  b  c | d  e  f | g  h        a damaged block holds d to f
//! scan      error                           a plain scan returns no entry without the others
//! step over a  b  c, unreadable ["c\0", "f\0"), the rest from "f\0" on
//! ```
//!
//! 1. scan; a `Corrupt` halves the limit, until a scan of a single entry fails
//! 2. gallop to a key from which a scan of one entry succeeds; bisect back to the first such key
//! 3. bisect for the last key up to which a scan succeeds, to find readable entries before the
//!    damage that a longer scan misses
//!
//! A key in an unreadable range is read from none of the files that hold it, so that no older value
//! is returned. Guards that a scan never misses an object without an error: the unreadable range is
//! part of the page.

use std::ops::Bound;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::{Range, Snapshot, Table};
use crate::types::{Error, ErrorKind, Result};

/// Maximal number of reads to find one end of an unreadable range: 8 for each byte of a key of
/// 1,024 bytes. If they do not suffice, the reported range is larger than the damage.
const PROBES_MAX: usize = 8 * 1024;
/// Maximal difference in length between an end of an unreadable range and the longest key read, in
/// bytes.
const MARGIN_BYTES: usize = 16;
/// Maximal number of searches for readable keys within one unreadable range.
const ISLANDS_MAX: usize = 64;

/// Range of keys of one table that can't be read. A key of [`Table::Rows`] consists of the
/// namespace, a zero byte and the key of the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableRange {
    /// Table of the keys.
    pub table: Table,
    /// First key of the range. Empty for the start of the table.
    pub from: Bytes,
    /// First key after the range. `None` for the end of the table.
    pub to: Option<Bytes>,
    /// Error of the index.
    pub why: String,
}

impl UnreadableRange {
    /// Returns whether the range contains this key.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.from[..] && self.to.as_ref().is_none_or(|to| key < &to[..])
    }

    /// Converts the range to an error, for a caller that needs all entries.
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

/// Page of entries, and the unreadable keys after them.
#[derive(Clone, Debug)]
#[must_use = "keys of the range may be unreadable"]
pub struct PartialPage<T> {
    /// Entries in order. All of them precede `unreadable`.
    pub entries: Vec<T>,
    /// Unreadable keys after the entries.
    pub unreadable: Option<UnreadableRange>,
    /// Range of the next page. `None` at the end.
    pub rest: Option<Range>,
}

impl dyn Snapshot + '_ {
    /// Returns a page of entries in key order, which ends before the first unreadable key.
    ///
    /// # Errors
    /// As [`Snapshot::scan`], except [`ErrorKind::Corrupt`], which the page contains.
    pub async fn scan_over(
        &self,
        table: Table,
        range: Range,
    ) -> Result<PartialPage<(Bytes, Bytes)>> {
        let entry = |key, value| (key, value);
        TableScan {
            snapshot: self,
            table,
            read: |range| self.scan(table, range),
            key: |(key, _)| key,
            entry,
        }
        .page(range)
        .await
    }

    /// Returns a page of keys in order, which ends before the first unreadable key.
    ///
    /// # Errors
    /// As [`Snapshot::keys`], except [`ErrorKind::Corrupt`], which the page contains.
    pub async fn keys_over(&self, table: Table, range: Range) -> Result<PartialPage<Bytes>> {
        let entry = |key, _| key;
        TableScan {
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

/// Scan of a table: the function that reads a range, and the conversions of its entries.
struct TableScan<'a, R, T> {
    snapshot: &'a (dyn Snapshot + 'a),
    table: Table,
    read: R,
    key: fn(&T) -> &Bytes,
    entry: fn(Bytes, Bytes) -> T,
}

impl<'a, T: 'a, R: Fn(Range) -> BoxFuture<'a, Result<Vec<T>>>> TableScan<'a, R, T> {
    /// Carries out step 1.
    async fn page(&self, range: Range) -> Result<PartialPage<T>> {
        let mut rest = range.clone();
        let mut entries = Vec::new();
        let mut limit = range.limit;
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
                // A failed scan returns none of the entries before the damage. A shorter one does.
                Err(_) if rest.limit > 1 => limit = rest.limit / 2,
                Err(error) => return self.gap(range, rest, entries, &error).await,
            }
        }
    }

    /// Carries out steps 2 and 3. The first entry of `rest` can't be read.
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

    /// Returns the key length of the first entry at or after this key: 0 if there is no entry, or
    /// `None` if it can't be read. A key past the end of the range counts as no entry.
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

    /// Reads a range. Returns `None` if it is damaged.
    async fn try_read(&self, range: Range) -> Result<Option<Vec<T>>> {
        match (self.read)(range).await {
            Ok(page) => Ok(Some(page)),
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the first key after the damage, or `None` if the damage reaches the end of the
    /// table.
    async fn behind(&self, range: &Range, from: &Bytes) -> Result<Option<Bytes>> {
        let mut damaged = from.clone();
        let mut readable = None;
        // Longer and longer keys fit between two neighbouring keys: without a limit the bisection
        // would not end.
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
            // The gallop may have skipped readable keys with more damage after them.
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

    /// Returns the two keys between which the damage ends. Raises `bytes_max` to the length of the
    /// longest key read, plus the margin.
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

    /// Returns a key between `from` and `damaged` at which an entry can be read, or `None`.
    async fn island(&self, range: &Range, from: &Bytes, damaged: &Bytes) -> Result<Option<Bytes>> {
        for key in nearer(damaged).filter(|key| key > from) {
            if self.key_bytes(range, &key).await?.is_some() {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    /// Returns the first damaged key, and the entries before it.
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
        // A scan returns an entry only after it has read the next one, so that the last entry
        // before the damage is missing. A `get` finds it.
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

/// Returns the smallest key above this key.
fn after(key: &Bytes) -> Bytes {
    [&key[..], &[0]].concat().into()
}

/// Returns the smallest key that this lower bound admits.
fn first_key(start: &Bound<Bytes>) -> Bytes {
    match start {
        Bound::Included(key) => key.clone(),
        Bound::Excluded(key) => after(key),
        Bound::Unbounded => Bytes::new(),
    }
}

/// Returns the first key after the range, or `None` if the range is unbounded.
fn end_key(end: &Bound<Bytes>) -> Option<Bytes> {
    match end {
        Bound::Included(key) => Some(after(key)),
        Bound::Excluded(key) => Some(key.clone()),
        Bound::Unbounded => None,
    }
}

/// Returns whether the bounds of a range admit a key.
fn may_hold_keys(range: &Range) -> bool {
    end_key(&range.end).is_none_or(|end| first_key(&range.start) < end)
}

/// Returns ascending keys above this key. The distance roughly doubles with each step.
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

/// Returns descending keys below this key. The distance roughly doubles with each step.
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

/// Returns a key about half-way between these two keys, or `None` if no key lies between them.
fn between(low: &[u8], high: &[u8]) -> Option<Bytes> {
    let at = low
        .iter()
        .zip(high)
        .take_while(|(low, high)| low == high)
        .count();
    let ceiling = u16::from(*high.get(at)?);
    // Bytes are shifted by 1, so that 0 is the end of a key, which sorts before every byte.
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
    // The bytes at `at` are neighbours. A key between is longer than `low`, or greater after `at`.
    let raised = (at + 1..low.len())
        .find(|&at| low[at] < u8::MAX)
        .unwrap_or(low.len());
    let floor = low.get(raised).map_or(0, |&byte| u16::from(byte) + 1);
    key(&low[..raised], floor, u16::from(u8::MAX))
}

#[cfg(test)]
mod tests;
