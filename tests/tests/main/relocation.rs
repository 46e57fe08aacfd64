//! Relocations to another blob tier: the objects stay as they are, writes win, and a tier is
//! released only when nothing names a blob in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cenotaph::{ActorKind, Config, Engine, Env, ErrorKind, MARKER_PATH, ObjectMeta, Update};
use cenotaph_storage::SyncPoint;
use cenotaph_tests::stage::Stage;
use cenotaph_tests::store::{INLINE, payload, quick};
use tempfile::TempDir;
use tokio::task::JoinSet;

const LARGE: usize = 40 * INLINE;
/// Payload of several blocks.
const FILM: usize = 3_500_000;

/// A store whose blobs move from the directory `blobs` to the directory `new`.
struct Setting {
    directory: TempDir,
    stage: Stage,
}

impl Setting {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            stage: Stage::new(),
        }
    }

    fn old(&self) -> PathBuf {
        self.directory.path().join("blobs")
    }

    fn new_tier(&self) -> PathBuf {
        self.directory.path().join("new")
    }

    fn builder(&self) -> cenotaph::Builder {
        let config = Config {
            limits: cenotaph::Limits {
                split: cenotaph::SplitLimits {
                    over_bytes: 2 << 20,
                    part_bytes: 1 << 20,
                    ..cenotaph::SplitLimits::default()
                },
                ..quick().limits
            },
            ..quick()
        };
        let env = Env::new(self.stage.clone());
        Engine::builder(self.directory.path())
            .config(config)
            .env(env)
    }

    /// Lets a grace time of the sweeper pass in part.
    async fn pause(&self) {
        let env = Env::new(self.stage.clone());
        env.sleep(Duration::from_millis(5)).await;
    }

    /// Opens the store over its first tier.
    async fn open_old(&self) -> Engine {
        self.builder().open().await.unwrap()
    }

    /// Opens the store over both tiers.
    async fn open_both(&self) -> Engine {
        let builder = self.builder().blobs_in(self.new_tier());
        builder.older_blobs_in(self.old()).open().await.unwrap()
    }

    /// Opens the store over its new tier alone.
    async fn open_new(&self) -> cenotaph::Result<Engine> {
        self.builder().blobs_in(self.new_tier()).open().await
    }

    /// A setting with this many large objects in the old tier, opened over both.
    async fn with_objects(count: usize) -> (Self, Engine) {
        let setting = Self::new();
        let engine = setting.open_old().await;
        for number in 0..count {
            put(&engine, number, LARGE).await;
        }
        engine.close().await.unwrap();
        let engine = setting.open_both().await;
        (setting, engine)
    }
}

fn key(number: usize) -> String {
    format!("k/{number:04}")
}

async fn put(engine: &Engine, number: usize, bytes: usize) {
    let content = payload(number as u64, bytes);
    engine.put(&*key(number), content).await.unwrap();
}

async fn bytes(engine: &Engine, key: &str) -> Option<bytes::Bytes> {
    let object = engine.get(key).await.unwrap()?;
    Some(object.bytes().await.unwrap())
}

async fn head(engine: &Engine, key: &str) -> ObjectMeta {
    engine.head(key).await.unwrap().unwrap()
}

/// Returns the number of files below a directory.
fn files(directory: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return 0;
    };
    let count = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path) } else { 1 }
    };
    entries.map(count).sum()
}

