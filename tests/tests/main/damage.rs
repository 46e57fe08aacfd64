//! Damage to files of the index: a flipped byte is reported, affects no other object, and the
//! report names the way out.

mod lost_files;
mod salvage;
mod uploads;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cenotaph::{Config, Engine, Env, ErrorKind, FjallOptions, RepairOutcome, ScrubReport};
use cenotaph_storage::index::Index;
use cenotaph_storage::index::fjall::FjallIndex;
use cenotaph_tests::store::payload;
use futures::{StreamExt, TryStreamExt};
use tempfile::TempDir;

const OBJECTS: u64 = 400;
/// Largest payload that stays in the index of these stores, in bytes.
const INLINE: usize = 500;

/// A store whose index can be flushed.
struct Opened {
    engine: Engine,
    index: Arc<FjallIndex>,
}

async fn open(data: &Path, config: Config) -> Opened {
    let index = FjallIndex::open(&data.join("index"), Env::real().unwrap(), config.index).unwrap();
    let index = Arc::new(index);
    let shared: Arc<dyn Index> = index.clone();
    let engine = Engine::builder(data)
        .config(config)
        .index(shared)
        .open()
        .await
        .unwrap();
    Opened { engine, index }
}

fn small() -> Config {
    Config {
        inline_bytes_max: INLINE,
        ..Config::default()
    }
}

impl Opened {
    async fn flush(&self) {
        let index = Arc::clone(&self.index);
        Env::real()
            .unwrap()
            .blocking(move || index.flush())
            .await
            .unwrap()
            .unwrap();
    }

    async fn close(self) {
        self.engine.close().await.unwrap();
    }
}

/// Returns the largest file in a directory of a keyspace: 1 contains rows, 2 payloads.
fn largest(data: &Path, keyspace: u32, directory: &str) -> PathBuf {
    let path = data.join(format!(
        "index/store/database/keyspaces/{keyspace}/{directory}"
    ));
    let files = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    files
        .max_by_key(|file| std::fs::metadata(file).unwrap().len())
        .unwrap()
}

