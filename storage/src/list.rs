//! Listings: [`Reads::list`], one page of a namespace's objects in the order of their keys.
//!
//! ```text
//! keys       a/1  a/2  b  c/1  c/2  d      prefix "", delimiter '/'
//! entries    a/        b  c/        d      objects and common prefixes, ordered by name
//! scan       a/1 ─seek─> b  c/1 ─seek─> d  a common prefix costs one seek, however many keys it holds
//! ```
//!
//! A page is read from one snapshot, so that it shows one state (I7). Two pages are two snapshots:
//! what is written between them shows up if its name lies behind the last page's. Deliberately not
//! here: payloads, which a listing never reads.

use std::ops::Bound;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::id::{KEY_BYTES_MAX, Namespace, ObjectId};
use crate::index::{Range, Snapshot, Table, UnreadableRange, successor};
use crate::read::{Head, Reads};
use crate::rows::Row;
use crate::word::Timestamp;

/// Most rows that one scan brings: what a page holds in memory beside its entries.
const CHUNK_ROWS_MAX: usize = 256;
/// Rows that the first scan after a seek brings. Each further one brings twice as many, so that a
/// listing of common prefixes reads few rows in vain, and one of objects needs few scans.
const CHUNK_ROWS_AFTER_SEEK: usize = 4;

/// What to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListRequest {
    /// Of which namespace.
    pub namespace: Namespace,
    /// Only keys that begin with this. All of them if it is empty.
    pub prefix: String,
    /// Where a key has this after the prefix, it is not listed itself: all keys that are the same
    /// up to and including it are listed as one [`Entry::Prefix`].
    pub delimiter: Option<char>,
    /// Only entries whose [name](Entry::name) is greater than this, in the order of bytes. A common
    /// prefix is an entry like any other: one that is equal to this, or that this begins with, is
    /// not greater, and neither it nor any of its keys is listed.
    pub start_after: Option<String>,
    /// Most entries in the page, 1 to
    /// [`ReadLimits::list_page_max`](crate::ReadLimits::list_page_max).
    pub limit: usize,
    /// What happens where a file of the index is damaged.
    pub on_damage: OnDamage,
}

/// What a listing does where a file of the index is damaged, so that a range of rows can't be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDamage {
    /// It fails: no caller gets fewer objects without an error.
    #[default]
    Fail,
    /// It goes on behind the range, which is in [`ListPage::unreadable`].
    StepOver,
}

/// Some entries, in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListPage {
    /// The entries.
    pub entries: Vec<Entry>,
    /// The `start_after` that gives the next page: the last entry's name. None if there are no more
    /// entries.
    pub next: Option<String>,
    /// Rows that could not be read, and whose objects are not among the entries. Always empty
    /// unless the listing was asked to [step over](OnDamage::StepOver) them.
    pub unreadable: Vec<UnreadableRange>,
}

/// What a listing is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "most entries are objects: a box for each would cost more than it saves"
)]
pub enum Entry {
    /// An object.
    Object(Head),
    /// What the keys of some objects begin with, up to and including the delimiter.
    Prefix(String),
}

impl Entry {
    /// Its name: the object's key, or the common prefix. Entries are ordered by it, and no two
    /// share one.
    pub fn name(&self) -> &str {
        match self {
            Self::Object(head) => head.id.key(),
            Self::Prefix(prefix) => prefix,
        }
    }
}

