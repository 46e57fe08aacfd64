//! Races between moves, updates, deletes and reads of objects that only the fallback has.

#![expect(clippy::disallowed_methods, reason = "the clients of a test are tasks")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cenotaph::{Body, Error, LastVersionLimits, Update, Updated, WriteOutcome};
use cenotaph_tests::store::{payload, quick};
use futures::StreamExt;
use tempfile::TempDir;

use super::over;
use super::source::{Hold, LARGE, SMALL, Source, open_with, read, version};

/// Kind of the write that wins a race.
#[derive(Clone, Copy, Debug)]
enum Winner {
    Put,
    Delete,
    Move,
}

#[tokio::test]
async fn lost_update_runs_its_callback_again_on_the_winner() {
    for bytes in [SMALL, LARGE] {
        for winner in [Winner::Put, Winner::Delete, Winner::Move] {
            let (_directory, _source, engine) = over(&["a"]).await;
            let seen = Mutex::new(Vec::new());
            let updated = engine.update("a", async |object| {
                let content = match object {
                    Some(object) => {
                        let version = object.version();
                        Some((version.is_some(), object.bytes().await?))
                    }
                    None => None,
                };
                let calls = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(content);
                    seen.len()
                };
                if calls == 1 {
                    match winner {
                        Winner::Put => assert!(engine.put("a", "winner").await?.created),
                        Winner::Delete => assert!(engine.delete("a").await?.existed),
                        Winner::Move => assert!(engine.amend("a").filename("f").await?.is_some()),
                    }
                }
                Ok::<_, Error>(Update::put(payload(3, bytes)))
            });
            let Updated::Written(written) = updated.await.unwrap() else {
                panic!("not written")
            };
            assert_eq!(written.outcome, WriteOutcome::Applied);
            let second = match winner {
                Winner::Put => Some((true, Bytes::from("winner"))),
                Winner::Delete => None,
                Winner::Move => Some((true, Bytes::from("a"))),
            };
            let first = Some((false, Bytes::from("a")));
            assert_eq!(seen.into_inner().unwrap(), [first, second], "{winner:?}");
            assert_eq!(
                read(&engine, "a").await.unwrap(),
                payload(3, bytes),
                "{winner:?}"
            );
            assert_eq!(engine.settle().await.unwrap(), 0);
            engine.close().await.unwrap();
        }
    }
}

#[tokio::test]
async fn lost_delete_of_an_update_does_not_delete_the_winner() {
    let (_directory, _source, engine) = over(&["a"]).await;
    let calls = AtomicU64::new(0);
    let updated = engine.update("a", async |object| {
        if calls.fetch_add(1, Ordering::SeqCst) == 0 {
            engine.put("a", "winner").await?;
            return Ok::<_, Error>(Update::Delete);
        }
        assert_eq!(object.expect("the winner").bytes().await?, "winner");
        Ok(Update::Keep)
    });
    assert_eq!(updated.await.unwrap(), Updated::Kept);
    assert_eq!(read(&engine, "a").await.unwrap(), b"winner");
    engine.close().await.unwrap();
}

#[tokio::test]
async fn deleted_object_is_not_resurrected_by_a_move_that_read_it_before() {
    for bytes in [SMALL, LARGE] {
        let (_directory, source, engine) = over(&[]).await;
        source.write("a", payload(1, bytes).to_vec()).await;
        let (arrived, release) = source.hold(Hold::AfterRead);
        let mover = engine.clone();
        let moving = tokio::spawn(async move { mover.amend("a").filename("f").await });
        arrived.await.unwrap();
        // The move has the object at hand. An update deletes it in the meantime.
        let updated = engine.update("a", async |object| {
            assert!(object.is_some());
            Ok::<_, Error>(Update::Delete)
        });
        assert!(matches!(updated.await.unwrap(), Updated::Deleted(deleted) if deleted.existed));
        drop(release);
        assert!(
            moving.await.unwrap().unwrap().is_none(),
            "there is nothing to amend"
        );
        assert_eq!(read(&engine, "a").await, None);
        assert_eq!(
            engine.settle().await.unwrap(),
            0,
            "the blob of the move is deleted"
        );
        engine.close().await.unwrap();
    }
}

#[tokio::test]
async fn answer_from_before_a_write_is_not_used_after_it() {
    // A delete has the answer that the object exists; a put and a delete come first.
    let (_directory, source, engine) = over(&["a"]).await;
    let (arrived, release) = source.hold(Hold::AfterRead);
    let client = engine.clone();
    let deleting = tokio::spawn(async move { client.delete("a").await });
    arrived.await.unwrap();
    engine.put("a", "x").await.unwrap();
    engine.delete("a").await.unwrap();
    drop(release);
    assert!(!deleting.await.unwrap().unwrap().existed);

    // A put under `Absent` has the answer that there is no object; another put comes first.
    let (arrived, release) = source.hold(Hold::AfterRead);
    let client = engine.clone();
    let putting = tokio::spawn(async move { client.put("b", "late").if_absent().await });
    arrived.await.unwrap();
    engine.put("b", "first").await.unwrap();
    drop(release);
    assert!(putting.await.unwrap().is_err());
    assert_eq!(read(&engine, "b").await.unwrap(), b"first");
    engine.close().await.unwrap();
}