async fn assert_clean(engine: &Engine) {
    let report = engine.scrub().await.unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

/// Puts objects of every kind, one with a long name.
async fn fill(engine: &Engine, long: &str) {
    engine.put("small", "s").await.unwrap();
    engine
        .put("plain", payload(1, LARGE))
        .content_type("video/mp4")
        .time_to_live(Duration::from_secs(3600))
        .await
        .unwrap();
    engine.put("split", payload(2, FILM)).await.unwrap();
    engine.put("first name", payload(3, LARGE)).await.unwrap();
    engine.rename("first name", "renamed").await.unwrap();
    engine.put("amended", payload(4, LARGE)).await.unwrap();
    engine.amend("amended").custom("a", "b").await.unwrap();
    let upload = engine.multipart("in parts").await.unwrap();
    for number in 1..=3 {
        let part = payload(10 + number, LARGE);
        let number = u32::try_from(number).unwrap();
        upload.part(number, part).await.unwrap();
    }
    upload.complete().await.unwrap();
    engine.put(long, payload(5, LARGE)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_move_to_the_new_tier_and_do_not_change() {
    let setting = Setting::new();
    let engine = setting.open_old().await;
    let long = "n".repeat(900);
    fill(&engine, &long).await;
    engine.close().await.unwrap();

    let engine = setting.open_both().await;
    let keys = [
        "small", "plain", "split", "renamed", "amended", "in parts", &long,
    ];
    let mut before = Vec::new();
    for key in keys {
        before.push((head(&engine, key).await, bytes(&engine, key).await));
    }
    put(&engine, 77, LARGE).await;
    let in_old = files(&setting.old());
    assert_clean(&engine).await;
    let would = engine.relocate().dry_run().await.unwrap();
    assert_eq!((would.relocated, would.failed), (6, 0));
    assert_eq!(files(&setting.old()), in_old, "a dry run changes nothing");

    let report = engine.relocate().await.unwrap();
    assert_eq!((report.relocated, report.failed, report.left), (6, 0, 0));
    assert_eq!(report.bytes, (7 * LARGE + FILM) as u64);
    assert_eq!(report.released.len(), 1);
    for (key, before) in keys.into_iter().zip(&before) {
        let now = (head(&engine, key).await, bytes(&engine, key).await);
        assert_eq!(now, *before, "{key}");
    }
    let etag = before[1].0.etag.unwrap();
    engine
        .amend("plain")
        .custom("c", "d")
        .if_etag(etag)
        .await
        .unwrap()
        .unwrap();
    assert_clean(&engine).await;
    assert_eq!(
        files(&setting.old()),
        0,
        "neither a blob nor the mark is left"
    );
    assert_eq!(engine.relocate().await.unwrap().relocated, 0);
    engine.close().await.unwrap();

    std::fs::remove_dir_all(setting.old()).unwrap();
    let engine = setting.open_new().await.unwrap();
    for (key, (_, content)) in keys.into_iter().zip(before) {
        assert_eq!(bytes(&engine, key).await, content, "{key}");
    }
    assert_clean(&engine).await;
    engine.delete("plain").await.unwrap();
    assert_eq!(engine.settle().await.unwrap(), 0);
    engine.close().await.unwrap();
    // The tier is optional now, and its absence no error.
    setting.open_both().await.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_objects_go_to_the_new_tier_and_the_old_one_stays_needed() {
    let (setting, engine) = Setting::with_objects(2).await;
    assert_eq!(files(&setting.old()), 3);
    put(&engine, 5, LARGE).await;
    put(&engine, 1, LARGE).await;
    assert_eq!(engine.settle().await.unwrap(), 0);
    assert_eq!((files(&setting.old()), files(&setting.new_tier())), (2, 3));
    engine.close().await.unwrap();
    let error = setting.open_new().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let error = setting.builder().open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    // Reading needs both, too.
    let builder = setting.builder().blobs_in(setting.new_tier());
    let reader = builder.older_blobs_in(setting.old()).read_only();
    let reader = reader.open().await.unwrap();
    assert_eq!(bytes(&reader, &key(0)).await, Some(payload(0, LARGE)));
    assert_eq!(reader.relocate().dry_run().await.unwrap().relocated, 1);
    let error = reader.relocate().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    reader.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_reader_keeps_the_old_tier_to_its_end() {
    let setting = Setting::new();
    let engine = setting.open_old().await;
    let content = payload(1, 24 << 20);
    engine.put("film", content.clone()).await.unwrap();
    engine.close().await.unwrap();
    let engine = setting.open_both().await;
    let object = engine.get("film").await.unwrap().unwrap();
    let report = engine.relocate().await.unwrap();
    assert_eq!((report.relocated, report.released.len()), (1, 0));
    assert!(report.left > 0);
    assert_eq!(object.bytes().await.unwrap(), content);
    let report = engine.relocate().await.unwrap();
    assert_eq!(
        (report.relocated, report.left, report.released.len()),
        (0, 0, 1)
    );
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn part_of_an_open_upload_keeps_the_old_tier() {
    let setting = Setting::new();
    let engine = setting.open_old().await;
    let upload = engine.multipart("k").await.unwrap();
    upload.part(1, payload(1, LARGE)).await.unwrap();
    let id = upload.upload_id();
    engine.close().await.unwrap();

    let engine = setting.open_both().await;
    let report = engine.relocate().await.unwrap();
    assert_eq!(
        (report.relocated, report.left, report.released.len()),
        (0, 1, 0)
    );
    let upload = engine.upload("k", id).unwrap();
    upload.part(2, payload(2, LARGE)).await.unwrap();
    upload.complete().await.unwrap();
    let content = bytes(&engine, "k").await.unwrap();
    let report = engine.relocate().await.unwrap();
    assert_eq!(
        (report.relocated, report.left, report.released.len()),
        (1, 0, 1)
    );
    assert_eq!(bytes(&engine, "k").await.unwrap(), content);
    engine.close().await.unwrap();
}

/// Changes an object whose payload is being copied. Returns its content afterwards.
async fn change(engine: &Engine, kind: usize) -> Option<bytes::Bytes> {
    let content = match kind {
        0 => {
            engine.delete(&*key(0)).await.unwrap();
            return None;
        }
        1 => payload(90, 10),
        _ => payload(91, LARGE),
    };
    engine.put(&*key(0), content.clone()).await.unwrap();
    Some(content)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_during_the_copy_wins() {
    let sync_points = [
        SyncPoint::UploadBeforeRecord,
        SyncPoint::UploadMidStream,
        SyncPoint::UploadAfterClose,
    ];
    for (sync_point, kind) in sync_points
        .iter()
        .flat_map(|&at| [(at, 0), (at, 1), (at, 2)])
    {
        let (setting, engine) = Setting::with_objects(3).await;
        let mut held = setting.stage.hold(sync_point);
        let relocation = engine.relocate().objects_at_once(1).passes_max(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { relocation.await.unwrap() });
        held.arrived().await;
        // The first object is being copied. A row moves behind the scan.
        let expected = change(&engine, kind).await;
        engine.rename(&*key(2), "a first").await.unwrap();
        held.release();
        let report = tasks.join_next().await.unwrap().unwrap();
        assert_eq!((report.relocated, report.failed), (1, 0), "{sync_point:?}");
        assert_eq!(bytes(&engine, &key(0)).await, expected, "{sync_point:?}");
        assert_eq!(bytes(&engine, "a first").await, Some(payload(2, LARGE)));
        let report = engine.relocate().await.unwrap();
        assert_eq!((report.relocated, report.left), (1, 0), "{sync_point:?}");
        assert_clean(&engine).await;
        engine.close().await.unwrap();
        let engine = setting.open_new().await.unwrap();
        assert_eq!(bytes(&engine, &key(0)).await, expected, "{sync_point:?}");
        assert_eq!(bytes(&engine, "a first").await, Some(payload(2, LARGE)));
        engine.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_put_that_began_before_the_copy_is_not_superseded() {
    let (setting, engine) = Setting::with_objects(1).await;
    let mut held = setting.stage.hold(SyncPoint::UploadAfterClose);
    let put = engine.put(&*key(0), payload(9, LARGE));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { put.await.unwrap() });
    held.arrived().await;
    let report = engine.relocate().await.unwrap();
    assert_eq!(report.relocated, 1);
    engine.amend(&*key(0)).custom("a", "b").await.unwrap();
    held.release();
    let written = tasks.join_next().await.unwrap().unwrap();
    assert_eq!(written.outcome, cenotaph::WriteOutcome::Applied);
    assert_eq!(bytes(&engine, &key(0)).await, Some(payload(9, LARGE)));
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_copy_is_a_failure_that_the_next_relocation_repeats() {
    let sync_points = [
        SyncPoint::UploadBeforeRecord,
        SyncPoint::UploadAfterRecord,
        SyncPoint::UploadMidStream,
        SyncPoint::UploadBeforeClose,
        SyncPoint::UploadAfterClose,
        SyncPoint::UploadAfterCommit,
    ];
    for sync_point in sync_points {
        for kind in [
            ActorKind::EveryUpload,
            ActorKind::Uploads,
            ActorKind::Shard(0),
        ] {
            let (setting, engine) = Setting::with_objects(2).await;
            let mut held = setting.stage.hold(sync_point);
            let relocation = engine.relocate().objects_at_once(1).passes_max(1);
            let mut tasks = JoinSet::new();
            tasks.spawn(async move { relocation.await.unwrap() });
            held.arrived().await;
            assert!(engine.kill(kind), "{sync_point:?} {kind:?}");
            held.release();
            let report = tasks.join_next().await.unwrap().unwrap();
            assert!(report.failed <= 1, "{sync_point:?} {kind:?} {report:?}");
            for number in 0..2 {
                let content = bytes(&engine, &key(number)).await;
                assert_eq!(content, Some(payload(number as u64, LARGE)));
            }
            // Late blobs of the killed copy are deleted twice, after a grace time.
            while engine.relocate().await.unwrap().left > 0 {
                setting.pause().await;
            }
            engine.close().await.unwrap();
            let engine = setting.open_new().await.unwrap();
            assert_eq!(engine.settle().await.unwrap(), 0);
            assert_clean(&engine).await;
            assert_eq!(files(&setting.new_tier()), 3, "{sync_point:?} {kind:?}");
            engine.close().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_relocation_continues_later() {
    let (setting, engine) = Setting::with_objects(30).await;
    for polls in 1..20 {
        let mut relocation = Box::pin(engine.relocate().objects_at_once(2).into_future());
        for _ in 0..polls {
            if futures::poll!(&mut relocation).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    for number in 0..30 {
        let content = bytes(&engine, &key(number)).await;
        assert_eq!(content, Some(payload(number as u64, LARGE)));
    }
    // The last one may still be ending.
    while engine.relocate().await.map_or(1, |report| report.left) > 0 {
        setting.pause().await;
    }
    engine.close().await.unwrap();
    let engine = setting.open_new().await.unwrap();
    assert_clean(&engine).await;
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_and_counters_are_exact_while_everything_moves() {
    let (setting, engine) = Setting::with_objects(60).await;
    let done = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for worker in 0..3 {
        let engine = engine.clone();
        let done = Arc::clone(&done);
        tasks.spawn(async move {
            let mut rounds = 0u64;
            while !done.load(Ordering::Relaxed) {
                // Objects of this worker only: a large value whose first byte counts the rounds.
                let own = key(worker);
                let count = u8::try_from(rounds % 251).unwrap();
                let updated = engine.update(&*own, |object| async move {
                    object.expect("it is never deleted");
                    let mut value = vec![7; LARGE];
                    value[0] = count;
                    Ok::<_, cenotaph::Error>(Update::put(value))
                });
                updated.await.unwrap();
                assert_eq!(bytes(&engine, &own).await.unwrap()[0], count);
                for number in [10, 35, 59] {
                    let content = bytes(&engine, &key(number)).await;
                    assert_eq!(content, Some(payload(number as u64, LARGE)));
                }
                rounds += 1;
            }
            rounds
        });
    }
    let report = engine.relocate().objects_at_once(2).await.unwrap();
    assert_eq!(report.failed, 0, "{report:?}");
    done.store(true, Ordering::Relaxed);
    let mut rounds = 0;
    while let Some(ended) = tasks.join_next().await {
        rounds += ended.unwrap();
    }
    while engine.relocate().await.unwrap().left > 0 {
        setting.pause().await;
    }
    println!(
        "{} objects were copied beside {rounds} rounds",
        report.relocated
    );
    assert_clean(&engine).await;
    engine.close().await.unwrap();
    assert!(!setting.old().join(MARKER_PATH).exists());
    setting.open_new().await.unwrap().close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_object_fails_and_keeps_its_tier() {
    let (setting, engine) = Setting::with_objects(3).await;
    let blob = first_blob(&setting.old());
    let mut content = std::fs::read(&blob).unwrap();
    content[100] ^= 1;
    std::fs::write(&blob, content).unwrap();
    let report = engine.relocate().await.unwrap();
    assert_eq!((report.relocated, report.failed), (2, 1));
    assert_eq!(report.failures[0].error.kind(), ErrorKind::Corrupt);
    assert_eq!((report.left, report.released.len()), (1, 0));
    engine.close().await.unwrap();
    assert!(setting.open_new().await.is_err());
    setting.open_both().await.close().await.unwrap();
}

fn first_blob(directory: &Path) -> PathBuf {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut paths = entries.map(|entry| entry.unwrap().path());
    let fan_out = paths.find(|path| path.is_dir() && files(path) > 0).unwrap();
    let mut blobs = std::fs::read_dir(fan_out).unwrap();
    blobs.next().unwrap().unwrap().path()
}