impl Reads {
    /// One page of a listing.
    ///
    /// It costs what it returns, and what has expired between and is not removed yet: a common
    /// prefix is one seek, whatever it holds. What was deleted costs the first scan that crosses it
    /// some 0.7 µs for each key, and later ones nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the limit is 0 or too high, [`ErrorKind::Corrupt`] or
    /// [`ErrorKind::UnknownFormat`] if a row can't be decoded, [`ErrorKind::Corrupt`] if rows can't
    /// be read and are not to be stepped over, and whatever the index says.
    pub async fn list(&self, request: ListRequest) -> Result<ListPage> {
        self.check_limit(request.limit)?;
        let Some(mut listing) = Listing::new(&request) else {
            return Ok(ListPage {
                entries: Vec::new(),
                next: None,
                unreadable: Vec::new(),
            });
        };
        // One moment for the whole page: what expires together is listed together.
        let now = self.now();
        listing.run(&*self.index().snapshot()?, now).await?;
        if listing.passed_over
            && let Some(again) = Listing::new(&request)
        {
            // What has expired may have been extended in time, and not be durable yet.
            self.let_settle().await;
            listing = again;
            listing.run(&*self.index().snapshot()?, now).await?;
        }
        Ok(listing.into_page(request.limit))
    }
}

/// A page in the making.
struct Listing {
    /// What the encoded id of every listed key begins with: the namespace's bytes, then the prefix.
    prefix: Bytes,
    /// Where in an encoded id the key begins.
    key_at: usize,
    delimiter: Option<Vec<u8>>,
    /// What is still to be scanned.
    start: Bound<Bytes>,
    end: Bound<Bytes>,
    entries: Vec<Entry>,
    on_damage: OnDamage,
    unreadable: Vec<UnreadableRange>,
    /// Whether there were rows that had expired.
    passed_over: bool,
    /// One more than the page holds: it tells whether there is a next one.
    wanted: usize,
}

impl Listing {
    /// None if no key can match.
    fn new(request: &ListRequest) -> Option<Self> {
        if request.prefix.len() > KEY_BYTES_MAX {
            return None;
        }
        let mut prefix = request.namespace.encoded_prefix();
        let key_at = prefix.len();
        prefix.extend_from_slice(request.prefix.as_bytes());
        let prefix = Bytes::from(prefix);
        let mut listing = Self {
            key_at,
            delimiter: request
                .delimiter
                .map(|delimiter| delimiter.to_string().into_bytes()),
            start: Bound::Included(prefix.clone()),
            end: successor(&prefix).map_or(Bound::Unbounded, Bound::Excluded),
            prefix,
            entries: Vec::new(),
            on_damage: request.on_damage,
            unreadable: Vec::new(),
            passed_over: false,
            wanted: request.limit.saturating_add(1),
        };
        match &request.start_after {
            Some(name) => listing.begin_after(name).then_some(listing),
            None => Some(listing),
        }
    }

    /// Moves the start behind every entry whose name is at most `name`. False if none is left.
    fn begin_after(&mut self, name: &str) -> bool {
        // No key is longer than this, so that cutting the rest off moves no key to the other side.
        let name = &name.as_bytes()[..name.len().min(KEY_BYTES_MAX)];
        let after: Bytes = [&self.prefix[..self.key_at], name].concat().into();
        if after < self.prefix {
            return true;
        }
        if !after.starts_with(&self.prefix) {
            return false;
        }
        match self.common_prefix(&after) {
            Some(common) => self.skip(&common),
            None => {
                self.start = Bound::Excluded(after);
                true
            }
        }
    }

    /// Moves the start behind every key that begins with `common`. False if none is left.
    fn skip(&mut self, common: &[u8]) -> bool {
        match successor(common) {
            Some(next) => {
                self.start = Bound::Included(next);
                true
            }
            None => false,
        }
    }

    /// The part of an encoded id up to and including the first delimiter after the prefix; none if
    /// it has none.
    fn common_prefix(&self, encoded: &Bytes) -> Option<Bytes> {
        let delimiter = self.delimiter.as_deref()?;
        let at = encoded
            .get(self.prefix.len()..)?
            .windows(delimiter.len())
            .position(|window| window == delimiter)?;
        Some(encoded.slice(..self.prefix.len() + at + delimiter.len()))
    }

