//! Multipart uploads that the engine assembles itself: a completed object consists of the listed
//! parts in order, and nothing else remains on the server.
//!
//! Every case ends all of its uploads, so that rows alone name the remaining blobs. Long puts,
//! which the engine splits, are in `split.rs`; crashes during uploads are in `multipart/`.

use bytes::Bytes;
use cenotaph::{Body, Digest, Engine, ErrorKind, MultipartUpload, Reason, Result, WriteOutcome};
use cenotaph_storage::BLOCK_BYTES;
use cenotaph_tests::store::payload;
use futures::channel::oneshot;
use futures::future::{self, Either, try_join_all};
use futures::{StreamExt, TryStreamExt, stream};

use super::{
    LARGE, MEDIUM, PART_BYTES, SMALL, assert_holds, assert_ranges, blobs, bytes, put, streamed,
};

/// Asserts that a request was refused with this kind and reason.
fn assert_refused<T: std::fmt::Debug>(outcome: Result<T>, kind: ErrorKind, reason: Reason) {
    let error = outcome.unwrap_err();
    assert_eq!(
        (error.kind(), error.reason()),
        (kind, Some(reason)),
        "{error:?}"
    );
}

/// Uploads a part whose content depends on its number.
async fn part(upload: &MultipartUpload, number: u32, length: usize) {
    upload
        .part(number, payload(u64::from(number), length))
        .await
        .unwrap();
}

/// Returns the concatenated content of these parts.
fn whole(parts: &[(u32, usize)]) -> Bytes {
    parts
        .iter()
        .flat_map(|&(number, length)| payload(u64::from(number), length))
        .collect()
}

pub(super) async fn parts_become_the_object_in_number_order(engine: &Engine) {
    put(engine, "k", 100, LARGE).await;
    let upload = engine
        .multipart("k")
        .content_type("video/mp4")
        .await
        .unwrap();
    // One part is itself sent in parts, and one is empty. No border is that of a block.
    let listed = [
        (1, PART_BYTES + 1),
        (2, MEDIUM),
        (4, LARGE),
        (5, 0),
        (10_000, SMALL),
    ];
    upload.part(2, payload(200, LARGE)).await.unwrap();
    upload_reversed(&upload, &[&listed[..], &[(3, LARGE), (7, MEDIUM)]].concat()).await;
    assert_holds(engine, "k", 100, LARGE).await;
    assert_eq!(
        blobs(engine).await,
        1 + 7,
        "I5: the old object, and each part once"
    );

    let parts: Vec<_> = upload.parts().stream().try_collect().await.unwrap();
    let named = |number: u32| listed.iter().any(|&(of, _)| of == number);
    let parts: Vec<_> = parts
        .iter()
        .map(|part| (u32::from(part.number), part.etag))
        .collect();
    let parts: Vec<_> = parts
        .into_iter()
        .filter(|&(number, _)| named(number))
        .collect();
    let written = upload.complete().parts(parts.clone()).await.unwrap();
    assert_eq!(
        (written.outcome, written.created),
        (WriteOutcome::Applied, false)
    );
    assert_eq!(
        upload.complete().parts(parts.clone()).await.unwrap(),
        written,
        "a repeated completion gives the same answer"
    );
    assert_refused(
        upload.complete().parts(parts[1..].to_vec()).await,
        ErrorKind::Invalid,
        Reason::OtherParts,
    );

    let whole = whole(&listed);
    assert!(bytes(engine, "k").await.unwrap() == whole);
    let borders = listed.iter().scan(0, |end, &(_, length)| {
        *end += length;
        Some(*end)
    });
    assert_ranges(engine, "k", &whole, borders).await;
    let metadata = engine.head("k").await.unwrap().unwrap().metadata;
    assert_eq!(
        (metadata.size, metadata.attributes.content_type.as_deref()),
        (whole.len() as u64, Some("video/mp4"))
    );
    assert_eq!(
        blobs(engine).await,
        5,
        "I5: neither unlisted parts nor the old object"
    );
}

