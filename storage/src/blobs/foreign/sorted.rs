//! Pages of a service that lists behind a key, in the order of the bytes of its keys.
//!
//! The order is the service's promise. It is checked: an entry that is not behind the one before it
//! fails the page, so that no object is ever passed over.

use futures::{Stream, StreamExt, TryStreamExt};
use opendal::Operator;

use super::path::{self, is_addressable};
use super::reading::{failed, meta};
use crate::fallback::{FallbackEntry, FallbackListRequest, FallbackPage, KeyPosition, SKIPPED_MAX};
use crate::types::{Error, ErrorKind, KEY_BYTES_MAX, Result};

/// Entry of a service's listing: its path, and its metadata unless it is a directory.
type ListedEntry = (String, Option<opendal::Metadata>);

/// Returns a page.
pub(super) async fn page(
    operator: &Operator,
    request: &FallbackListRequest,
) -> Result<FallbackPage> {
    let Some(directory) = path::directory(&request.prefix) else {
        return Ok(complete());
    };
    // OpenDAL trims the prefix, so that one with white space at its end lists the directory.
    let is_plain = is_addressable(&request.prefix);
    let prefix = if is_plain { &request.prefix } else { directory };
    let mut lister = operator.lister_with(prefix).recursive(true);
    if let Some(after) = start_after(&request.position) {
        lister = lister.start_after(&after);
    }
    let entries = lister.await.map_err(|error| failed("list", error))?;
    let entries = entries
        .map_ok(|entry| {
            let (path, metadata) = entry.into_parts();
            let is_file = !metadata.is_dir() && !path.ends_with('/');
            (path, is_file.then_some(metadata))
        })
        .map_err(|error| failed("list", error));
    take(request, entries).await
}

/// Returns the key behind which the service lists. It may be in front of the position.
fn start_after(position: &KeyPosition) -> Option<String> {
    let key = match position {
        KeyPosition::Start => return None,
        KeyPosition::AfterKey(key) => key.clone(),
        KeyPosition::AfterPrefix(prefix) => format!("{prefix}{}", char::MAX),
    };
    // OpenDAL accepts no such path. The position is then behind the first keys of the listing.
    (!key.starts_with('/')).then_some(key)
}

/// Takes a page from the entries of a listing.
async fn take(
    request: &FallbackListRequest,
    entries: impl Stream<Item = Result<ListedEntry>>,
) -> Result<FallbackPage> {
    let mut entries = std::pin::pin!(entries);
    let mut page = complete();
    let mut last: Option<String> = None;
    while let Some((path, metadata)) = entries.next().await.transpose()? {
        let Some(metadata) = metadata else {
            continue;
        };
        if let Some(last) = last.filter(|last| path <= *last) {
            let message = format!(
                "the fallback does not list in the order of its keys: entry={path:?} before={last:?}"
            );
            return Err(Error::new(ErrorKind::Invalid, "list", message));
        }
        last = Some(path.clone());
        if !path.starts_with(&request.prefix) {
            if path.as_str() > request.prefix.as_str() {
                break;
            }
            continue;
        }
        if !request.position.admits(&path) {
            continue;
        }
        if page.entries.len() == request.limit.max(1) {
            page.is_complete = false;
            break;
        }
        if path.len() > KEY_BYTES_MAX || !is_addressable(&path) {
            skip(&mut page, path);
            continue;
        }
        page.entries.push(FallbackEntry {
            key: path,
            meta: metadata.is_file().then(|| meta(&metadata)),
        });
    }
    Ok(page)
}

fn complete() -> FallbackPage {
    FallbackPage {
        is_complete: true,
        ..FallbackPage::default()
    }
}

/// Notes a name that can't be an object.
pub(super) fn skip(page: &mut FallbackPage, name: String) {
    tracing::warn!(name, "a name in the fallback can't be an object");
    if page.skipped.len() < SKIPPED_MAX {
        page.skipped.push(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blobs::foreign::tests::block_on;
    use crate::types::Namespace;
    use futures::stream;

    fn request(prefix: &str, position: KeyPosition, limit: usize) -> FallbackListRequest {
        FallbackListRequest {
            namespace: Namespace::default_namespace(),
            prefix: prefix.into(),
            position,
            limit,
        }
    }

    fn taken(request: &FallbackListRequest, paths: &[&str]) -> Result<(Vec<String>, bool)> {
        let file = |path: &&str| {
            let metadata = opendal::MetadataBuilder::file(3).build();
            Ok((path.to_string(), (!path.ends_with('/')).then_some(metadata)))
        };
        let page = block_on(take(request, stream::iter(paths.iter().map(file))))?;
        let keys = page.entries.into_iter().map(|entry| entry.key).collect();
        Ok((keys, page.is_complete))
    }

    #[test]
    fn listing_out_of_order_fails_and_names_the_entry() {
        let all = request("", KeyPosition::Start, 10);
        for paths in [["b", "a"], ["a", "a"], ["a/b", "a.b"]] {
            let error = taken(&all, &paths).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(paths[1]), "{error}");
        }
        let directory_first = ["a.b", "a/", "a/b"];
        assert_eq!(taken(&all, &directory_first).unwrap().0, ["a.b", "a/b"]);
    }

    #[test]
    fn page_of_a_sorted_listing_ends_at_its_limit_and_its_prefix() {
        let paths = ["a/1", "a/2", "a/3", "b"];
        let page = |prefix, position, limit| {
            let (keys, is_complete) = taken(&request(prefix, position, limit), &paths).unwrap();
            (keys.join(" "), is_complete)
        };
        let start = || KeyPosition::Start;
        assert_eq!(page("", start(), 2), ("a/1 a/2".into(), false));
        assert_eq!(page("", start(), 4), ("a/1 a/2 a/3 b".into(), true));
        assert_eq!(page("a/", start(), 3), ("a/1 a/2 a/3".into(), true));
        let after = KeyPosition::AfterKey("a/1".into());
        assert_eq!(page("a/", after, 1), ("a/2".into(), false));
        let behind = KeyPosition::AfterPrefix("a/".into());
        assert_eq!(page("", behind, 1), ("b".into(), true));
    }

    #[test]
    fn error_within_a_listing_is_never_its_end() {
        let broken = Error::new(ErrorKind::Unavailable, "list", "broken");
        let metadata = opendal::MetadataBuilder::file(3).build();
        let entries = stream::iter([Ok(("a".to_owned(), Some(metadata))), Err(broken)]);
        let error = block_on(take(&request("", KeyPosition::Start, 5), entries)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn position_becomes_a_key_that_the_service_accepts() {
        let after = |key: &str| start_after(&KeyPosition::AfterKey(key.into()));
        assert_eq!(after("a/b").as_deref(), Some("a/b"));
        assert_eq!(after("/a"), None);
        let behind = start_after(&KeyPosition::AfterPrefix("a/".into())).unwrap();
        assert!(behind.as_str() > "a/zzz" && behind.as_str() < "a0");
    }
}
