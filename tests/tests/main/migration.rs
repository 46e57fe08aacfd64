//! Migrations from a fallback: everything is moved once, nothing deleted returns, and only a
//! complete pass without failures seals.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cenotaph::{
    Engine, EngineFallback, Error, ErrorKind, FallbackState, Operator, OperatorFallback, Update,
};
use tempfile::TempDir;

mod killed;
mod scripted;

use scripted::{Scripted, Step};

const LARGE: usize = 1_500_000;

/// An old store with objects, and a directory for the new one.
struct Setting {
    directory: TempDir,
    old: Engine,
}

impl Setting {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let old = Engine::builder(directory.path().join("old"))
            .open()
            .await
            .unwrap();
        Self { directory, old }
    }

    /// A setting whose old store has `count` small objects.
    async fn with_objects(count: usize) -> Self {
        let setting = Self::new().await;
        for number in 0..count {
            let key = key(number);
            setting.old.put(&*key, key.clone()).await.unwrap();
        }
        setting
    }

    fn scripted(&self) -> Scripted {
        Scripted::new(EngineFallback::new(self.old.clone(), "old"))
    }

    async fn open(&self, fallback: impl cenotaph::Fallback) -> Engine {
        let builder = Engine::builder(self.directory.path().join("new")).fallback(fallback);
        builder.open().await.unwrap()
    }

    async fn open_alone(&self) -> cenotaph::Result<Engine> {
        Engine::builder(self.directory.path().join("new"))
            .open()
            .await
    }
}

fn key(number: usize) -> String {
    format!("k/{number:05}")
}