/// Uploads these parts concurrently, starting with the last.
async fn upload_reversed(upload: &MultipartUpload, parts: &[(u32, usize)]) {
    let sent = parts.iter().rev().map(|&(number, length)| {
        let body = streamed(&payload(u64::from(number), length), 700_001);
        upload.part(number, body).into_future()
    });
    try_join_all(sent).await.unwrap();
}

pub(super) async fn aborted_upload_leaves_nothing(engine: &Engine) {
    put(engine, "k", 100, MEDIUM).await;
    let upload = engine.multipart("k").await.unwrap();
    for (number, length) in [(1, MEDIUM), (2, LARGE), (3, 0)] {
        part(&upload, number, length).await;
    }
    let broken = stream::iter([
        Ok(payload(9, LARGE)),
        Err(std::io::Error::other("the client hung up")),
    ]);
    assert_eq!(
        upload
            .part(2, Body::stream(broken))
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::Source
    );
    assert_eq!(
        blobs(engine).await,
        1 + 3,
        "I5: the earlier part remains, and nothing of the failed one"
    );

    // Another part is uploading while the upload ends: all but its last byte have been sent.
    let (arrived, arrival) = oneshot::channel();
    let (release, released) = oneshot::channel();
    let last = stream::once(async move {
        let _ = arrived.send(());
        released.await.unwrap();
        Ok(payload(4, 1))
    });
    let late = stream::iter([Ok::<_, std::io::Error>(payload(4, LARGE))]).chain(last);
    let late = upload.part(4, Body::stream(late)).into_future();
    let late = match future::select(late, arrival).await {
        Either::Left((outcome, _)) => panic!("the stream has not ended: {outcome:?}"),
        Either::Right((arrived, late)) => {
            arrived.unwrap();
            late
        }
    };
    upload.abort().await.unwrap();
    release.send(()).unwrap();
    assert_refused(late.await, ErrorKind::Invalid, Reason::UploadAborted);
    upload.abort().await.unwrap();
    assert_refused(
        upload.complete().await,
        ErrorKind::Invalid,
        Reason::UploadAborted,
    );
    assert_eq!(blobs(engine).await, 1);
    assert_holds(engine, "k", 100, MEDIUM).await;
}

pub(super) async fn upload_resumes_by_its_id(engine: &Engine) {
    let begun = engine.multipart("films/k").if_absent().await.unwrap();
    part(&begun, 1, LARGE).await;
    let noted = begun.upload_id().to_string();
    drop(begun);
    let open = engine.list_uploads("films/").await.unwrap().uploads;
    assert_eq!(
        open.iter()
            .map(|upload| upload.upload_id.to_string())
            .collect::<Vec<_>>(),
        [noted.as_str()]
    );
    assert_refused(
        engine.resume("films/other", &noted).await,
        ErrorKind::Invalid,
        Reason::NoSuchUpload,
    );

    let resumed = engine.resume("films/k", &noted).await.unwrap();
    let there = resumed.parts().await.unwrap().parts;
    assert_eq!(
        there
            .iter()
            .map(|part| (u32::from(part.number), part.bytes))
            .collect::<Vec<_>>(),
        [(1, LARGE as u64)]
    );
    part(&resumed, 2, MEDIUM).await;
    let written = resumed.complete().await.unwrap();
    let again = engine.resume("films/k", &noted).await.unwrap();
    assert_eq!(again.complete().await.unwrap(), written);
    assert!(bytes(engine, "films/k").await.unwrap() == whole(&[(1, LARGE), (2, MEDIUM)]));
    assert_eq!(engine.list_uploads("").await.unwrap().uploads.len(), 0);
}

