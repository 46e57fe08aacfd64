//! Refusals of a read-only engine: writes, a second process, missing stores and tiers.

use std::fs;
use std::time::Duration;

use cenotaph::{ActorKind, BatchWrite, Engine, ErrorKind, Operation, Reason};
use cenotaph_tests::store::{payload, quick};
use futures::StreamExt;
use tempfile::TempDir;

use super::{End, LARGE, Written, assert_reads, assert_unchanged, picture};

/// Asserts that a write is refused as read-only.
#[track_caller]
fn refused<T: std::fmt::Debug>(operation: &str, outcome: cenotaph::Result<T>) {
    match outcome {
        Err(error) => {
            let seen = (error.kind(), error.reason());
            assert_eq!(
                seen,
                (ErrorKind::Invalid, Some(Reason::ReadOnly)),
                "{operation}: {error}"
            );
        }
        Ok(done) => panic!("{operation} is not refused: {done:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_write_is_refused_and_changes_nothing() {
    let store = Written::new(End::Unclean).await;
    let before = picture(&store.data());
    let reader = store.reader().await;
    refused("put", reader.put("new", "x").await);
    refused("large put", reader.put("new", payload(1, LARGE)).await);
    refused("conditional put", reader.put("idle", "x").if_absent().await);
    refused("delete", reader.delete("idle").await);
    refused("delete of nothing", reader.delete("absent").await);
    refused("delete_prefix", reader.delete_prefix("small/").await);
    refused(
        "delete_prefix of nothing",
        reader.delete_prefix("absent/").await,
    );
    refused(
        "amend",
        reader.amend("idle").content_type("text/plain").await,
    );
    refused(
        "extend_expiry",
        reader
            .extend_expiry("idle")
            .after_now(Duration::from_secs(9))
            .await,
    );
    refused("copy", reader.copy("idle", "copy").await);
    refused("copy of nothing", reader.copy("absent", "copy").await);
    refused("rename", reader.rename("idle", "moved").await);
    refused("atomic", reader.atomic([BatchWrite::put("new", "x")]).await);
    let keep = async |_| Ok::<_, std::io::Error>(cenotaph::Update::Keep);
    refused("update", reader.update("idle", keep).await);
    refused("multipart", reader.multipart("other").await);
    let upload = reader.resume("parts", store.upload.as_str()).await.unwrap();
    refused("part", upload.part(2, "x").await);
    refused("part_copy", upload.part_copy(2, "idle").await);
    refused("part_copy of nothing", upload.part_copy(2, "absent").await);
    refused("complete", upload.complete().await);
    refused("abort", upload.abort().await);
    refused("settle", reader.settle().await);
    refused("scrub with repairs", reader.scrub().repair().await);
    refused("scrub that drops", reader.scrub().drop_damaged().await);
    let operations = [
        Operation::head("idle"),
        BatchWrite::put("new", "x").into(),
        Operation::get("idle"),
    ];
    let mut replies: Vec<_> = reader
        .batch(futures::stream::iter(operations))
        .collect()
        .await;
    replies.sort_by_key(|(place, _)| *place);
    let mut replies = replies.into_iter().map(|(_, reply)| reply);
    assert!(replies.next().unwrap().is_ok());
    refused("put of a batch", replies.next().unwrap());
    assert!(replies.next().unwrap().is_ok());

    assert!(
        !reader.kill(ActorKind::Supervisor),
        "a reader has no actors"
    );
    assert_reads(&reader, &store.upload).await;
    reader.close().await.unwrap();
    assert_unchanged(&before, &store.data());
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_and_a_writer_exclude_each_other() {
    let store = Written::new(End::Clean).await;
    let one = store.reader().await;
    let two = store.reader().await;
    assert_eq!(store.views_left(), 2);
    for view in fs::read_dir(store.views()).unwrap() {
        let view = fs::File::open(view.unwrap().path()).unwrap();
        assert!(
            view.try_lock().is_err(),
            "the view is locked, so that a cleaner of temporary directories spares it"
        );
    }
    let writer = || Engine::builder(store.data()).config(quick()).open();
    assert_eq!(writer().await.unwrap_err().kind(), ErrorKind::AlreadyOpen);
    one.close().await.unwrap();
    assert_eq!(writer().await.unwrap_err().kind(), ErrorKind::AlreadyOpen);
    two.close().await.unwrap();
    let writer = writer().await.unwrap();
    assert_eq!(
        store.open().await.unwrap_err().kind(),
        ErrorKind::AlreadyOpen
    );
    writer.close().await.unwrap();
    store.reader().await.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_store_is_an_error_and_not_created() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let open = || {
        Engine::builder(&data)
            .read_only()
            .view_in(dir.path())
            .open()
    };
    let error = open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        error.to_string().contains("there is no store here"),
        "{error}"
    );
    fs::create_dir(&data).unwrap();
    assert_eq!(open().await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(picture(dir.path()).len(), 2, "nothing was created");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_tier_is_an_error_and_not_created() {
    let store = Written::new(End::Clean).await;
    let blobs = store.data().join("blobs");
    let away = store.temporary.path().join("away");
    fs::rename(&blobs, &away).unwrap();
    let error = store.open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(!blobs.exists());
    // The store has recorded its tier. A tier without a marker, as builds without store ids created
    // it, is then refused, too.
    fs::rename(&away, &blobs).unwrap();
    fs::remove_file(blobs.join(cenotaph::MARKER_PATH)).unwrap();
    let before = picture(&store.data());
    assert_eq!(
        store.open().await.unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    let adopting = Engine::builder(store.data())
        .read_only()
        .view_in(store.views())
        .adopt_blobs()
        .open();
    assert_eq!(adopting.await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_unchanged(&before, &store.data());
    assert_eq!(store.views_left(), 0);
}
