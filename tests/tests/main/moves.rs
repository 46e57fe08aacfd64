//! Renames and copies of objects of every kind over objects of every kind: the bytes are correct,
//! and nothing else remains in either tier (I3, I5), before and after a reopen.

use bytes::Bytes;
use cenotaph::{ErrorKind, PutResult};
use cenotaph_storage::index::Table;
use cenotaph_tests::store::{INLINE, Store, blobs, payload, quick};

/// Payload sizes, in bytes: absent, inside the row, as a separate payload, in the blob tier.
const KINDS: [Option<usize>; 4] = [None, Some(10), Some(6000), Some(20_000)];

/// Creates a store that supports all three kinds of payloads.
async fn store() -> Store {
    const {
        assert!(
            INLINE < 4096,
            "the usual test store has no separate payloads"
        )
    };
    Store::with(cenotaph::Config {
        inline_bytes_max: 8192,
        ..quick()
    })
    .await
}

async fn put(
    store: &Store,
    key: &str,
    seed: u64,
    bytes: Option<usize>,
) -> Option<(Bytes, PutResult)> {
    let body = payload(seed, bytes?);
    Some((
        body.clone(),
        store.engine.put(key, body).content_type(key).await.unwrap(),
    ))
}

/// Returns all pairs of a source and a target.
fn pairs() -> impl Iterator<Item = (Option<usize>, Option<usize>)> {
    KINDS
        .into_iter()
        .flat_map(|from| KINDS.into_iter().map(move |to| (from, to)))
}

