//! Ownership (I11): a store never touches a blob tier that is not its own. The tier is missing,
//! empty or of another store, at an open and under an open engine, or its directory is moved.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use cenotaph::{Engine, Env, ErrorKind, Index, MARKER_PATH};
use cenotaph_storage::index::fjall::{FjallIndex, FjallOptions};
use cenotaph_storage::index::{Batch, Table};
use cenotaph_storage::records::STORE_KEY;
use cenotaph_tests::store::{INLINE, payload, quick};
use tempfile::TempDir;

const LARGE: usize = 2_000_000;

/// A store in a directory with a blob tier that can be moved away.
struct Scene {
    root: TempDir,
}

impl Scene {
    fn new() -> Self {
        Self {
            root: TempDir::new().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    async fn open(&self) -> Result<Engine, cenotaph::Error> {
        Engine::builder(self.path("data"))
            .config(quick())
            .open()
            .await
    }

    async fn engine(&self) -> Engine {
        self.open().await.unwrap()
    }

    fn unmount(&self) {
        std::fs::rename(self.path("data/blobs"), self.path("away")).unwrap();
    }

    fn mount(&self) {
        let _ = std::fs::remove_dir_all(self.path("data/blobs"));
        std::fs::rename(self.path("away"), self.path("data/blobs")).unwrap();
    }

    /// Returns the number of files in a tier without the marker.
    fn blobs(&self, tier: &str) -> usize {
        let tier = self.path(tier);
        files(&tier) - usize::from(tier.join(MARKER_PATH).exists())
    }
}

fn files(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .map(|path| if path.is_dir() { files(&path) } else { 1 })
        .sum()
}

async fn bytes(engine: &Engine, key: &str) -> Option<Bytes> {
    match engine.get(key).await.unwrap() {
        Some(object) => Some(object.bytes().await.unwrap()),
        None => None,
    }
}

fn kind<T>(outcome: Result<T, cenotaph::Error>) -> Option<ErrorKind> {
    outcome.err().map(|error| error.kind())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_without_its_tier_does_not_open_and_loses_nothing() {
    let scene = Scene::new();
    let engine = scene.engine().await;
    for key in ["a", "b"] {
        engine.put(key, payload(1, LARGE)).await.unwrap();
    }
    engine.delete("b").await.unwrap();
    engine.put("b", payload(2, LARGE)).await.unwrap();
    engine.close().await.unwrap();
    scene.unmount();
    let error = scene.open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(
        error.to_string().contains("adopt") && error.to_string().contains("expected="),
        "{error}"
    );
    assert!(
        !scene.path("data/blobs").exists(),
        "no directory is created in place of the tier"
    );
    std::fs::create_dir(scene.path("data/blobs")).unwrap();
    assert_eq!(
        kind(scene.open().await),
        Some(ErrorKind::Unavailable),
        "an empty mount point"
    );
    assert_eq!(
        std::fs::read_dir(scene.path("data/blobs")).unwrap().count(),
        0
    );
    scene.mount();
    let engine = scene.engine().await;
    assert_eq!(bytes(&engine, "a").await, Some(payload(1, LARGE)));
    assert_eq!(bytes(&engine, "b").await, Some(payload(2, LARGE)));
    assert!(
        engine
            .scrub()
            .grace(Duration::ZERO)
            .await
            .unwrap()
            .is_clean()
    );
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tier_belongs_to_a_single_store() {
    let one = Scene::new();
    let other = Scene::new();
    let engine = one.engine().await;
    engine.put("k", payload(1, LARGE)).await.unwrap();
    engine.close().await.unwrap();
    let tier = one.path("data/blobs");
    let over = |adopt: bool| {
        let builder = Engine::builder(other.path("data"))
            .config(quick())
            .blobs_in(&tier);
        if adopt {
            builder.adopt_blobs()
        } else {
            builder
        }
    };
    let error = over(false).open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(
        error.to_string().contains("belongs to another store"),
        "{error}"
    );
    let engine = over(true).open().await.unwrap();
    engine.close().await.unwrap();
    assert_eq!(one.blobs("data/blobs"), 1, "adoption deletes no blob");
    let error = one.open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let engine = Engine::builder(one.path("data"))
        .config(quick())
        .adopt_blobs()
        .open()
        .await
        .unwrap();
    assert_eq!(bytes(&engine, "k").await, Some(payload(1, LARGE)));
    engine.close().await.unwrap();
}

/// Waits until this condition holds.
async fn until(claim: &str, holds: impl AsyncFn() -> bool) {
    let env = Env::real().unwrap();
    let waited = env.deadline(Duration::from_secs(20), async {
        while !holds().await {
            env.sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_some(), "{claim}");
}

/// Moves the tier away under an open engine: no blob counts as deleted, and no put is acknowledged
/// into its place.
async fn lose_tier(leaves_a_directory: bool) {
    let scene = Scene::new();
    let engine = scene.engine().await;
    for key in ["a", "b"] {
        engine.put(key, payload(1, LARGE)).await.unwrap();
    }
    scene.unmount();
    if leaves_a_directory {
        std::fs::create_dir(scene.path("data/blobs")).unwrap();
    }
    assert_works_without_tier(&engine).await;
    assert_eq!(
        leaves_a_directory,
        scene.path("data/blobs").exists(),
        "no directory is created in place of the tier"
    );
    if leaves_a_directory {
        assert_eq!(
            std::fs::read_dir(scene.path("data/blobs")).unwrap().count(),
            0
        );
    }
    scene.mount();
    until("the engine becomes healthy", async || {
        engine.health().is_ok()
    })
    .await;
    until("all orphans are deleted", async || {
        engine.stats().await.unwrap().actors.orphans == 0
    })
    .await;
    assert_eq!(engine.settle().await.unwrap(), 0);
    assert_eq!(scene.blobs("data/blobs"), 1);
    assert_eq!(bytes(&engine, "a").await, Some(payload(1, LARGE)));
    engine.put("c", payload(3, LARGE)).await.unwrap();
    engine.close().await.unwrap();
    let engine = scene.engine().await;
    assert_eq!(bytes(&engine, "c").await, Some(payload(3, LARGE)));
    assert_eq!(bytes(&engine, "small").await, Some(payload(4, INLINE)));
    assert!(
        engine
            .scrub()
            .grace(Duration::ZERO)
            .await
            .unwrap()
            .is_clean()
    );
    engine.close().await.unwrap();
}

/// Asserts that every operation that needs the tier fails, and that nothing is lost by that.
async fn assert_works_without_tier(engine: &Engine) {
    assert!(
        engine.delete("b").await.unwrap().existed,
        "a delete does not need the blob tier"
    );
    assert_eq!(kind(engine.settle().await), Some(ErrorKind::Unavailable));
    assert_eq!(
        engine.stats().await.unwrap().actors.orphans,
        1,
        "the blob does not count as deleted"
    );
    assert_eq!(kind(engine.health()), Some(ErrorKind::Unavailable));
    assert_eq!(
        kind(engine.get("a").await),
        Some(ErrorKind::Corrupt),
        "the object is not absent"
    );
    assert_eq!(
        kind(engine.put("c", payload(3, LARGE)).await),
        Some(ErrorKind::Unavailable)
    );
    assert_eq!(kind(engine.copy("a", "d").await), Some(ErrorKind::Corrupt));
    assert_eq!(
        kind(engine.scrub().drop_damaged().await),
        Some(ErrorKind::Unavailable)
    );
    assert!(
        engine.head("a").await.unwrap().is_some(),
        "a scrub drops nothing"
    );
    engine.put("small", payload(4, INLINE)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tier_lost_under_an_open_engine_loses_no_object() {
    lose_tier(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tier_replaced_by_an_empty_directory_loses_no_object() {
    lose_tier(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moved_data_directory_loses_no_acknowledged_write() {
    let scene = Scene::new();
    let engine = scene.engine().await;
    engine.put("old", payload(1, LARGE)).await.unwrap();
    std::fs::rename(scene.path("data"), scene.path("after")).unwrap();
    assert!(
        !matches!(engine.get("old").await, Ok(None)),
        "the object is not absent"
    );
    let put = engine.put("new", payload(2, LARGE)).await;
    assert!(
        !scene.path("data/blobs").exists(),
        "no directory is created in place of the tier"
    );
    drop(engine.close().await);
    drop(engine);
    let engine = Engine::builder(scene.path("after"))
        .config(quick())
        .open()
        .await
        .unwrap();
    assert_eq!(bytes(&engine, "old").await, Some(payload(1, LARGE)));
    let found = bytes(&engine, "new").await;
    assert!(
        put.is_err() || found == Some(payload(2, LARGE)),
        "an acknowledged put is present: {put:?}"
    );
    until("the remains of the failed put are settled", async || {
        engine.settle().await.unwrap() == 0
    })
    .await;
    assert_eq!(
        scene.blobs("after/blobs"),
        if found.is_some() { 2 } else { 1 }
    );
    engine.close().await.unwrap();
}

/// Turns a store into one of a build without store ids.
async fn age(scene: &Scene) {
    let index = FjallIndex::open(
        &scene.path("data/index"),
        Env::real().unwrap(),
        FjallOptions::default(),
    )
    .unwrap();
    let mut batch = Batch::new();
    batch.remove(Table::Meta, STORE_KEY);
    index.submit(batch, Box::new(|outcome| outcome.unwrap()));
    index.barrier().await.unwrap();
    index.close().await.unwrap();
    std::fs::remove_file(scene.path("data/blobs").join(MARKER_PATH)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_of_an_older_build_opens_over_its_own_tier_only() {
    for bytes_put in [10, LARGE] {
        let scene = Scene::new();
        let engine = scene.engine().await;
        engine.put("k", payload(1, bytes_put)).await.unwrap();
        engine.close().await.unwrap();
        drop(engine);
        age(&scene).await;
        if bytes_put == LARGE {
            scene.unmount();
            assert_eq!(kind(scene.open().await), Some(ErrorKind::Unavailable));
            assert!(!scene.path("data/blobs").exists());
            scene.mount();
        }
        for _ in 0..2 {
            let engine = scene.engine().await;
            assert_eq!(bytes(&engine, "k").await, Some(payload(1, bytes_put)));
            engine.close().await.unwrap();
        }
        assert!(scene.path("data/blobs").join(MARKER_PATH).exists());
        scene.unmount();
        assert_eq!(
            kind(scene.open().await),
            Some(ErrorKind::Unavailable),
            "the marker is required from now on"
        );
    }
}