/// Returns the segments of the payload log, in order.
fn segments(data: &Path) -> Vec<PathBuf> {
    let mut segments: Vec<_> = std::fs::read_dir(data.join("index/store/payloads"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    segments.sort();
    segments
}

/// Flips a bit after `percent` hundredths of the file.
fn flip(file: &Path, percent: u64) {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(file)
        .unwrap();
    let at = file.metadata().unwrap().len() * percent / 100;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

fn key(number: u64) -> String {
    format!("k{number:04}")
}

/// Returns the content of an object. Every fifth object is in the blob tier.
fn bytes_of(number: u64) -> bytes::Bytes {
    payload(
        number,
        if number.is_multiple_of(5) {
            INLINE + 100
        } else {
            300
        },
    )
}

/// Creates a store of small objects with one damaged block of rows.
async fn with_damaged_rows(data: &Path) {
    let store = open(data, small()).await;
    let puts = (0..OBJECTS).map(|number| store.engine.put(key(number), bytes_of(number)));
    futures::stream::iter(puts)
        .map(Ok)
        .try_for_each_concurrent(32, |put| async { put.await.map(drop) })
        .await
        .unwrap();
    store.flush().await;
    store.close().await;
    flip(&largest(data, 1, "tables"), 40);
}

/// Gets every object and returns the numbers of the readable ones. All others must be `Corrupt`.
async fn readable(engine: &Engine) -> BTreeSet<u64> {
    let mut readable = BTreeSet::new();
    for number in 0..OBJECTS {
        match engine.get(key(number)).await {
            Ok(Some(object)) => {
                assert_eq!(object.bytes().await.unwrap(), bytes_of(number));
                readable.insert(number);
            }
            Ok(None) => panic!("{} is absent", key(number)),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}"),
        }
    }
    readable
}

fn lost(readable: &BTreeSet<u64>) -> Vec<u64> {
    (0..OBJECTS)
        .filter(|number| !readable.contains(number))
        .collect()
}

fn names(report: &ScrubReport) -> BTreeMap<(&'static str, &'static str), usize> {
    let mut names = BTreeMap::new();
    for finding in &report.findings {
        let fate = match finding.fate {
            RepairOutcome::Left => "left",
            RepairOutcome::Repaired => "repaired",
            RepairOutcome::Withheld => "withheld",
        };
        *names.entry((finding.damage.name(), fate)).or_default() += 1;
    }
    names
}

/// Asserts that the doctor names the segment and the object of a single damaged payload.
fn examined_names_one_object(data: &Path) {
    let diagnosis = cenotaph::doctor::examine(data).unwrap();
    let [problem] = &diagnosis.problems[..] else {
        panic!("{diagnosis}")
    };
    assert_eq!(problem.file, segments(data)[0]);
    assert!(problem.what.contains("payloads=1"), "{diagnosis}");
    assert!(
        diagnosis.to_string().contains("of 1 objects: "),
        "{diagnosis}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_segment_is_damage_of_its_objects() {
    let data = TempDir::new().unwrap();
    let mut config = Config::default();
    config.index.segment_bytes = 1024 * 1024;
    let store = open(data.path(), config.clone()).await;
    for number in 0..40 {
        let put = store.engine.put(key(number), payload(number, 100_000));
        put.await.unwrap();
    }
    store.close().await;
    std::fs::remove_file(&segments(data.path())[1]).unwrap();
    let diagnosis = cenotaph::doctor::examine(data.path()).unwrap();
    let [problem] = &diagnosis.problems[..] else {
        panic!("{diagnosis}")
    };
    assert!(problem.what.contains("payloads=10"), "{diagnosis}");
    assert!(problem.what.contains("missing"), "{diagnosis}");

    let engine = open(data.path(), config).await.engine;
    let report = engine.scrub().drop_damaged().await.unwrap();
    assert_eq!(
        names(&report),
        BTreeMap::from([(("corrupt-payload", "repaired"), 10)])
    );
    assert!(engine.scrub().await.unwrap().is_clean());
    for number in 0..40 {
        if let Some(object) = engine.get(key(number)).await.unwrap() {
            assert_eq!(object.bytes().await.unwrap(), payload(number, 100_000));
        }
    }
    assert_eq!(engine.list("").await.unwrap().entries.len(), 30);
    engine.close().await.unwrap();
    let diagnosis = cenotaph::doctor::examine(data.path()).unwrap();
    assert!(diagnosis.problems.is_empty(), "{diagnosis}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flipped_payload_byte_is_a_finding_about_its_object() {
    let data = TempDir::new().unwrap();
    let store = open(data.path(), Config::default()).await;
    for number in 0..20 {
        store
            .engine
            .put(key(number), payload(number, 20_000))
            .await
            .unwrap();
    }
    store.flush().await;
    store.close().await;
    flip(&segments(data.path())[0], 42);
    examined_names_one_object(data.path());

    let engine = open(data.path(), Config::default()).await.engine;
    let mut damaged = Vec::new();
    for number in 0..20 {
        let object = engine.get(key(number)).await;
        match object {
            Ok(object) => assert_eq!(
                object.unwrap().bytes().await.unwrap(),
                payload(number, 20_000)
            ),
            Err(error) => damaged.push((number, error.kind())),
        }
    }
    let [(damaged, ErrorKind::Corrupt)] = damaged[..] else {
        panic!("{damaged:?}")
    };
    for scrub in [engine.scrub(), engine.scrub().repair()] {
        let report = scrub.await.unwrap();
        assert_eq!(
            names(&report),
            BTreeMap::from([(("corrupt-payload", "left"), 1)])
        );
        assert!(
            report.findings[0]
                .damage
                .to_string()
                .contains(&key(damaged)),
            "{report:?}"
        );
    }
    let report = engine.scrub().drop_damaged().await.unwrap();
    assert_eq!(
        names(&report),
        BTreeMap::from([(("corrupt-payload", "repaired"), 1)])
    );
    assert!(engine.scrub().await.unwrap().is_clean());
    assert!(engine.head(key(damaged)).await.unwrap().is_none());
    assert_eq!(engine.list("").await.unwrap().entries.len(), 19);
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listings_and_usage_report_unreadable_rows() {
    let data = TempDir::new().unwrap();
    with_damaged_rows(data.path()).await;
    let engine = open(data.path(), small()).await.engine;
    let readable = readable(&engine).await;
    assert!((1..100).contains(&lost(&readable).len()), "{readable:?}");
    let expected: Vec<String> = readable.iter().map(|&number| key(number)).collect();

    let error = engine.list("").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("table=rows"), "{error}");
    for limit in [7, 1000] {
        let mut listed = Vec::new();
        let mut ranges = 0;
        let mut after = None::<String>;
        loop {
            let mut list = engine.list("").limit(limit).step_over_damage();
            if let Some(after) = after {
                list = list.start_after(after);
            }
            let page = list.await.unwrap();
            listed.extend(page.entries.iter().map(|entry| entry.name().to_owned()));
            for range in page.unreadable {
                ranges += 1;
                let is_within =
                    |number: &u64| range.contains(format!("default\0{}", key(*number)).as_bytes());
                assert!(lost(&readable).iter().all(is_within), "{range}");
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!((&listed, ranges), (&expected, 1), "limit={limit}");
    }
    let items: Vec<_> = engine.list("").limit(50).stream().collect().await;
    let (entries, errors): (Vec<_>, Vec<_>) = items.into_iter().partition(Result::is_ok);
    assert_eq!((entries.len(), errors.len()), (expected.len(), 1));
    let usage = engine.usage().await.unwrap();
    assert_eq!(
        (usage.objects, usage.unreadable_ranges),
        (expected.len() as u64, 1)
    );
    assert_eq!(engine.stats().await.unwrap().actors.orphans, 0);

    let error = engine.delete_prefix("").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    let page = engine.list("").step_over_damage().await.unwrap();
    assert_eq!(
        (page.entries.len(), page.unreadable.len()),
        (0, 1),
        "every readable object is deleted"
    );
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scrub_of_unreadable_rows_deletes_no_blob_they_may_name() {
    let data = TempDir::new().unwrap();
    with_damaged_rows(data.path()).await;
    let engine = open(data.path(), small()).await.engine;
    let readable = readable(&engine).await;
    let large = lost(&readable)
        .into_iter()
        .filter(|number| number.is_multiple_of(5))
        .count();
    assert!(large > 0, "some lost objects have blobs that name them");
    let scrub = || engine.scrub().grace(Duration::ZERO);
    let expected = |fate| {
        BTreeMap::from([
            (("unreadable-range", "left"), 1),
            (("payload-without-row", fate), large),
            (("broken-row", "left"), large),
            (("unknown-blob", fate), large),
        ])
    };
    assert_eq!(names(&scrub().await.unwrap()), expected("left"));
    assert_eq!(
        names(&scrub().repair().await.unwrap()),
        expected("withheld")
    );
    assert_eq!(
        self::readable(&engine).await,
        readable,
        "a repair affects no object"
    );

    let report = scrub().drop_damaged().await.unwrap();
    assert_eq!(
        names(&report).get(&("broken-row", "repaired")),
        Some(&large),
        "{report:?}"
    );
    for number in lost(&readable) {
        let head = engine.head(key(number)).await;
        if number.is_multiple_of(5) {
            assert!(head.unwrap().is_none(), "the object is dropped");
        } else {
            assert_eq!(
                head.unwrap_err().kind(),
                ErrorKind::Corrupt,
                "the name of the object is lost"
            );
        }
    }
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn object_with_an_unreadable_row_can_be_replaced() {
    let data = TempDir::new().unwrap();
    with_damaged_rows(data.path()).await;
    let store = open(data.path(), small()).await;
    let lost = lost(&readable(&store.engine).await);
    let engine = &store.engine;
    let error = engine
        .put(key(lost[0]), "new")
        .if_absent()
        .await
        .unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::Corrupt,
        "a precondition needs the row"
    );
    let amended = engine.amend(key(lost[0])).filename("a").await;
    assert_eq!(
        amended.map(drop).unwrap_err().kind(),
        ErrorKind::Corrupt,
        "an amendment needs the row"
    );
    for (number, bytes) in [(lost[0], 10), (lost[1], INLINE + 1)] {
        let written = engine.put(key(number), payload(1, bytes)).await.unwrap();
        assert!(
            written.version.unwrap().get() > 1 << 32,
            "no version is reused: {written:?}"
        );
        assert_eq!(
            engine
                .get(key(number))
                .await
                .unwrap()
                .unwrap()
                .bytes()
                .await
                .unwrap(),
            payload(1, bytes)
        );
    }
    assert!(engine.delete(key(lost[2])).await.unwrap().existed);
    assert!(!engine.delete(key(lost[2])).await.unwrap().existed);
    assert!(engine.head(key(lost[2])).await.unwrap().is_none());
    assert!(
        engine
            .put(key(lost[2]), "new")
            .if_absent()
            .await
            .unwrap()
            .version
            .unwrap()
            .get()
            > 1 << 32
    );
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_compaction_reports_damage_and_way_out() {
    let data = TempDir::new().unwrap();
    with_damaged_rows(data.path()).await;
    let store = open(data.path(), small()).await;
    let mut failed = None;
    'rounds: for round in 0..200u64 {
        for number in (0..OBJECTS).step_by(20) {
            if let Err(error) = store.engine.put(key(number), payload(round, 200)).await
                && error.kind() != ErrorKind::Corrupt
            {
                failed = Some(error);
                break 'rounds;
            }
        }
        let index = Arc::clone(&store.index);
        // The flush fails after fjall has stopped.
        drop(Env::real().unwrap().blocking(move || index.flush()).await);
    }
    let failed = format!(
        "{:?}",
        failed.expect("fjall has compacted the damaged table")
    );
    let health = store.engine.health().unwrap_err().to_string();
    for text in [failed, health] {
        assert!(text.contains("cenotaph salvage OLD NEW"), "{text}");
        assert!(
            text.contains("table=rows") && text.contains("ChecksumMismatch"),
            "{text}"
        );
    }
    let report = store.engine.scrub().await.unwrap();
    assert!(
        names(&report).contains_key(&("unreadable-range", "left")),
        "a scrub still works: {report:?}"
    );
    store.engine.close().await.unwrap_err();
}