async fn bytes(engine: &Engine, key: &str) -> Option<Vec<u8>> {
    let object = engine.get(key).await.unwrap()?;
    Some(object.bytes().await.unwrap().to_vec())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_moves_with_its_attributes_and_the_store_opens_alone() {
    let setting = Setting::new().await;
    let old = &setting.old;
    let large = vec![7; LARGE];
    old.put("large", large.clone())
        .content_type("video/mp4")
        .await
        .unwrap();
    old.put("small", "s").custom("colour", "red").await.unwrap();
    let namespace = cenotaph::Namespace::new("other").unwrap();
    let elsewhere = cenotaph::ObjectId::new(&namespace, "small").unwrap();
    old.put(&elsewhere, "e")
        .time_to_live(Duration::from_secs(3600))
        .await
        .unwrap();
    let engine = setting.open(EngineFallback::new(old.clone(), "old")).await;
    let report = engine.migrate().verify().await.unwrap();
    assert!(report.is_sealed);
    assert_eq!(
        (report.moved, report.failed, report.bytes),
        (3, 0, LARGE as u64 + 2)
    );
    let status = engine.fallback_status().await.unwrap().unwrap();
    assert_eq!(
        (status.state, status.migration.moved),
        (FallbackState::Sealed, 3)
    );
    engine.close().await.unwrap();

    let engine = setting.open_alone().await.unwrap();
    assert_eq!(bytes(&engine, "large").await.unwrap(), large);
    for id in ["large", "small"] {
        let [ours, theirs] = [&engine, old].map(|engine| engine.head(id));
        let (ours, theirs) = (ours.await.unwrap().unwrap(), theirs.await.unwrap().unwrap());
        assert_eq!(ours.metadata, theirs.metadata, "{id}");
        assert!(ours.version.is_some() && ours.etag != theirs.etag, "{id}");
    }
    let [ours, theirs] = [&engine, old].map(|engine| engine.head(&elsewhere));
    let (ours, theirs) = (ours.await.unwrap().unwrap(), theirs.await.unwrap().unwrap());
    assert_eq!(ours.metadata, theirs.metadata);
    assert!(ours.metadata.expires_at.is_some());
    // A second migration finds nothing to do.
    let again = engine.migrate().await.unwrap();
    assert!(again.is_sealed && again.moved == 0);
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ours_wins_and_what_was_deleted_stays_deleted_after_the_seal() {
    let setting = Setting::with_objects(3).await;
    let engine = setting
        .open(EngineFallback::new(setting.old.clone(), "old"))
        .await;
    engine.put(&*key(0), "ours").await.unwrap();
    assert!(engine.delete(&*key(1)).await.unwrap().existed);
    let report = engine.migrate().await.unwrap();
    assert!(report.is_sealed);
    assert_eq!((report.moved, report.kept), (1, 2));
    // After the seal, a write to the old store is of no interest.
    setting.old.put("late", "late").await.unwrap();
    let check = async |engine: &Engine| {
        assert_eq!(bytes(engine, &key(0)).await.unwrap(), b"ours");
        assert_eq!(bytes(engine, &key(1)).await, None);
        assert_eq!(bytes(engine, &key(2)).await.unwrap(), key(2).as_bytes());
        assert_eq!(bytes(engine, "late").await, None);
    };
    check(&engine).await;
    engine.close().await.unwrap();
    let engine = setting.open_alone().await.unwrap();
    check(&engine).await;
    engine.put(&*key(1), "again").await.unwrap();
    assert_eq!(bytes(&engine, &key(1)).await.unwrap(), b"again");
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_object_prevents_the_seal_until_a_pass_is_clean() {
    let setting = Setting::with_objects(5).await;
    let fallback = setting.scripted();
    fallback.on_open(&key(2), vec![Step::Fail; 3]);
    let engine = setting.open(fallback.clone()).await;
    let report = engine.migrate().passes_max(2).await.unwrap();
    assert!(!report.is_sealed);
    assert_eq!(
        (report.passes, report.moved, report.kept, report.failed),
        (2, 4, 4, 1)
    );
    assert!(report.failures[0].object.ends_with(&key(2)));
    assert_eq!(report.failures[0].error.kind(), ErrorKind::Unavailable);
    engine.close().await.unwrap();
    assert_eq!(
        setting.open_alone().await.unwrap_err().kind(),
        ErrorKind::Invalid
    );
    let engine = setting.open(fallback).await;
    let report = engine.migrate().await.unwrap();
    assert!(report.is_sealed);
    assert_eq!(
        (report.passes, report.moved),
        (2, 1),
        "one more failure, then a clean pass"
    );
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_is_listed_but_not_found_prevents_the_seal() {
    let setting = Setting::with_objects(2).await;
    let fallback = setting.scripted();
    fallback.on_open(&key(1), vec![Step::Missing]);
    let engine = setting.open(fallback).await;
    let report = engine.migrate().passes_max(1).await.unwrap();
    assert!(!report.is_sealed && report.failed == 1);
    let report = engine.migrate().passes_max(1).await.unwrap();
    assert!(report.is_sealed);
    assert_eq!(bytes(&engine, &key(1)).await.unwrap(), key(1).as_bytes());
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_continues_behind_the_last_recorded_page() {
    let setting = Setting::with_objects(600).await;
    let fallback = setting.scripted();
    fallback.fail_list(2);
    let engine = setting.open(fallback.clone()).await;
    let error = engine.migrate().await.unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::Unavailable,
        "a failed listing ends nothing"
    );
    let status = engine.fallback_status().await.unwrap().unwrap();
    assert_eq!(
        (status.state, status.migration.moved),
        (FallbackState::Open, 512)
    );
    engine.close().await.unwrap();
    let opened = fallback.opened();
    let engine = setting.open(fallback.clone()).await;
    let report = engine.migrate().await.unwrap();
    assert!(report.is_sealed);
    assert_eq!(report.moved, 88);
    assert_eq!(fallback.opened() - opened, 88, "no object is opened twice");
    engine.close().await.unwrap();
    let engine = setting.open_alone().await.unwrap();
    for number in 0..600 {
        assert_eq!(
            bytes(&engine, &key(number)).await.unwrap(),
            key(number).as_bytes()
        );
    }
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_between_the_read_and_the_move_wins() {
    for size in [10, LARGE] {
        let setting = Setting::new().await;
        setting.old.put("raced", vec![1; size]).await.unwrap();
        setting.old.put("other", "o").await.unwrap();
        let fallback = setting.scripted();
        let engine = setting.open(fallback.clone()).await;
        let deleter = engine.clone();
        // Between the read of the source and the commit of the move.
        fallback.on_open(
            "raced",
            vec![Step::then(move || {
                let deleter = deleter.clone();
                async move { assert!(deleter.delete("raced").await.unwrap().existed) }
            })],
        );
        let report = engine.migrate().await.unwrap();
        assert!(report.is_sealed);
        assert_eq!((report.moved, report.kept), (1, 1));
        assert_eq!(bytes(&engine, "raced").await, None, "size={size}");
        engine.scrub().await.unwrap();
        engine.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_between_our_miss_and_the_move_finds_the_object() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("old");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("raced"), "here").unwrap();
    let source = files(&root);
    let fallback = Scripted::new(source.clone());
    let builder = Engine::builder(directory.path().join("new")).fallback(fallback.clone());
    let engine = builder.open().await.unwrap();
    let mover = engine.clone();
    // The reader has missed the object in the store. Now it moves, and leaves the source.
    fallback.on_open(
        "raced",
        vec![Step::before(move || {
            let (mover, source) = (mover.clone(), source.clone());
            async move {
                let report = mover.migrate().delete_moved_from(source).await.unwrap();
                assert!(report.is_sealed && report.moved == 1);
            }
        })],
    );
    assert_eq!(bytes(&engine, "raced").await.unwrap(), b"here");
    assert!(!root.join("raced").exists());
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_answer_of_the_source_never_hides_ours() {
    let setting = Setting::with_objects(1).await;
    let fallback = setting.scripted();
    let engine = setting.open(fallback.clone()).await;
    // The read has missed the object in the store. Before the source answers, the store gets the
    // object, and an outside writer writes to the source.
    let late = || {
        let (ours, old) = (engine.clone(), setting.old.clone());
        Step::before(move || {
            let (ours, old) = (ours.clone(), old.clone());
            async move {
                ours.put(&*key(0), "ours, and longer").await.unwrap();
                old.put(&*key(0), "outside").await.unwrap();
            }
        })
    };
    fallback.on_open(&key(0), vec![late()]);
    assert_eq!(bytes(&engine, &key(0)).await.unwrap(), b"ours, and longer");
    // So does an error of the source: its object is too short for the range.
    let other = key(1);
    setting.old.put(&*other, "as long").await.unwrap();
    let (ours, old) = (engine.clone(), setting.old.clone());
    fallback.on_open(
        &other,
        vec![Step::before(move || {
            let (ours, old) = (ours.clone(), old.clone());
            async move {
                ours.put(&*key(1), "ours").await.unwrap();
                old.put(&*key(1), "").await.unwrap();
            }
        })],
    );
    let object = engine.get(&*other).range(2..4).await.unwrap().unwrap();
    assert_eq!(object.bytes().await.unwrap(), "rs");
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_are_exact_across_the_move() {
    const COUNTERS: usize = 20;
    const TASKS: u64 = 4;
    const ROUNDS: u64 = 10;
    let setting = Setting::new().await;
    for number in 0..COUNTERS {
        setting
            .old
            .put(&*key(number), 100u64.to_le_bytes().to_vec())
            .await
            .unwrap();
    }
    let engine = setting
        .open(EngineFallback::new(setting.old.clone(), "old"))
        .await;
    let done = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..TASKS {
        let (engine, done) = (engine.clone(), Arc::clone(&done));
        tasks.spawn(async move {
            for _ in 0..ROUNDS {
                for number in 0..COUNTERS {
                    increment(&engine, &key(number)).await;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    let report = engine.migrate().objects_at_once(2).await.unwrap();
    assert!(report.is_sealed && report.failed == 0);
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    assert_eq!(
        done.load(Ordering::Relaxed),
        TASKS * ROUNDS * COUNTERS as u64
    );
    for number in 0..COUNTERS {
        let value = bytes(&engine, &key(number)).await.unwrap();
        let value = u64::from_le_bytes(value.try_into().unwrap());
        assert_eq!(value, 100 + TASKS * ROUNDS, "{number}");
    }
    engine.close().await.unwrap();
}

async fn increment(engine: &Engine, key: &str) {
    loop {
        let updated = engine.update(key, |object| async {
            let value = object.expect("no counter is ever absent").bytes().await?;
            let value = u64::from_le_bytes(value[..].try_into().expect("8 bytes"));
            Ok::<_, Error>(Update::put((value + 1).to_le_bytes().to_vec()))
        });
        match updated.await {
            Ok(_) => return,
            Err(error) if matches!(error.kind(), ErrorKind::Conflict { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_seems_empty_is_not_sealed_unless_allowed() {
    let setting = Setting::new().await;
    let engine = setting
        .open(EngineFallback::new(setting.old.clone(), "old"))
        .await;
    let report = engine.migrate().await.unwrap();
    assert!(!report.is_sealed && report.failed == 0);
    assert!(engine.migrate().allow_empty().await.unwrap().is_sealed);
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_counts_and_changes_nothing() {
    let setting = Setting::with_objects(4).await;
    let engine = setting
        .open(EngineFallback::new(setting.old.clone(), "old"))
        .await;
    engine.put(&*key(0), "ours").await.unwrap();
    let before = engine.fallback_status().await.unwrap();
    let report = engine.migrate().dry_run().await.unwrap();
    assert_eq!((report.moved, report.kept, report.is_sealed), (3, 1, false));
    assert_eq!(engine.fallback_status().await.unwrap(), before);
    assert_eq!(engine.head(&*key(1)).await.unwrap().unwrap().version, None);
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moved_objects_leave_the_source_only_if_asked() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("old");
    std::fs::create_dir_all(root.join("d")).unwrap();
    std::fs::write(root.join("d/a"), "a").unwrap();
    std::fs::write(root.join("b"), vec![3; LARGE]).unwrap();
    std::fs::write(root.join("c"), "c").unwrap();
    let fallback = Scripted::new(files(&root));
    fallback.on_open("c", vec![Step::Fail]);
    let builder = Engine::builder(directory.path().join("new")).fallback(fallback);
    let engine = builder.open().await.unwrap();
    let report = engine.migrate().passes_max(1).await.unwrap();
    assert_eq!((report.moved, report.failed), (2, 1));
    assert!(root.join("d/a").exists() && root.join("b").exists());
    // Objects that an earlier run has moved leave the source, too.
    let report = engine
        .migrate()
        .delete_moved_from(files(&root))
        .await
        .unwrap();
    assert!(report.is_sealed);
    assert!(!root.join("d/a").exists() && !root.join("b").exists() && !root.join("c").exists());
    assert_eq!(bytes(&engine, "d/a").await.unwrap(), b"a");
    assert_eq!(bytes(&engine, "b").await.unwrap(), vec![3; LARGE]);
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_migration_runs_at_a_time_and_needs_a_fallback() {
    let setting = Setting::with_objects(2).await;
    let fallback = setting.scripted();
    let engine = setting.open(fallback.clone()).await;
    let other = engine.clone();
    fallback.on_open(
        &key(0),
        vec![Step::before(move || {
            let other = other.clone();
            async move {
                let error = other.migrate().await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Invalid);
            }
        })],
    );
    assert!(engine.migrate().await.unwrap().is_sealed);
    assert_eq!(
        setting.old.migrate().await.unwrap_err().kind(),
        ErrorKind::Invalid
    );
    engine.close().await.unwrap();
}

fn files(root: &Path) -> OperatorFallback {
    let root = root.to_str().unwrap();
    OperatorFallback::new(Operator::new(opendal::services::Fs::default().root(root)).unwrap())
}
