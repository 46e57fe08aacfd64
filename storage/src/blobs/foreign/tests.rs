//! Operators as fallbacks: the walk against a model, and the rules of heads and reads.

use std::collections::BTreeSet;

use futures::TryStreamExt;
use opendal::Operator;
use proptest::prelude::*;

use super::OperatorFallback;
use crate::fallback::{Fallback, FallbackListRequest, FallbackPage, KeyPosition};
use crate::types::{ByteRange, ErrorKind, Namespace, ObjectId, Result};

fn memory() -> Operator {
    Operator::new(opendal::services::Memory::default()).unwrap()
}

fn fs(root: &std::path::Path) -> Operator {
    Operator::new(opendal::services::Fs::default().root(root.to_str().unwrap())).unwrap()
}

fn id(key: &str) -> ObjectId {
    ObjectId::try_from(key).unwrap()
}

pub(super) fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    runtime.block_on(work)
}

async fn list(
    fallback: &OperatorFallback,
    prefix: &str,
    position: KeyPosition,
    limit: usize,
) -> Result<FallbackPage> {
    let request = FallbackListRequest {
        namespace: Namespace::default_namespace(),
        prefix: prefix.to_owned(),
        position,
        limit,
    };
    fallback.list(&request).await
}

/// Lists all keys page by page.
async fn all(
    fallback: &OperatorFallback,
    prefix: &str,
    mut position: KeyPosition,
    limit: usize,
) -> Vec<String> {
    let mut keys = Vec::new();
    loop {
        let page = list(fallback, prefix, position, limit).await.unwrap();
        assert!(page.entries.len() <= limit);
        keys.extend(page.entries.iter().map(|entry| entry.key.clone()));
        match page.entries.last() {
            Some(last) if !page.is_complete => position = KeyPosition::AfterKey(last.key.clone()),
            last => {
                assert!(page.is_complete, "an incomplete page has entries: {last:?}");
                return keys;
            }
        }
    }
}

async fn bytes(fallback: &OperatorFallback, key: &str, range: ByteRange) -> Option<Vec<u8>> {
    let object = fallback.open(&id(key), range).await.unwrap()?;
    let chunks: Vec<_> = object.bytes.try_collect().await.unwrap();
    Some(chunks.concat())
}

fn keys() -> impl Strategy<Value = BTreeSet<String>> {
    // Names around the slash: '-' and '.' are below it, '0' is above it.
    let name = prop_oneof!["[ab]", "[ab][-.0][ab]", "[ab][.0]"];
    let key = proptest::collection::vec(name, 1..4).prop_map(|names| names.join("/"));
    proptest::collection::btree_set(key, 0..25)
}

fn positions() -> impl Strategy<Value = KeyPosition> {
    prop_oneof![
        Just(KeyPosition::Start),
        "[ab][-./0]{0,2}[ab/]{0,3}".prop_map(KeyPosition::AfterKey),
        "[ab]{1,2}[./]?".prop_map(KeyPosition::AfterPrefix),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn the_walk_lists_the_keys_of_a_model_in_order(
        keys in keys(),
        prefix in "([ab][-./0]?){0,2}",
        position in positions(),
        limit in 1..8usize,
        is_local in any::<bool>(),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let (listed, expected) = block_on(async {
            let operator = if is_local { fs(directory.path()) } else { memory() };
            let mut written = BTreeSet::new();
            for key in keys {
                // On a file system, a name is a file or a directory.
                let is_free = |other: &String| {
                    !other.starts_with(&format!("{key}/")) && !key.starts_with(&format!("{other}/"))
                };
                if !is_local || written.iter().all(is_free) {
                    operator.write(&key, key.clone()).await.unwrap();
                    written.insert(key);
                }
            }
            let fallback = OperatorFallback::new(operator);
            let listed = all(&fallback, &prefix, position.clone(), limit).await;
            let is_listed = |key: &String| key.starts_with(&prefix) && position.admits(key);
            let expected: Vec<_> = written.into_iter().filter(is_listed).collect();
            (listed, expected)
        });
        prop_assert_eq!(listed, expected);
    }
}

#[tokio::test]
async fn files_of_a_directory_are_objects_with_size_and_time() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("a")).unwrap();
    std::fs::write(directory.path().join("a/b"), "0123456789").unwrap();
    let fallback = OperatorFallback::new(fs(directory.path()));
    let meta = fallback.head(&id("a/b")).await.unwrap().unwrap();
    assert_eq!(meta.size, 10);
    assert!(meta.modified.is_some());
    let page = list(&fallback, "", KeyPosition::Start, 10).await.unwrap();
    assert_eq!(page.entries[0].meta.as_ref().unwrap().size, 10);
    assert_eq!(
        bytes(&fallback, "a/b", ByteRange::Full).await.unwrap(),
        b"0123456789"
    );
    assert_eq!(bytes(&fallback, "a/b", (2..4).into()).await.unwrap(), b"23");
    assert_eq!(
        bytes(&fallback, "a/b", ByteRange::Last(1)).await.unwrap(),
        b"9"
    );
    let beyond = fallback.open(&id("a/b"), (10..).into()).await.unwrap_err();
    assert_eq!(beyond.kind(), ErrorKind::RangeNotSatisfiable { total: 10 });
}

