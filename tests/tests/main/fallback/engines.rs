//! Another store as the fallback.

use std::time::Duration;

use cenotaph::{
    Config, Engine, EngineFallback, ErrorKind, Fallback, FallbackListRequest, KeyPosition,
    Namespace, ObjectId,
};
use cenotaph_tests::store::{payload, quick};
use tempfile::TempDir;

use super::source::{LARGE, SMALL, read, version};

async fn plain(directory: &TempDir) -> Engine {
    let builder = Engine::builder(directory.path()).config(quick());
    builder.open().await.unwrap()
}

async fn over(directory: &TempDir, old: &Engine, config: Config) -> Engine {
    let fallback = EngineFallback::new(old.clone(), "old");
    let builder = Engine::builder(directory.path()).config(config);
    builder.fallback(fallback).open().await.unwrap()
}

#[tokio::test]
async fn objects_of_another_store_keep_attributes_times_and_deadline() {
    let directories = [(); 2].map(|()| TempDir::new().unwrap());
    let old = plain(&directories[0]).await;
    let namespace = Namespace::new("other").unwrap();
    let hour = Duration::from_secs(3600);
    for bytes in [SMALL, LARGE] {
        let id = ObjectId::new(&namespace, &bytes.to_string()).unwrap();
        let put = old.put(&id, payload(1, bytes)).content_type("a/b");
        put.custom("c", "d").time_to_live(hour).await.unwrap();
        old.put(&id, payload(2, bytes))
            .content_type("a/b")
            .time_to_live(hour)
            .await
            .unwrap();
    }
    let new = over(&directories[1], &old, quick()).await;
    for bytes in [SMALL, LARGE] {
        let id = ObjectId::new(&namespace, &bytes.to_string()).unwrap();
        let expected = old.head(&id).await.unwrap().unwrap();
        let head = new.head(&id).await.unwrap().unwrap();
        assert_eq!((head.version, &head.metadata), (None, &expected.metadata));
        // Moved by a deadline that is no change.
        new.extend_expiry(&id)
            .after_now(Duration::from_secs(1))
            .await
            .unwrap()
            .unwrap();
        let moved = new.head(&id).await.unwrap().unwrap();
        assert_eq!(
            moved.version.unwrap().get(),
            1,
            "versions are the store's own"
        );
        assert_eq!(moved.metadata, expected.metadata);
        let object = new.get(&id).await.unwrap().unwrap();
        assert_eq!(object.bytes().await.unwrap(), payload(2, bytes));
    }
    new.close().await.unwrap();
    old.close().await.unwrap();
}

#[tokio::test]
async fn live_and_closed_other_stores_are_read_or_fail() {
    let directories = [(); 2].map(|()| TempDir::new().unwrap());
    let old = plain(&directories[0]).await;
    old.put("a", "first").await.unwrap();
    let new = over(&directories[1], &old, quick()).await;
    assert_eq!(read(&new, "a").await.unwrap(), b"first");
    old.put("a", "second").await.unwrap();
    assert_eq!(read(&new, "a").await.unwrap(), b"second");
    new.delete("a").await.unwrap();
    assert_eq!(
        version(&old, "a").await,
        Some(Some(2)),
        "nothing is written to the other store"
    );
    old.put("b", "x").await.unwrap();
    old.close().await.unwrap();
    let error = new.get("b").await.unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::Unavailable,
        "not `Closed`: this store is open"
    );
    assert_eq!(read(&new, "a").await, None);
    new.close().await.unwrap();
}

#[tokio::test]
async fn other_store_lists_its_keys_and_namespaces_in_order() {
    let directory = TempDir::new().unwrap();
    let old = plain(&directory).await;
    for name in ["a", "b", "ab"] {
        let namespace = Namespace::new(name).unwrap().with_scope("s", "1").unwrap();
        for key in ["a/1", "a/2", "b"] {
            old.put(ObjectId::new(&namespace, key).unwrap(), "x")
                .await
                .unwrap();
        }
    }
    let fallback = EngineFallback::new(old.clone(), "old");
    let namespaces = fallback.namespaces().await.unwrap();
    let names: Vec<_> = namespaces.iter().map(Namespace::as_str).collect();
    assert_eq!(names, ["a/s=1", "ab/s=1", "b/s=1"]);
    let list = async |position, limit| {
        let request = FallbackListRequest {
            namespace: namespaces[0].clone(),
            prefix: String::new(),
            position,
            limit,
        };
        let page = fallback.list(&request).await.unwrap();
        let keys: Vec<_> = page.entries.into_iter().map(|entry| entry.key).collect();
        (keys.join(" "), page.is_complete)
    };
    assert_eq!(list(KeyPosition::Start, 2).await, ("a/1 a/2".into(), false));
    assert_eq!(
        list(KeyPosition::Start, 3).await,
        ("a/1 a/2 b".into(), true)
    );
    let behind = KeyPosition::AfterPrefix("a/".into());
    assert_eq!(list(behind, 1).await, ("b".into(), true));
    let behind = KeyPosition::AfterKey("a/1".into());
    assert_eq!(list(behind, 1).await, ("a/2".into(), false));
    old.close().await.unwrap();
}
