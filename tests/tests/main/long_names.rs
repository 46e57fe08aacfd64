//! Objects with long names: the limit of a key depends neither on size nor on tier, their blobs
//! leave no directory behind, and blobs of earlier builds are read, scrubbed and deleted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cenotaph::{Engine, KEY_BYTES_MAX, RepairOutcome, ScrubDepth, ScrubReport, object_of_blob};
use cenotaph_storage::blobs::{path, trailer};
use cenotaph_storage::index::fjall::{FjallIndex, FjallOptions};
use cenotaph_storage::index::{Batch, Index, Table};
use cenotaph_storage::records::Row;
use cenotaph_storage::salvage::{Losses, copy_tables};
use cenotaph_storage::{BLOCK_BYTES, ObjectId, RevisionKey};
use cenotaph_tests::store::{Store, blobs, payload, quick};

const LARGE: usize = 2 * BLOCK_BYTES + 5;

fn long(name: &str) -> String {
    format!("{name}/{}", "第三季度財務報告".repeat(12))
}

fn names(report: &ScrubReport) -> Vec<(&'static str, RepairOutcome)> {
    report
        .findings
        .iter()
        .map(|finding| (finding.damage.name(), finding.fate))
        .collect()
}

async fn scrub(store: &Store) -> ScrubReport {
    store.engine.scrub().grace(Duration::ZERO).await.unwrap()
}

async fn revisions(store: &Store, key: &str) -> Vec<RevisionKey> {
    let id = ObjectId::try_from(key).unwrap();
    let row = store
        .index
        .get(Table::Rows, id.encoded())
        .await
        .unwrap()
        .unwrap();
    Row::decode(&row).unwrap().revision_keys(&id)
}

fn file(store: &Store, path: &str) -> PathBuf {
    store.path().join("blobs").join(path)
}

