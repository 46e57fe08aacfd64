//! [`Engine::list`] and its builder [`List`].

use std::future::IntoFuture;

use cenotaph_storage::{Entry, ListPage, ListRequest, Namespace, OnDamage, Result};
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::engine::Engine;
use crate::observe::{observed, operation_span};
use crate::ops::pages::{ListedPage, default_limit, stream_pages};
use crate::ops::setters::page_setters;

impl Engine {
    /// Lists the objects whose keys begin with `prefix`, in the byte order of their keys.
    ///
    /// # Errors
    /// - [`Invalid`](crate::ErrorKind::Invalid): the limit is out of bounds.
    /// - [`Corrupt`](crate::ErrorKind::Corrupt): some rows can't be read, and the listing does not
    ///   [skip them](List::step_over_damage).
    /// - Otherwise as [`head`](Self::head).
    ///
    /// ```
    /// use cenotaph::Entry;
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
    /// for key in ["a/1", "a/2", "b", "c/1"] {
    ///     engine.put(key, key).await?;
    /// }
    /// let page = engine.list("").delimiter('/').limit(2).await?;
    /// let names: Vec<_> = page.entries.iter().map(|entry| entry.name()).collect();
    /// assert_eq!(names, ["a/", "b"]);
    /// assert!(matches!(&page.entries[..], [Entry::Prefix(_), Entry::Object(_)]));
    /// let page = engine.list("").delimiter('/').start_after(page.next.unwrap()).await?;
    /// assert!(matches!(&page.entries[..], [Entry::Prefix(c)] if c == "c/"));
    /// # engine.close().await
    /// # }
    /// ```
    pub fn list(&self, prefix: impl Into<String>) -> List {
        List::new(self.clone(), prefix.into())
    }
}

/// Builder of a listing. `.await` it for a single page, or [`stream`](Self::stream) all entries.
/// See [`Engine::list`].
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), cenotaph::Error> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
/// use futures::TryStreamExt;
///
/// for number in 0..25 {
///     engine.put(format!("n/{number:02}"), "x").await?;
/// }
/// let entries: Vec<_> = engine.list("n/").limit(10).stream().try_collect().await?;
/// assert_eq!((entries.len(), entries[24].name()), (25, "n/24"));
/// # engine.close().await
/// # }
/// ```
///
/// A listing of a damaged index names the ranges that it can't read:
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), cenotaph::Error> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
/// engine.put("a", "b").await?;
/// let page = engine.list("").step_over_damage().await?;
/// assert_eq!((page.entries.len(), page.unreadable.len()), (1, 0));
/// for range in &page.unreadable {
///     eprintln!("objects may be missing: {range}");
/// }
/// # engine.close().await
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a listing does nothing until it is awaited or streamed"]
pub struct List {
    engine: Engine,
    request: ListRequest,
}

impl List {
    pub(crate) fn new(engine: Engine, prefix: String) -> Self {
        let request = ListRequest {
            namespace: Namespace::default_namespace(),
            prefix,
            delimiter: None,
            start_after: None,
            limit: default_limit(&engine),
            on_damage: OnDamage::Fail,
        };
        Self { engine, request }
    }

    /// Lists `namespace` instead of the default namespace.
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        self.request.namespace = namespace;
        self
    }

    /// Groups keys into [`Entry::Prefix`] entries, as a file manager shows folders: all keys with
    /// the same text between `prefix` and the next delimiter form a group.
    ///
    /// The cost of a page is proportional to its entries, however many keys a group has.
    pub fn delimiter(mut self, delimiter: char) -> Self {
        self.request.delimiter = Some(delimiter);
        self
    }

    /// Begins after this key or prefix, which is the `next` of an earlier page.
    pub fn start_after(mut self, key: impl Into<String>) -> Self {
        self.request.start_after = Some(key.into());
        self
    }

    page_setters!();

    /// Returns all entries as a stream that reads page by page.
    ///
    /// Each page is a consistent view. Objects that are written between two pages may be seen or
    /// not. Each page counts as an operation where the namespace has limits.
    ///
    /// # Errors
    /// As [`Engine::list`]. A range of rows that can't be read is an item of kind
    /// [`Corrupt`](crate::ErrorKind::Corrupt), which names the range and follows the entries of its
    /// page; the stream continues after it. Every other error ends the stream.
    pub fn stream(self) -> BoxStream<'static, Result<Entry>> {
        stream_pages(self.step_over_damage(), |list| async move {
            let page = list.clone().await?;
            Ok(ListedPage {
                entries: page.entries,
                unreadable: page.unreadable,
                rest: page.next.map(|next| list.start_after(next)),
            })
        })
    }
}

impl IntoFuture for List {
    type Output = Result<ListPage>;
    type IntoFuture = BoxFuture<'static, Result<ListPage>>;

    fn into_future(self) -> Self::IntoFuture {
        let span = operation_span!("list", prefix = self.request.prefix);
        let engine = self.engine.clone();
        observed(engine, "list", span, async move {
            self.engine.check_open("list")?;
            let _permit = self
                .engine
                .namespaces()
                .begin(&self.request.namespace, "list")?;
            self.engine.reads().list(self.request).await
        })
    }
}
