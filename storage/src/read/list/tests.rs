//! Tests of listings, most of them against a naive model.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::read::ReadLimits;
use crate::read::fixture::{Store, inline};

fn request(
    prefix: &str,
    delimiter: Option<char>,
    start_after: Option<&str>,
    limit: usize,
) -> ListRequest {
    ListRequest {
        namespace: Namespace::default_namespace(),
        prefix: prefix.to_owned(),
        delimiter,
        start_after: start_after.map(str::to_owned),
        limit,
        on_damage: OnDamage::Fail,
    }
}

/// Creates a store with these keys. Must be called within a runtime.
fn store<'a>(keys: impl IntoIterator<Item = &'a str>) -> Store {
    let store = Store::new(ReadLimits {
        list_page_max: 1000,
        ..ReadLimits::default()
    });
    keys.into_iter()
        .for_each(|key| put(&store, &Namespace::default_namespace(), key));
    store
}

fn put(store: &Store, namespace: &Namespace, key: &str) {
    store.apply(
        &ObjectId::new(namespace, key).unwrap(),
        inline(key.to_owned()),
    );
}

async fn names(store: &Store, request: ListRequest) -> Vec<String> {
    let page = store.reads.list(request).await.unwrap();
    page.entries
        .iter()
        .map(|entry| entry.name().to_owned())
        .collect()
}

/// Returns the names of all entries, and true for common prefixes. The naive model: groups each key
/// by itself, then filters.
fn model(
    keys: &BTreeSet<String>,
    prefix: &str,
    delimiter: Option<char>,
    start_after: Option<&str>,
) -> Vec<(String, bool)> {
    let grouped = keys.iter().filter_map(|key| {
        let rest = key.strip_prefix(prefix)?;
        let group = delimiter.and_then(|delimiter| {
            rest.split_once(delimiter)
                .map(|(first, _)| format!("{prefix}{first}{delimiter}"))
        });
        Some(group.map_or_else(|| (key.clone(), false), |group| (group, true)))
    });
    let entries: BTreeSet<_> = grouped.collect();
    entries
        .into_iter()
        .filter(|(name, _)| start_after.is_none_or(|after| name.as_str() > after))
        .collect()
}

/// Reads all pages, with the limits in turn.
async fn walk(store: &Store, first: ListRequest, limits: &[usize]) -> Vec<(String, bool)> {
    let mut walked = Vec::new();
    let mut request = first;
    for &limit in limits.iter().cycle() {
        request.limit = limit;
        let page = store.reads.list(request.clone()).await.unwrap();
        assert!(page.entries.len() <= limit);
        walked.extend(
            page.entries
                .iter()
                .map(|entry| (entry.name().to_owned(), matches!(entry, Entry::Prefix(_)))),
        );
        match page.next {
            Some(next) => {
                assert_eq!(
                    (page.entries.len(), Some(next.as_str())),
                    (limit, page.entries.last().map(Entry::name))
                );
                request.start_after = Some(next);
            }
            None => break,
        }
    }
    walked
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn pages_of_any_size_match_the_model(
        keys in proptest::collection::btree_set("[a-b/é]{1,5}", 0..40),
        prefix in "[a-b/é]{0,2}",
        delimiter in prop_oneof![Just(None), Just(Some('/')), Just(Some('a')), Just(Some('é'))],
        start_after in proptest::option::of("[a-b/éz]{0,4}"),
        limits in proptest::collection::vec(1..6usize, 1..4),
    ) {
        let walked = runtime().block_on(async {
            let store = store(keys.iter().map(String::as_str));
            walk(&store, request(&prefix, delimiter, start_after.as_deref(), 1), &limits).await
        });
        prop_assert_eq!(walked, model(&keys, &prefix, delimiter, start_after.as_deref()));
    }
}

