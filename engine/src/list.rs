//! [`List`]: how the objects of a namespace are listed.

use std::future::IntoFuture;

use cenotaph_storage::{Entry, ListPage, ListRequest, Namespace, OnDamage, Result};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};

use crate::engine::Engine;
use crate::observe::{observed, operation_span};

impl Engine {
    /// Lists the objects whose keys begin with `prefix`, in the order of their keys' bytes.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) if the limit is out of bounds;
    /// [`Corrupt`](ErrorKind::Corrupt) if rows can't be read and are not to be [stepped
    /// over](List::step_over_damage); otherwise as [`head`](Self::head).
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
    /// assert!(matches!(&page.entries[..], [Entry::Prefix(a), Entry::Object(b)] if a == "a/" && b.id.key() == "b"));
    /// let page = engine.list("").delimiter('/').start_after(page.next.unwrap()).await?;
    /// assert!(matches!(&page.entries[..], [Entry::Prefix(c)] if c == "c/"));
    /// # engine.close().await
    /// # }
    /// ```
    pub fn list(&self, prefix: impl Into<String>) -> List {
        List::new(self.clone(), prefix.into())
    }
}

/// A listing in preparation: `.await` it for one page, or [`stream`](Self::stream) all of it. See
/// [`Engine::list`].
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
            limit: engine.config().reads.list_page_max.min(1000),
            on_damage: OnDamage::Fail,
        };
        Self { engine, request }
    }

    /// Another namespace than the default one.
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        self.request.namespace = namespace;
        self
    }

    /// Groups the keys that share what lies between the prefix and the next delimiter into one
    /// [`Entry::Prefix`], as a file manager shows a folder. A page costs what it returns, however
    /// many keys a group has.
    pub fn delimiter(mut self, delimiter: char) -> Self {
        self.request.delimiter = Some(delimiter);
        self
    }

    /// Begins behind this key or prefix: the `next` of an earlier page.
    pub fn start_after(mut self, key: impl Into<String>) -> Self {
        self.request.start_after = Some(key.into());
        self
    }

    /// Most entries on a page: 1 to the configured `list_page_max`; 1000 unless told.
    pub fn limit(mut self, limit: usize) -> Self {
        self.request.limit = limit;
        self
    }

    /// Goes on behind rows that can't be read because a file of the index is damaged. The page then
    /// names them in [`unreadable`](ListPage::unreadable), and lacks their objects. A listing fails
    /// there unless told.
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
    pub fn step_over_damage(mut self) -> Self {
        self.request.on_damage = OnDamage::StepOver;
        self
    }

    /// All entries, page by page. Each page is consistent in itself; what is written between two
    /// pages may be seen or not, and each is an operation of its own where the namespace has
    /// limits.
    ///
    /// # Errors
    /// As [`Engine::list`]. A range of rows that can't be read is an item of kind
    /// [`Corrupt`](crate::ErrorKind::Corrupt) that names the range, behind the entries of its page;
    /// the stream goes on after it. Every other error ends the stream.
    pub fn stream(self) -> BoxStream<'static, Result<Entry>> {
        let pages = futures::stream::try_unfold(Some(self.step_over_damage()), |list| async move {
            let Some(list) = list else { return Ok(None) };
            let page = list.clone().await?;
            let rest = page.next.map(|next| list.start_after(next));
            let unreadable = page
                .unreadable
                .into_iter()
                .map(|range| Err(range.into_error("list")));
            Ok(Some((
                futures::stream::iter(page.entries.into_iter().map(Ok).chain(unreadable)),
                rest,
            )))
        });
        pages.try_flatten().boxed()
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
