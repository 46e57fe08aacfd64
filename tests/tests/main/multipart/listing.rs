//! Listings of open uploads and of parts.

use std::time::Duration;

use cenotaph_tests::store::Store;
use futures::TryStreamExt;

use super::{assert_refused, upload};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_uploads_are_listed_by_prefix_and_page() {
    let store = Store::new().await;
    let keys = ["a", "a\u{0}b", "a/1", "a/1", "a/2", "b"];
    let mut begun = Vec::new();
    for key in keys {
        let one = store
            .engine
            .multipart(key)
            .content_type("x/y")
            .await
            .unwrap();
        begun.push((key.to_owned(), one.upload_id()));
        store.stage.advance(Duration::from_millis(1));
    }
    store
        .engine
        .multipart("a/3")
        .await
        .unwrap()
        .abort()
        .await
        .unwrap();
    let done = store.engine.multipart("a/4").await.unwrap();
    done.part(1, "x").await.unwrap();
    done.complete().await.unwrap();
    let of = |prefix: &str| -> Vec<_> {
        begun
            .iter()
            .filter(|(key, _)| key.starts_with(prefix))
            .cloned()
            .collect()
    };
    for (prefix, limit) in [
        ("", 100),
        ("", 1),
        ("", 2),
        ("a", 2),
        ("a/", 1),
        ("a\u{0}", 5),
        ("c", 5),
    ] {
        let listed: Vec<_> = store
            .engine
            .list_uploads(prefix)
            .limit(limit)
            .stream()
            .try_collect()
            .await
            .unwrap();
        let found: Vec<_> = listed
            .iter()
            .map(|one| (one.id.key().to_owned(), one.upload_id))
            .collect();
        assert_eq!(found, of(prefix), "{prefix:?} {limit}");
        assert!(
            listed
                .iter()
                .all(|one| one.attributes.content_type.as_deref() == Some("x/y"))
        );
    }
    let page = store.engine.list_uploads("").limit(6).await.unwrap();
    assert_eq!(
        (page.uploads.len(), page.next),
        (6, None),
        "a full last page has no next page"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_are_listed_page_by_page() {
    let store = Store::new().await;
    let begun = store.engine.multipart("k").await.unwrap();
    upload(&begun, &[9, 300, 4], 10).await;
    for limit in 1..5 {
        let listed: Vec<_> = begun
            .parts()
            .limit(limit)
            .stream()
            .try_collect()
            .await
            .unwrap();
        let found: Vec<_> = listed
            .iter()
            .map(|part| (u32::from(part.number), part.bytes))
            .collect();
        assert_eq!(found, [(4, 10), (9, 10), (300, 10)]);
    }
    assert_eq!(begun.parts().limit(3).await.unwrap().next, None);
    begun.complete().await.unwrap();
    assert_refused(begun.parts().await, "completed");
}
