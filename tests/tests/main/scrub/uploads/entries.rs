//! Damage to upload records, to the entries of parts, and to their expiry entries.

use bytes::Bytes;
use cenotaph::{ErrorKind, RepairOutcome, UploadId};
use cenotaph_storage::Timestamp;
use cenotaph_storage::index::{Range, Table};
use cenotaph_storage::records::{
    expiry_value, part_key, parts_prefix, upload_expiry_key, upload_record_key,
};

use super::{
    assert_completes, assert_entry_dropped, assert_second_is_lost, assert_upload_repaired, key_of,
    number, part_of, session_of, uploading,
};
use crate::scrub::{Mode, assert_clean, id, names, older_uuid, plant, scrub};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_expiry_entry_of_an_upload_is_restored() {
    let (store, upload) = uploading().await;
    let deadline = session_of(&store, &upload).await.expires_at;
    let entry = upload_expiry_key(deadline, upload.id(), &upload.upload_id());
    plant(&store, |batch| batch.remove(Table::Expiry, entry.clone())).await;
    let found = scrub(&store, Mode::Report).await.findings[0]
        .damage
        .to_string();
    let begun = upload.upload_id().begun().as_millis();
    assert_eq!(
        found,
        format!("session-without-expiry: object=film begun_ms={begun}")
    );
    assert_upload_repaired(&store, &upload, "session-without-expiry").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expiry_entry_without_its_upload_is_removed() {
    let far = Timestamp::from_millis(u64::MAX / 2);
    for is_known in [true, false] {
        let (store, upload) = uploading().await;
        let other = if is_known {
            upload.upload_id()
        } else {
            UploadId::new(far, [1, 2])
        };
        let entry = upload_expiry_key(far, upload.id(), &other);
        plant(&store, |batch| {
            batch.put(Table::Expiry, entry, expiry_value())
        })
        .await;
        assert_upload_repaired(&store, &upload, "expiry-without-session").await;
    }
    let (store, upload) = uploading().await;
    let entry = upload_expiry_key(far, upload.id(), &upload.upload_id());
    plant(&store, |batch| batch.put(Table::Expiry, entry, "")).await;
    assert_upload_repaired(&store, &upload, "broken-entry").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_upload_without_expiry_entry_is_removed() {
    let (store, upload) = uploading().await;
    let mut session = session_of(&store, &upload).await;
    let entry = upload_expiry_key(session.expires_at, upload.id(), &upload.upload_id());
    session.expires_at = Timestamp::from_millis(1000);
    plant(&store, |batch| {
        batch.remove(Table::Expiry, entry);
        batch.put(Table::Uploads, key_of(&upload), session.encode());
    })
    .await;
    assert_eq!(
        names(&scrub(&store, Mode::RepairLevel).await),
        [("session-without-expiry", RepairOutcome::Repaired)]
    );
    assert_eq!(
        store
            .index
            .get(Table::Uploads, &key_of(&upload))
            .await
            .unwrap(),
        None
    );
    assert_clean(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_upload_record_is_dropped_with_its_parts() {
    let (store, upload) = uploading().await;
    let value = store
        .index
        .get(Table::Uploads, &key_of(&upload))
        .await
        .unwrap()
        .unwrap();
    plant(&store, |batch| {
        batch.put(Table::Uploads, key_of(&upload), value.slice(..5))
    })
    .await;
    assert_eq!(
        upload.complete().await.unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    let begun = upload.upload_id().begun().as_millis();
    let text = format!("broken-session: object=film begun_ms={begun}: ");
    assert_entry_dropped(&store, ("broken-session", &text)).await;
    assert_eq!(
        upload.complete().await.unwrap_err().kind(),
        ErrorKind::Invalid,
        "the upload no longer exists"
    );
    let left = store.index.snapshot().unwrap();
    let parts = Range::prefix(&parts_prefix(&upload.upload_id()), 10);
    assert_eq!(left.scan(Table::Uploads, parts).await.unwrap(), []);
    assert!(store.engine.head("film").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_part_is_dropped_and_blocks_completion() {
    let (store, upload) = uploading().await;
    let key = part_key(&upload.upload_id(), number(2));
    plant(&store, |batch| {
        batch.put(Table::Uploads, key.clone(), "\x01")
    })
    .await;
    assert_eq!(
        upload.complete().await.unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    let begun = upload.upload_id().begun().as_millis();
    assert_entry_dropped(
        &store,
        (
            "broken-part",
            &format!("broken-part: object=film begun_ms={begun} part=2: "),
        ),
    )
    .await;
    assert_second_is_lost(&store, &upload).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upload_that_a_broken_part_kept_alive_ends_with_it() {
    let (store, upload) = uploading().await;
    let mut session = session_of(&store, &upload).await;
    let old = upload_expiry_key(session.expires_at, upload.id(), &upload.upload_id());
    session.expires_at = Timestamp::from_millis(1000);
    let new = upload_expiry_key(session.expires_at, upload.id(), &upload.upload_id());
    plant(&store, |batch| {
        batch.remove(Table::Expiry, old);
        batch.put(Table::Expiry, new, expiry_value());
        batch.put(Table::Uploads, key_of(&upload), session.encode());
        batch.put(
            Table::Uploads,
            part_key(&upload.upload_id(), number(2)),
            "\x01",
        );
    })
    .await;
    store.engine.settle().await.unwrap();
    assert!(
        store
            .index
            .get(Table::Uploads, &key_of(&upload))
            .await
            .unwrap()
            .is_some(),
        "the expirer cannot end the upload"
    );
    let report = scrub(&store, Mode::Drop).await;
    assert_eq!(
        (names(&report)[0], report.left()),
        (("broken-part", RepairOutcome::Repaired), 0)
    );
    assert_eq!(
        store
            .index
            .get(Table::Uploads, &key_of(&upload))
            .await
            .unwrap(),
        None
    );
    assert_clean(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_without_their_upload_record_are_removed() {
    let (store, upload) = uploading().await;
    let entry = upload_expiry_key(
        session_of(&store, &upload).await.expires_at,
        upload.id(),
        &upload.upload_id(),
    );
    plant(&store, |batch| {
        batch.remove(Table::Uploads, key_of(&upload));
        batch.remove(Table::Expiry, entry);
        batch.put(
            Table::Uploads,
            part_key(&upload.upload_id(), number(3)),
            "\x01",
        );
    })
    .await;
    assert_eq!(
        names(&scrub(&store, Mode::Report).await)[..3],
        [("part-without-session", RepairOutcome::Left); 3]
    );
    let report = scrub(&store, Mode::RepairLevel).await;
    let expected = [
        ("part-without-session", 3),
        ("payload-without-row", 3),
        ("unknown-blob", 3),
    ];
    let expected: Vec<_> = expected
        .iter()
        .flat_map(|(name, times)| vec![(*name, RepairOutcome::Repaired); *times])
        .collect();
    assert_eq!(names(&report), expected);
    assert_clean(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leftover_part_of_a_completed_upload_is_removed() {
    let (store, upload) = uploading().await;
    let part = part_of(&store, &upload, 1).await;
    upload.complete().await.unwrap();
    plant(&store, |batch| {
        batch.put(
            Table::Uploads,
            part_key(&upload.upload_id(), number(1)),
            part.encode(),
        )
    })
    .await;
    assert_upload_repaired(&store, &upload, "part-without-session").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn misfiled_upload_record_keeps_its_parts_until_dropped() {
    let (store, upload) = uploading().await;
    let value = store
        .index
        .get(Table::Uploads, &key_of(&upload))
        .await
        .unwrap()
        .unwrap();
    plant(&store, |batch| {
        batch.remove(Table::Uploads, key_of(&upload));
        batch.put(Table::Uploads, key_of(&upload).slice(..9), value);
    })
    .await;
    let report = scrub(&store, Mode::RepairLevel).await;
    assert_eq!(names(&report)[0], ("broken-entry", RepairOutcome::Left));
    assert_eq!(
        names(&report)[1..4],
        [("part-without-session", RepairOutcome::Withheld); 3]
    );
    assert_eq!(scrub(&store, Mode::Drop).await.left(), 0);
    assert_clean(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn part_with_an_invalid_number_is_dropped_on_request() {
    let (store, upload) = uploading().await;
    let misfiled: Bytes = [&parts_prefix(&upload.upload_id())[..], &[0, 0]]
        .concat()
        .into();
    plant(&store, |batch| batch.put(Table::Uploads, misfiled, "\x01")).await;
    assert_eq!(
        upload.complete().await.unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    assert_eq!(
        names(&scrub(&store, Mode::RepairLevel).await),
        [("broken-entry", RepairOutcome::Left)]
    );
    assert_eq!(
        names(&scrub(&store, Mode::Drop).await),
        [("broken-entry", RepairOutcome::Repaired)]
    );
    assert_completes(&store, &upload).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upload_entries_of_later_formats_are_never_touched() {
    let later = Bytes::from_static(b"\xfewritten by a later build");
    let other = UploadId::new(Timestamp::from_millis(1), [1, 2]);
    let upload = UploadId::new(Timestamp::from_millis(2), [3, 4]);
    for key in [
        upload_record_key(&id("later"), &other),
        part_key(&upload, number(1)),
        Bytes::from_static(b"\x02new"),
    ] {
        let (store, open) = uploading().await;
        plant(&store, |batch| {
            batch.put(Table::Uploads, key.clone(), later.clone());
            batch.put(Table::Payloads, older_uuid().to_vec(), "what it names");
        })
        .await;
        let expected = [
            ("unknown-format", RepairOutcome::Left),
            ("payload-without-row", RepairOutcome::Withheld),
        ];
        assert_eq!(names(&scrub(&store, Mode::Drop).await), expected, "{key:?}");
        assert_eq!(
            store.index.get(Table::Uploads, &key).await.unwrap(),
            Some(later.clone())
        );
        open.abort().await.unwrap();
    }
}