#[tokio::test]
async fn common_prefix_is_listed_once() {
    let store = store(["a", "a/1", "a/2", "a/b/3", "b/1", "c"]);
    assert_eq!(
        names(&store, request("", Some('/'), None, 9)).await,
        ["a", "a/", "b/", "c"]
    );
    assert_eq!(
        names(&store, request("", Some('/'), Some("a/"), 9)).await,
        ["b/", "c"]
    );
    assert_eq!(
        names(&store, request("", Some('/'), Some("a/1"), 9)).await,
        ["b/", "c"]
    );
    assert_eq!(
        names(&store, request("a/", Some('/'), Some("a/1"), 9)).await,
        ["a/2", "a/b/"]
    );
    assert_eq!(
        names(&store, request("", None, Some("a/1"), 9)).await,
        ["a/2", "a/b/3", "b/1", "c"]
    );
}

#[tokio::test]
async fn page_names_the_next_page_if_there_are_more_entries() {
    let store = store(["a", "b/1", "b/2"]);
    let next = async |limit| {
        store
            .reads
            .list(request("", Some('/'), None, limit))
            .await
            .unwrap()
            .next
    };
    assert_eq!(next(1).await.as_deref(), Some("a"));
    assert_eq!(
        next(2).await,
        None,
        "a page that is exactly full is the last page"
    );
    assert_eq!(next(3).await, None);
}

#[tokio::test]
async fn listing_stays_within_its_namespace() {
    let store = store(["k"]);
    let other = Namespace::new("default")
        .unwrap()
        .with_scope("org", "1")
        .unwrap();
    put(&store, &other, "l");
    assert_eq!(names(&store, request("", None, None, 9)).await, ["k"]);
    assert_eq!(
        names(
            &store,
            ListRequest {
                namespace: other,
                ..request("", None, None, 9)
            }
        )
        .await,
        ["l"]
    );
}

#[tokio::test]
async fn common_prefix_costs_one_seek() {
    let keys: Vec<_> = (0..50)
        .flat_map(|group| (0..100).map(move |n| format!("{group:02}/{n:03}")))
        .collect();
    let store = store(keys.iter().map(String::as_str));
    assert_eq!(
        names(&store, request("", Some('/'), None, 40)).await.len(),
        40
    );
    let rows = store.index.rows_scanned();
    assert!(
        rows <= 41 * CHUNK_ROWS_AFTER_SEEK as u64,
        "rows scanned: {rows}"
    );
}

#[tokio::test]
async fn page_of_objects_reads_one_row_more_than_it_returns() {
    let keys: Vec<_> = (0..900).map(|n| format!("{n:03}")).collect();
    for delimiter in [None, Some('/')] {
        let store = store(keys.iter().map(String::as_str));
        assert_eq!(
            names(&store, request("", delimiter, None, 700)).await,
            keys[..700]
        );
        assert_eq!(store.index.rows_scanned(), 701);
    }
}

#[tokio::test]
async fn limits_out_of_range_are_invalid() {
    let store = store(["a"]);
    for limit in [0, 1001] {
        let error = store
            .reads
            .list(request("", None, None, limit))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
    assert!(
        store
            .reads
            .list(request("", None, None, 1000))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn names_longer_than_any_key_are_accepted() {
    let longest = "k".repeat(KEY_BYTES_MAX);
    let store = store([longest.as_str(), "l"]);
    assert!(
        names(&store, request(&format!("{longest}k"), Some('/'), None, 9))
            .await
            .is_empty()
    );
    assert_eq!(
        names(
            &store,
            request("", Some('/'), Some(&"k".repeat(100_000)), 9)
        )
        .await,
        ["l"]
    );
    assert_eq!(
        names(
            &store,
            request("", None, Some(&format!("{}é", &longest[1..])), 9)
        )
        .await,
        ["l"]
    );
    assert_eq!(
        names(&store, request("", Some('k'), Some(&longest), 9)).await,
        ["l"]
    );
}

#[tokio::test]
async fn row_that_cannot_be_decoded_fails_the_page() {
    let store = store(["a"]);
    let id = ObjectId::try_from("b").unwrap();
    let mut batch = crate::index::Batch::new();
    batch.put(
        Table::Rows,
        id.encoded().clone(),
        Bytes::from_static(b"\x01"),
    );
    store.index.apply(batch);
    let error = store
        .reads
        .list(request("", None, None, 9))
        .await
        .unwrap_err();
    assert_eq!((error.kind(), error.id()), (ErrorKind::Corrupt, Some(&id)));
}
