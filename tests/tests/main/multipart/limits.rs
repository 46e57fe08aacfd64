//! Refused parts, uploads and upload ids: declared digests, size limits, namespace limits.

use bytes::Bytes;
use cenotaph::{Body, Config, Digest, ErrorKind, Namespace, ObjectId, PartEtag, UploadId};
use cenotaph_tests::store::{Store, blobs, payload, quick};
use futures::{StreamExt, stream};

use super::{assert_refused, upload};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn part_that_differs_from_its_declaration_is_dropped() {
    let store = Store::new().await;
    let begun = store.engine.multipart("k").await.unwrap();
    let good = payload(1, 5000);
    let bad = payload(2, 5000);
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
async fn parts_over_the_limits_are_refused() {
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
async fn forged_and_foreign_upload_ids_give_the_same_error() {
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
        "debug output does not contain the id"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_obey_namespace_and_engine_limits() {
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
        futures::future::Either::Left(_) => panic!("the stream never ends"),
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
