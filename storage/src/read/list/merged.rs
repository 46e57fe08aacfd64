//! A page of the objects of this store and of its fallback, in the order of their names.
//!
//! ```text
//! 1 ours: a page, and its snapshot
//! 2 drop keys of the fallback that the snapshot has a row or a last version of
//! 3 merge both up to the last key that the fallback was asked for; equal names: ours
//!     enough entries, or the fallback is exhausted     done
//!     otherwise                                        fetch more keys of the fallback, then 1
//! ```
//!
//! Guards "no object is missing while it is moved": all keys of the fallback are fetched before the
//! snapshot is taken. An object that was moved and removed from the source before the fetch is in
//! the snapshot.
//!
//! The cost is in proportion to the page: the fallback is asked for no key behind the last entry of
//! a full page of ours, and a group of keys costs a single key of each.

use super::{Entry, ListRequest, OnDamage, PageState, Reads};
use crate::fallback::{
    AttachedFallback, FallbackEntry, FallbackListRequest, FallbackMeta, KeyPosition,
};
use crate::index::{Snapshot, Table};
use crate::read::ObjectMeta;
use crate::records::last_version_key;
use crate::types::{ErrorKind, ObjectId, Result};
use futures::stream::{self, StreamExt, TryStreamExt};

/// Most keys that are fetched at once.
const KEYS_MAX: usize = 1000;
/// Keys that are fetched at once if they are grouped: most of them fall into the same group.
const KEYS_OF_GROUPS: usize = 16;
/// Concurrent requests for heads that a listing of the fallback does not contain.
const HEADS_AT_ONCE: usize = 16;

/// Reads a page. Returns `None` if no key can match.
pub(super) async fn page(
    reads: &Reads,
    request: &ListRequest,
    fallback: &AttachedFallback,
) -> Result<Option<PageState>> {
    let mut foreign = ForeignKeys::new(request, fallback);
    loop {
        let Some((mut ours, snapshot)) = reads.page_of_ours(request).await? else {
            return Ok(None);
        };
        foreign.drop_masked(&*snapshot, &ours.entries).await?;
        if !fallback.is_open() {
            // Masks may have been dropped before the snapshot was taken, and a seal means that
            // everything is in ours. The snapshot may be older than the last move.
            let sealed = reads.page_of_ours(request).await?;
            return Ok(sealed.map(|(page, _)| page));
        }
        if let Some(entries) = foreign.merged(&ours.entries) {
            ours.entries = entries;
            return Ok(Some(ours));
        }
        // A snapshot is not held while the fallback answers.
        drop(snapshot);
        foreign.fetch(reads, &ours).await?;
    }
}

/// Keys of the fallback that were fetched for a page.
struct ForeignKeys<'a> {
    request: &'a ListRequest,
    fallback: &'a AttachedFallback,
    /// Entries in the order of their names.
    entries: Vec<ForeignEntry>,
    /// Position behind the keys that were fetched.
    position: KeyPosition,
    /// True if no key follows.
    is_complete: bool,
}

/// Entry of the fallback.
#[derive(Clone)]
struct ForeignEntry {
    entry: Entry,
    /// The object of the entry, or an object of the group.
    id: ObjectId,
}

impl<'a> ForeignKeys<'a> {
    fn new(request: &'a ListRequest, fallback: &'a AttachedFallback) -> Self {
        let position = match &request.start_after {
            Some(name) if name.as_str() >= request.prefix.as_str() => match group(request, name) {
                Some(group) => KeyPosition::AfterPrefix(group),
                None => KeyPosition::AfterKey(name.clone()),
            },
            Some(_) | None => KeyPosition::Start,
        };
        Self {
            request,
            fallback,
            entries: Vec::new(),
            position,
            is_complete: false,
        }
    }

    /// Number of entries to find: the limit of the page plus 1, to find out if there are more.
    fn wanted(&self) -> usize {
        self.request.limit.saturating_add(1)
    }

