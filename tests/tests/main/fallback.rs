//! A store over a fallback: each operation on objects that only the fallback has.

use cenotaph::{
    BatchWrite, Engine, Entry, Error, ErrorKind, Etag, Precondition, Timestamp, Update, Updated,
    WriteOutcome,
};
use cenotaph_tests::store::payload;
use futures::StreamExt;
use tempfile::TempDir;

mod engines;
mod opening;
mod races;
mod source;

use source::{LARGE, SMALL, Source, is_conflict, open, read, version};

/// Opens a store over a source with these objects, each with its key as content.
async fn over(keys: &[&str]) -> (TempDir, std::sync::Arc<Source>, Engine) {
    let directory = TempDir::new().unwrap();
    let source = Source::with(keys).await;
    let engine = open(directory.path(), &source).await;
    (directory, source, engine)
}

#[tokio::test]
async fn every_object_of_the_fallback_is_readable_at_once() {
    let (_directory, source, engine) = over(&["a", "b/c"]).await;
    source.write("large", payload(1, LARGE).to_vec()).await;
    assert_eq!(read(&engine, "a").await.unwrap(), b"a");
    assert_eq!(read(&engine, "b/c").await.unwrap(), b"b/c");
    assert_eq!(read(&engine, "large").await.unwrap(), payload(1, LARGE));
    let range = engine
        .get("large")
        .range(5..2_000_000)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(range.range(), 5..2_000_000);
    assert_eq!(
        range.bytes().await.unwrap(),
        payload(1, LARGE)[5..2_000_000]
    );
    let beyond = engine.get("a").range(1..).await.unwrap_err();
    assert_eq!(beyond.kind(), ErrorKind::RangeNotSatisfiable { total: 1 });
    assert_eq!(
        engine.head("large").await.unwrap().unwrap().metadata.size,
        LARGE as u64
    );
    for absent in ["b", "b/", "c", "../a"] {
        assert!(engine.get(absent).await.unwrap().is_none(), "{absent}");
        assert!(engine.head(absent).await.unwrap().is_none(), "{absent}");
    }
    engine.close().await.unwrap();
}

#[tokio::test]
async fn ours_is_preferred_to_the_fallback() {
    let (_directory, source, engine) = over(&["a"]).await;
    let put = engine.put("a", "ours").await.unwrap();
    assert_eq!((put.outcome, put.created), (WriteOutcome::Applied, true));
    assert_eq!(read(&engine, "a").await.unwrap(), b"ours");
    assert_eq!(version(&engine, "a").await, Some(Some(1)));
    assert_eq!(
        source.content("a").await,
        b"a",
        "nothing is written to the source"
    );
    engine.close().await.unwrap();
}

#[tokio::test]
async fn version_and_etag_of_the_fallback_are_never_surfaced() {
    let (_directory, _source, engine) = over(&["a"]).await;
    assert_eq!(version(&engine, "a").await, Some(None));
    let object = engine.get("a").await.unwrap().unwrap();
    assert_eq!((object.version(), object.etag()), (None, None));
    let listed = engine.list("").await.unwrap();
    assert!(matches!(&listed.entries[..], [Entry::Object(head)] if head.version.is_none()));
    let etag: Etag = "0".repeat(32).parse().unwrap();
    for number in 0..3 {
        assert!(is_conflict(engine.put("a", "x").if_version(number).await));
        assert!(is_conflict(engine.delete("a").if_version(number).await));
        assert!(is_conflict(
            engine.amend("a").filename("x").if_version(number).await
        ));
        assert!(is_conflict(
            engine.copy("a", "b").if_source_version(number).await
        ));
        assert!(is_conflict(
            engine.rename("a", "b").if_source_version(number).await
        ));
    }
    assert!(is_conflict(engine.put("a", "x").if_etag(etag).await));
    assert!(is_conflict(
        engine.put("a", vec![0; LARGE]).if_etag(etag).await
    ));
    assert_eq!(
        version(&engine, "a").await,
        Some(None),
        "nothing was written or moved"
    );
    engine.close().await.unwrap();
}

