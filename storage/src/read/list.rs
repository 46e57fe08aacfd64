//! Lists the objects of a namespace in the order of their keys, page by page: [`Reads::list`].
//!
//! ```text
//! keys       a/1  a/2  b  c/1  c/2  d       prefix "", delimiter '/'
//! entries    a/        b  c/        d       objects and common prefixes, ordered by name
//! scan       a/1 ─seek─> b  c/1 ─seek─> d   a common prefix costs a single seek
//! ```
//!
//! A page is read from a single snapshot, so it shows a consistent state (I7). Each page has its
//! own snapshot: an object written between two pages is listed if its name follows the last name of
//! the earlier page. A listing never reads payloads.

mod merged;

use std::ops::Bound;

use bytes::Bytes;

use crate::index::{Range, Snapshot, Table, UnreadableRange, successor};
use crate::read::{ObjectMeta, Reads};
use crate::records::Row;
use crate::types::{Error, ErrorKind, KEY_BYTES_MAX, Namespace, ObjectId, Result, Timestamp};

/// Most rows that a scan reads. Limits the memory that a page takes besides its entries.
const CHUNK_ROWS_MAX: usize = 256;
/// Number of rows that the first scan after a seek reads. Each further scan reads twice as many. So
/// a listing of common prefixes reads few useless rows, and a listing of objects needs few scans.
const CHUNK_ROWS_AFTER_SEEK: usize = 4;

/// Parameters of a page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListRequest {
    /// Namespace to list.
    pub namespace: Namespace,
    /// Prefix of the keys to list; all keys if it is empty.
    pub prefix: String,
    /// Delimiter of common prefixes. Keys that contain the delimiter behind `prefix` are not listed
    /// themselves. Instead, all keys that are equal up to and including the delimiter are listed as
    /// a single [`Entry::Prefix`].
    pub delimiter: Option<char>,
    /// Lower bound, exclusive: only entries whose [name](Entry::name) is greater in the order of
    /// bytes are listed. This applies to common prefixes, too: a common prefix that equals
    /// `start_after`, or with which `start_after` begins, is not listed, and neither are its keys.
    pub start_after: Option<String>,
    /// Most entries in the page, 1 to
    /// [`ReadLimits::list_page_max`](crate::ReadLimits::list_page_max).
    pub limit: usize,
    /// Behavior if a file of the index is damaged.
    pub on_damage: OnDamage,
}

/// Behavior of a listing if a file of the index is damaged and a range of rows cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDamage {
    /// The listing fails. No caller receives an incomplete listing without an error.
    #[default]
    Fail,
    /// The listing continues behind the range and adds it to [`ListPage::unreadable`].
    StepOver,
}

/// A page of entries, in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListPage {
    /// Entries of the page.
    pub entries: Vec<Entry>,
    /// Value of `start_after` for the next page: the name of the last entry. `None` on the last
    /// page.
    pub next: Option<String>,
    /// Ranges of rows that could not be read; their objects are missing in `entries`. Always empty
    /// unless the listing [steps over](OnDamage::StepOver) them.
    pub unreadable: Vec<UnreadableRange>,
}

/// An entry of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "most entries are objects: a box for each would cost more than it saves"
)]
pub enum Entry {
    /// An object.
    Object(ObjectMeta),
    /// Common prefix of the keys of some objects, up to and including the delimiter.
    Prefix(String),
}

impl Entry {
    /// Returns the name of the entry: the key of the object, or the common prefix. Entries are
    /// ordered by name, and names are unique.
    pub fn name(&self) -> &str {
        match self {
            Self::Object(head) => head.id.key(),
            Self::Prefix(prefix) => prefix,
        }
    }
}

impl Reads {
    /// Returns a page of a listing.
    ///
    /// The cost is proportional to the entries returned, plus expired objects between them that are
    /// not removed yet. A common prefix costs a single seek, however many keys it has. Over a
    /// fallback, the page also costs the keys of the fallback in its range that are deleted in this
    /// store. Deleted keys
    /// cost the first scan that crosses them about 0.7 µs each, and later scans nothing.
    ///
    /// # Errors
    /// - [`ErrorKind::Invalid`] if the limit is 0 or too high.
    /// - [`ErrorKind::Corrupt`] or [`ErrorKind::UnknownFormat`] if a row cannot be decoded.
    /// - [`ErrorKind::Corrupt`] if rows cannot be read and [`OnDamage::Fail`] is set.
    /// - The errors of the index.
    pub async fn list(&self, request: ListRequest) -> Result<ListPage> {
        self.check_limit(request.limit)?;
        let listed = match self.fallback() {
            None => self.page_of_ours(&request).await?.map(|(page, _)| page),
            Some(fallback) => merged::page(self, &request, fallback).await?,
        };
        Ok(match listed {
            Some(listing) => listing.into_page(request.limit),
            None => ListPage {
                entries: Vec::new(),
                next: None,
                unreadable: Vec::new(),
            },
        })
    }