pub(super) async fn part_copies_a_range_of_an_object(engine: &Engine) {
    put(engine, "from", 1, LARGE).await;
    put(engine, "little", 2, SMALL).await;
    let upload = engine.multipart("k").await.unwrap();
    let inner = BLOCK_BYTES - 1..2 * PART_BYTES + 1;
    let copied = upload
        .part_copy(1, "from")
        .range(inner.start as u64..inner.end as u64)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(copied.bytes, inner.len() as u64);
    upload.part_copy(2, "little").await.unwrap().unwrap();
    upload
        .part_copy(3, "from")
        .range((LARGE - MEDIUM) as u64..)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(upload.part_copy(4, "absent").await.unwrap(), None);
    // A copied part does not depend on its source.
    engine.delete("from").await.unwrap();
    assert_eq!(blobs(engine).await, 3);
    upload.complete().await.unwrap();
    let from = payload(1, LARGE);
    let little = payload(2, SMALL);
    let whole = [&from[inner.clone()], &little, &from[LARGE - MEDIUM..]].concat();
    assert!(bytes(engine, "k").await.unwrap() == whole);
    assert_ranges(
        engine,
        "k",
        &whole,
        [inner.len(), inner.len() + SMALL, whole.len()].into_iter(),
    )
    .await;
}

pub(super) async fn part_that_differs_from_its_declaration_is_dropped(engine: &Engine) {
    let upload = engine.multipart("k").await.unwrap();
    let algorithms: [fn(&[u8]) -> Digest; 4] = [
        Digest::md5_of,
        Digest::crc32c_of,
        Digest::crc64_nvme_of,
        Digest::sha256_of,
    ];
    for (number, digest) in (1..).zip(algorithms) {
        let length = [MEDIUM, LARGE][number as usize % 2];
        let right = payload(u64::from(number), length);
        let wrong = payload(100, length);
        let kept = upload
            .part(number, right.clone())
            .checksum(digest(&right))
            .length(length as u64)
            .await
            .unwrap();
        assert_eq!(
            (kept.number.get(), kept.bytes),
            (number as u16, length as u64)
        );
        let refused = upload
            .part(number, streamed(&wrong, 700_001))
            .checksum(digest(&right))
            .await;
        assert_refused(refused, ErrorKind::Source, Reason::Checksum);
    }
    let long = payload(100, LARGE);
    for declared in [LARGE - 1, LARGE + 1, MEDIUM] {
        let refused = upload
            .part(4, streamed(&long, 700_001))
            .length(declared as u64)
            .await;
        assert_refused(refused, ErrorKind::Source, Reason::Length);
    }
    assert_eq!(blobs(engine).await, 4, "I5: the valid parts only");
    upload.complete().await.unwrap();
    let parts = [(1, LARGE), (2, MEDIUM), (3, LARGE), (4, MEDIUM)];
    assert!(bytes(engine, "k").await.unwrap() == whole(&parts));
}

pub(super) async fn completed_upload_behaves_like_any_object(engine: &Engine) {
    let parts = [(1, LARGE), (2, MEDIUM)];
    for key in ["a", "b"] {
        let upload = engine.multipart(key).await.unwrap();
        for (number, length) in parts {
            part(&upload, number, length).await;
        }
        assert!(upload.complete().if_absent().await.unwrap().created);
    }
    engine.rename("a", "c").await.unwrap().unwrap();
    // Another object takes the old name, which is still part of the path of the renamed blobs.
    put(engine, "a", 100, MEDIUM).await;
    engine.copy("c", "d").await.unwrap().unwrap();
    assert!(engine.delete("b").await.unwrap().existed);
    assert_eq!(
        blobs(engine).await,
        2 + 1 + 3,
        "I5: two parts, the new object, and a copy that was split"
    );
    assert!(bytes(engine, "c").await.unwrap() == whole(&parts));
    assert!(engine.delete("c").await.unwrap().existed);
    assert_eq!(blobs(engine).await, 1 + 3);
    assert!(bytes(engine, "d").await.unwrap() == whole(&parts));
    assert_holds(engine, "a", 100, MEDIUM).await;
    assert_eq!(
        (bytes(engine, "b").await, bytes(engine, "c").await),
        (None, None)
    );
}