#[tokio::test]
async fn absent_is_false_if_the_fallback_has_the_object() {
    let (_directory, source, engine) = over(&["a", "b"]).await;
    engine.put("ours", "x").await.unwrap();
    assert!(is_conflict(engine.put("a", "x").if_absent().await));
    assert!(is_conflict(
        engine.put("a", vec![0; LARGE]).if_absent().await
    ));
    assert!(is_conflict(engine.multipart("a").if_absent().await));
    assert!(is_conflict(engine.copy("ours", "a").if_absent().await));
    assert!(is_conflict(engine.rename("ours", "a").if_absent().await));
    let together = [
        BatchWrite::put("new", "x"),
        BatchWrite::put("a", "x").if_absent(),
    ];
    let refused = engine.atomic(together).await.unwrap_err();
    assert_eq!(refused.id().unwrap().key(), "a");
    assert!(engine.head("new").await.unwrap().is_none());
    let writes = vec![BatchWrite::put("a", "x").if_absent()];
    let answers: Vec<_> = engine.batch(futures::stream::iter(writes)).collect().await;
    assert!(
        matches!(answers[0].1, Err(ref error) if matches!(error.kind(), ErrorKind::Conflict { .. }))
    );
    assert_eq!(version(&engine, "a").await, Some(None));

    // The condition of the beginning of an upload holds at its end, too.
    let upload = engine.multipart("later").if_absent().await.unwrap();
    upload.part(1, "x").await.unwrap();
    source.write("later", b"outside".to_vec()).await;
    assert!(is_conflict(upload.complete().await));
    assert!(is_conflict(upload.complete().if_absent().await));
    assert!(
        engine
            .put("nowhere", "x")
            .if_absent()
            .await
            .unwrap()
            .created
    );
    engine.close().await.unwrap();
}

#[tokio::test]
async fn precondition_in_fallback_holds_until_the_first_write() {
    let (_directory, _source, engine) = over(&["a", "b", "c"]).await;
    let first = engine
        .put("a", "x")
        .precondition(Precondition::InFallback)
        .await;
    assert!(!first.unwrap().created);
    let second = engine
        .put("a", "y")
        .precondition(Precondition::InFallback)
        .await;
    assert!(matches!(
        second.unwrap_err().kind(),
        ErrorKind::Conflict { current: Some(_) }
    ));
    assert!(is_conflict(
        engine
            .put("none", "x")
            .precondition(Precondition::InFallback)
            .await
    ));
    let amended = engine
        .amend("b")
        .filename("f")
        .precondition(Precondition::InFallback);
    assert!(amended.await.unwrap().is_some());
    let again = engine
        .amend("b")
        .filename("g")
        .precondition(Precondition::InFallback);
    assert!(matches!(
        again.await.unwrap_err().kind(),
        ErrorKind::Conflict { current: Some(_) }
    ));
    let deleted = engine
        .delete("c")
        .precondition(Precondition::InFallback)
        .await;
    assert!(deleted.unwrap().existed);
    assert!(is_conflict(
        engine
            .delete("c")
            .precondition(Precondition::InFallback)
            .await
    ));
    engine.close().await.unwrap();
}

#[tokio::test]
async fn update_migrates_an_object_of_the_fallback() {
    for bytes in [SMALL, LARGE] {
        let (_directory, source, engine) = over(&[]).await;
        source.write("a", payload(1, bytes).to_vec()).await;
        let updated = engine
            .update("a", |object| async move {
                let object = object.expect("the fallback has it");
                assert_eq!(object.version(), None);
                let mut content = object.bytes().await?.to_vec();
                content.push(7);
                Ok::<_, Error>(Update::put(content))
            })
            .await
            .unwrap();
        let Updated::Written(written) = updated else {
            panic!("{updated:?}")
        };
        assert_eq!(
            (written.version.unwrap().get(), written.created),
            (1, false)
        );
        let expected = [&payload(1, bytes)[..], &[7]].concat();
        assert_eq!(read(&engine, "a").await.unwrap(), expected);
        assert_eq!(source.content("a").await, payload(1, bytes));
        engine.close().await.unwrap();
    }
}

#[tokio::test]
async fn callback_of_an_update_deletes_for_good() {
    let (directory, source, engine) = over(&["a"]).await;
    let updated = engine.update("a", async |object| {
        assert!(object.is_some());
        Ok::<_, Error>(Update::Delete)
    });
    assert!(matches!(updated.await.unwrap(), Updated::Deleted(deleted) if deleted.existed));
    assert_eq!(read(&engine, "a").await, None);
    let updated = engine.update("a", async |object| {
        assert!(object.is_none());
        Ok::<_, Error>(Update::Keep)
    });
    assert_eq!(updated.await.unwrap(), Updated::Kept);
    engine.close().await.unwrap();
    let engine = open(directory.path(), &source).await;
    assert_eq!(read(&engine, "a").await, None, "the mask survives a reopen");
    engine.close().await.unwrap();
}