    /// Reads a page of the objects of this store, and returns it with its snapshot. Returns `None`
    /// if no key can match.
    async fn page_of_ours(
        &self,
        request: &ListRequest,
    ) -> Result<Option<(PageState, Box<dyn Snapshot>)>> {
        let Some(mut listing) = PageState::new(request) else {
            return Ok(None);
        };
        // The same time for the whole page, so that objects that expire together are listed
        // together.
        let now = self.now();
        let mut snapshot = self.index().snapshot()?;
        listing.run(&*snapshot, now).await?;
        if listing.passed_over
            && let Some(again) = PageState::new(request)
        {
            // The deadline of an expired object may have been extended in time by a batch that is
            // not durable yet. So the page is read again after all submitted batches are durable.
            self.let_settle().await;
            listing = again;
            snapshot = self.index().snapshot()?;
            listing.run(&*snapshot, now).await?;
        }
        Ok(Some((listing, snapshot)))
    }
}

/// State of a page that is being read.
struct PageState {
    /// Common beginning of the encoded ids to list: the namespace, then the key prefix.
    prefix: Bytes,
    /// Offset of the key in an encoded id.
    key_at: usize,
    delimiter: Option<Vec<u8>>,
    /// Start of the rows that have not been scanned.
    start: Bound<Bytes>,
    /// End of the rows to scan.
    end: Bound<Bytes>,
    entries: Vec<Entry>,
    on_damage: OnDamage,
    unreadable: Vec<UnreadableRange>,
    /// True if expired rows were skipped.
    passed_over: bool,
    /// Number of entries to read: the limit of the page plus 1, to find out if there are more.
    wanted: usize,
}

impl PageState {
    /// Creates the state of a request, or returns `None` if no key can match.
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

    /// Moves the start behind all entries whose name is at most `name`. Returns false if no entry
    /// can remain.
    fn begin_after(&mut self, name: &str) -> bool {
        // No key is longer than `KEY_BYTES_MAX`, so truncating `name` does not change which keys
        // are greater.
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

    /// Moves the start behind all keys that begin with `common`. Returns false if no key can
    /// remain.
    fn skip(&mut self, common: &[u8]) -> bool {
        match successor(common) {
            Some(next) => {
                self.start = Bound::Included(next);
                true
            }
            None => false,
        }
    }

    /// Returns the part of an encoded id up to and including the first delimiter behind the prefix,
    /// or `None` if there is no delimiter.
    fn common_prefix(&self, encoded: &Bytes) -> Option<Bytes> {
        let delimiter = self.delimiter.as_deref()?;
        let at = encoded
            .get(self.prefix.len()..)?
            .windows(delimiter.len())
            .position(|window| window == delimiter)?;
        Some(encoded.slice(..self.prefix.len() + at + delimiter.len()))
    }

    /// Scans rows until the page is full or the range ends.
    async fn run(&mut self, snapshot: &dyn Snapshot, now: Timestamp) -> Result<()> {
        // Without a delimiter there are no seeks, so the scans are large from the beginning.
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

    /// Records rows that cannot be read, and moves the start behind them.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if [`OnDamage::Fail`] is set.
    fn step_over(&mut self, unreadable: UnreadableRange) -> Result<()> {
        if self.on_damage == OnDamage::Fail {
            return Err(unreadable.into_error("list"));
        }
        // The start may already be behind the range, if a common prefix was skipped.
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

    /// Converts scanned rows into entries and moves the start behind them. Returns `None` if no row
    /// can follow.
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
                None => Entry::Object(ObjectMeta::decode(&key, row)?),
            };
            self.entries.push(entry);
        }
        Ok(match within {
            Some(common) => self.skip(&common).then_some(Seek::Behind),
            None => Some(Seek::Next),
        })
    }

    /// Converts a common prefix into text.
    fn name(&self, common: &Bytes) -> Result<String> {
        // A common prefix is itself a valid encoded id: it is not empty, not longer than its key,
        // and ends behind a whole character.
        ObjectId::decode(common)
            .map(|id| id.key().to_owned())
            .map_err(|error| {
                let message = "the key of a row is not an object id";
                Error::new(ErrorKind::Corrupt, "list", message).with_source(error)
            })
    }

    fn into_page(mut self, limit: usize) -> ListPage {
        let has_next = self.entries.len() > limit;
        self.entries.truncate(limit);
        let last = self.entries.last().filter(|_| has_next);
        if let Some(last) = last {
            // Ranges behind the last entry are reported by the next page.
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

/// Position at which the scan continues.
enum Seek {
    /// The next row.
    Next,
    /// The first row behind a common prefix, which may have many keys.
    Behind,
}

#[cfg(test)]
mod tests;
