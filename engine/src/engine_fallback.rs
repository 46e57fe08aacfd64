//! [`EngineFallback`]: another store as the fallback of a store.
//!
//! Invariant: nothing is written to the other store. A read through it does not count as a read of
//! its time to idle, and its versions and etags are dropped here.

use std::collections::VecDeque;
use std::ops::Bound;

use cenotaph_storage::fallback::{
    Fallback, FallbackEntry, FallbackListRequest, FallbackMeta, FallbackObject, FallbackPage,
    KeyPosition, RemovableSource,
};
use cenotaph_storage::index::{Range, Table};
use cenotaph_storage::records::Metadata;
use cenotaph_storage::{
    ByteRange, Entry, ListRequest, Namespace, ObjectId, ObjectMeta, OnDamage, Result,
};
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::engine::Engine;

/// Objects of another engine in the same process, as a fallback.
///
/// The other engine may be [read-only](crate::Builder::read_only), or live: it then stays open for
/// as long as objects are adopted, and its own writes are visible until the new store has the
/// object. All namespaces, attributes, times and deadlines are taken over.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), cenotaph::Error> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let (old, new) = (directory.path().join("old"), directory.path().join("new"));
/// use cenotaph::{Engine, EngineFallback};
///
/// let old = Engine::builder(&old).open().await?;
/// old.put("a", "old").content_type("text/plain").await?;
/// let fallback = EngineFallback::new(old.clone(), "the store of 2024");
/// let engine = Engine::builder(&new).fallback(fallback).open().await?;
/// assert_eq!(engine.get("a").await?.unwrap().bytes().await?, "old");
/// engine.delete("a").await?;
/// assert!(engine.get("a").await?.is_none() && old.get("a").await?.is_some());
/// # engine.close().await?;
/// # old.close().await
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct EngineFallback {
    engine: Engine,
    description: String,
}

impl EngineFallback {
    /// Creates a fallback. The [description](Fallback::describe) identifies the other store; it
    /// must be the same at every opening.
    pub fn new(engine: Engine, description: impl Into<String>) -> Self {
        Self {
            engine,
            description: description.into(),
        }
    }
}

impl Fallback for EngineFallback {
    fn describe(&self) -> String {
        self.description.clone()
    }

    fn head<'a>(&'a self, id: &'a ObjectId) -> BoxFuture<'a, Result<Option<FallbackMeta>>> {
        async move {
            self.engine.check_open("head")?;
            let head = self.engine.reads().head(id).await?;
            Ok(head.map(|head| meta(head.metadata)))
        }
        .boxed()
    }

    fn open<'a>(
        &'a self,
        id: &'a ObjectId,
        range: ByteRange,
    ) -> BoxFuture<'a, Result<Option<FallbackObject>>> {
        async move {
            self.engine.check_open("get")?;
            // Not `open_object`: a missing blob is damage of the other store and never absence.
            let open = self.engine.reads().open(id, range).await?;
            Ok(open.map(|object| FallbackObject {
                meta: meta(object.head().metadata.clone()),
                range: object.range(),
                bytes: object.into_stream(),
            }))
        }
        .boxed()
    }

    fn list<'a>(&'a self, request: &'a FallbackListRequest) -> BoxFuture<'a, Result<FallbackPage>> {
        async move {
            self.engine.check_open("list")?;
            let limit = self.engine.config().reads.list_page_max.min(request.limit);
            let mut listing = EnginePage::new(self, request, limit.max(1));
            listing.run().await?;
            Ok(listing.page)
        }
        .boxed()
    }

    fn namespaces(&self) -> BoxFuture<'_, Result<Vec<Namespace>>> {
        async move {
            self.engine.check_open("list")?;
            let mut found: Vec<Namespace> = rows_namespaces(&self.engine).await?;
            if let Some(fallback) = self.engine.reads().fallback() {
                found.extend(fallback.namespaces().await?);
            }
            found.sort();
            found.dedup();
            Ok(found)
        }
        .boxed()
    }
}

impl RemovableSource for EngineFallback {
    fn remove<'a>(&'a self, id: &'a ObjectId) -> BoxFuture<'a, Result<()>> {
        async move { self.engine.delete(id).await.map(drop) }.boxed()
    }
}

/// Returns the namespaces that have rows, with one read of the index for each.
async fn rows_namespaces(engine: &Engine) -> Result<Vec<Namespace>> {
    let mut found = Vec::new();
    let mut range = Range::all(1);
    loop {
        let page = engine.index().snapshot()?.scan(Table::Rows, range).await?;
        let Some((key, _)) = page.first() else {
            return Ok(found);
        };
        let namespace = ObjectId::decode(key)?.namespace();
        // Behind all keys of the namespace: its prefix ends with the byte 0.
        let mut behind = namespace.encoded_prefix();
        if let Some(last) = behind.last_mut() {
            *last += 1;
        }
        found.push(namespace);
        range = Range {
            start: Bound::Included(behind.into()),
            ..Range::all(1)
        };
    }
}

/// Returns the head of an object without its version and etag.
fn meta(metadata: Metadata) -> FallbackMeta {
    FallbackMeta {
        size: metadata.size,
        checksum: metadata.checksum,
        created: Some(metadata.created),
        modified: Some(metadata.modified),
        expires_at: metadata.expires_at,
        attributes: metadata.attributes,
    }
}

/// A page that is being read.
struct EnginePage<'a> {
    engine: &'a Engine,
    request: ListRequest,
    behind: KeyPosition,
    page: FallbackPage,
    limit: usize,
}

impl<'a> EnginePage<'a> {
    fn new(fallback: &'a EngineFallback, request: &FallbackListRequest, limit: usize) -> Self {
        let start_after = match &request.position {
            KeyPosition::Start => None,
            KeyPosition::AfterKey(key) => Some(key.clone()),
            // Keys that begin with this text are passed over one by one; there are hardly any.
            KeyPosition::AfterPrefix(prefix) => Some(format!("{prefix}{}", char::MAX)),
        };
        Self {
            engine: &fallback.engine,
            request: ListRequest {
                namespace: request.namespace.clone(),
                prefix: request.prefix.clone(),
                delimiter: None,
                start_after,
                limit,
                on_damage: OnDamage::Fail,
            },
            behind: request.position.clone(),
            page: FallbackPage::default(),
            limit,
        }
    }

    async fn run(&mut self) -> Result<()> {
        loop {
            let page = self.engine.reads().list(self.request.clone()).await?;
            let mut heads: VecDeque<ObjectMeta> =
                page.entries.into_iter().filter_map(head).collect();
            while let Some(head) = heads.pop_front() {
                if !self.behind.admits(head.id.key()) {
                    continue;
                }
                self.page.entries.push(FallbackEntry {
                    key: head.id.key().to_owned(),
                    meta: Some(meta(head.metadata)),
                });
                if self.page.entries.len() == self.limit {
                    self.page.is_complete = heads.is_empty() && page.next.is_none();
                    return Ok(());
                }
            }
            match page.next {
                Some(next) => self.request.start_after = Some(next),
                None => {
                    self.page.is_complete = true;
                    return Ok(());
                }
            }
        }
    }
}

fn head(entry: Entry) -> Option<ObjectMeta> {
    match entry {
        Entry::Object(head) => Some(head),
        Entry::Prefix(_) => None,
    }
}
