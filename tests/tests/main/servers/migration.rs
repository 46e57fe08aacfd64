//! Migrations from and to a real server: a store whose blobs are files moves into a store whose
//! blobs are in a bucket, and the blobs of a store move from files into a bucket, both under load;
//! and the keys of a bucket move into a store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cenotaph::{Engine, EngineFallback, ErrorKind, Namespace, Operator, OperatorFallback, Update};
use cenotaph_tests::servers::layered;
use cenotaph_tests::servers::s3::S3;
use tokio::task::JoinSet;

const SMALL: u64 = 400;
const LARGE: u64 = 12;
const LARGE_BYTES: usize = 1_200_000;
const COUNTERS: u64 = 20;

fn content(number: u64) -> Vec<u8> {
    let bytes = if number < LARGE { LARGE_BYTES } else { 300 };
    vec![u8::try_from(number % 251).unwrap(); bytes]
}

fn key(number: u64) -> String {
    format!("object/{number:04}")
}

/// Moves a store under load: no read fails, and no write is lost.
pub(super) async fn assert_moves(server: &S3) {
    let directory = tempfile::tempdir().unwrap();
    let old = Engine::builder(directory.path().join("old"))
        .open()
        .await
        .unwrap();
    fill(&old).await;
    let bucket = server.bucket("moved").await;
    let new = directory.path().join("new");
    let builder = Engine::builder(&new).blobs(layered(bucket.clone()));
    let fallback = EngineFallback::new(old.clone(), "old");
    let engine = builder.fallback(fallback).open().await.unwrap();
    let migrate = engine.migrate().verify().objects_at_once(4).into_future();
    let (report, reads, rounds) = under_load(&engine, migrate).await;
    let report = report.unwrap();
    assert!(report.is_sealed && report.failed == 0, "{report:?}");
    engine.close().await.unwrap();
    old.close().await.unwrap();
    std::fs::remove_dir_all(directory.path().join("old")).unwrap();

    let engine = Engine::builder(&new)
        .blobs(layered(bucket))
        .open()
        .await
        .unwrap();
    judge(&engine, rounds).await;
    let scrubbed = engine.scrub().await.unwrap();
    assert!(scrubbed.findings.is_empty(), "{:?}", scrubbed.findings);
    println!(
        "moved {} objects, {} bytes; meanwhile {} reads and {} increments, none failed or lost",
        report.moved,
        report.bytes,
        reads,
        rounds * COUNTERS
    );
    engine.close().await.unwrap();
}

/// Moves the blobs of a store to a bucket under load: no read fails, and no write is lost.
pub(super) async fn assert_relocates(server: &S3) {
    let directory = tempfile::tempdir().unwrap();
    // All payloads are blobs, those of the counters too.
    let config = || cenotaph::Config {
        inline_bytes_max: 0,
        ..cenotaph::Config::default()
    };
    let builder = || Engine::builder(directory.path()).config(config());
    let engine = builder().open().await.unwrap();
    fill(&engine).await;
    engine.close().await.unwrap();

    let bucket = server.bucket("relocated").await;
    let both = builder().blobs(layered(bucket.clone()));
    let both = both.older_blobs_in(directory.path().join("blobs"));
    let engine = both.open().await.unwrap();
    let (report, reads, rounds) = under_load(&engine, engine.relocate().into_future()).await;
    let report = report.unwrap();
    assert_eq!(report.failed, 0, "{report:?}");
    // Without readers nothing keeps the older tier.
    let last = engine.relocate().await.unwrap();
    assert_eq!((last.failed, last.left), (0, 0), "{last:?}");
    engine.close().await.unwrap();
    std::fs::remove_dir_all(directory.path().join("blobs")).unwrap();

    let new = builder().blobs(layered(bucket));
    let engine = new.open().await.unwrap();
    judge(&engine, rounds).await;
    let scrubbed = engine.scrub().await.unwrap();
    assert!(scrubbed.findings.is_empty(), "{:?}", scrubbed.findings);
    println!(
        "relocated {} objects, {} bytes; meanwhile {} reads and {} increments, none failed or lost",
        report.relocated,
        report.bytes,
        reads,
        rounds * COUNTERS
    );
    engine.close().await.unwrap();
}

/// Writes the objects of the old store.
async fn fill(old: &Engine) {
    for number in 0..LARGE + SMALL {
        old.put(&*key(number), content(number)).await.unwrap();
    }
    for number in 0..COUNTERS {
        let zero = 0u64.to_le_bytes().to_vec();
        old.put(&*format!("counter/{number}"), zero).await.unwrap();
    }
}

