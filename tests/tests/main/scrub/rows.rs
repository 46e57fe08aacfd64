//! Damage to rows, expiry entries, payload entries and last versions.

use bytes::Bytes;
use cenotaph::RepairOutcome;
use cenotaph_storage::index::Table;
use cenotaph_storage::records::{LastVersion, expiry_key, expiry_value, last_version_key};
use cenotaph_storage::{RevisionId, RevisionKey, Timestamp, Version};
use cenotaph_tests::store::{blobs, payload};

use super::{
    Mode, assert_clean, assert_repaired, id, names, old_uuid, older_uuid, plant, row, scrub, store,
    write_blob,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_row_keeps_every_blob_until_it_is_dropped() {
    for key in ["embedded", "separate", "large", "renamed", "mortal"] {
        let store = store().await;
        let value = store
            .index
            .get(Table::Rows, id(key).encoded())
            .await
            .unwrap()
            .unwrap();
        // The row is truncated after its format byte, so that no decoder accepts it.
        plant(&store, |batch| {
            batch.put(Table::Rows, id(key).encoded().clone(), value.slice(..9))
        })
        .await;
        let before = blobs(&store.blobs).await;
        assert_eq!(
            names(&scrub(&store, Mode::RepairLevel).await)[0],
            ("broken-row", RepairOutcome::Left),
            "{key}"
        );
        assert_eq!(
            blobs(&store.blobs).await,
            before,
            "an unreadable row may name any blob"
        );
        let dropped = scrub(&store, Mode::Drop).await;
        assert_eq!(
            (names(&dropped)[0], dropped.left()),
            (("broken-row", RepairOutcome::Repaired), 0),
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
async fn broken_row_withholds_repairs_of_what_it_may_name() {
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
        ("broken-row", RepairOutcome::Left),
        ("payload-without-row", RepairOutcome::Withheld),
        ("unknown-blob", RepairOutcome::Withheld),
    ];
    assert_eq!(names(&scrub(&store, Mode::RepairLevel).await), kept);
    assert_eq!(scrub(&store, Mode::Drop).await.left(), 0);
    assert_clean(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_with_an_invalid_key_is_dropped_on_request() {
    let store = store().await;
    plant(&store, |batch| {
        batch.put(Table::Rows, "no separator", "\x02")
    })
    .await;
    assert_eq!(
        names(&scrub(&store, Mode::RepairLevel).await),
        [("broken-row", RepairOutcome::Left)]
    );
    assert_eq!(
        names(&scrub(&store, Mode::Drop).await),
        [("broken-row", RepairOutcome::Repaired)]
    );
    assert_clean(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_of_later_formats_are_never_touched() {
    let store = store().await;
    let later = Bytes::from_static(b"\xfewritten by a later build");
    plant(&store, |batch| {
        batch.put(Table::Rows, id("later").encoded().clone(), later.clone());
        batch.put(Table::Changes, old_uuid().to_vec(), later.clone());
        batch.put(Table::Payloads, older_uuid().to_vec(), "what it names");
    })
    .await;
    let expected = [
        ("unknown-format", RepairOutcome::Left),
        ("unknown-format", RepairOutcome::Left),
        ("payload-without-row", RepairOutcome::Withheld),
    ];
    assert_eq!(names(&scrub(&store, Mode::Drop).await), expected);
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
async fn expiry_entry_without_its_row_is_removed() {
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
        assert_repaired(&store, "expiry-without-row").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_expiry_entry_of_a_row_is_restored() {
    let store = store().await;
    let deadline = row(&store, "mortal").await.metadata.expires_at.unwrap();
    let entry = expiry_key(deadline, &id("mortal"));
    plant(&store, |batch| batch.remove(Table::Expiry, entry.clone())).await;
    assert_repaired(&store, "row-without-expiry").await;
    assert_eq!(
        store.index.get(Table::Expiry, &entry).await.unwrap(),
        Some(expiry_value())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_object_without_expiry_entry_is_removed() {
    let store = store().await;
    let mut expired = row(&store, "large").await;
    expired.metadata.expires_at = Some(Timestamp::from_millis(1000));
    plant(&store, |batch| {
        batch.put(Table::Rows, id("large").encoded().clone(), expired.encode())
    })
    .await;
    assert_eq!(
        names(&scrub(&store, Mode::RepairLevel).await),
        [("row-without-expiry", RepairOutcome::Repaired)]
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
async fn payload_without_its_row_is_removed() {
    let store = store().await;
    plant(&store, |batch| {
        batch.put(Table::Payloads, old_uuid().to_vec(), payload(9, 5000))
    })
    .await;
    assert_repaired(&store, "payload-without-row").await;
    plant(&store, |batch| batch.put(Table::Payloads, "no id", "x")).await;
    assert_repaired(&store, "payload-without-row").await;
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
        (Table::Meta, last_version_key(&id("absent")), "\x01\x01\x01"),
        (Table::Meta, Bytes::from("floor\0no separator"), "\x01"),
    ];
    for (table, key, value) in cases {
        let store = store().await;
        plant(&store, |batch| batch.put(table, key.clone(), value)).await;
        assert_eq!(
            names(&scrub(&store, Mode::Report).await),
            [("broken-entry", RepairOutcome::Left)],
            "{table:?} {key:?}"
        );
        assert_repaired(&store, "broken-entry").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn object_with_a_broken_last_version_can_be_written() {
    let store = store().await;
    for is_repaired in [true, false] {
        plant(&store, |batch| {
            batch.put(Table::Meta, last_version_key(&id("gone")), "\x01\x01\x01")
        })
        .await;
        store.engine.put("gone", "x").if_absent().await.unwrap_err();
        if is_repaired {
            assert_repaired(&store, "broken-entry").await;
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
async fn last_version_beside_a_row_is_removed() {
    let store = store().await;
    plant(&store, |batch| {
        batch.put(
            Table::Meta,
            last_version_key(&id("large")),
            LastVersion::at(Version::new(7), Timestamp::from_millis(1)).encode(),
        )
    })
    .await;
    assert_repaired(&store, "floor-beside-row").await;
}