async fn assert_bytes(store: &Store, key: &str, expected: Option<&Bytes>, case: &str) {
    let found = store.bytes(key).await;
    assert!(
        found.as_ref() == expected,
        "{case}: {key} has {:?} bytes",
        found.map(|bytes| bytes.len())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rename_moves_any_kind_over_any_other_without_orphans() {
    let mut store = store().await;
    for (from, to) in pairs() {
        let case = format!("{from:?} renamed over {to:?}");
        let source = put(&store, "a", 1, from).await;
        let target = put(&store, "b", 2, to).await;
        let written = store.counts.put(Table::Payloads);
        let renamed = store.engine.rename("a", "b").await.unwrap();
        assert_eq!(
            store.counts.put(Table::Payloads),
            written,
            "{case}: no byte is copied"
        );
        assert_eq!(
            renamed.as_ref().map(|renamed| renamed.created),
            source.as_ref().map(|_| target.is_none()),
            "{case}"
        );
        let expected = source.as_ref().or(target.as_ref()).map(|(bytes, _)| bytes);
        for reopened in [false, true] {
            if reopened {
                store = store.reopen().await;
            }
            assert_bytes(&store, "a", None, &case).await;
            assert_bytes(&store, "b", expected, &case).await;
            store.assert_settled().await;
        }
        if let (Some(renamed), Some((_, written))) = (renamed, &source) {
            let head = store.engine.head("b").await.unwrap().unwrap();
            assert_eq!(
                head.metadata.attributes.content_type.as_deref(),
                Some("a"),
                "{case}: the object keeps its metadata"
            );
            assert_eq!(
                (head.version, head.etag),
                (renamed.version, renamed.etag),
                "{case}"
            );
            assert_ne!(
                renamed.etag, written.etag,
                "{case}: a rename has its own etag"
            );
        }
        store.engine.delete("b").await.unwrap();
        store.assert_settled().await;
        assert!(
            blobs(&store.blobs).await.is_empty(),
            "{case}: a later delete leaves no blob"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_of_any_kind_is_independent_of_its_source() {
    let mut store = store().await;
    for (from, to) in pairs() {
        let case = format!("{from:?} copied over {to:?}");
        let source = put(&store, "a", 1, from).await;
        let target = put(&store, "b", 2, to).await;
        let copied = store.engine.copy("a", "b").await.unwrap();
        assert_eq!(
            copied.map(|copied| copied.created),
            source.as_ref().map(|_| target.is_none()),
            "{case}"
        );
        let expected = source.as_ref().or(target.as_ref()).map(|(bytes, _)| bytes);
        store.assert_settled().await;
        store = store.reopen().await;
        assert_bytes(&store, "a", source.as_ref().map(|(bytes, _)| bytes), &case).await;
        store.engine.delete("a").await.unwrap();
        store.assert_settled().await;
        assert_bytes(&store, "b", expected, &case).await;
        store.engine.delete("b").await.unwrap();
        store.assert_settled().await;
        assert!(blobs(&store.blobs).await.is_empty(), "{case}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn object_renamed_in_a_circle_keeps_its_content() {
    let mut store = store().await;
    for kind in KINDS.into_iter().flatten() {
        let (bytes, _) = put(&store, "a", 1, Some(kind)).await.unwrap();
        for (from, to) in [("a", "b"), ("b", "c"), ("c", "a"), ("a", "b")] {
            store.engine.rename(from, to).await.unwrap().unwrap();
            // Another object takes the old name and is deleted while the renamed one exists.
            let (other, _) = put(&store, from, 2, Some(20_000)).await.unwrap();
            store.assert_settled().await;
            assert_bytes(&store, to, Some(&bytes), "renamed").await;
            assert_bytes(&store, from, Some(&other), "new object under the old name").await;
            store = store.reopen().await;
            assert_bytes(&store, to, Some(&bytes), "reopened").await;
            store.engine.delete(from).await.unwrap();
            store.assert_settled().await;
            assert_bytes(&store, to, Some(&bytes), "after the delete of the other").await;
        }
        // Amend, copy and overwrite an object whose blobs are stored under another name.
        store
            .engine
            .amend("b")
            .filename("f")
            .await
            .unwrap()
            .unwrap();
        store.engine.copy("b", "c").await.unwrap().unwrap();
        store.assert_settled().await;
        assert_bytes(&store, "b", Some(&bytes), "amended").await;
        let (small, _) = put(&store, "b", 3, Some(10)).await.unwrap();
        store.assert_settled().await;
        assert_bytes(&store, "b", Some(&small), "overwritten").await;
        assert_bytes(&store, "c", Some(&bytes), "copied").await;
        assert_eq!(store.engine.delete_prefix("").await.unwrap().deleted, 2);
        store.assert_settled().await;
        assert!(blobs(&store.blobs).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_both_names_see_one_version_during_a_rename() {
    let store = store().await;
    let moved = payload(1, 9_000_000);
    let replaced = payload(2, 9_000_000);
    store.engine.put("a", moved.clone()).await.unwrap();
    store.engine.put("b", replaced.clone()).await.unwrap();
    let readers = [
        store.engine.get("a").await.unwrap().unwrap(),
        store.engine.get("b").await.unwrap().unwrap(),
    ];
    store.engine.rename("a", "b").await.unwrap().unwrap();
    let after = store.engine.get("b").await.unwrap().unwrap();
    store.engine.put("b", "small").await.unwrap();
    store.engine.settle().await.unwrap();
    let [first, second] = readers;
    assert!(first.bytes().await.unwrap() == moved, "I8");
    assert!(second.bytes().await.unwrap() == replaced, "I8");
    assert!(after.bytes().await.unwrap() == moved, "I8");
    store.assert_settled().await;
    assert!(blobs(&store.blobs).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_on_source_and_target_of_a_move_hold() {
    let store = store().await;
    for kind in KINDS.into_iter().flatten() {
        let (from, _) = put(&store, "a", 1, Some(kind)).await.unwrap();
        let (to, there) = put(&store, "b", 2, Some(kind)).await.unwrap();
        let engine = &store.engine;
        let version = there.version.unwrap();
        let etag = there.etag.unwrap();
        let refused = [
            engine.rename("a", "b").if_absent().await.unwrap_err(),
            engine
                .rename("a", "b")
                .if_version(version.next())
                .await
                .unwrap_err(),
            engine.copy("a", "b").if_absent().await.unwrap_err(),
            engine
                .copy("a", "b")
                .if_version(version.next())
                .await
                .unwrap_err(),
        ];
        for error in refused {
            let ErrorKind::Conflict {
                current: Some(current),
            } = error.kind()
            else {
                panic!("{error:?}")
            };
            assert_eq!(
                (current.version, current.etag, error.id().unwrap().key()),
                (version, etag, "b")
            );
        }
        let stale = [
            engine
                .rename("a", "b")
                .if_source_version(version.next().next())
                .await
                .unwrap_err(),
            engine
                .copy("a", "b")
                .if_source_version(version.next().next())
                .await
                .unwrap_err(),
        ];
        for error in stale {
            assert!(
                matches!(error.kind(), ErrorKind::Conflict { current: Some(_) }),
                "{error:?}"
            );
            assert_eq!(error.id().unwrap().key(), "a");
        }
        assert_bytes(&store, "a", Some(&from), "refused").await;
        assert_bytes(&store, "b", Some(&to), "refused").await;
        store.assert_settled().await;
        assert_eq!(
            engine.rename("a", "a").await.unwrap_err().kind(),
            ErrorKind::Invalid
        );
        engine.copy("a", "b").if_etag(etag).await.unwrap().unwrap();
        engine.rename("a", "c").if_absent().await.unwrap().unwrap();
        engine.delete_prefix("").await.unwrap();
        store.assert_settled().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rename_and_copy_keep_the_attributes() {
    let store = store().await;
    for bytes in [10, 6000, 20_000] {
        let put = store
            .engine
            .put("a", payload(1, bytes))
            .content_type("image/png")
            .filename("a.png");
        put.origin("camera")
            .compression("none")
            .custom("album", "summer")
            .await
            .unwrap();
        let attributes = async |key| {
            store
                .engine
                .head(key)
                .await
                .unwrap()
                .unwrap()
                .metadata
                .attributes
        };
        let stated = attributes("a").await;
        assert_eq!(
            stated.custom.get("album").map(String::as_str),
            Some("summer")
        );
        store.engine.copy("a", "b").await.unwrap();
        store.engine.rename("a", "c").await.unwrap();
        assert_eq!(
            (attributes("b").await, attributes("c").await),
            (stated.clone(), stated),
            "bytes={bytes}"
        );
    }
}
