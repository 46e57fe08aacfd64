//! Scrubs of multipart uploads: what open ones are made of is no damage, and each damage to them is
//! found, repaired as far as it can be, and gone in a second run.

use cenotaph::{ErrorKind, PartEtag, PartNumber, Upload, UploadId};
use cenotaph_storage::index::Range;
use cenotaph_storage::rows::{
    Filed, Part, Session, part_key, parts_prefix, session_expiry_key, session_key,
};

use super::*;

/// Bytes of a part.
const PART: usize = 100_000;

/// The store of the other tests, with an open upload of three parts, and one that has been
/// completed.
async fn uploading() -> (Store, Upload) {
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

fn key_of(upload: &Upload) -> Bytes {
    session_key(upload.id(), &upload.upload_id())
}

async fn session_of(store: &Store, upload: &Upload) -> Session {
    Session::decode(
        &store
            .index
            .get(Table::Sessions, &key_of(upload))
            .await
            .unwrap()
            .unwrap(),
    )
    .unwrap()
}

async fn part_of(store: &Store, upload: &Upload, at: u32) -> Part {
    let value = store
        .index
        .get(Table::Sessions, &part_key(&upload.upload_id(), number(at)))
        .await
        .unwrap()
        .unwrap();
    Filed::decode(&value).unwrap().part().unwrap()
}

async fn blob_of_part(store: &Store, upload: &Upload, at: u32) -> RevisionKey {
    RevisionKey {
        object: upload.id().clone(),
        revision: part_of(store, upload, at).await.extent.revision,
    }
}

/// The numbers of an upload's parts, as it lists them.
async fn listed(upload: &Upload) -> Vec<u16> {
    upload
        .parts()
        .await
        .unwrap()
        .parts
        .iter()
        .map(|part| part.number.get())
        .collect()
}

/// The upload is as good as it was: completed it has all its bytes.
async fn assert_completes(store: &Store, upload: &Upload) {
    upload.complete().await.unwrap();
    let whole: Vec<u8> = (1..=3)
        .flat_map(|number| payload(20 + number, PART))
        .collect();
    assert!(
        store.bytes("film").await.unwrap() == whole,
        "it has other bytes"
    );
    assert_clean(store).await;
}

/// This is found, a repair mends it, and the upload goes on.
async fn mends_upload(store: &Store, upload: &Upload, name: &'static str) {
    assert_eq!(names(&scrub(store, May::Look).await), [(name, Fate::Left)]);
    assert_eq!(
        names(&scrub(store, May::Repair).await),
        [(name, Fate::Repaired)]
    );
    assert_clean(store).await;
    assert_completes(store, upload).await;
}

/// This is found, a mere repair leaves it and all that it may need, and giving up leaves nothing of
/// it. What was found is told as `said`.
async fn gives_up(store: &Store, (name, said): (&'static str, &str)) {
    let blobs_before = blobs(&store.blobs).await;
    for may in [May::Look, May::Repair] {
        let report = scrub(store, may).await;
        assert_eq!(names(&report)[0], (name, Fate::Left));
        let told = report.findings[0].damage.to_string();
        assert!(told.starts_with(said), "{told}");
        let others: Vec<_> = report
            .findings
            .iter()
            .skip(1)
            .map(|finding| finding.fate)
            .collect();
        assert!(others.iter().all(|fate| *fate
            == if may == May::Look {
                Fate::Left
            } else {
                Fate::Withheld
            }));
        assert!(
            blobs(&store.blobs).await.is_subset(&blobs_before)
                && store.engine.settle().await.unwrap() == 0
        );
        assert_eq!(
            blobs(&store.blobs).await,
            blobs_before,
            "nothing is lost by a repair"
        );
    }
    let dropped = scrub(store, May::Drop).await;
    assert_eq!(
        (names(&dropped)[0], dropped.left()),
        ((name, Fate::Repaired), 0),
        "{dropped:?}"
    );
    assert_clean(store).await;
}

/// Part 2 is lost: no completion passes over it, and the upload is completed once it is there
/// again.
async fn assert_second_is_lost(store: &Store, upload: &Upload) {
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
    let report = scrub(&store, May::Drop).await;
    assert!(report.is_clean(), "{report:?}");
    assert_completes(&store, &upload).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_open_uploads_strays_are_repaired() {
    let (store, upload) = uploading().await;
    plant(&store, |batch| {
        batch.put(Table::Payloads, old_uuid().to_vec(), "stray")
    })
    .await;
    mends(&store, "payload-without-row").await;
    let extra = RevisionKey {
        object: id("nobody"),
        revision: RevisionId::from_slice(&old_uuid()).unwrap(),
    };
    write_blob(&store, &extra);
    mends(&store, "unknown-blob").await;
    assert_completes(&store, &upload).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_byte_of_the_parts_of_open_uploads_is_counted() {
    let (store, _upload) = uploading().await;
    let objects = scrub(&store, May::Look).await.looked;
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
    let told = std::sync::Arc::new(std::sync::Mutex::new(None));
    let heard = std::sync::Arc::clone(&told);
    let report = store
        .engine
        .scrub()
        .on_progress(move |at| *heard.lock().unwrap() = at.bytes_total)
        .await
        .unwrap();
    assert_eq!(*told.lock().unwrap(), Some(report.looked.bytes));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_missing_blob_of_a_part_is_found_at_any_depth_and_given_up_on_request() {
    let (store, upload) = uploading().await;
    let blob = blob_of_part(&store, &upload, 2).await;
    std::fs::remove_file(file(&store, &blob)).unwrap();
    let begun = upload.upload_id().begun().as_millis();
    let revision = blob.revision;
    let said = format!("missing-part: object=film begun_ms={begun} part=2 revision={revision}");
    let shallow = store
        .engine
        .scrub()
        .depth(ScrubDepth::Presence)
        .await
        .unwrap();
    assert_eq!(shallow.findings[0].damage.to_string(), said);
    gives_up(&store, ("missing-part", &said)).await;
    assert_second_is_lost(&store, &upload).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_or_missing_byte_of_a_part_is_found_and_the_part_given_up_on_request() {
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
        gives_up(
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
async fn lost_block_checksums_of_a_part_are_learnt_anew_from_an_intact_blob() {
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
        mends_upload(&store, &upload, "missing-checksums").await;
    }
    let (store, upload) = uploading().await;
    let part = part_of(&store, &upload, 2).await;
    plant(&store, |batch| {
        batch.remove(Table::Payloads, part.extent.revision.as_bytes().to_vec())
    })
    .await;
    let file = file(&store, &blob_of_part(&store, &upload, 2).await);
    std::fs::write(&file, flip(&std::fs::read(&file).unwrap(), 7)).unwrap();
    gives_up(&store, ("corrupt-part", "corrupt-part: object=film ")).await;
    assert_second_is_lost(&store, &upload).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_with_a_lost_part_is_listed_aborted_and_completed_without_it_if_that_is_said() {
    for aborts in [true, false] {
        let (store, upload) = uploading().await;
        std::fs::remove_file(file(&store, &blob_of_part(&store, &upload, 2).await)).unwrap();
        assert_eq!(scrub(&store, May::Drop).await.left(), 0);
        assert!(
            scrub(&store, May::Look).await.is_clean(),
            "a lost part is no damage any more"
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
            .scan(Table::Sessions, parts)
            .await
            .unwrap();
        assert_eq!(left, [], "not even the mark");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_without_its_expiry_entry_gets_it_back() {
    let (store, upload) = uploading().await;
    let deadline = session_of(&store, &upload).await.expires_at;
    let entry = session_expiry_key(deadline, upload.id(), &upload.upload_id());
    plant(&store, |batch| batch.remove(Table::Expiry, entry.clone())).await;
    let told = scrub(&store, May::Look).await.findings[0]
        .damage
        .to_string();
    let begun = upload.upload_id().begun().as_millis();
    assert_eq!(
        told,
        format!("session-without-expiry: object=film begun_ms={begun}")
    );
    mends_upload(&store, &upload, "session-without-expiry").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expiry_entry_without_its_session_is_removed() {
    let far = Timestamp::from_millis(u64::MAX / 2);
    for is_known in [true, false] {
        let (store, upload) = uploading().await;
        let other = if is_known {
            upload.upload_id()
        } else {
            UploadId::new(far, [1, 2])
        };
        let entry = session_expiry_key(far, upload.id(), &other);
        plant(&store, |batch| {
            batch.put(Table::Expiry, entry, expiry_value())
        })
        .await;
        mends_upload(&store, &upload, "expiry-without-session").await;
    }
    let (store, upload) = uploading().await;
    let entry = session_expiry_key(far, upload.id(), &upload.upload_id());
    plant(&store, |batch| batch.put(Table::Expiry, entry, "")).await;
    mends_upload(&store, &upload, "broken-entry").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_expired_without_its_expiry_entry_is_given_up() {
    let (store, upload) = uploading().await;
    let mut session = session_of(&store, &upload).await;
    let entry = session_expiry_key(session.expires_at, upload.id(), &upload.upload_id());
    session.expires_at = Timestamp::from_millis(1000);
    plant(&store, |batch| {
        batch.remove(Table::Expiry, entry);
        batch.put(Table::Sessions, key_of(&upload), session.encode());
    })
    .await;
    assert_eq!(
        names(&scrub(&store, May::Repair).await),
        [("session-without-expiry", Fate::Repaired)]
    );
    assert_eq!(
        store
            .index
            .get(Table::Sessions, &key_of(&upload))
            .await
            .unwrap(),
        None
    );
    assert_clean(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_session_is_given_up_with_its_parts() {
    let (store, upload) = uploading().await;
    let value = store
        .index
        .get(Table::Sessions, &key_of(&upload))
        .await
        .unwrap()
        .unwrap();
    plant(&store, |batch| {
        batch.put(Table::Sessions, key_of(&upload), value.slice(..5))
    })
    .await;
    assert_eq!(
        upload.complete().await.unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    let begun = upload.upload_id().begun().as_millis();
    let said = format!("broken-session: object=film begun_ms={begun}: ");
    gives_up(&store, ("broken-session", &said)).await;
    assert_eq!(
        upload.complete().await.unwrap_err().kind(),
        ErrorKind::Invalid,
        "nobody knows it any more"
    );
    let left = store.index.snapshot().unwrap();
    let parts = Range::prefix(&parts_prefix(&upload.upload_id()), 10);
    assert_eq!(left.scan(Table::Sessions, parts).await.unwrap(), []);
    assert!(store.engine.head("film").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_part_is_given_up_and_no_completion_passes_over_it() {
    let (store, upload) = uploading().await;
    let key = part_key(&upload.upload_id(), number(2));
    plant(&store, |batch| {
        batch.put(Table::Sessions, key.clone(), "\x01")
    })
    .await;
    assert_eq!(
        upload.complete().await.unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    let begun = upload.upload_id().begun().as_millis();
    gives_up(
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
async fn an_upload_that_a_broken_part_kept_from_expiring_ends_with_it() {
    let (store, upload) = uploading().await;
    let mut session = session_of(&store, &upload).await;
    let old = session_expiry_key(session.expires_at, upload.id(), &upload.upload_id());
    session.expires_at = Timestamp::from_millis(1000);
    let new = session_expiry_key(session.expires_at, upload.id(), &upload.upload_id());
    plant(&store, |batch| {
        batch.remove(Table::Expiry, old);
        batch.put(Table::Expiry, new, expiry_value());
        batch.put(Table::Sessions, key_of(&upload), session.encode());
        batch.put(
            Table::Sessions,
            part_key(&upload.upload_id(), number(2)),
            "\x01",
        );
    })
    .await;
    store.engine.settle().await.unwrap();
    assert!(
        store
            .index
            .get(Table::Sessions, &key_of(&upload))
            .await
            .unwrap()
            .is_some(),
        "it can't be ended"
    );
    let report = scrub(&store, May::Drop).await;
    assert_eq!(
        (names(&report)[0], report.left()),
        (("broken-part", Fate::Repaired), 0)
    );
    assert_eq!(
        store
            .index
            .get(Table::Sessions, &key_of(&upload))
            .await
            .unwrap(),
        None
    );
    assert_clean(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_without_their_session_are_removed_and_what_they_named_is_found_by_itself() {
    let (store, upload) = uploading().await;
    let entry = session_expiry_key(
        session_of(&store, &upload).await.expires_at,
        upload.id(),
        &upload.upload_id(),
    );
    plant(&store, |batch| {
        batch.remove(Table::Sessions, key_of(&upload));
        batch.remove(Table::Expiry, entry);
        batch.put(
            Table::Sessions,
            part_key(&upload.upload_id(), number(3)),
            "\x01",
        );
    })
    .await;
    assert_eq!(
        names(&scrub(&store, May::Look).await)[..3],
        [("part-without-session", Fate::Left); 3]
    );
    let report = scrub(&store, May::Repair).await;
    let expected = [
        ("part-without-session", 3),
        ("payload-without-row", 3),
        ("unknown-blob", 3),
    ];
    let expected: Vec<_> = expected
        .iter()
        .flat_map(|(name, times)| vec![(*name, Fate::Repaired); *times])
        .collect();
    assert_eq!(names(&report), expected);
    assert_clean(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_an_ended_upload_has_left_costs_the_object_nothing() {
    let (store, upload) = uploading().await;
    let part = part_of(&store, &upload, 1).await;
    upload.complete().await.unwrap();
    plant(&store, |batch| {
        batch.put(
            Table::Sessions,
            part_key(&upload.upload_id(), number(1)),
            part.encode(),
        )
    })
    .await;
    mends_upload(&store, &upload, "part-without-session").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_whose_key_is_none_keeps_its_parts_until_it_is_given_up() {
    let (store, upload) = uploading().await;
    let value = store
        .index
        .get(Table::Sessions, &key_of(&upload))
        .await
        .unwrap()
        .unwrap();
    plant(&store, |batch| {
        batch.remove(Table::Sessions, key_of(&upload));
        batch.put(Table::Sessions, key_of(&upload).slice(..9), value);
    })
    .await;
    let report = scrub(&store, May::Repair).await;
    assert_eq!(names(&report)[0], ("broken-entry", Fate::Left));
    assert_eq!(
        names(&report)[1..4],
        [("part-without-session", Fate::Withheld); 3]
    );
    assert_eq!(scrub(&store, May::Drop).await.left(), 0);
    assert_clean(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_is_filed_under_no_number_is_given_up_on_request() {
    let (store, upload) = uploading().await;
    let misfiled: Bytes = [&parts_prefix(&upload.upload_id())[..], &[0, 0]]
        .concat()
        .into();
    plant(&store, |batch| batch.put(Table::Sessions, misfiled, "\x01")).await;
    assert_eq!(
        upload.complete().await.unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    assert_eq!(
        names(&scrub(&store, May::Repair).await),
        [("broken-entry", Fate::Left)]
    );
    assert_eq!(
        names(&scrub(&store, May::Drop).await),
        [("broken-entry", Fate::Repaired)]
    );
    assert_completes(&store, &upload).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_later_build_may_have_written_about_uploads_is_never_touched() {
    let later = Bytes::from_static(b"\xfewritten by a later build");
    let other = UploadId::new(Timestamp::from_millis(1), [1, 2]);
    let upload = UploadId::new(Timestamp::from_millis(2), [3, 4]);
    for key in [
        session_key(&id("later"), &other),
        part_key(&upload, number(1)),
        Bytes::from_static(b"\x02new"),
    ] {
        let (store, open) = uploading().await;
        plant(&store, |batch| {
            batch.put(Table::Sessions, key.clone(), later.clone());
            batch.put(Table::Payloads, older_uuid().to_vec(), "what it names");
        })
        .await;
        let expected = [
            ("unknown-format", Fate::Left),
            ("payload-without-row", Fate::Withheld),
        ];
        assert_eq!(names(&scrub(&store, May::Drop).await), expected, "{key:?}");
        assert_eq!(
            store.index.get(Table::Sessions, &key).await.unwrap(),
            Some(later.clone())
        );
        open.abort().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stats_count_the_open_uploads_and_tell_the_oldest_without_a_look_at_their_parts() {
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
            Table::Sessions,
            part_key(&upload.upload_id(), number(2)),
            "\x01",
        )
    })
    .await;
    let open = store.engine.stats().await.unwrap().actors;
    assert_eq!((open.sessions, open.oldest_session), (2, Some(initiated)));
    assert_eq!(
        store.engine.usage().await.unwrap().blob_bytes,
        (2 * LARGE + PART) as u64,
        "objects only"
    );
    later.abort().await.unwrap();
    plant(&store, |batch| {
        batch.put(Table::Sessions, key_of(&upload), "\x01")
    })
    .await;
    let broken = store.engine.stats().await.unwrap().actors;
    assert_eq!(
        (broken.sessions, broken.oldest_session),
        (1, None),
        "one that can't be read counts"
    );
    assert_eq!(scrub(&store, May::Drop).await.left(), 0);
    let none = store.engine.stats().await.unwrap().actors;
    assert_eq!((none.sessions, none.oldest_session), (0, None));
}
