//! Scrub: each damage, planted behind the engine's back, is found, repaired as far as it can be,
//! and gone in a second run; and nothing that the engine does by itself is mistaken for damage.

mod beside;
mod running;
mod uploads;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use cenotaph::{Config, Fate, ScrubDepth, ScrubReport};
use cenotaph_storage::blobs::path;
use cenotaph_storage::index::{Batch, Table};
use cenotaph_storage::rows::{
    BlockChecksums, Row, expiry_key, expiry_value, floor_key, write_floor,
};
use cenotaph_storage::{
    BLOCK_BYTES, Checksum, ObjectId, RevisionId, RevisionKey, Seam, Timestamp, Version,
};
use cenotaph_tests::faulty::{Fault, Op};
use cenotaph_tests::store::{Store, blobs, named, payload, quick};

const EMBEDDED: usize = 10;
const SEPARATE: usize = 6000;
const LARGE: usize = 3_000_000;

/// One object of each kind.
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

/// What a scrub may do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum May {
    Look,
    Repair,
    Drop,
}

async fn scrub(store: &Store, may: May) -> ScrubReport {
    let scrub = store.engine.scrub().grace(Duration::ZERO);
    match may {
        May::Look => scrub.await,
        May::Repair => scrub.repair().await,
        May::Drop => scrub.drop_damaged().await,
    }
    .unwrap()
}

fn names(report: &ScrubReport) -> Vec<(&'static str, Fate)> {
    report
        .findings
        .iter()
        .map(|finding| (finding.damage.name(), finding.fate))
        .collect()
}

/// Writes behind the engine's back.
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

/// This is found, a repair mends it, and nothing of it is left.
async fn mends(store: &Store, name: &'static str) {
    assert_eq!(names(&scrub(store, May::Look).await), [(name, Fate::Left)]);
    assert_eq!(
        names(&scrub(store, May::Repair).await),
        [(name, Fate::Repaired)]
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
            "{key} is none the worse for it"
        );
    }
}

/// This is found, a mere repair leaves it, and giving the object up leaves nothing of it.
async fn drops(store: &Store, key: &str, name: &'static str) {
    assert_eq!(names(&scrub(store, May::Look).await)[0], (name, Fate::Left));
    let repaired = scrub(store, May::Repair).await;
    assert_eq!(names(&repaired)[0], (name, Fate::Left));
    assert!(
        repaired
            .findings
            .iter()
            .skip(1)
            .all(|finding| finding.fate == Fate::Withheld),
        "{repaired:?}"
    );
    let dropped = scrub(store, May::Drop).await;
    assert_eq!(
        (names(&dropped)[0], dropped.left()),
        ((name, Fate::Repaired), 0)
    );
    assert!(store.engine.head(key).await.unwrap().is_none());
    assert_clean(store).await;
}

