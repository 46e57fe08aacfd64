//! Scrub: every planted damage is found, repaired as far as possible, and absent in a second run.
//! Normal work of the engine is never reported as damage.

mod beside;
mod blobs;
mod rows;
mod running;
mod uploads;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use cenotaph::{Config, RepairOutcome, ScrubDepth, ScrubReport};
use cenotaph_storage::blobs::path;
use cenotaph_storage::index::{Batch, Table};
use cenotaph_storage::records::Row;
use cenotaph_storage::{ObjectId, RevisionKey, SyncPoint};
use cenotaph_tests::store::{Store, named, payload, quick};

const EMBEDDED: usize = 10;

const SEPARATE: usize = 6000;

const LARGE: usize = 3_000_000;

/// Creates a store with one object of each kind.
async fn store() -> Store {
    let store = Store::with(Config {
        inline_bytes_max: 10_000,
        ..quick()
    })
    .await;
    store
        .engine
        .put("embedded", payload(1, EMBEDDED))
        .await
        .unwrap();
    store
        .engine
        .put("separate", payload(2, SEPARATE))
        .await
        .unwrap();
    store.engine.put("large", payload(3, LARGE)).await.unwrap();
    store.engine.put("kept", payload(4, LARGE)).await.unwrap();
    store
        .engine
        .rename("kept", "renamed")
        .await
        .unwrap()
        .unwrap();
    store
        .engine
        .put("mortal", payload(5, EMBEDDED))
        .time_to_live(Duration::from_secs(3600))
        .await
        .unwrap();
    store
}

/// Permission of a scrub.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Report,
    RepairLevel,
    Drop,
}

async fn scrub(store: &Store, mode: Mode) -> ScrubReport {
    let scrub = store.engine.scrub().grace(Duration::ZERO);
    match mode {
        Mode::Report => scrub.await,
        Mode::RepairLevel => scrub.repair().await,
        Mode::Drop => scrub.drop_damaged().await,
    }
    .unwrap()
}

fn names(report: &ScrubReport) -> Vec<(&'static str, RepairOutcome)> {
    report
        .findings
        .iter()
        .map(|finding| (finding.damage.name(), finding.fate))
        .collect()
}

/// Writes to the index directly.
async fn plant(store: &Store, plant: impl FnOnce(&mut Batch)) {
    let mut batch = Batch::new();
    plant(&mut batch);
    store
        .index
        .submit(batch, Box::new(|outcome| outcome.unwrap()));
    store.index.barrier().await.unwrap();
}

fn id(key: &str) -> ObjectId {
    ObjectId::try_from(key).unwrap()
}

async fn row(store: &Store, key: &str) -> Row {
    Row::decode(
        &store
            .index
            .get(Table::Rows, id(key).encoded())
            .await
            .unwrap()
            .unwrap(),
    )
    .unwrap()
}

async fn blob_of(store: &Store, key: &str) -> RevisionKey {
    row(store, key).await.revision_keys(&id(key)).remove(0)
}

fn file(store: &Store, key: &RevisionKey) -> PathBuf {
    store.path().join("blobs").join(path::path(key))
}

fn flip(bytes: &[u8], at: usize) -> Bytes {
    let mut flipped = bytes.to_vec();
    flipped[at] ^= 1;
    flipped.into()
}

/// Asserts that a damage is reported, that a repair removes it, and that no object is affected.
async fn assert_repaired(store: &Store, name: &'static str) {
    assert_eq!(
        names(&scrub(store, Mode::Report).await),
        [(name, RepairOutcome::Left)]
    );
    assert_eq!(
        names(&scrub(store, Mode::RepairLevel).await),
        [(name, RepairOutcome::Repaired)]
    );
    assert_clean(store).await;
    for (key, seed, bytes) in [
        ("embedded", 1, EMBEDDED),
        ("separate", 2, SEPARATE),
        ("large", 3, LARGE),
    ] {
        assert_eq!(
            store.bytes(key).await,
            Some(payload(seed, bytes)),
            "{key} is intact"
        );
    }
}

/// Asserts that a damage is reported, that a repair keeps it, and that dropping the object removes
/// it.
async fn assert_dropped(store: &Store, key: &str, name: &'static str) {
    assert_eq!(
        names(&scrub(store, Mode::Report).await)[0],
        (name, RepairOutcome::Left)
    );
    let repaired = scrub(store, Mode::RepairLevel).await;
    assert_eq!(names(&repaired)[0], (name, RepairOutcome::Left));
    assert!(
        repaired
            .findings
            .iter()
            .skip(1)
            .all(|finding| finding.fate == RepairOutcome::Withheld),
        "{repaired:?}"
    );
    let dropped = scrub(store, Mode::Drop).await;
    assert_eq!(
        (names(&dropped)[0], dropped.left()),
        ((name, RepairOutcome::Repaired), 0)
    );
    assert!(store.engine.head(key).await.unwrap().is_none());
    assert_clean(store).await;
}