#[tokio::test]
async fn names_that_are_no_file_are_absent_and_not_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    std::fs::create_dir_all(root.join("a")).unwrap();
    std::fs::write(root.join("a/b"), "x").unwrap();
    std::fs::write(directory.path().join("secret"), "x").unwrap();
    let fallback = OperatorFallback::new(fs(&root));
    let long = "n".repeat(300);
    for key in [
        "a",
        "a/",
        "a/b/c",
        "x",
        "../secret",
        "a//b",
        "/a/b",
        "a/./b",
        " a/b",
        &long,
    ] {
        let found = fallback.head(&id(key)).await;
        assert!(matches!(found, Ok(None)), "{key:?}: {found:?}");
        assert_eq!(
            bytes(&fallback, key, ByteRange::Full).await,
            None,
            "{key:?}"
        );
    }
    let other = Namespace::new("other").unwrap();
    let elsewhere = ObjectId::new(&other, "a/b").unwrap();
    assert_eq!(fallback.head(&elsewhere).await.unwrap(), None);
    assert!(
        fallback
            .namespace(other)
            .head(&elsewhere)
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn missing_root_is_an_error_and_never_absence() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    let fallback = OperatorFallback::new(fs(&root));
    assert_eq!(fallback.head(&id("a")).await.unwrap(), None);
    std::fs::remove_dir(&root).unwrap();
    let error = fallback.head(&id("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let error = fallback.open(&id("a"), ByteRange::Full).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let error = list(&fallback, "", KeyPosition::Start, 1)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[cfg(unix)]
#[tokio::test]
async fn names_that_cannot_be_objects_are_reported_by_a_listing() {
    use std::os::unix::ffi::OsStrExt;

    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let odd = std::ffi::OsStr::from_bytes(b"b\xff");
    std::fs::write(root.join(odd), "x").unwrap();
    std::fs::write(root.join("a\u{fffd}"), "its name is UTF-8").unwrap();
    std::fs::create_dir(root.join("directory")).unwrap();
    // Debug builds of OpenDAL refuse an entry of this kind by an assertion.
    let has_loop = !cfg!(debug_assertions);
    if has_loop {
        std::os::unix::fs::symlink(root, root.join("directory/loop")).unwrap();
    }
    std::os::unix::fs::symlink(root.join("a\u{fffd}"), root.join("link")).unwrap();
    let fallback = OperatorFallback::new(fs(root));
    let page = list(&fallback, "", KeyPosition::Start, 10).await.unwrap();
    let keys: Vec<_> = page
        .entries
        .iter()
        .map(|entry| entry.key.as_str())
        .collect();
    assert_eq!(keys, ["a\u{fffd}", "link"]);
    let expected = ["b\u{fffd}", "directory/loop"];
    assert_eq!(page.skipped, expected[..1 + usize::from(has_loop)]);
    assert!(page.is_complete);
}

#[tokio::test]
async fn object_that_changes_during_its_read_ends_with_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a");
    std::fs::write(&path, vec![1; 10_000_000]).unwrap();
    let fallback = OperatorFallback::new(fs(directory.path()));
    let object = fallback
        .open(&id("a"), ByteRange::Full)
        .await
        .unwrap()
        .unwrap();
    std::fs::write(&path, vec![2; 10_000_000]).unwrap();
    let error = object.bytes.try_collect::<Vec<_>>().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);

    let object = fallback
        .open(&id("a"), ByteRange::Full)
        .await
        .unwrap()
        .unwrap();
    std::fs::write(&path, vec![2; 9_000_000]).unwrap();
    let error = object.bytes.try_collect::<Vec<_>>().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[test]
fn description_names_the_place_and_can_be_kept_when_it_moves() {
    let directory = tempfile::tempdir().unwrap();
    let fallback = OperatorFallback::new(fs(directory.path()));
    let description = fallback.describe();
    assert!(description.starts_with("fs:/"), "{description}");
    assert_eq!(fallback.named("old").describe(), "old");
}