#[tokio::test]
async fn reader_between_our_miss_and_the_move_finds_the_object() {
    for is_head in [false, true] {
        let (_directory, source, engine) = over(&["a"]).await;
        let (arrived, release) = source.hold(Hold::BeforeRead);
        let reader = engine.clone();
        let reading = tokio::spawn(async move {
            match is_head {
                true => reader
                    .head("a")
                    .await
                    .unwrap()
                    .map(|head| head.metadata.size),
                false => read(&reader, "a").await.map(|content| content.len() as u64),
            }
        });
        arrived.await.unwrap();
        // The object is moved and removed from the source.
        engine.amend("a").filename("f").await.unwrap().unwrap();
        source.operator.delete("a").await.unwrap();
        drop(release);
        assert_eq!(reading.await.unwrap(), Some(1), "head: {is_head}");
        engine.close().await.unwrap();
    }
}

#[tokio::test]
async fn large_put_that_began_before_the_move_wins() {
    let (_directory, source, engine) = over(&[]).await;
    source.write("a", payload(1, LARGE).to_vec()).await;
    let (sender, receiver) = futures::channel::mpsc::unbounded::<Result<Bytes, Error>>();
    sender.unbounded_send(Ok(payload(2, LARGE))).unwrap();
    let client = engine.clone();
    let put = tokio::spawn(async move { client.put("a", Body::stream(receiver)).await });
    // The put has read the row before it takes the second chunk.
    while engine.stats().await.unwrap().actors.changes == 0 {
        tokio::task::yield_now().await;
    }
    engine.amend("a").filename("f").await.unwrap().unwrap();
    engine.copy("a", "unrelated").await.unwrap();
    drop(sender);
    let put = put.await.unwrap().unwrap();
    // An amendment of the moved object is a write of its own: it counts as the later write.
    assert_eq!(put.outcome, WriteOutcome::Superseded);

    source.write("b", payload(1, LARGE).to_vec()).await;
    let (sender, receiver) = futures::channel::mpsc::unbounded::<Result<Bytes, Error>>();
    sender.unbounded_send(Ok(payload(2, LARGE))).unwrap();
    let client = engine.clone();
    let put = tokio::spawn(async move { client.put("b", Body::stream(receiver)).await });
    while engine.stats().await.unwrap().actors.changes == 0 {
        tokio::task::yield_now().await;
    }
    // A change that is refused after the move: only the move has committed.
    let refused = engine.amend("b").filename("f".repeat(20_000)).await;
    assert!(refused.is_err());
    assert_eq!(version(&engine, "b").await, Some(Some(1)));
    drop(sender);
    let put = put.await.unwrap().unwrap();
    assert_eq!(put.outcome, WriteOutcome::Applied);
    assert_eq!(read(&engine, "b").await.unwrap(), payload(2, LARGE));
    assert_eq!(engine.settle().await.unwrap(), 0);
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counter_by_updates_is_exact_across_the_move() {
    const TASKS: u64 = 8;
    const UPDATES: u64 = 25;
    let directory = TempDir::new().unwrap();
    let source = Source::new();
    source.write("n", b"1000".to_vec()).await;
    let mut config = quick();
    config.limits.update_attempts = 1000;
    let engine = open_with(directory.path(), &source, config).await;
    let committed = Arc::new(AtomicU64::new(0));
    let tasks = (0..TASKS).map(|task| {
        let engine = engine.clone();
        let committed = committed.clone();
        tokio::spawn(async move {
            for _ in 0..UPDATES {
                if task == 0 {
                    // Moves the object, if it is still in the fallback.
                    engine.extend_expiry("n").never().await.unwrap();
                    continue;
                }
                let updated = engine.update("n", async |object| {
                    let content = object.expect("it exists").bytes().await?;
                    let count: u64 = String::from_utf8_lossy(&content).parse().unwrap();
                    Ok::<_, Error>(Update::put((count + 1).to_string()))
                });
                updated.await.unwrap();
                committed.fetch_add(1, Ordering::SeqCst);
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    for task in futures::stream::iter(tasks)
        .buffer_unordered(8)
        .collect::<Vec<_>>()
        .await
    {
        task.unwrap();
    }
    let expected = 1000 + (TASKS - 1) * UPDATES;
    assert_eq!(committed.load(Ordering::SeqCst), (TASKS - 1) * UPDATES);
    assert_eq!(
        read(&engine, "n").await.unwrap(),
        expected.to_string().into_bytes()
    );
    engine.close().await.unwrap();
}

#[tokio::test]
async fn masks_are_not_pruned_while_the_fallback_is_attached() {
    let directory = TempDir::new().unwrap();
    let source = Source::with(&["a", "b"]).await;
    let mut config = quick();
    config.limits.last_versions = LastVersionLimits {
        kept_for: std::time::Duration::ZERO,
        entries_max: 0,
        ..LastVersionLimits::default()
    };
    let engine = open_with(directory.path(), &source, config.clone()).await;
    engine.delete("a").await.unwrap();
    engine.prune().await.unwrap();
    assert_eq!(engine.stats().await.unwrap().actors.pruned, 0);
    assert_eq!(read(&engine, "a").await, None);
    engine.close().await.unwrap();

    let builder = cenotaph::Engine::builder(directory.path()).config(config);
    let engine = builder.fallback_lost().open().await.unwrap();
    engine.prune().await.unwrap();
    let pruned = engine.stats().await.unwrap().actors.pruned;
    assert_eq!(pruned, 1, "an ordinary last version again");
    engine.close().await.unwrap();
}
