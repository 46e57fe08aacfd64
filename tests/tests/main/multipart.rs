//! Multipart uploads, end to end: a completion turns the listed parts, in order, into an object in
//! one commit, exactly once. Other parts leave nothing behind.

mod limits;
mod listing;
mod races;
mod scale;
mod split;

use std::time::Duration;

use bytes::Bytes;
use cenotaph::{ErrorKind, MultipartUpload, PartEtag, Version, WriteOutcome};
use cenotaph_storage::index::Table;
use cenotaph_tests::store::{Store, blobs, payload, quick};
use futures::TryStreamExt;

const HOUR: Duration = Duration::from_secs(3600);

/// Uploads these parts in sequence and returns the content of the completed object.
async fn upload(upload: &MultipartUpload, numbers: &[u32], bytes: usize) -> Bytes {
    for &number in numbers {
        upload
            .part(number, payload(u64::from(number), bytes))
            .await
            .unwrap();
    }
    let mut ordered = numbers.to_vec();
    ordered.sort_unstable();
    ordered.dedup();
    ordered
        .iter()
        .flat_map(|&number| payload(u64::from(number), bytes))
        .collect::<Vec<u8>>()
        .into()
}

/// Asserts that the outcome is an `Invalid` error whose message contains `expected`.
fn assert_refused<T: std::fmt::Debug>(outcome: cenotaph::Result<T>, expected: &str) {
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains(expected), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_parts_become_the_object_in_number_order() {
    let store = Store::new().await;
    store.engine.put("k", "the old one").await.unwrap();
    let begun = store
        .engine
        .multipart("k")
        .content_type("a/b")
        .custom("c", "d")
        .time_to_live(HOUR)
        .await
        .unwrap();
    // Sizes around the block size of 1 MiB; one part is empty.
    let sizes = [
        (3, 1_500_000),
        (1, 1),
        (10_000, 70_000),
        (7, 0),
        (2, 2 << 20),
    ];
    let uploads = sizes.map(|(number, bytes)| {
        let begun = begun.clone();
        async move { begun.part(number, payload(u64::from(number), bytes)).await }
    });
    let parts: Vec<_> = futures::future::try_join_all(uploads).await.unwrap();
    assert_eq!(
        parts
            .iter()
            .map(|part| u32::from(part.number))
            .collect::<Vec<_>>(),
        sizes.map(|(number, _)| number)
    );
    assert_eq!(
        store.bytes("k").await.unwrap(),
        "the old one",
        "the old object remains until the commit"
    );
    let written = begun.complete().await.unwrap();
    assert_eq!(
        (written.outcome, written.version, written.created),
        (WriteOutcome::Applied, Some(Version::new(2)), false)
    );
    let mut ordered = sizes.to_vec();
    ordered.sort_unstable();
    let whole: Vec<u8> = ordered
        .iter()
        .flat_map(|&(number, bytes)| payload(u64::from(number), bytes))
        .collect();
    assert!(store.bytes("k").await.unwrap() == whole);
    let head = store.engine.head("k").await.unwrap().unwrap();
    assert_eq!(
        (head.metadata.size, head.metadata.checksum),
        (whole.len() as u64, None)
    );
    assert_eq!(
        head.metadata.attributes.content_type.as_deref(),
        Some("a/b")
    );
    assert_eq!(
        head.metadata
            .expires_at
            .unwrap()
            .since(head.metadata.modified),
        HOUR,
        "the time to live begins with the completion"
    );
    assert_ranges(&store, &whole).await;
    store.assert_settled().await;
    store.engine.delete("k").await.unwrap();
    store.assert_settled().await;
    assert!(blobs(&store.blobs).await.is_empty());
}

/// Asserts that ranges within, between and across parts of the object `k` are correct.
async fn assert_ranges(store: &Store, whole: &[u8]) {
    for range in [
        0..1,
        1..2,
        0..whole.len(),
        1 << 20..(2 << 20) + 5,
        whole.len() - 70_001..whole.len(),
    ] {
        let some = store
            .engine
            .get("k")
            .range(range.start as u64..range.end as u64)
            .await
            .unwrap()
            .unwrap();
        assert!(
            some.bytes().await.unwrap() == whole[range.clone()],
            "{range:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unlisted_replaced_and_aborted_parts_leave_no_blob() {
    let store = Store::new().await;
    let first = store.engine.multipart("k").await.unwrap();
    upload(&first, &[3, 2, 1, 2], 5000).await;
    store.assert_settled().await;
    assert_eq!(
        blobs(&store.blobs).await.len(),
        3,
        "the blob of the replaced part is deleted"
    );
    let parts = first.parts().await.unwrap().parts;
    let listed = [&parts[0], &parts[2]].map(|part| (u32::from(part.number), part.etag));
    first.complete().parts(listed).await.unwrap();
    let expected: Vec<u8> = [payload(1, 5000), payload(3, 5000)].concat();
    assert!(store.bytes("k").await.unwrap() == expected);
    let second = store.engine.multipart("k").await.unwrap();
    upload(&second, &[1, 2], 5000).await;
    second.abort().await.unwrap();
    second.abort().await.unwrap();
    assert_refused(second.part(3, "x").await, "aborted");
    assert_refused(second.complete().await, "aborted");
    assert_refused(second.parts().await, "aborted");
    store.assert_settled().await;
    assert_eq!(blobs(&store.blobs).await.len(), 2);
    let renamed = store.engine.rename("k", "other").await.unwrap().unwrap();
    assert_eq!(renamed.outcome, WriteOutcome::Applied);
    assert!(
        store.bytes("other").await.unwrap() == expected,
        "the blobs keep the old name in their path"
    );
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_completion_gives_the_first_answer() {
    let store = Store::new().await;
    store.stage.stop_clock();
    let begun = store.engine.multipart("k").await.unwrap();
    let whole = upload(&begun, &[2, 1], 3000).await;
    let parts: Vec<_> = begun
        .parts()
        .stream()
        .try_collect::<Vec<_>>()
        .await
        .unwrap();
    let listed: Vec<_> = parts
        .iter()
        .map(|part| (u32::from(part.number), part.etag))
        .collect();
    let written = begun.complete().parts(listed.clone()).await.unwrap();
    assert_eq!(begun.complete().await.unwrap(), written);
    let id = begun.upload_id().to_string();
    let now = store.stage.stop_clock();
    drop((begun, parts));
    let store = store.reopen().await;
    store.stage.set_clock(now.after(HOUR));
    let resumed = store.engine.resume("k", &id).await.unwrap();
    assert_eq!(
        resumed.complete().parts(listed.clone()).await.unwrap(),
        written
    );
    assert!(store.bytes("k").await.unwrap() == whole);
    store.engine.put("k", "newer").await.unwrap();
    drop(resumed);
    let store = store.crash().await;
    store.stage.set_clock(now.after(23 * HOUR));
    let resumed = store.engine.resume("k", &id).await.unwrap();
    assert_eq!(
        resumed.complete().parts(listed.clone()).await.unwrap(),
        written,
        "the outcome of the first completion"
    );
    assert_eq!(store.bytes("k").await.unwrap(), "newer");
    assert_refused(
        resumed.complete().parts(listed[..1].to_vec()).await,
        "completed with other parts",
    );
    store.stage.set_clock(now.after(24 * HOUR));
    assert_refused(resumed.complete().parts(listed).await, "no such upload");
    store.engine.settle().await.unwrap();
    assert_eq!(
        store
            .index
            .snapshot()
            .unwrap()
            .scan(Table::Uploads, all())
            .await
            .unwrap(),
        [],
        "the upload record is removed"
    );
    store.assert_settled().await;
}

fn all() -> cenotaph_storage::index::Range {
    cenotaph_storage::index::Range::all(100)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_completion_changes_nothing() {
    let mut config = quick();
    config.limits.multipart.part_bytes_min = 5 << 20;
    let store = Store::with(config).await;
    store.engine.put("k", "old").await.unwrap();
    let begun = store.engine.multipart("k").await.unwrap();
    let first = begun.part(1, "too small").await.unwrap();
    let second = begun.part(2, "small, but the last").await.unwrap();
    assert_refused(
        begun.complete().await,
        "too small: part=1 bytes=9 min=5242880",
    );
    assert_refused(
        begun
            .complete()
            .part(2, second.etag)
            .part(1, first.etag)
            .await,
        "part=1 after=2",
    );
    assert_refused(
        begun.complete().part(2, first.etag).await,
        "another etag: part=2",
    );
    assert_refused(
        begun.complete().part(3, first.etag).await,
        "no such part: part=3",
    );
    assert_refused(begun.complete().part(0, first.etag).await, "number=0");
    assert_refused(begun.complete().parts([]).await, "one part at least");
    let error = begun
        .complete()
        .part(2, second.etag)
        .if_absent()
        .await
        .unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Conflict { current: Some(_) }),
        "{error}"
    );
    assert_eq!(begun.parts().await.unwrap().parts.len(), 2);
    assert_eq!(store.bytes("k").await.unwrap(), "old");
    begun
        .complete()
        .part(2, second.etag)
        .if_version(1)
        .await
        .unwrap();
    assert_eq!(store.bytes("k").await.unwrap(), "small, but the last");
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn initial_precondition_is_checked_again_at_completion() {
    let store = Store::new().await;
    let begun = store.engine.multipart("k").if_absent().await.unwrap();
    begun.part(1, "a part").await.unwrap();
    store.engine.put("k", "was faster").await.unwrap();
    let error = begun.complete().await.unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Conflict { current: Some(_) }),
        "{error}"
    );
    assert!(matches!(
        store
            .engine
            .multipart("k")
            .if_absent()
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::Conflict { current: Some(_) }
    ));
    store.engine.delete("k").await.unwrap();
    assert!(begun.complete().await.unwrap().created);
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_upload_is_removed_by_the_expirer() {
    let store = Store::new().await;
    store.stage.stop_clock();
    let begun = store.engine.multipart("k").await.unwrap();
    upload(&begun, &[1, 2], 5000).await;
    store.stage.advance(7 * 24 * HOUR);
    assert_refused(begun.part(3, "x").await, "no such upload");
    assert_refused(begun.complete().await, "no such upload");
    assert_refused(begun.abort().await, "no such upload");
    assert_eq!(store.engine.list_uploads("").await.unwrap().uploads, []);
    store.assert_settled().await;
    assert!(blobs(&store.blobs).await.is_empty());
    assert_eq!(
        store
            .index
            .snapshot()
            .unwrap()
            .scan(Table::Uploads, all())
            .await
            .unwrap(),
        []
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn part_copies_an_object_or_a_range() {
    let store = Store::new().await;
    for bytes in [500, 3_000_000] {
        let source = payload(5, bytes);
        store.engine.put("source", source.clone()).await.unwrap();
        let head = store.engine.head("source").await.unwrap().unwrap();
        let version = head.version.unwrap();
        let begun = store.engine.multipart("k").await.unwrap();
        let whole = begun
            .part_copy(1, "source")
            .if_source_version(version)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (whole.bytes, whole.etag),
            (bytes as u64, PartEtag::of(&source))
        );
        begun
            .part_copy(2, "source")
            .range(100..400)
            .await
            .unwrap()
            .unwrap();
        assert!(begun.part_copy(3, "nothing").await.unwrap().is_none());
        let error = begun
            .part_copy(3, "source")
            .if_source_version(9)
            .await
            .unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::Conflict { current: Some(_) }),
            "{error}"
        );
        store.engine.delete("source").await.unwrap();
        begun.complete().await.unwrap();
        assert!(
            store.bytes("k").await.unwrap() == [&source[..], &source[100..400]].concat(),
            "the copy does not depend on its source"
        );
        store.assert_settled().await;
    }
}
