//! A store never touches a blob tier that is not its own (I11): a tier that is away, empty or
//! another store's, at an opening and under an open engine; directories that are moved.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use cenotaph::{Engine, Env, ErrorKind, Index, MARKER_PATH};
use cenotaph_storage::index::fjall::{FjallIndex, FjallOptions};
use cenotaph_storage::index::{Batch, Table};
use cenotaph_storage::rows::STORE_KEY;
use cenotaph_tests::store::{INLINE, payload, quick};
use tempfile::TempDir;

const LARGE: usize = 2_000_000;

/// A store in a directory, whose blob tier can be taken away.
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

    /// The files of a tier, the mark left out.
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
async fn a_store_whose_tier_is_away_does_not_open_and_loses_nothing() {
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
        "nothing is created where the tier should be"
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
async fn a_tier_belongs_to_one_store() {
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
    assert_eq!(one.blobs("data/blobs"), 1, "no blob is touched by that");
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

/// Waits until this holds.
async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let env = Env::real().unwrap();
    let waited = env.deadline(Duration::from_secs(20), async {
        while !holds().await {
            env.sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_some(), "{what}");
}

/// A tier that goes away under an open engine: nothing counts as deleted, nothing is acknowledged
/// into its place.
async fn goes_away(leaves_a_directory: bool) {
    let scene = Scene::new();
    let engine = scene.engine().await;
    for key in ["a", "b"] {
        engine.put(key, payload(1, LARGE)).await.unwrap();
    }
    scene.unmount();
    if leaves_a_directory {
        std::fs::create_dir(scene.path("data/blobs")).unwrap();
    }
    assert!(
        engine.delete("b").await.unwrap().existed,
        "a failing blob tier fails no delete"
    );
    assert_eq!(kind(engine.settle().await), Some(ErrorKind::Unavailable));
    assert_eq!(
        engine.stats().await.unwrap().actors.orphans,
        1,
        "its blob does not count as deleted"
    );
    assert_eq!(kind(engine.health()), Some(ErrorKind::Unavailable));
    assert_eq!(
        kind(engine.get("a").await),
        Some(ErrorKind::Corrupt),
        "and never absent"
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
    assert_eq!(
        leaves_a_directory,
        scene.path("data/blobs").exists(),
        "nothing is made in its place"
    );
    if leaves_a_directory {
        assert_eq!(
            std::fs::read_dir(scene.path("data/blobs")).unwrap().count(),
            0
        );
    }
    scene.mount();
    until("it is healthy by itself", async || engine.health().is_ok()).await;
    until("its orphans go by themselves", async || {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tier_that_goes_away_under_an_open_engine_loses_nothing() {
    goes_away(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tier_that_an_empty_directory_replaces_loses_nothing() {
    goes_away(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_data_directory_moves() {
    let scene = Scene::new();
    let engine = scene.engine().await;
    engine.put("old", payload(1, LARGE)).await.unwrap();
    std::fs::rename(scene.path("data"), scene.path("after")).unwrap();
    assert!(
        !matches!(engine.get("old").await, Ok(None)),
        "what is there never reads as absent"
    );
    let put = engine.put("new", payload(2, LARGE)).await;
    assert!(
        !scene.path("data/blobs").exists(),
        "nothing is made where the tier was"
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
        "an acknowledged put is there: {put:?}"
    );
    until("what the failed put left is settled", async || {
        engine.settle().await.unwrap() == 0
    })
    .await;
    assert_eq!(
        scene.blobs("after/blobs"),
        if found.is_some() { 2 } else { 1 }
    );
    engine.close().await.unwrap();
}

/// Makes a store what a build without store ids has left.
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
async fn a_store_of_an_older_build_opens_over_its_own_tier_only() {
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
            "from now on it is looked for"
        );
    }
}
