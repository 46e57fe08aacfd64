//! Scrubs of multipart uploads: open uploads are no damage, and every damage to them is found,
//! repaired as far as possible, and absent in a second run.

mod entries;

use bytes::Bytes;
use cenotaph::{ErrorKind, MultipartUpload, PartEtag, PartNumber, RepairOutcome, ScrubDepth};
use cenotaph_storage::index::{Range, Table};
use cenotaph_storage::records::{
    Filed, Part, UploadRecord, part_key, parts_prefix, upload_record_key,
};
use cenotaph_storage::{RevisionId, RevisionKey};
use cenotaph_tests::store::{Store, blobs, payload};

use super::{
    EMBEDDED, LARGE, Mode, SEPARATE, assert_clean, assert_repaired, file, flip, id, names,
    old_uuid, plant, scrub, store, write_blob,
};

/// Size of a part, in bytes.
const PART: usize = 100_000;

/// Creates the store of the other tests with an open upload of three parts and a completed upload.
async fn uploading() -> (Store, MultipartUpload) {
    let store = store().await;
    let done = store.engine.multipart("done").await.unwrap();
    done.part(1, payload(20, PART)).await.unwrap();
    done.complete().await.unwrap();
    let upload = store
        .engine
        .multipart("film")
        .content_type("video/mp4")
        .await
        .unwrap();
    for number in 1..=3u32 {
        upload
            .part(number, payload(20 + u64::from(number), PART))
            .await
            .unwrap();
    }
    (store, upload)
}

fn number(number: u32) -> PartNumber {
    PartNumber::new(number).unwrap()
}

fn key_of(upload: &MultipartUpload) -> Bytes {
    upload_record_key(upload.id(), &upload.upload_id())
}

async fn session_of(store: &Store, upload: &MultipartUpload) -> UploadRecord {
    UploadRecord::decode(
        &store
            .index
            .get(Table::Uploads, &key_of(upload))
            .await
            .unwrap()
            .unwrap(),
    )
    .unwrap()
}

async fn part_of(store: &Store, upload: &MultipartUpload, at: u32) -> Part {
    let value = store
        .index
        .get(Table::Uploads, &part_key(&upload.upload_id(), number(at)))
        .await
        .unwrap()
        .unwrap();
    Filed::decode(&value).unwrap().part().unwrap()
}

async fn blob_of_part(store: &Store, upload: &MultipartUpload, at: u32) -> RevisionKey {
    RevisionKey {
        object: upload.id().clone(),
        revision: part_of(store, upload, at).await.extent.revision,
    }
}

/// Returns the numbers of an upload's parts, as the upload lists them.
async fn listed(upload: &MultipartUpload) -> Vec<u16> {
    upload
        .parts()
        .await
        .unwrap()
        .parts
        .iter()
        .map(|part| part.number.get())
        .collect()
}

/// Asserts that the upload is intact: its completion gives the whole content.
async fn assert_completes(store: &Store, upload: &MultipartUpload) {
    upload.complete().await.unwrap();
    let whole: Vec<u8> = (1..=3)
        .flat_map(|number| payload(20 + number, PART))
        .collect();
    assert!(store.bytes("film").await.unwrap() == whole, "wrong content");
    assert_clean(store).await;
}

/// Asserts that a damage is reported, that a repair removes it, and that the upload is intact.
async fn assert_upload_repaired(store: &Store, upload: &MultipartUpload, name: &'static str) {
    assert_eq!(
        names(&scrub(store, Mode::Report).await),
        [(name, RepairOutcome::Left)]
    );
    assert_eq!(
        names(&scrub(store, Mode::RepairLevel).await),
        [(name, RepairOutcome::Repaired)]
    );
    assert_clean(store).await;
    assert_completes(store, upload).await;
}