    /// Drops entries whose object is this store's own. If a group loses the object that it was
    /// found by, and ours does not list it, the keys behind that object are fetched again.
    async fn drop_masked(&mut self, snapshot: &dyn Snapshot, ours: &[Entry]) -> Result<()> {
        let ids: Vec<ObjectId> = self.entries.iter().map(|entry| entry.id.clone()).collect();
        let are_new = are_new(snapshot, &ids, self.request.on_damage).await?;
        let mut kept = Vec::with_capacity(self.entries.len());
        for (foreign, is_new) in std::mem::take(&mut self.entries).into_iter().zip(are_new) {
            match &foreign.entry {
                Entry::Object(_) if !is_new => {}
                // Kept, although its object is ours: other keys of the group were passed over.
                Entry::Prefix(group) if !is_new && !lists(ours, group) => {
                    self.position = KeyPosition::AfterKey(foreign.id.key().to_owned());
                    self.is_complete = false;
                    break;
                }
                Entry::Object(_) | Entry::Prefix(_) => kept.push(foreign),
            }
        }
        self.entries = kept;
        Ok(())
    }

    /// Merges the entries with those of ours, or returns `None` if more keys are needed.
    fn merged(&self, ours: &[Entry]) -> Option<Vec<Entry>> {
        let is_covered = |entry: &&Entry| self.is_complete || !self.position.admits(entry.name());
        let mut ours = ours.iter().filter(is_covered).peekable();
        let mut foreign = self.entries.iter().map(|foreign| &foreign.entry).peekable();
        let mut merged = Vec::new();
        while merged.len() < self.wanted() {
            let next = match (ours.peek(), foreign.peek()) {
                (Some(own), Some(other)) if other.name() < own.name() => foreign.next(),
                (Some(own), Some(other)) => {
                    if own.name() == other.name() {
                        foreign.next();
                    }
                    ours.next()
                }
                (Some(_), None) => ours.next(),
                (None, _) => foreign.next(),
            };
            match next {
                Some(entry) => merged.push(entry.clone()),
                None if self.is_complete => break,
                None => return None,
            }
        }
        Some(merged)
    }

    /// Fetches keys until there are enough for the page, there are no more, or all keys up to the
    /// end of a full page of ours are fetched.
    async fn fetch(&mut self, reads: &Reads, ours: &PageState) -> Result<()> {
        let is_full = ours.entries.len() == ours.wanted;
        let end = ours.entries.last().filter(|_| is_full).map(Entry::name);
        loop {
            let limit = match self.request.delimiter {
                Some(_) => KEYS_OF_GROUPS,
                None => self.wanted().min(KEYS_MAX),
            };
            let page = self
                .fallback
                .list(&FallbackListRequest {
                    namespace: self.request.namespace.clone(),
                    prefix: self.request.prefix.clone(),
                    position: self.position.clone(),
                    limit,
                })
                .await?;
            self.is_complete = page.is_complete;
            let last = page.entries.last().map(|entry| entry.key.clone());
            let found = self.unknown_to(reads, &ours.entries, page.entries).await?;
            self.add(reads, found).await?;
            if let Some(last) = last {
                // The other keys of a group that is listed already are passed over.
                self.position = match group(self.request, &last) {
                    Some(group) if self.has_group(&group) => KeyPosition::AfterPrefix(group),
                    Some(_) | None => KeyPosition::AfterKey(last),
                };
            }
            let has_reached = |end: &str| !self.position.admits(end);
            if self.is_complete
                || self.entries.len() >= self.wanted()
                || end.is_some_and(has_reached)
            {
                return Ok(());
            }
        }
    }

    fn has_group(&self, group: &str) -> bool {
        let last = self.entries.last().map(|foreign| &foreign.entry);
        matches!(last, Some(Entry::Prefix(listed)) if listed == group)
    }