#[tokio::test]
async fn delete_masks_and_a_later_object_starts_above_every_version() {
    let (_directory, source, engine) = over(&["a", "b", "c/1", "c/2"]).await;
    assert!(engine.delete("a").await.unwrap().existed);
    assert!(!engine.delete("a").await.unwrap().existed);
    assert!(!engine.delete("none").await.unwrap().existed);
    assert_eq!(read(&engine, "a").await, None);
    assert!(engine.head("a").await.unwrap().is_none());
    assert_eq!(source.content("a").await, b"a");
    let again = engine.put("a", "again").if_absent().await.unwrap();
    engine.delete("a").await.unwrap();
    let third = engine.put("a", "third").await.unwrap();
    assert!(third.version > again.version);

    engine
        .atomic([BatchWrite::delete("b"), BatchWrite::put("new", "x")])
        .await
        .unwrap();
    assert_eq!(read(&engine, "b").await, None);
    assert_eq!(engine.delete_prefix("c/").await.unwrap().deleted, 2);
    assert_eq!(read(&engine, "c/1").await, None);
    let names: Vec<_> = engine.list("").await.unwrap().entries;
    let names: Vec<_> = names.iter().map(Entry::name).collect();
    assert_eq!(names, ["a", "new"]);
    engine.close().await.unwrap();
}

#[tokio::test]
async fn outside_writer_is_shadowed_and_not_merged() {
    let (_directory, source, engine) = over(&["put", "deleted", "moved", "untouched"]).await;
    engine.put("put", "ours").await.unwrap();
    engine.delete("deleted").await.unwrap();
    engine.amend("moved").filename("f").await.unwrap().unwrap();
    for key in ["put", "deleted", "moved", "untouched", "new"] {
        source.write(key, b"outside".to_vec()).await;
    }
    assert_eq!(read(&engine, "put").await.unwrap(), b"ours");
    assert_eq!(read(&engine, "deleted").await, None);
    assert_eq!(read(&engine, "moved").await.unwrap(), b"moved");
    assert_eq!(read(&engine, "untouched").await.unwrap(), b"outside");
    assert_eq!(read(&engine, "new").await.unwrap(), b"outside");
    engine.close().await.unwrap();
}

#[tokio::test]
async fn copy_rename_and_changes_of_metadata_take_the_object_over() {
    for bytes in [SMALL, LARGE] {
        let (_directory, source, engine) = over(&[]).await;
        let content = payload(2, bytes).to_vec();
        for key in ["copied", "renamed", "amended", "extended", "part"] {
            source.write(key, content.clone()).await;
        }
        engine
            .copy("copied", "copy")
            .await
            .unwrap()
            .expect("it is there");
        assert_eq!(
            version(&engine, "copied").await,
            Some(None),
            "a copy moves nothing"
        );
        engine
            .rename("renamed", "new")
            .await
            .unwrap()
            .expect("it is there");
        assert_eq!(read(&engine, "renamed").await, None, "the source is masked");
        engine
            .amend("amended")
            .filename("f")
            .await
            .unwrap()
            .expect("it is there");
        let hour = std::time::Duration::from_secs(3600);
        let extended = engine
            .extend_expiry("extended")
            .may_shorten()
            .after_now(hour)
            .await;
        extended.unwrap().expect("it is there");
        let upload = engine.multipart("parts").await.unwrap();
        upload
            .part_copy(1, "part")
            .await
            .unwrap()
            .expect("it is there");
        upload.complete().await.unwrap();
        for key in ["copy", "new", "amended", "extended", "parts"] {
            assert_eq!(read(&engine, key).await.unwrap(), content, "{key}");
            assert!(version(&engine, key).await.unwrap().is_some(), "{key}");
        }
        let head = engine.head("amended").await.unwrap().unwrap();
        assert_eq!(head.metadata.attributes.filename.as_deref(), Some("f"));
        for key in ["none", "renamed"] {
            assert!(engine.rename(key, "x").await.unwrap().is_none(), "{key}");
            assert!(
                engine.amend(key).filename("f").await.unwrap().is_none(),
                "{key}"
            );
            assert!(engine.copy(key, "x").await.unwrap().is_none(), "{key}");
        }
        assert_eq!(engine.settle().await.unwrap(), 0);
        engine.close().await.unwrap();
    }
}

