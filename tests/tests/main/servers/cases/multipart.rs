//! Uploads in parts that the engine assembles itself: what is completed is the parts that are
//! listed, in order; of what is not, nothing stays with the server.
//!
//! Every case ends all of its uploads, so that what stands after it is named by rows alone.
//! Deliberately not here: long puts, which the engine cuts by itself (`split.rs`), and what a crash
//! leaves of an upload (`multipart/`).

use bytes::Bytes;
use cenotaph::{Body, Digest, Engine, ErrorKind, Outcome, Reason, Result, Upload};
use cenotaph_storage::BLOCK_BYTES;
use cenotaph_tests::store::payload;
use futures::channel::oneshot;
use futures::future::{self, Either, try_join_all};
use futures::{StreamExt, TryStreamExt, stream};

use super::{
    LARGE, MEDIUM, PART_BYTES, SMALL, assert_holds, assert_ranges, blobs, bytes, put, streamed,
};

/// Asserts that a request was refused for this reason, and how it is called.
fn assert_refused<T: std::fmt::Debug>(outcome: Result<T>, kind: ErrorKind, reason: Reason) {
    let error = outcome.unwrap_err();
    assert_eq!(
        (error.kind(), error.reason()),
        (kind, Some(reason)),
        "{error:?}"
    );
}

/// Uploads a part whose bytes its number tells.
async fn part(upload: &Upload, number: u32, length: usize) {
    upload
        .part(number, payload(u64::from(number), length))
        .await
        .unwrap();
}

/// These parts, one after the other.
fn whole(parts: &[(u32, usize)]) -> Bytes {
    parts
        .iter()
        .flat_map(|&(number, length)| payload(u64::from(number), length))
        .collect()
}

pub(super) async fn parts_of_any_order_are_the_object_in_the_order_of_their_numbers(
    engine: &Engine,
) {
    put(engine, "k", 100, LARGE).await;
    let upload = engine
        .multipart("k")
        .content_type("video/mp4")
        .await
        .unwrap();
    // One of them is itself sent in parts, one is empty; no border is one of a block.
    let listed = [
        (1, PART_BYTES + 1),
        (2, MEDIUM),
        (4, LARGE),
        (5, 0),
        (10_000, SMALL),
    ];
    upload.part(2, payload(200, LARGE)).await.unwrap();
    let unlisted = [(3, LARGE), (7, MEDIUM)];
    let sent = listed
        .iter()
        .chain(&unlisted)
        .rev()
        .map(|&(number, length)| {
            let body = streamed(&payload(u64::from(number), length), 700_001);
            upload.part(number, body).into_future()
        });
    try_join_all(sent).await.unwrap();
    assert_holds(engine, "k", 100, LARGE).await;
    assert_eq!(
        blobs(engine).await,
        1 + 7,
        "I5: the old object, and each part once: what was replaced is gone"
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
        (Outcome::Applied, false)
    );
    assert_eq!(
        upload.complete().parts(parts.clone()).await.unwrap(),
        written,
        "completed again, it answers the same"
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
        "I5: what is not listed is gone, and so is the old object"
    );
}

pub(super) async fn an_upload_that_is_aborted_leaves_nothing(engine: &Engine) {
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
        "I5: the part that was there is there, and nothing of the one that was to be"
    );

    // One more is under way while the upload ends: it has all its bytes but the last.
    let (arrived, arrival) = oneshot::channel();
    let (go_on, told) = oneshot::channel();
    let last = stream::once(async move {
        let _ = arrived.send(());
        told.await.unwrap();
        Ok(payload(4, 1))
    });
    let late = stream::iter([Ok::<_, std::io::Error>(payload(4, LARGE))]).chain(last);
    let late = upload.part(4, Body::stream(late)).into_future();
    let late = match future::select(late, arrival).await {
        Either::Left((outcome, _)) => panic!("its stream has not ended: {outcome:?}"),
        Either::Right((told, late)) => {
            told.unwrap();
            late
        }
    };
    upload.abort().await.unwrap();
    go_on.send(()).unwrap();
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

pub(super) async fn an_upload_goes_on_by_its_id(engine: &Engine) {
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

pub(super) async fn a_part_may_be_made_of_a_range_of_an_object(engine: &Engine) {
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
    // What is copied is copied: it outlives where it came from.
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
    assert_eq!(blobs(engine).await, 4, "I5: the right ones");
    upload.complete().await.unwrap();
    let parts = [(1, LARGE), (2, MEDIUM), (3, LARGE), (4, MEDIUM)];
    assert!(bytes(engine, "k").await.unwrap() == whole(&parts));
}

pub(super) async fn what_was_completed_is_copied_renamed_and_deleted_as_any_object(
    engine: &Engine,
) {
    let parts = [(1, LARGE), (2, MEDIUM)];
    for key in ["a", "b"] {
        let upload = engine.multipart(key).await.unwrap();
        for (number, length) in parts {
            part(&upload, number, length).await;
        }
        assert!(upload.complete().if_absent().await.unwrap().created);
    }
    engine.rename("a", "c").await.unwrap().unwrap();
    // The name that was left is taken, while the blobs lie where it is written on them.
    put(engine, "a", 100, MEDIUM).await;
    engine.copy("c", "d").await.unwrap().unwrap();
    assert!(engine.delete("b").await.unwrap().existed);
    assert_eq!(
        blobs(engine).await,
        2 + 1 + 3,
        "I5: two parts, what took their name, and a copy that was itself cut"
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