/// Asserts that a damage is reported with this text, that a repair keeps it and every blob, and
/// that dropping the damaged entry removes it.
async fn assert_entry_dropped(store: &Store, (name, text): (&'static str, &str)) {
    let blobs_before = blobs(&store.blobs).await;
    for mode in [Mode::Report, Mode::RepairLevel] {
        let report = scrub(store, mode).await;
        assert_eq!(names(&report)[0], (name, RepairOutcome::Left));
        let found = report.findings[0].damage.to_string();
        assert!(found.starts_with(text), "{found}");
        let others: Vec<_> = report
            .findings
            .iter()
            .skip(1)
            .map(|finding| finding.fate)
            .collect();
        assert!(others.iter().all(|fate| *fate
            == if mode == Mode::Report {
                RepairOutcome::Left
            } else {
                RepairOutcome::Withheld
            }));
        assert!(
            blobs(&store.blobs).await.is_subset(&blobs_before)
                && store.engine.settle().await.unwrap() == 0
        );
        assert_eq!(
            blobs(&store.blobs).await,
            blobs_before,
            "a repair deletes no blob"
        );
    }
    let dropped = scrub(store, Mode::Drop).await;
    assert_eq!(
        (names(&dropped)[0], dropped.left()),
        ((name, RepairOutcome::Repaired), 0),
        "{dropped:?}"
    );
    assert_clean(store).await;
}

/// Asserts that part 2 is lost: it blocks the completion until it is uploaded again.
async fn assert_second_is_lost(store: &Store, upload: &MultipartUpload) {
    assert_eq!(listed(upload).await, [1, 3]);
    let error = upload.complete().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid, "{error}");
    assert!(
        error
            .to_string()
            .contains("the part was lost and must be uploaded again: part=2"),
        "{error}"
    );
    upload.part(2, payload(22, PART)).await.unwrap();
    assert_eq!(listed(upload).await, [1, 2, 3]);
    assert_completes(store, upload).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_and_ended_uploads_are_clean() {
    let (store, upload) = uploading().await;
    store
        .engine
        .multipart("given up")
        .await
        .unwrap()
        .abort()
        .await
        .unwrap();
    store
        .engine
        .multipart("empty")
        .await
        .unwrap()
        .part(7, "")
        .await
        .unwrap();
    assert_clean(&store).await;
    let report = scrub(&store, Mode::Drop).await;
    assert!(report.is_clean(), "{report:?}");
    assert_completes(&store, &upload).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strays_are_repaired_beside_open_uploads() {
    let (store, upload) = uploading().await;
    plant(&store, |batch| {
        batch.put(Table::Payloads, old_uuid().to_vec(), "stray")
    })
    .await;
    assert_repaired(&store, "payload-without-row").await;
    let extra = RevisionKey {
        object: id("nobody"),
        revision: RevisionId::from_slice(&old_uuid()).unwrap(),
    };
    write_blob(&store, &extra);
    assert_repaired(&store, "unknown-blob").await;
    assert_completes(&store, &upload).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_byte_of_parts_of_open_uploads_is_counted() {
    let (store, _upload) = uploading().await;
    let objects = scrub(&store, Mode::Report).await.looked;
    assert_eq!(
        (objects.objects, objects.named_blobs, objects.blobs),
        (6, 6, 6)
    );
    assert_eq!(
        objects.bytes,
        (2 * EMBEDDED + SEPARATE + 2 * LARGE + 4 * PART) as u64
    );
    let shallow = store
        .engine
        .scrub()
        .depth(ScrubDepth::Presence)
        .await
        .unwrap();
    assert!(
        shallow.is_clean() && shallow.looked.bytes == 0 && shallow.looked.named_blobs == 6,
        "{shallow:?}"
    );
    let total = std::sync::Arc::new(std::sync::Mutex::new(None));
    let recorded = std::sync::Arc::clone(&total);
    let report = store
        .engine
        .scrub()
        .on_progress(move |at| *recorded.lock().unwrap() = at.bytes_total)
        .await
        .unwrap();
    assert_eq!(*total.lock().unwrap(), Some(report.looked.bytes));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_blob_of_a_part_is_found_and_dropped() {
    let (store, upload) = uploading().await;
    let blob = blob_of_part(&store, &upload, 2).await;
    std::fs::remove_file(file(&store, &blob)).unwrap();
    let begun = upload.upload_id().begun().as_millis();
    let revision = blob.revision;
    let text = format!("missing-part: object=film begun_ms={begun} part=2 revision={revision}");
    let shallow = store
        .engine
        .scrub()
        .depth(ScrubDepth::Presence)
        .await
        .unwrap();
    assert_eq!(shallow.findings[0].damage.to_string(), text);
    assert_entry_dropped(&store, ("missing-part", &text)).await;
    assert_second_is_lost(&store, &upload).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_blob_of_a_part_is_found_and_dropped() {
    for cuts in [false, true] {
        let (store, upload) = uploading().await;
        let file = file(&store, &blob_of_part(&store, &upload, 2).await);
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(
            &file,
            if cuts {
                bytes[1..].to_vec().into()
            } else {
                flip(&bytes, PART - 1)
            },
        )
        .unwrap();
        let shallow = store
            .engine
            .scrub()
            .depth(ScrubDepth::Presence)
            .await
            .unwrap();
        assert_eq!(names(&shallow).len(), usize::from(cuts));
        let begun = upload.upload_id().begun().as_millis();
        assert_entry_dropped(
            &store,
            (
                "corrupt-part",
                &format!("corrupt-part: object=film begun_ms={begun} part=2 revision="),
            ),
        )
        .await;
        assert_second_is_lost(&store, &upload).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_block_checksums_of_a_part_are_rebuilt() {
    for value in [None, Some("\x01no checksums")] {
        let (store, upload) = uploading().await;
        let checksums = part_of(&store, &upload, 2)
            .await
            .extent
            .revision
            .as_bytes()
            .to_vec();
        plant(&store, |batch| match value {
            None => batch.remove(Table::Payloads, checksums),
            Some(value) => batch.put(Table::Payloads, checksums, value),
        })
        .await;
        assert_upload_repaired(&store, &upload, "missing-checksums").await;
    }
    let (store, upload) = uploading().await;
    let part = part_of(&store, &upload, 2).await;
    plant(&store, |batch| {
        batch.remove(Table::Payloads, part.extent.revision.as_bytes().to_vec())
    })
    .await;
    let file = file(&store, &blob_of_part(&store, &upload, 2).await);
    std::fs::write(&file, flip(&std::fs::read(&file).unwrap(), 7)).unwrap();
    assert_entry_dropped(&store, ("corrupt-part", "corrupt-part: object=film ")).await;
    assert_second_is_lost(&store, &upload).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upload_with_a_lost_part_can_be_aborted_or_completed() {
    for aborts in [true, false] {
        let (store, upload) = uploading().await;
        std::fs::remove_file(file(&store, &blob_of_part(&store, &upload, 2).await)).unwrap();
        assert_eq!(scrub(&store, Mode::Drop).await.left(), 0);
        assert!(
            scrub(&store, Mode::Report).await.is_clean(),
            "a part recorded as lost is no damage"
        );
        let first = upload.parts().limit(2).await.unwrap();
        assert_eq!((first.parts.len(), first.next), (1, Some(number(2))));
        let rest = upload.parts().start_after(number(2)).await.unwrap();
        assert_eq!((rest.parts[0].number, rest.next), (number(3), None));
        let reopened = store
            .engine
            .resume("film", upload.upload_id().to_string())
            .await
            .unwrap();
        if aborts {
            reopened.abort().await.unwrap();
        } else {
            let error = reopened
                .complete()
                .part(2, PartEtag::of(&payload(22, PART)))
                .await
                .unwrap_err();
            assert!(error.to_string().contains("the part was lost"), "{error}");
            reopened
                .complete()
                .part(3, rest.parts[0].etag)
                .await
                .unwrap();
            assert_eq!(store.bytes("film").await, Some(payload(23, PART)));
        }
        assert_clean(&store).await;
        let parts = Range::prefix(&parts_prefix(&upload.upload_id()), 10);
        let left = store
            .index
            .snapshot()
            .unwrap()
            .scan(Table::Uploads, parts)
            .await
            .unwrap();
        assert_eq!(left, [], "the mark of the lost part is removed, too");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stats_count_open_uploads_without_reading_their_parts() {
    let (store, upload) = uploading().await;
    let initiated = session_of(&store, &upload).await.initiated;
    let later = store.engine.multipart("later").await.unwrap();
    store
        .engine
        .multipart("given up")
        .await
        .unwrap()
        .abort()
        .await
        .unwrap();
    plant(&store, |batch| {
        batch.put(
            Table::Uploads,
            part_key(&upload.upload_id(), number(2)),
            "\x01",
        )
    })
    .await;
    let open = store.engine.stats().await.unwrap().actors;
    assert_eq!(
        (open.open_uploads, open.oldest_upload),
        (2, Some(initiated))
    );
    assert_eq!(
        store.engine.usage().await.unwrap().blob_bytes,
        (2 * LARGE + PART) as u64,
        "parts of uploads are not counted"
    );
    later.abort().await.unwrap();
    plant(&store, |batch| {
        batch.put(Table::Uploads, key_of(&upload), "\x01")
    })
    .await;
    let broken = store.engine.stats().await.unwrap().actors;
    assert_eq!(
        (broken.open_uploads, broken.oldest_upload),
        (1, None),
        "an unreadable upload record counts as an open upload"
    );
    assert_eq!(scrub(&store, Mode::Drop).await.left(), 0);
    let none = store.engine.stats().await.unwrap().actors;
    assert_eq!((none.open_uploads, none.oldest_upload), (0, None));
}