async fn assert_clean(store: &Store) {
    store.assert_settled().await;
    let report = scrub(store, May::Look).await;
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_store_is_clean_and_every_byte_is_counted() {
    let store = store().await;
    let report = scrub(&store, May::Look).await;
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
async fn a_missing_blob_is_found_at_any_depth_and_given_up_on_request() {
    for key in ["large", "renamed"] {
        let store = store().await;
        std::fs::remove_file(file(&store, &blob_of(&store, key).await)).unwrap();
        let shallow = store
            .engine
            .scrub()
            .depth(ScrubDepth::Presence)
            .await
            .unwrap();
        assert_eq!(names(&shallow), [("missing-blob", Fate::Left)]);
        drops(&store, key, "missing-blob").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_of_a_blob_is_found_in_every_block() {
    for at in [0, LARGE / 2, LARGE - 1] {
        let store = store().await;
        let file = file(&store, &blob_of(&store, "large").await);
        std::fs::write(&file, flip(&std::fs::read(&file).unwrap(), at)).unwrap();
        drops(&store, "large", "corrupt-blob").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn block_checksums_that_are_not_the_rows_are_found() {
    let store = store().await;
    let file = file(&store, &blob_of(&store, "large").await);
    let other = flip(&std::fs::read(&file).unwrap(), 5);
    std::fs::write(&file, &other).unwrap();
    let blocks = BlockChecksums(other.chunks(BLOCK_BYTES).map(Checksum::of).collect());
    let key = row(&store, "large").await.belongings().remove(0);
    plant(&store, |batch| {
        batch.put(Table::Payloads, key, blocks.encode())
    })
    .await;
    drops(&store, "large", "corrupt-blob").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_ends_too_early_is_found_at_any_depth() {
    let store = store().await;
    let file = file(&store, &blob_of(&store, "large").await);
    std::fs::write(&file, &std::fs::read(&file).unwrap()[..LARGE - 1]).unwrap();
    let shallow = store
        .engine
        .scrub()
        .depth(ScrubDepth::Presence)
        .await
        .unwrap();
    assert_eq!(names(&shallow), [("corrupt-blob", Fate::Left)]);
    drops(&store, "large", "corrupt-blob").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_of_an_inline_payload_is_found() {
    let store = store().await;
    let value = store
        .index
        .get(Table::Rows, id("embedded").encoded())
        .await
        .unwrap()
        .unwrap();
    plant(&store, |batch| {
        batch.put(
            Table::Rows,
            id("embedded").encoded().clone(),
            flip(&value, value.len() - 1),
        )
    })
    .await;
    drops(&store, "embedded", "corrupt-payload").await;

    let key = row(&store, "separate").await.belongings().remove(0);
    plant(&store, |batch| {
        batch.put(Table::Payloads, key, flip(&payload(2, SEPARATE), 77))
    })
    .await;
    drops(&store, "separate", "corrupt-payload").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_that_is_not_there_is_found_at_any_depth() {
    let store = store().await;
    let key = row(&store, "separate").await.belongings().remove(0);
    plant(&store, |batch| batch.remove(Table::Payloads, key)).await;
    let shallow = store
        .engine
        .scrub()
        .depth(ScrubDepth::Presence)
        .await
        .unwrap();
    assert_eq!(names(&shallow), [("missing-payload", Fate::Left)]);
    drops(&store, "separate", "missing-payload").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_block_checksums_are_learnt_anew_from_an_intact_blob() {
    for key in ["large", "renamed"] {
        for damaged in [None, Some(Bytes::from_static(b"\x01no checksums"))] {
            let store = store().await;
            let checksums = row(&store, key).await.belongings().remove(0);
            plant(&store, |batch| match damaged {
                None => batch.remove(Table::Payloads, checksums),
                Some(value) => batch.put(Table::Payloads, checksums, value),
            })
            .await;
            mends(&store, "missing-checksums").await;
        }
    }
    let store = store().await;
    let checksums = row(&store, "large").await.belongings().remove(0);
    plant(&store, |batch| batch.remove(Table::Payloads, checksums)).await;
    let file = file(&store, &blob_of(&store, "large").await);
    std::fs::write(&file, flip(&std::fs::read(&file).unwrap(), 7)).unwrap();
    drops(&store, "large", "corrupt-blob").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_blob_is_found_and_deleted() {
    let store = store().await;
    let extra = RevisionKey {
        object: id("nobody"),
        revision: RevisionId::from_slice(&old_uuid()).unwrap(),
    };
    write_blob(&store, &extra);
    mends(&store, "unknown-blob").await;
    assert!(!blobs(&store.blobs).await.contains(&extra));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_blob_is_left_alone_within_the_grace_time() {
    let store = store().await;
    let born_now = cenotaph::Env::new(store.stage.clone()).revision_id();
    let extra = RevisionKey {
        object: id("nobody"),
        revision: born_now,
    };
    write_blob(&store, &extra);
    assert!(
        store
            .engine
            .scrub()
            .drop_damaged()
            .await
            .unwrap()
            .is_clean(),
        "it was begun just now"
    );
    assert!(blobs(&store.blobs).await.contains(&extra));
    mends(&store, "unknown-blob").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_blobs_of_what_looks_like_another_store_are_not_deleted_by_a_mere_repair() {
    let store = Store::new().await;
    let extra = RevisionKey {
        object: id("nobody"),
        revision: RevisionId::from_slice(&old_uuid()).unwrap(),
    };
    write_blob(&store, &extra);
    assert_eq!(
        names(&scrub(&store, May::Repair).await),
        [("unknown-blob", Fate::Left)]
    );
    assert_eq!(
        names(&scrub(&store, May::Drop).await),
        [("unknown-blob", Fate::Repaired)]
    );
    assert_clean(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_file_is_reported_and_left_alone() {
    let store = store().await;
    let foreign = store.path().join("blobs/README");
    std::fs::write(&foreign, "not ours").unwrap();
    assert_eq!(
        names(&scrub(&store, May::Drop).await),
        [("foreign-blob", Fate::Left)]
    );
    assert!(foreign.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_row_is_found_and_what_it_may_name_is_kept_until_it_is_given_up() {
    for key in ["embedded", "separate", "large", "renamed", "mortal"] {
        let store = store().await;
        let value = store
            .index
            .get(Table::Rows, id(key).encoded())
            .await
            .unwrap()
            .unwrap();
        // Of the first format byte on, cut short: no decoder takes it.
        plant(&store, |batch| {
            batch.put(Table::Rows, id(key).encoded().clone(), value.slice(..9))
        })
        .await;
        let before = blobs(&store.blobs).await;
        assert_eq!(
            names(&scrub(&store, May::Repair).await)[0],
            ("broken-row", Fate::Left),
            "{key}"
        );
        assert_eq!(
            blobs(&store.blobs).await,
            before,
            "a row that can't be read may name any blob"
        );
        let dropped = scrub(&store, May::Drop).await;
        assert_eq!(
            (names(&dropped)[0], dropped.left()),
            (("broken-row", Fate::Repaired), 0),
            "{key}: {dropped:?}"
        );
        assert_clean(&store).await;
        let written = store.engine.put(key, "again").await.unwrap();
        assert!(
            written.created && written.version.unwrap().get() > 1 << 32,
            "no version is reused: {written:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_row_is_broken_nothing_is_repaired_that_it_may_name() {
    let store = store().await;
    plant(&store, |batch| {
        batch.put(Table::Rows, id("embedded").encoded().clone(), "\x02");
        batch.put(Table::Payloads, old_uuid().to_vec(), "stray");
    })
    .await;
    let extra = RevisionKey {
        object: id("nobody"),
        revision: RevisionId::from_slice(&older_uuid()).unwrap(),
    };
    write_blob(&store, &extra);
    let kept = [
        ("broken-row", Fate::Left),
        ("payload-without-row", Fate::Withheld),
        ("unknown-blob", Fate::Withheld),
    ];
    assert_eq!(names(&scrub(&store, May::Repair).await), kept);
    assert_eq!(scrub(&store, May::Drop).await.left(), 0);
    assert_clean(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_whose_key_is_no_objects_is_given_up_on_request() {
    let store = store().await;
    plant(&store, |batch| {
        batch.put(Table::Rows, "no separator", "\x02")
    })
    .await;
    assert_eq!(
        names(&scrub(&store, May::Repair).await),
        [("broken-row", Fate::Left)]
    );
    assert_eq!(
        names(&scrub(&store, May::Drop).await),
        [("broken-row", Fate::Repaired)]
    );
    assert_clean(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_later_build_may_have_written_is_never_touched() {
    let store = store().await;
    let later = Bytes::from_static(b"\xfewritten by a later build");
    plant(&store, |batch| {
        batch.put(Table::Rows, id("later").encoded().clone(), later.clone());
        batch.put(Table::Changes, old_uuid().to_vec(), later.clone());
        batch.put(Table::Payloads, older_uuid().to_vec(), "what it names");
    })
    .await;
    let expected = [
        ("unknown-format", Fate::Left),
        ("unknown-format", Fate::Left),
        ("payload-without-row", Fate::Withheld),
    ];
    assert_eq!(names(&scrub(&store, May::Drop).await), expected);
    assert_eq!(
        store
            .index
            .get(Table::Rows, id("later").encoded())
            .await
            .unwrap(),
        Some(later)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expiry_entry_without_its_row_is_removed() {
    let at = Timestamp::from_millis(u64::MAX / 2);
    let other = Timestamp::from_millis(u64::MAX / 3);
    for (key, deadline) in [("absent", at), ("embedded", at), ("mortal", other)] {
        let store = store().await;
        plant(&store, |batch| {
            batch.put(
                Table::Expiry,
                expiry_key(deadline, &id(key)),
                expiry_value(),
            )
        })
        .await;
        mends(&store, "expiry-without-row").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_without_its_expiry_entry_gets_it_back() {
    let store = store().await;
    let deadline = row(&store, "mortal").await.metadata.expires_at.unwrap();
    let entry = expiry_key(deadline, &id("mortal"));
    plant(&store, |batch| batch.remove(Table::Expiry, entry.clone())).await;
    mends(&store, "row-without-expiry").await;
    assert_eq!(
        store.index.get(Table::Expiry, &entry).await.unwrap(),
        Some(expiry_value())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_expired_without_its_expiry_entry_is_removed() {
    let store = store().await;
    let mut expired = row(&store, "large").await;
    expired.metadata.expires_at = Some(Timestamp::from_millis(1000));
    plant(&store, |batch| {
        batch.put(Table::Rows, id("large").encoded().clone(), expired.encode())
    })
    .await;
    assert_eq!(
        names(&scrub(&store, May::Repair).await),
        [("row-without-expiry", Fate::Repaired)]
    );
    assert_eq!(
        store
            .index
            .get(Table::Rows, id("large").encoded())
            .await
            .unwrap(),
        None
    );
    assert_clean(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_can_not_be_read_now_is_said_to_be_so_and_left_alone() {
    let store = store().await;
    store.faults.fail_always(Op::Read, Fault::Before);
    let unreadable = [
        ("unreadable-blob", Fate::Left),
        ("unreadable-blob", Fate::Left),
    ];
    assert_eq!(names(&scrub(&store, May::Drop).await), unreadable);
    store.faults.heal();
    assert_clean(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_while_a_scrub_reads_it_stays_until_it_is_read() {
    let store = store().await;
    let reading = store.faults.hold(Op::Read);
    let engine = store.engine.clone();
    #[expect(
        clippy::disallowed_methods,
        reason = "the rule applies to code under test only"
    )]
    let scrubbing =
        tokio::spawn(async move { engine.scrub().grace(Duration::ZERO).await.unwrap() });
    while store.faults.held(Op::Read) < 2 {
        tokio::task::yield_now().await;
    }
    store.engine.delete("large").await.unwrap();
    assert_eq!(
        store.engine.settle().await.unwrap(),
        1,
        "its blob is being read (I8)"
    );
    drop(reading);
    let report = scrubbing.await.unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_clean(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_without_its_row_is_removed() {
    let store = store().await;
    plant(&store, |batch| {
        batch.put(Table::Payloads, old_uuid().to_vec(), payload(9, 5000))
    })
    .await;
    mends(&store, "payload-without-row").await;
    plant(&store, |batch| batch.put(Table::Payloads, "no id", "x")).await;
    mends(&store, "payload-without-row").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_entries_of_every_table_are_found_and_removed() {
    let cases = [
        (Table::Changes, Bytes::copy_from_slice(&old_uuid()), "\x01"),
        (Table::Changes, Bytes::from("no id"), "\x01"),
        (Table::Orphans, Bytes::copy_from_slice(&old_uuid()), "\x01"),
        (Table::Orphans, Bytes::from("no id"), "\x01"),
        (Table::Expiry, Bytes::from("no key"), "\x01"),
        (
            Table::Expiry,
            expiry_key(Timestamp::from_millis(u64::MAX / 2), &id("absent")),
            "",
        ),
        (Table::Meta, floor_key(&id("absent")), "\x01\x01\x01"),
        (Table::Meta, Bytes::from("floor\0no separator"), "\x01"),
    ];
    for (table, key, value) in cases {
        let store = store().await;
        plant(&store, |batch| batch.put(table, key.clone(), value)).await;
        assert_eq!(
            names(&scrub(&store, May::Look).await),
            [("broken-entry", Fate::Left)],
            "{table:?} {key:?}"
        );
        mends(&store, "broken-entry").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_whose_version_floor_was_broken_can_be_written_again() {
    let store = store().await;
    for is_mended in [true, false] {
        plant(&store, |batch| {
            batch.put(Table::Meta, floor_key(&id("gone")), "\x01\x01\x01")
        })
        .await;
        store.engine.put("gone", "x").if_absent().await.unwrap_err();
        if is_mended {
            mends(&store, "broken-entry").await;
        }
        assert!(
            store
                .engine
                .put("gone", "x")
                .await
                .unwrap()
                .version
                .unwrap()
                .get()
                > 1 << 32
        );
        store.engine.delete("gone").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_floor_beside_a_row_is_removed() {
    let store = store().await;
    plant(&store, |batch| {
        batch.put(
            Table::Meta,
            floor_key(&id("large")),
            write_floor(Version::new(7)),
        )
    })
    .await;
    mends(&store, "floor-beside-row").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_names_so_many_findings_and_counts_all() {
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
async fn every_page_of_a_larger_store_is_looked_at() {
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
    let heard = std::sync::Arc::clone(&progress);
    let report = store
        .engine
        .scrub()
        .on_progress(move |at| heard.lock().unwrap().push(at))
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
async fn stats_tell_how_long_the_oldest_change_and_orphan_have_waited() {
    let store = store().await;
    let settled = store.engine.stats().await.unwrap().actors;
    assert_eq!((settled.oldest_change, settled.oldest_orphan), (None, None));
    let before = cenotaph::Env::new(store.stage.clone()).now();
    let mut finished = store.stage.hold(Seam::UploadAfterClose);
    let upload = spawn_put(&store, "uploading");
    finished.arrived().await;
    let mut sweeping = store.stage.hold(Seam::SweeperBeforeDelete);
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
    std::fs::write(file, "nobody's").unwrap();
}

/// An id of 2026-01-01.
fn old_uuid() -> [u8; 16] {
    [
        0x01, 0x9b, 0x76, 0xda, 0xd8, 0x00, 0x7a, 0xbc, 0x8d, 0xef, 0, 0, 0, 0, 0, 0x7f,
    ]
}

/// An id of the day before.
fn older_uuid() -> [u8; 16] {
    [
        0x01, 0x9b, 0x71, 0xb4, 0x7c, 0x00, 0x7a, 0xbc, 0x8d, 0xef, 0, 0, 0, 0, 0, 0x80,
    ]
}