/// Runs `work` beside two readers and two writers. Returns its result, the number of reads, and how
/// often each counter was incremented.
async fn under_load<T>(engine: &Engine, work: impl Future<Output = T>) -> (T, u64, u64) {
    let done = Arc::new(AtomicBool::new(false));
    let reads = Arc::new(AtomicU64::new(0));
    let mut tasks = load(engine, &done, &reads);
    let result = work.await;
    done.store(true, Ordering::Relaxed);
    let mut rounds = 0;
    while let Some(ended) = tasks.join_next().await {
        rounds += ended.unwrap();
    }
    (result, reads.load(Ordering::Relaxed), rounds)
}

/// Starts two readers and two writers. A writer returns how often it has incremented each counter.
fn load(engine: &Engine, done: &Arc<AtomicBool>, reads: &Arc<AtomicU64>) -> JoinSet<u64> {
    let mut tasks = JoinSet::new();
    for reader in 0..2 {
        let (engine, done, reads) = (engine.clone(), Arc::clone(done), Arc::clone(reads));
        tasks.spawn(async move {
            let mut number = reader;
            while !done.load(Ordering::Relaxed) {
                number = (number * 7 + 13) % (LARGE + SMALL);
                let object = engine
                    .get(&*key(number))
                    .await
                    .unwrap()
                    .expect("always there");
                assert_eq!(object.bytes().await.unwrap(), content(number));
                reads.fetch_add(1, Ordering::Relaxed);
            }
            0
        });
    }
    for _ in 0..2 {
        let (engine, done) = (engine.clone(), Arc::clone(done));
        tasks.spawn(async move {
            let mut count = 0;
            // Each task increments each counter as often.
            while !done.load(Ordering::Relaxed) {
                for number in 0..COUNTERS {
                    increment(&engine, &format!("counter/{number}")).await;
                }
                count += 1;
            }
            count
        });
    }
    tasks
}

/// Checks every object of the new store.
async fn judge(engine: &Engine, rounds: u64) {
    for number in 0..LARGE + SMALL {
        let object = engine.get(&*key(number)).await.unwrap().unwrap();
        assert_eq!(object.bytes().await.unwrap(), content(number));
    }
    for number in 0..COUNTERS {
        let object = engine
            .get(&*format!("counter/{number}"))
            .await
            .unwrap()
            .unwrap();
        let value = object.bytes().await.unwrap();
        assert_eq!(u64::from_le_bytes(value[..].try_into().unwrap()), rounds);
    }
}

async fn increment(engine: &Engine, key: &str) {
    loop {
        let updated = engine.update(key, |object| async {
            let value = object.expect("no counter is ever absent").bytes().await?;
            let value = u64::from_le_bytes(value[..].try_into().expect("8 bytes"));
            Ok::<_, cenotaph::Error>(Update::put((value + 1).to_le_bytes().to_vec()))
        });
        match updated.await {
            Ok(_) => return,
            Err(error) if matches!(error.kind(), ErrorKind::Conflict { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Moves the keys of a bucket, with content types and user metadata, and lists them before.
pub(super) async fn assert_bucket_moves(server: &S3) {
    let directory = tempfile::tempdir().unwrap();
    let bucket: Operator = server.bucket("source").await;
    // More than one page of the server's listing.
    for number in 0..1100 {
        bucket
            .write(&format!("k/{number:05}"), format!("{number}"))
            .await
            .unwrap();
    }
    let write = bucket.write_with("typed", vec![1; LARGE_BYTES]);
    write
        .content_type("image/png")
        .user_metadata([("colour".to_owned(), "red".to_owned())])
        .await
        .unwrap();
    let namespace = Namespace::new("photos").unwrap();
    let fallback = OperatorFallback::new(layered(bucket)).namespace(namespace.clone());
    let new = directory.path().join("new");
    let engine = Engine::builder(&new)
        .fallback(fallback)
        .open()
        .await
        .unwrap();
    let id = |key: &str| cenotaph::ObjectId::new(&namespace, key).unwrap();
    engine.delete(id("k/00007")).await.unwrap();
    let page = engine
        .list("k/")
        .namespace(namespace.clone())
        .limit(1000)
        .await
        .unwrap();
    assert_eq!(page.entries.len(), 1000);
    assert!(
        page.entries
            .iter()
            .all(|entry| !format!("{entry:?}").contains("k/00007"))
    );
    let report = engine.migrate().await.unwrap();
    assert!(report.is_sealed);
    assert_eq!((report.moved, report.kept), (1100, 1));
    let typed = engine.head(&id("typed")).await.unwrap().unwrap();
    let attributes = &typed.metadata.attributes;
    assert_eq!(attributes.content_type.as_deref(), Some("image/png"));
    assert_eq!(
        attributes.custom.get("colour").map(String::as_str),
        Some("red")
    );
    assert!(engine.get(id("k/00007")).await.unwrap().is_none());
    engine.close().await.unwrap();
}