/// Moves the blobs of an object to the paths of an earlier build and removes their trailers, which
/// that build did not write.
async fn make_older(store: &Store, key: &str) {
    for key in revisions(store, key).await {
        let from = file(store, &path::path(&key));
        let to = file(store, &path::older_path(&key).unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::rename(from, &to).unwrap();
        let opened = std::fs::File::options().write(true).open(to).unwrap();
        let bytes = opened.metadata().unwrap().len();
        opened
            .set_len(bytes - trailer::length(&key.object))
            .unwrap();
    }
}

/// Removes the row and the payload entry of an object directly from the index.
async fn forget(store: &Store, key: &RevisionKey) {
    let mut batch = Batch::new();
    batch.remove(Table::Rows, key.object.encoded().clone());
    batch.remove(Table::Payloads, key.revision.as_bytes().to_vec());
    store
        .index
        .submit(batch, Box::new(|outcome| outcome.unwrap()));
    store.index.barrier().await.unwrap();
}

fn directories(root: &Path) -> usize {
    let inner = std::fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir());
    inner.map(|path| 1 + directories(&path)).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_names_leave_no_directory_behind() {
    let store = Store::new().await;
    let mut after_rounds = Vec::new();
    for round in 0..3 {
        for number in 0..40 {
            store
                .engine
                .put(long(&format!("{round}/{number}")), payload(number, 2000))
                .await
                .unwrap();
        }
        store.engine.delete_prefix("").await.unwrap();
        store.assert_settled().await;
        after_rounds.push(directories(&store.path().join("blobs")));
    }
    assert_eq!(after_rounds, [256; 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_valid_key_is_valid_for_every_size_and_tier() {
    let directory = tempfile::tempdir().unwrap();
    let memory = cenotaph::Operator::new(opendal::services::Memory::default()).unwrap();
    let local = Engine::builder(directory.path().join("local")).config(quick());
    let remote = Engine::builder(directory.path().join("remote"))
        .config(quick())
        .blobs(memory);
    for engine in [local.open().await.unwrap(), remote.open().await.unwrap()] {
        for key in [
            "é".repeat(160),
            "é".repeat(341),
            "é".repeat(512),
            "A".repeat(KEY_BYTES_MAX),
        ] {
            for bytes in [10, LARGE] {
                engine.put(key.as_str(), payload(1, bytes)).await.unwrap();
                let object = engine.get(key.as_str()).await.unwrap().unwrap();
                assert_eq!(object.bytes().await.unwrap(), payload(1, bytes));
            }
            let upload = engine.multipart(key.as_str()).await.unwrap();
            upload.abort().await.unwrap();
        }
        engine.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blob_with_a_long_name_contains_its_object_id() {
    let store = Store::new().await;
    let key = long("a");
    store
        .engine
        .put(key.as_str(), payload(1, LARGE))
        .await
        .unwrap();
    let path = path::path(&revisions(&store, &key).await[0]);
    let bytes = std::fs::read(file(&store, &path)).unwrap();
    let (object, trailer_bytes) = object_of_blob(&path, &bytes[bytes.len() - 1000..]).unwrap();
    assert_eq!(
        (object.key(), bytes.len()),
        (
            key.as_str(),
            LARGE + usize::try_from(trailer_bytes).unwrap()
        )
    );
    assert!(
        String::from_utf8_lossy(&bytes).contains(&format!("\ncenotaph-object\ndefault\n{key}\n"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_blob_is_read_scrubbed_copied_and_deleted() {
    let store = Store::new().await;
    let old = long("old");
    let kept = long("kept");
    let renamed = long("renamed");
    for (key, seed) in [(&old, 1), (&kept, 2)] {
        store
            .engine
            .put(key.as_str(), payload(seed, LARGE))
            .await
            .unwrap();
        make_older(&store, key).await;
    }
    store
        .engine
        .rename(kept.as_str(), renamed.as_str())
        .await
        .unwrap()
        .unwrap();
    store
        .engine
        .copy(old.as_str(), "copy")
        .await
        .unwrap()
        .unwrap();
    let store = store.reopen().await;
    for (key, seed) in [(old.as_str(), 1), (&renamed, 2), ("copy", 1)] {
        assert_eq!(store.bytes(key).await, Some(payload(seed, LARGE)));
    }
    store.assert_settled().await;
    let report = scrub(&store).await;
    assert!(
        report.is_clean() && report.looked.named_blobs == 3,
        "{report:?}"
    );
    assert!(
        store
            .engine
            .scrub()
            .depth(ScrubDepth::Presence)
            .await
            .unwrap()
            .is_clean()
    );

    let lost = file(
        &store,
        &path::older_path(&revisions(&store, &old).await[0]).unwrap(),
    );
    let bytes = std::fs::read(&lost).unwrap();
    std::fs::remove_file(&lost).unwrap();
    assert_eq!(
        names(&scrub(&store).await),
        [("missing-blob", RepairOutcome::Left)]
    );
    std::fs::write(&lost, bytes).unwrap();

    assert!(directories(&store.path().join("blobs")) > 256);
    store
        .engine
        .put(old.as_str(), payload(3, LARGE))
        .await
        .unwrap();
    store.engine.delete(renamed.as_str()).await.unwrap();
    store.assert_settled().await;
    assert_eq!(directories(&store.path().join("blobs")), 256);
    assert_eq!(store.bytes(&old).await, Some(payload(3, LARGE)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_blob_with_a_long_name_is_found_and_deleted() {
    for is_older in [false, true] {
        let store = Store::new().await;
        let key = long("a");
        store.engine.put("named", payload(2, LARGE)).await.unwrap();
        store
            .engine
            .put(key.as_str(), payload(1, LARGE))
            .await
            .unwrap();
        let lost = revisions(&store, &key).await.remove(0);
        if is_older {
            make_older(&store, &key).await;
        }
        forget(&store, &lost).await;

        let report = scrub(&store).await;
        assert_eq!(names(&report), [("unknown-blob", RepairOutcome::Left)]);
        assert!(
            report.findings[0].damage.to_string().contains(&key),
            "{report:?}"
        );
        let repaired = store
            .engine
            .scrub()
            .grace(Duration::ZERO)
            .repair()
            .await
            .unwrap();
        assert_eq!(
            names(&repaired),
            [("unknown-blob", RepairOutcome::Repaired)]
        );
        store.assert_settled().await;
        assert!(!blobs(&store.blobs).await.contains(&lost));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_blob_with_a_damaged_trailer_is_kept() {
    let store = Store::new().await;
    let key = long("a");
    store
        .engine
        .put(key.as_str(), payload(1, LARGE))
        .await
        .unwrap();
    let revision = revisions(&store, &key).await.remove(0);
    let file = file(&store, &path::path(&revision));
    std::fs::write(&file, payload(1, LARGE)).unwrap();
    // The object is readable, so no scrub may delete its blob.
    for depth in [ScrubDepth::Bytes, ScrubDepth::Presence] {
        let dropped = store
            .engine
            .scrub()
            .grace(Duration::ZERO)
            .depth(depth)
            .drop_damaged()
            .await
            .unwrap();
        assert_eq!(names(&dropped), [("damaged-trailer", RepairOutcome::Left)]);
    }
    assert_eq!(store.bytes(&key).await, Some(payload(1, LARGE)));

    forget(&store, &revision).await;
    let dropped = store
        .engine
        .scrub()
        .grace(Duration::ZERO)
        .drop_damaged()
        .await
        .unwrap();
    assert_eq!(names(&dropped), [("foreign-blob", RepairOutcome::Left)]);
    assert!(file.is_file());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn salvage_names_lost_objects_with_long_names() {
    let store = Store::new().await;
    let kept = long("kept");
    let lost = long("lost");
    let older = long("older");
    let nameless = long("nameless");
    for (seed, key) in (1..).zip([&kept, &lost, &older, &nameless]) {
        store
            .engine
            .put(key.as_str(), payload(seed, LARGE))
            .await
            .unwrap();
    }
    make_older(&store, &older).await;
    let revision = revisions(&store, &nameless).await.remove(0);
    std::fs::write(file(&store, &path::path(&revision)), "cut short").unwrap();
    for key in [&lost, &older, &nameless] {
        forget(&store, &revisions(&store, key).await[0]).await;
    }

    let env = cenotaph::Env::new(store.stage.clone());
    let new = FjallIndex::open(
        &store.path().join("new"),
        env.clone(),
        FjallOptions::default(),
    )
    .unwrap();
    let losses = Losses {
        has_whole_journals: false,
        files: Vec::new(),
    };
    let report = copy_tables(&*store.index, &new, losses, Some(&store.blobs), &env)
        .await
        .unwrap();
    let mut names: Vec<_> = report
        .lost_objects
        .iter()
        .map(|lost| Some(lost.object.as_ref()?.key.as_str()))
        .collect();
    names.sort_unstable();
    assert_eq!(
        (names, report.lost_blobs),
        (vec![None, Some(lost.as_str()), Some(older.as_str())], 3)
    );
    let nameless = report
        .lost_objects
        .iter()
        .find(|lost| lost.object.is_none())
        .unwrap();
    assert_eq!(nameless.path, path::path(&revision));
    let json = serde_json::to_value(nameless).unwrap();
    assert!(
        json.get("key").is_none() && json.get("path").is_some(),
        "{json}"
    );
    new.close().await.unwrap();
}