#[tokio::test]
async fn listing_merges_both_with_prefix_delimiter_and_start_after() {
    let (_directory, _source, engine) = over(&["a/1", "a/2", "b", "c/1", "d"]).await;
    engine.put("a/1", "ours").await.unwrap();
    engine.put("a/3", "ours").await.unwrap();
    engine.delete("d").await.unwrap();
    engine.delete("c/1").await.unwrap();
    let names = async |list: cenotaph::List| {
        let entries: Vec<_> = list.stream().map(|entry| entry.unwrap()).collect().await;
        let names: Vec<_> = entries.iter().map(Entry::name).collect();
        names.join(" ")
    };
    for limit in 1..5 {
        let list = |prefix: &str| engine.list(prefix).limit(limit);
        assert_eq!(names(list("")).await, "a/1 a/2 a/3 b");
        assert_eq!(names(list("a/")).await, "a/1 a/2 a/3");
        assert_eq!(names(list("").delimiter('/')).await, "a/ b");
        assert_eq!(names(list("").start_after("a/1")).await, "a/2 a/3 b");
        assert_eq!(names(list("").delimiter('/').start_after("a/")).await, "b");
    }
    engine.close().await.unwrap();
}

#[tokio::test]
async fn deadlines_of_the_fallback_are_honoured_and_kept() {
    let (_directory, source, engine) = over(&["a"]).await;
    source.expire(Some(Timestamp::from_millis(1)));
    assert_eq!(read(&engine, "a").await, None);
    assert!(engine.head("a").await.unwrap().is_none());
    assert!(engine.list("").await.unwrap().entries.is_empty());
    assert!(!engine.delete("a").await.unwrap().existed);
    assert!(engine.amend("a").filename("x").await.unwrap().is_none());
    assert!(engine.rename("a", "b").await.unwrap().is_none());
    let updated = engine.update("a", async |object| {
        assert!(object.is_none());
        Ok::<_, Error>(Update::Keep)
    });
    updated.await.unwrap();

    let deadline = Timestamp::from_millis(u64::MAX / 4);
    source.expire(Some(deadline));
    let head = engine.head("a").await.unwrap().unwrap();
    assert_eq!(head.metadata.expires_at, Some(deadline));
    engine.amend("a").filename("x").await.unwrap().unwrap();
    let moved = engine.head("a").await.unwrap().unwrap();
    assert_eq!(
        moved.metadata.expires_at,
        Some(deadline),
        "the deadline moves, too"
    );
    assert_eq!(moved.metadata.created, head.metadata.created);
    source.expire(Some(Timestamp::from_millis(1)));
    assert!(engine.head("a").await.unwrap().is_some(), "ours decides");
    assert!(engine.put("b", "x").if_absent().await.unwrap().created);
    engine.close().await.unwrap();
}

#[tokio::test]
async fn transient_error_is_never_absence() {
    fn unavailable<T: std::fmt::Debug>(outcome: Result<T, Error>) {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    let (_directory, source, engine) = over(&["a"]).await;
    engine.put("ours", "x").await.unwrap();
    engine.delete("ours").await.unwrap();
    source.fail(true);
    unavailable(engine.get("a").await);
    unavailable(engine.get("a").range(0..1).await);
    unavailable(engine.head("a").await);
    unavailable(engine.list("").await);
    unavailable(engine.delete_prefix("").await);
    unavailable(engine.put("a", "x").if_absent().await);
    unavailable(engine.put("a", vec![0; LARGE]).if_absent().await);
    unavailable(engine.multipart("a").if_absent().await);
    unavailable(engine.atomic([BatchWrite::put("a", "x").if_absent()]).await);
    unavailable(engine.atomic([BatchWrite::delete("a")]).await);
    unavailable(engine.delete("a").await);
    unavailable(engine.amend("a").filename("x").await);
    unavailable(engine.extend_expiry("a").never().await);
    unavailable(engine.rename("a", "b").await);
    unavailable(engine.copy("a", "b").await);
    let updated = engine.update("a", async |_| Ok::<_, Error>(Update::Delete));
    unavailable(updated.await);
    // The store decides alone about its own objects, and about puts without a precondition.
    assert_eq!(read(&engine, "ours").await, None);
    assert!(engine.put("ours", "x").if_absent().await.unwrap().created);
    assert!(engine.delete("ours").await.unwrap().existed);
    engine.put("new", "x").await.unwrap();
    assert!(engine.head("new").await.unwrap().is_some());
    source.fail(false);
    assert_eq!(
        read(&engine, "a").await.unwrap(),
        b"a",
        "nothing was written"
    );
    engine.close().await.unwrap();
}
