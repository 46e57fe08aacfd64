//! Pages of listings: their default length, and the stream that reads them one after another.

use cenotaph_storage::Result;
use cenotaph_storage::index::UnreadableRange;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};

use crate::engine::Engine;

/// Default number of entries of a page.
const ENTRIES: usize = 1000;

/// A page of a listing `L`.
pub(crate) struct ListedPage<T, L> {
    pub(crate) entries: Vec<T>,
    pub(crate) unreadable: Vec<UnreadableRange>,
    /// Listing of the next page, if there is any.
    pub(crate) rest: Option<L>,
}

/// Returns the default number of entries of a page.
pub(crate) fn default_limit(engine: &Engine) -> usize {
    // The configuration may allow less than the default, and a larger limit is refused.
    engine.config().reads.list_page_max.min(ENTRIES)
}

/// Returns all entries of a listing as a stream that reads page by page. An unreadable range is an
/// error after the entries of its page, and the stream continues after it.
///
/// `list` must step over damage: unreadable ranges become items of the stream, so its pages must
/// not fail at them.
pub(crate) fn stream_pages<T, L, F>(
    list: L,
    read: impl Fn(L) -> F + Send + 'static,
) -> BoxStream<'static, Result<T>>
where
    T: Send + 'static,
    L: Send + 'static,
    F: Future<Output = Result<ListedPage<T, L>>> + Send + 'static,
{
    let pages = futures::stream::try_unfold(Some(list), move |list| {
        let page = list.map(&read);
        async move {
            let Some(page) = page else { return Ok(None) };
            let page = page.await?;
            let unreadable = page.unreadable.into_iter();
            let unreadable = unreadable.map(|range| Err(range.into_error("list")));
            let entries = page.entries.into_iter().map(Ok).chain(unreadable);
            Ok(Some((futures::stream::iter(entries), page.rest)))
        }
    });
    pages.try_flatten().boxed()
}
