//! Pages of a service without sorted listings: a walk over its directories, in the order of keys.
//!
//! ```text
//! directory      files b, a.c; directories a, d
//! order          a.c   a/..   b   d/..              a directory is ordered as its name and a slash
//! memory         the K smallest names behind the cursor; the next K are found by another pass
//! ```
//!
//! Every key of a directory begins with its name and a slash, which no other entry beside it begins
//! with. So the order of the entries, with that slash, is the order of all keys below them. A page
//! begins at the root and enters only directories that may have keys at or behind its position.
//!
//! Invariant: an error ends the page with that error. A directory that can't be listed is never an
//! empty one.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};

use super::OperatorFallback;
use super::path::{self, is_addressable};
use super::reading::{failed, meta};
use super::sorted::skip;
use crate::fallback::{
    FallbackEntry, FallbackListRequest, FallbackMeta, FallbackPage, KeyPosition,
};
use crate::types::{KEY_BYTES_MAX, Result};

/// Least number of names that a pass over a directory keeps, in addition to those of the page.
/// Empty directories and other names without keys of the page cost a pass per this number.
const NAMES_MIN: usize = if cfg!(test) { 2 } else { 1000 };

/// Returns a page.
pub(super) async fn page(
    fallback: &OperatorFallback,
    request: &FallbackListRequest,
) -> Result<FallbackPage> {
    let limit = request.limit.max(1);
    let mut walk = PageWalk {
        fallback,
        request,
        wanted: limit.saturating_add(1),
        page: FallbackPage::default(),
    };
    if let Some(directory) = path::directory(&request.prefix) {
        walk.directory(directory.to_owned()).await?;
    }
    let mut page = walk.page;
    page.is_complete = page.entries.len() <= limit;
    page.entries.truncate(limit);
    Ok(page)
}

/// A walk that collects a page.
struct PageWalk<'a> {
    fallback: &'a OperatorFallback,
    request: &'a FallbackListRequest,
    /// Number of entries to find: the limit of the page plus 1, to find out if there are more.
    wanted: usize,
    page: FallbackPage,
}

/// Entry of a directory, as its listing describes it.
enum EntryKind {
    Directory,
    File(Box<FallbackMeta>),
    /// The listing does not contain the kind, or the name may be another one's.
    Unknown,
}

impl PageWalk<'_> {
    /// Walks a directory, given as its path with a slash at the end; the root is empty.
    fn directory(&mut self, directory: String) -> BoxFuture<'_, Result<()>> {
        async move {
            let mut cursor: Option<String> = None;
            loop {
                let (names, has_more) = self.smallest(&directory, cursor.as_deref()).await?;
                cursor = names.last_key_value().map(|(path, _)| path.clone());
                for (path, kind) in names {
                    match kind {
                        EntryKind::Directory => self.directory(path).await?,
                        EntryKind::File(meta) => self.push(path, Some(*meta)),
                        EntryKind::Unknown => self.look_up(path).await?,
                    }
                    if self.page.entries.len() >= self.wanted {
                        return Ok(());
                    }
                }
                if !has_more {
                    return Ok(());
                }
            }
        }
        .boxed()
    }

    /// Returns the smallest paths in a directory behind the cursor that may have keys of the page,
    /// and whether there are more.
    async fn smallest(
        &self,
        directory: &str,
        cursor: Option<&str>,
    ) -> Result<(BTreeMap<String, EntryKind>, bool)> {
        let kept = self.wanted.max(NAMES_MIN);
        let root = if directory.is_empty() { "/" } else { directory };
        let listed = self.fallback.operator.lister(root).await;
        let mut entries = listed.map_err(|error| failed("list", error))?;
        let mut names = BTreeMap::new();
        let mut has_more = false;
        while let Some(entry) = entries
            .try_next()
            .await
            .map_err(|error| failed("list", error))?
        {
            let (path, metadata) = entry.into_parts();
            // The listing of a directory contains the directory.
            if path == root || !path.starts_with(directory) {
                continue;
            }
            if cursor.is_some_and(|cursor| path.as_str() <= cursor) || !self.may_have(&path) {
                continue;
            }
            let kind = match metadata.mode() {
                opendal::EntryMode::DIR if path.ends_with('/') => EntryKind::Directory,
                // A name that is not UTF-8 is listed with replacement characters.
                opendal::EntryMode::FILE if !path.contains(char::REPLACEMENT_CHARACTER) => {
                    EntryKind::File(Box::new(meta(&metadata)))
                }
                // A directory without a slash is a link to a directory.
                opendal::EntryMode::DIR
                | opendal::EntryMode::FILE
                | opendal::EntryMode::Unknown => EntryKind::Unknown,
            };
            names.insert(path, kind);
            if names.len() > kept {
                names.pop_last();
                has_more = true;
            }
        }
        Ok((names, has_more))
    }

    /// Returns whether the page may contain this path, or a key below it if it is a directory.
    fn may_have(&self, path: &str) -> bool {
        let FallbackListRequest {
            prefix, position, ..
        } = self.request;
        if !path.ends_with('/') {
            return path.starts_with(prefix.as_str()) && position.admits(path);
        }
        let is_within = path.starts_with(prefix.as_str()) || prefix.starts_with(path);
        is_within
            && match position {
                KeyPosition::Start => true,
                KeyPosition::AfterKey(key) => path > key.as_str() || key.starts_with(path),
                KeyPosition::AfterPrefix(prefix) => {
                    !path.starts_with(prefix.as_str())
                        && (path > prefix.as_str() || prefix.starts_with(path))
                }
            }
    }

    /// Adds a file to the page.
    fn push(&mut self, path: String, meta: Option<FallbackMeta>) {
        if path.len() > KEY_BYTES_MAX || !is_addressable(&path) {
            return skip(&mut self.page, path);
        }
        self.page.entries.push(FallbackEntry { key: path, meta });
    }

    /// Adds a path of unknown kind to the page if it is a file.
    async fn look_up(&mut self, path: String) -> Result<()> {
        match self.fallback.stat(&path).await? {
            Some(meta) => self.push(path, Some(meta)),
            // A link to a directory, something else that is not a file, or a name that is not
            // UTF-8. A file that was removed in the meantime is noted, too, and harms nothing.
            None => skip(&mut self.page, path),
        }
        Ok(())
    }
}