async fn assert_clean(store: &Store) {
    store.assert_settled().await;
    let report = scrub(store, Mode::Report).await;
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn healthy_store_is_clean_and_every_byte_is_counted() {
    let store = store().await;
    let report = scrub(&store, Mode::Report).await;
    assert!(report.is_clean(), "{report:?}");
    let bytes = (2 * EMBEDDED + SEPARATE + 2 * LARGE) as u64;
    assert_eq!(
        (
            report.looked.objects,
            report.looked.named_blobs,
            report.looked.blobs
        ),
        (5, 2, 2)
    );
    assert_eq!(report.looked.bytes, bytes);
    let shallow = store
        .engine
        .scrub()
        .depth(ScrubDepth::Presence)
        .await
        .unwrap();
    assert!(
        shallow.is_clean() && shallow.looked.bytes == 0 && shallow.looked.named_blobs == 2,
        "{shallow:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn report_lists_limited_findings_and_counts_all() {
    let store = store().await;
    plant(&store, |batch| {
        for number in 0..2500u32 {
            batch.put(Table::Payloads, number.to_be_bytes().to_vec(), "stray");
        }
    })
    .await;
    let report = store
        .engine
        .scrub()
        .findings_max(10)
        .repair()
        .await
        .unwrap();
    assert_eq!(
        (report.found, report.repaired, report.findings.len()),
        (2500, 2500, 10)
    );
    assert_clean(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_of_a_larger_store_is_scrubbed() {
    let store = Store::new().await;
    for number in 0..1203 {
        store
            .engine
            .put(format!("k{number:05}"), "x")
            .time_to_live(Duration::from_secs(60))
            .await
            .unwrap();
    }
    let progress = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let recorded = std::sync::Arc::clone(&progress);
    let report = store
        .engine
        .scrub()
        .on_progress(move |at| recorded.lock().unwrap().push(at))
        .await
        .unwrap();
    assert_eq!(
        (
            report.looked.objects,
            report.looked.bytes,
            report.looked.entries
        ),
        (1203, 1203, 1203)
    );
    let progress = progress.lock().unwrap();
    assert!(
        progress
            .windows(2)
            .all(|pair| pair[0].objects_done <= pair[1].objects_done)
    );
    let last = progress.last().unwrap();
    assert_eq!(
        (last.objects_done, last.bytes_total, last.looked),
        (1203, Some(1203), report.looked)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stats_show_the_age_of_the_oldest_change_and_orphan() {
    let store = store().await;
    let settled = store.engine.stats().await.unwrap().actors;
    assert_eq!((settled.oldest_change, settled.oldest_orphan), (None, None));
    let before = cenotaph::Env::new(store.stage.clone()).now();
    let mut finished = store.stage.hold(SyncPoint::UploadAfterClose);
    let upload = spawn_put(&store, "uploading");
    finished.arrived().await;
    let mut sweeping = store.stage.hold(SyncPoint::SweeperBeforeDelete);
    store.engine.delete("large").await.unwrap();
    sweeping.arrived().await;
    let actors = store.engine.stats().await.unwrap().actors;
    assert_eq!((actors.changes, actors.orphans), (1, 1));
    assert!(
        actors.oldest_change.unwrap() >= before
            && actors.oldest_orphan.unwrap() >= actors.oldest_change.unwrap()
    );
    drop((finished, sweeping));
    upload.await.unwrap();
    store.assert_settled().await;
    assert_eq!(named(&*store.index).await.len(), 2);
}

#[expect(
    clippy::disallowed_methods,
    reason = "the rule applies to code under test only"
)]
fn spawn_put(store: &Store, key: &'static str) -> tokio::task::JoinHandle<()> {
    let put = store.engine.put(key, payload(8, LARGE));
    tokio::spawn(async move {
        put.await.unwrap();
    })
}

fn write_blob(store: &Store, key: &RevisionKey) {
    let file = file(store, key);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, "stray").unwrap();
}

/// Returns an id of 2026-01-01.
fn old_uuid() -> [u8; 16] {
    [
        0x01, 0x9b, 0x76, 0xda, 0xd8, 0x00, 0x7a, 0xbc, 0x8d, 0xef, 0, 0, 0, 0, 0, 0x7f,
    ]
}

/// Returns an id of the day before [`old_uuid`].
fn older_uuid() -> [u8; 16] {
    [
        0x01, 0x9b, 0x71, 0xb4, 0x7c, 0x00, 0x7a, 0xbc, 0x8d, 0xef, 0, 0, 0, 0, 0, 0x80,
    ]
}
