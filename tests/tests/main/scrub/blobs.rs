//! Damage to blobs and payloads.

use std::time::Duration;

use bytes::Bytes;
use cenotaph::{RepairOutcome, ScrubDepth};
use cenotaph_storage::index::Table;
use cenotaph_storage::records::BlockChecksums;
use cenotaph_storage::{BLOCK_BYTES, Checksum, RevisionId, RevisionKey};
use cenotaph_tests::faulty::{Fault, Op};
use cenotaph_tests::store::{Store, blobs, payload};

use super::{
    LARGE, Mode, SEPARATE, assert_clean, assert_dropped, assert_repaired, blob_of, file, flip, id,
    names, old_uuid, plant, row, scrub, store, write_blob,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_blob_is_found_at_any_depth_and_dropped() {
    for key in ["large", "renamed"] {
        let store = store().await;
        std::fs::remove_file(file(&store, &blob_of(&store, key).await)).unwrap();
        let shallow = store
            .engine
            .scrub()
            .depth(ScrubDepth::Presence)
            .await
            .unwrap();
        assert_eq!(names(&shallow), [("missing-blob", RepairOutcome::Left)]);
        assert_dropped(&store, key, "missing-blob").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flipped_byte_of_a_blob_is_found_in_every_block() {
    for at in [0, LARGE / 2, LARGE - 1] {
        let store = store().await;
        let file = file(&store, &blob_of(&store, "large").await);
        std::fs::write(&file, flip(&std::fs::read(&file).unwrap(), at)).unwrap();
        assert_dropped(&store, "large", "corrupt-blob").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn block_checksums_that_contradict_the_row_are_found() {
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
    assert_dropped(&store, "large", "corrupt-blob").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn truncated_blob_is_found_at_any_depth() {
    let store = store().await;
    let file = file(&store, &blob_of(&store, "large").await);
    std::fs::write(&file, &std::fs::read(&file).unwrap()[..LARGE - 1]).unwrap();
    let shallow = store
        .engine
        .scrub()
        .depth(ScrubDepth::Presence)
        .await
        .unwrap();
    assert_eq!(names(&shallow), [("corrupt-blob", RepairOutcome::Left)]);
    assert_dropped(&store, "large", "corrupt-blob").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flipped_byte_of_an_inline_payload_is_found() {
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
    assert_dropped(&store, "embedded", "corrupt-payload").await;

    let key = row(&store, "separate").await.belongings().remove(0);
    plant(&store, |batch| {
        batch.put(Table::Payloads, key, flip(&payload(2, SEPARATE), 77))
    })
    .await;
    assert_dropped(&store, "separate", "corrupt-payload").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_payload_is_found_at_any_depth() {
    let store = store().await;
    let key = row(&store, "separate").await.belongings().remove(0);
    plant(&store, |batch| batch.remove(Table::Payloads, key)).await;
    let shallow = store
        .engine
        .scrub()
        .depth(ScrubDepth::Presence)
        .await
        .unwrap();
    assert_eq!(names(&shallow), [("missing-payload", RepairOutcome::Left)]);
    assert_dropped(&store, "separate", "missing-payload").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_block_checksums_are_rebuilt_from_an_intact_blob() {
    for key in ["large", "renamed"] {
        for damaged in [None, Some(Bytes::from_static(b"\x01no checksums"))] {
            let store = store().await;
            let checksums = row(&store, key).await.belongings().remove(0);
            plant(&store, |batch| match damaged {
                None => batch.remove(Table::Payloads, checksums),
                Some(value) => batch.put(Table::Payloads, checksums, value),
            })
            .await;
            assert_repaired(&store, "missing-checksums").await;
        }
    }
    let store = store().await;
    let checksums = row(&store, "large").await.belongings().remove(0);
    plant(&store, |batch| batch.remove(Table::Payloads, checksums)).await;
    let file = file(&store, &blob_of(&store, "large").await);
    std::fs::write(&file, flip(&std::fs::read(&file).unwrap(), 7)).unwrap();
    assert_dropped(&store, "large", "corrupt-blob").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_blob_is_found_and_deleted() {
    let store = store().await;
    let extra = RevisionKey {
        object: id("nobody"),
        revision: RevisionId::from_slice(&old_uuid()).unwrap(),
    };
    write_blob(&store, &extra);
    assert_repaired(&store, "unknown-blob").await;
    assert!(!blobs(&store.blobs).await.contains(&extra));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_blob_is_kept_within_the_grace_time() {
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
        "the revision is younger than the grace time"
    );
    assert!(blobs(&store.blobs).await.contains(&extra));
    assert_repaired(&store, "unknown-blob").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repair_of_an_empty_store_keeps_unknown_blobs() {
    let store = Store::new().await;
    let extra = RevisionKey {
        object: id("nobody"),
        revision: RevisionId::from_slice(&old_uuid()).unwrap(),
    };
    write_blob(&store, &extra);
    assert_eq!(
        names(&scrub(&store, Mode::RepairLevel).await),
        [("unknown-blob", RepairOutcome::Left)]
    );
    assert_eq!(
        names(&scrub(&store, Mode::Drop).await),
        [("unknown-blob", RepairOutcome::Repaired)]
    );
    assert_clean(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_file_is_reported_and_kept() {
    let store = store().await;
    let foreign = store.path().join("blobs/README");
    std::fs::write(&foreign, "not ours").unwrap();
    assert_eq!(
        names(&scrub(&store, Mode::Drop).await),
        [("foreign-blob", RepairOutcome::Left)]
    );
    assert!(foreign.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreadable_blob_is_reported_and_kept() {
    let store = store().await;
    store.faults.fail_always(Op::Read, Fault::Before);
    let unreadable = [
        ("unreadable-blob", RepairOutcome::Left),
        ("unreadable-blob", RepairOutcome::Left),
    ];
    assert_eq!(names(&scrub(&store, Mode::Drop).await), unreadable);
    store.faults.heal();
    assert_clean(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blob_deleted_during_its_scrub_stays_until_it_is_read() {
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
        "the scrub reads the blob (I8)"
    );
    drop(reading);
    let report = scrubbing.await.unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_clean(&store).await;
}