    async fn run(&mut self, snapshot: &dyn Snapshot, now: Timestamp) -> Result<()> {
        let mut chunk_rows = if self.delimiter.is_some() {
            CHUNK_ROWS_AFTER_SEEK
        } else {
            CHUNK_ROWS_MAX
        };
        while self.entries.len() < self.wanted {
            let limit = chunk_rows.min(self.wanted - self.entries.len());
            let range = Range {
                start: self.start.clone(),
                end: self.end.clone(),
                limit,
            };
            let page = snapshot.scan_over(Table::Rows, range).await?;
            let Some(seek) = self.take(page.entries, now)? else {
                return Ok(());
            };
            if let Some(unreadable) = page.unreadable {
                self.step_over(unreadable)?;
            }
            if page.rest.is_none() {
                return Ok(());
            }
            chunk_rows = match seek {
                Seek::Next => CHUNK_ROWS_MAX.min(chunk_rows * 2),
                Seek::Behind => CHUNK_ROWS_AFTER_SEEK,
            };
        }
        Ok(())
    }

    /// Notes rows that can't be read, and moves the start behind them.
    fn step_over(&mut self, unreadable: UnreadableRange) -> Result<()> {
        if self.on_damage == OnDamage::Fail {
            return Err(unreadable.into_error("list"));
        }
        let is_behind = |to: &Bytes| match &self.start {
            Bound::Included(start) | Bound::Excluded(start) => to > start,
            Bound::Unbounded => true,
        };
        if let Some(to) = unreadable.to.clone().filter(is_behind) {
            self.start = Bound::Included(to);
        }
        self.unreadable.push(unreadable);
        Ok(())
    }

    /// Turns scanned rows into entries and moves the start behind them. None if nothing can follow.
    fn take(&mut self, rows: Vec<(Bytes, Bytes)>, now: Timestamp) -> Result<Option<Seek>> {
        let mut within: Option<Bytes> = None;
        for (key, value) in rows {
            if within
                .as_ref()
                .is_some_and(|common| key.starts_with(common))
            {
                continue;
            }
            self.start = Bound::Excluded(key.clone());
            let row = Row::decode(&value).map_err(|error| match ObjectId::decode(&key) {
                Ok(id) => error.with_id(&id),
                Err(_) => error,
            })?;
            if !row.is_live(now) {
                self.passed_over = true;
                within = None;
                continue;
            }
            within = self.common_prefix(&key);
            let entry = match &within {
                Some(common) => Entry::Prefix(self.name(common)?),
                None => Entry::Object(Head::decode(&key, row)?),
            };
            self.entries.push(entry);
        }
        Ok(match within {
            Some(common) => self.skip(&common).then_some(Seek::Behind),
            None => Some(Seek::Next),
        })
    }

    /// A common prefix as text. It ends behind a whole character of a key, which is text.
    fn name(&self, common: &Bytes) -> Result<String> {
        // A common prefix is never empty and no longer than its key: it is itself an encoded id.
        ObjectId::decode(common)
            .map(|id| id.key().to_owned())
            .map_err(|error| {
                Error::new(ErrorKind::Corrupt, "list", "a row's key is no object id")
                    .with_source(error)
            })
    }

    fn into_page(mut self, limit: usize) -> ListPage {
        let has_next = self.entries.len() > limit;
        self.entries.truncate(limit);
        let last = self.entries.last().filter(|_| has_next);
        if let Some(last) = last {
            // What lies behind the last entry is on the next page.
            let end = [&self.prefix[..self.key_at], last.name().as_bytes()].concat();
            let is_group = matches!(last, Entry::Prefix(_));
            self.unreadable
                .retain(|range| range.from <= end || is_group && range.from.starts_with(&end));
        }
        let next = last.map(|entry| entry.name().to_owned());
        ListPage {
            entries: self.entries,
            next,
            unreadable: self.unreadable,
        }
    }
}

/// Where the scan goes on.
enum Seek {
    /// At the next row.
    Next,
    /// Behind a common prefix, whose keys may be many.
    Behind,
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
