//! Multipart uploads, end to end: what is completed is the listed parts in order, in one commit,
//! once; and of what is not, nothing is left.

use std::time::Duration;

use bytes::Bytes;
use cenotaph::{
    Body, Config, Digest, ErrorKind, Namespace, ObjectId, Outcome, PartEtag, Upload, UploadId,
    Version,
};
use cenotaph_storage::index::Table;
use cenotaph_tests::store::{Store, blobs, payload, quick};
use futures::{StreamExt, TryStreamExt, stream};

mod races;
mod scale;
mod split;

const HOUR: Duration = Duration::from_secs(3600);

/// Uploads these parts, one after the other, with bytes that their numbers tell.
async fn upload(upload: &Upload, numbers: &[u32], bytes: usize) -> Bytes {
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

/// An error of this kind, whose message has this in it.
fn assert_refused<T: std::fmt::Debug>(outcome: cenotaph::Result<T>, expected: &str) {
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains(expected), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_in_any_order_and_in_parallel_are_the_object_in_the_order_of_their_numbers() {
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
    // Blocks of 1 MiB end within parts, parts within blocks; one is empty.
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
        "until the commit"
    );
    let written = begun.complete().await.unwrap();
    assert_eq!(
        (written.outcome, written.version, written.created),
        (Outcome::Applied, Some(Version::new(2)), false)
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
        "it begins with the completion"
    );
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
    store.assert_settled().await;
    store.engine.delete("k").await.unwrap();
    store.assert_settled().await;
    assert!(blobs(&store.blobs).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_listed_replaced_or_aborted_leaves_nothing() {
    let store = Store::new().await;
    let first = store.engine.multipart("k").await.unwrap();
    upload(&first, &[3, 2, 1, 2], 5000).await;
    store.assert_settled().await;
    assert_eq!(
        blobs(&store.blobs).await.len(),
        3,
        "the part that was replaced is gone"
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
    assert_eq!(renamed.outcome, Outcome::Applied);
    assert!(
        store.bytes("other").await.unwrap() == expected,
        "the blobs lie under the old name"
    );
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completing_again_answers_the_same_through_a_reopen_a_crash_and_a_newer_write() {
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
        "the first outcome, not today's"
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
            .scan(Table::Sessions, all())
            .await
            .unwrap(),
        [],
        "it is forgotten"
    );
    store.assert_settled().await;
}

fn all() -> cenotaph_storage::index::Range {
    cenotaph_storage::index::Range::all(100)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_that_is_refused_leaves_the_upload_as_it_was() {
    let mut config = quick();
    config.limits.multipart.part_bytes_min = 5 << 20;
    let store = Store::with(config).await;
    store.engine.put("k", "stands").await.unwrap();
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
    assert_eq!(store.bytes("k").await.unwrap(), "stands");
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
async fn the_precondition_of_the_beginning_is_demanded_at_the_end_again() {
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
async fn a_part_that_is_not_what_was_declared_is_not_kept() {
    let store = Store::new().await;
    let begun = store.engine.multipart("k").await.unwrap();
    let (good, bad) = (payload(1, 5000), payload(2, 5000));
    begun.part(1, good.clone()).await.unwrap();
    let declared = [
        Digest::md5_of,
        Digest::crc32c_of,
        Digest::crc64_nvme_of,
        Digest::sha256_of,
    ]
    .map(|of| of(&good));
    for digest in declared {
        let error = begun
            .part(1, bad.clone())
            .checksum(digest)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Source, "{error}");
        begun
            .part(2, good.clone())
            .length(5000)
            .checksum(digest)
            .await
            .unwrap();
    }
    for wrong in [4999, 5001] {
        assert_eq!(
            begun
                .part(1, bad.clone())
                .length(wrong)
                .await
                .unwrap_err()
                .kind(),
            ErrorKind::Source
        );
    }
    let failing = stream::iter([Ok(bad), Err("it breaks off")]);
    assert_eq!(
        begun
            .part(1, Body::stream(failing))
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::Source
    );
    let parts = begun.parts().await.unwrap().parts;
    assert_eq!(
        parts.iter().map(|part| part.etag).collect::<Vec<_>>(),
        [PartEtag::of(&good); 2]
    );
    store.assert_settled().await;
    assert_eq!(blobs(&store.blobs).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_a_limit_is_refused_and_leaves_nothing() {
    let mut config = quick();
    config.limits.multipart.part_bytes_max = 1000;
    config.limits.payload_bytes_max = 1500;
    let store = Store::with(config).await;
    let begun = store.engine.multipart("k").await.unwrap();
    for number in [0, 10_001, u32::MAX] {
        assert_refused(begun.part(number, "x").await, "part number out of range");
        assert_refused(
            begun.part_copy(number, "k").await,
            "part number out of range",
        );
    }
    assert_refused(begun.part(1, payload(1, 1001)).await, "too long");
    upload(&begun, &[1, 2], 1000).await;
    assert_refused(
        begun.complete().await,
        "too large together: part=2 bytes=2000 max=1500",
    );
    assert_refused(begun.parts().limit(0).await, "limit");
    assert_refused(
        store.engine.list_uploads("").limit(1_000_000_000).await,
        "limit",
    );
    store.assert_settled().await;
    assert_eq!(blobs(&store.blobs).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_id_that_is_forged_or_foreign_is_told_nothing() {
    let store = Store::new().await;
    let begun = store.engine.multipart("k").await.unwrap();
    begun.part(1, "x").await.unwrap();
    let other = store.engine.multipart("other").await.unwrap();
    let mut forged = begun.upload_id().to_string();
    let last = if forged.ends_with('0') { "1" } else { "0" };
    forged.replace_range(forged.len() - 1.., last);
    let expected = store
        .engine
        .resume("k", "no id at all")
        .await
        .unwrap_err()
        .to_string();
    for id in [
        "",
        "../k",
        &forged,
        &other.upload_id().to_string(),
        &begun.upload_id().to_string().to_uppercase(),
    ] {
        let error = store.engine.resume("k", id).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string()),
            (ErrorKind::Invalid, expected.clone()),
            "{id:?}"
        );
    }
    let namespace = Namespace::new("elsewhere").unwrap();
    let elsewhere = ObjectId::new(&namespace, "k").unwrap();
    assert!(
        store
            .engine
            .resume(elsewhere, begun.upload_id().to_string())
            .await
            .is_err()
    );
    let ids: std::collections::BTreeSet<UploadId> = stream::iter(0..50)
        .then(|_| async { store.engine.multipart("k").await.unwrap().upload_id() })
        .collect()
        .await;
    assert_eq!(ids.len(), 50);
    assert!(
        !format!("{begun:?}").contains(&begun.upload_id().to_string()),
        "it is not logged by accident"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_uploads_are_listed_by_prefix_and_page_by_page() {
    let store = Store::new().await;
    let keys = ["a", "a\u{0}b", "a/1", "a/1", "a/2", "b"];
    let mut begun = Vec::new();
    for key in keys {
        let one = store
            .engine
            .multipart(key)
            .content_type("x/y")
            .await
            .unwrap();
        begun.push((key.to_owned(), one.upload_id()));
        store.stage.advance(Duration::from_millis(1));
    }
    store
        .engine
        .multipart("a/3")
        .await
        .unwrap()
        .abort()
        .await
        .unwrap();
    let done = store.engine.multipart("a/4").await.unwrap();
    done.part(1, "x").await.unwrap();
    done.complete().await.unwrap();
    let of = |prefix: &str| -> Vec<_> {
        begun
            .iter()
            .filter(|(key, _)| key.starts_with(prefix))
            .cloned()
            .collect()
    };
    for (prefix, limit) in [
        ("", 100),
        ("", 1),
        ("", 2),
        ("a", 2),
        ("a/", 1),
        ("a\u{0}", 5),
        ("c", 5),
    ] {
        let listed: Vec<_> = store
            .engine
            .list_uploads(prefix)
            .limit(limit)
            .stream()
            .try_collect()
            .await
            .unwrap();
        let found: Vec<_> = listed
            .iter()
            .map(|one| (one.id.key().to_owned(), one.upload_id))
            .collect();
        assert_eq!(found, of(prefix), "{prefix:?} {limit}");
        assert!(
            listed
                .iter()
                .all(|one| one.attributes.content_type.as_deref() == Some("x/y"))
        );
    }
    let page = store.engine.list_uploads("").limit(6).await.unwrap();
    assert_eq!(
        (page.uploads.len(), page.next),
        (6, None),
        "a full last page is not truncated"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_are_listed_page_by_page() {
    let store = Store::new().await;
    let begun = store.engine.multipart("k").await.unwrap();
    upload(&begun, &[9, 300, 4], 10).await;
    for limit in 1..5 {
        let listed: Vec<_> = begun
            .parts()
            .limit(limit)
            .stream()
            .try_collect()
            .await
            .unwrap();
        let found: Vec<_> = listed
            .iter()
            .map(|part| (u32::from(part.number), part.bytes))
            .collect();
        assert_eq!(found, [(4, 10), (9, 10), (300, 10)]);
    }
    assert_eq!(begun.parts().limit(3).await.unwrap().next, None);
    begun.complete().await.unwrap();
    assert_refused(begun.parts().await, "completed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_past_its_lifetime_is_ended_by_the_expirer_wherever_it_was() {
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
            .scan(Table::Sessions, all())
            .await
            .unwrap(),
        []
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_may_be_copied_from_an_object_or_a_range_of_one() {
    let store = Store::new().await;
    for bytes in [500, 3_000_000] {
        let source = payload(5, bytes);
        store.engine.put("source", source.clone()).await.unwrap();
        let version = store.engine.head("source").await.unwrap().unwrap().version;
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
            "a copy of its own"
        );
        store.assert_settled().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_keep_to_the_limits_of_their_namespace_and_of_the_engine() {
    let mut config: Config = quick();
    config.limits.uploads_at_once = 1;
    let store = Store::with(config).await;
    let begun = store.engine.multipart("k").await.unwrap();
    let stuck = begun.part(
        1,
        Body::stream(stream::pending::<Result<Bytes, std::io::Error>>()),
    );
    let stuck = std::pin::pin!(stuck.into_future());
    let other = begun.part(2, "x");
    let refused = match futures::future::select(stuck, other.into_future()).await {
        futures::future::Either::Left(_) => panic!("its stream never ends"),
        futures::future::Either::Right((refused, _)) => refused,
    };
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Overloaded);
    let disabled = cenotaph::NamespaceLimits {
        disabled: true,
        ..Default::default()
    };
    store
        .engine
        .limit_namespace(&Namespace::default_namespace(), disabled)
        .unwrap();
    let kinds = [
        store.engine.multipart("k").await.map(drop),
        store
            .engine
            .resume("k", begun.upload_id().to_string())
            .await
            .map(drop),
        store.engine.list_uploads("").await.map(drop),
        begun.part(1, "x").await.map(drop),
        begun.part_copy(1, "x").await.map(drop),
        begun.parts().await.map(drop),
        begun.complete().await.map(drop),
        begun.abort().await,
    ];
    assert!(
        kinds
            .iter()
            .all(|kind| kind.as_ref().unwrap_err().kind() == ErrorKind::Disabled),
        "{kinds:?}"
    );
}