    /// Returns the entries of a page that this store never had, and those of groups that ours
    /// lists: the first of such a group passes over the others.
    async fn unknown_to(
        &self,
        reads: &Reads,
        ours: &[Entry],
        entries: Vec<FallbackEntry>,
    ) -> Result<Vec<(ObjectId, FallbackEntry)>> {
        let id = |entry: &FallbackEntry| ObjectId::new(&self.request.namespace, &entry.key);
        let ids: Vec<ObjectId> = entries.iter().map(id).collect::<Result<_>>()?;
        let snapshot = reads.index().snapshot()?;
        let are_new = are_new(&*snapshot, &ids, self.request.on_damage).await?;
        let entries = ids.into_iter().zip(entries).zip(are_new);
        let is_listed =
            |key: &str| group(self.request, key).is_some_and(|group| lists(ours, &group));
        let unknown = entries.filter_map(|((id, entry), is_new)| {
            // The head of a listed group is not needed.
            let meta = match is_listed(&entry.key) {
                true => Some(FallbackMeta::default()),
                false if is_new => entry.meta,
                false => return None,
            };
            Some((id, FallbackEntry { meta, ..entry }))
        });
        Ok(unknown.collect())
    }

    /// Adds the entries of objects that exist.
    async fn add(&mut self, reads: &Reads, found: Vec<(ObjectId, FallbackEntry)>) -> Result<()> {
        let fallback = self.fallback;
        let heads = found.into_iter().map(|(id, entry)| async move {
            let meta = match entry.meta {
                Some(meta) => Some(meta),
                // A key without an object was removed. If it was moved, the snapshot has it.
                None => fallback.head(&id).await?,
            };
            Ok::<_, crate::types::Error>(meta.map(|meta| (id, meta)))
        });
        let mut heads = stream::iter(heads).buffered(HEADS_AT_ONCE);
        while let Some(head) = heads.try_next().await? {
            let Some((id, meta)) = head.filter(|(_, meta)| meta.is_live(reads.now())) else {
                continue;
            };
            let entry = match group(self.request, id.key()) {
                Some(group) if self.has_group(&group) => continue,
                Some(group) => Entry::Prefix(group),
                None => Entry::Object(ObjectMeta::of_fallback(id.clone(), meta)),
            };
            self.entries.push(ForeignEntry { entry, id });
        }
        Ok(())
    }
}

/// Returns whether the entries, which are in order, contain this name.
fn lists(entries: &[Entry], name: &str) -> bool {
    entries
        .binary_search_by(|entry| entry.name().cmp(name))
        .is_ok()
}

/// Returns the common prefix that a key or name belongs to, if it has a delimiter behind the prefix
/// of the request.
fn group(request: &ListRequest, name: &str) -> Option<String> {
    let behind = name.strip_prefix(&request.prefix)?;
    let delimiter = request.delimiter?;
    let at = behind.find(delimiter)?;
    Some(name[..request.prefix.len() + at + delimiter.len_utf8()].to_owned())
}

/// Returns for each object whether the snapshot has neither a row nor a last version of it. If a
/// damaged entry is stepped over, its object counts as this store's own.
async fn are_new(
    snapshot: &dyn Snapshot,
    ids: &[ObjectId],
    on_damage: OnDamage,
) -> Result<Vec<bool>> {
    let keys = ids.iter().flat_map(|id| {
        [
            (Table::Rows, id.encoded().clone()),
            (Table::Meta, last_version_key(id)),
        ]
    });
    let (rows, last_versions): (Vec<_>, Vec<_>) =
        keys.partition(|(table, _)| *table == Table::Rows);
    let mut are_new = vec![true; ids.len()];
    for (table, keys) in [(Table::Rows, rows), (Table::Meta, last_versions)] {
        let keys: Vec<_> = keys.into_iter().map(|(_, key)| key).collect();
        match snapshot.get_many(table, keys.clone()).await {
            Ok(values) => {
                for (is_new, value) in are_new.iter_mut().zip(values) {
                    *is_new &= value.is_none();
                }
            }
            Err(error) if error.kind() == ErrorKind::Corrupt && on_damage == OnDamage::StepOver => {
                for (is_new, key) in are_new.iter_mut().zip(&keys) {
                    *is_new &= matches!(snapshot.get(table, key).await, Ok(None));
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(are_new)
}

#[cfg(test)]
mod tests;
