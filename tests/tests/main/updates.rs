//! Updates: a refused result keeps the stored object, also when actors are killed and other
//! tasks write meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cenotaph::{
    ActorKind, Body, Config, Engine, Env, Error, ErrorKind, NewContent, Result, Update, Updated,
    WriteOutcome,
};
use cenotaph_storage::SyncPoint;
use cenotaph_tests::store::{INLINE, Store, blobs, payload, quick};
use futures::stream;
use tokio::task::JoinHandle;

const LARGE: usize = 10 * INLINE;
/// Limit on the payload size, in bytes.
const PAYLOAD_MAX: usize = 2 * LARGE;
/// All defects of an update.
const WRONGS: [Wrong; 7] = [
    Wrong::Function,
    Wrong::Metadata,
    Wrong::TimeToLive,
    Wrong::TooLong,
    Wrong::StreamFails { after: INLINE / 2 },
    Wrong::StreamFails { after: LARGE },
    Wrong::Promise,
];

/// A defect of the result of an update function.
#[derive(Clone, Copy, Debug)]
enum Wrong {
    /// The function fails.
    Function,
    /// The metadata exceed 16 KiB.
    Metadata,
    /// The time to live is zero.
    TimeToLive,
    /// The payload is over the limit.
    TooLong,
    /// The stream fails halfway.
    StreamFails { after: usize },
    /// The stream is shorter than it promised.
    Promise,
}

impl Wrong {
    fn update(self) -> Result<Update, std::io::Error> {
        let stream =
            |chunks: Vec<Result<Bytes, std::io::Error>>| Body::stream(stream::iter(chunks));
        let hung_up = || std::io::Error::other("the client hung up");
        Ok(match self {
            Self::Function => return Err(std::io::Error::other("no")),
            Self::Metadata => NewContent::new(payload(1, 10))
                .custom("k", "v".repeat(16 * 1024))
                .into(),
            Self::TimeToLive => NewContent::new(payload(1, LARGE))
                .time_to_live(Duration::ZERO)
                .into(),
            // A stream of unknown length: a promised length over the limit would be refused before
            // the upload begins.
            Self::TooLong => Update::put(stream(vec![Ok(payload(1, PAYLOAD_MAX + 1))])),
            Self::StreamFails { after } => {
                Update::put(stream(vec![Ok(payload(1, after)), Err(hung_up())]))
            }
            Self::Promise => {
                Update::put(stream(vec![Ok(payload(1, LARGE))]).promise(LARGE as u64 + 1))
            }
        })
    }

    fn kind(self) -> ErrorKind {
        match self {
            Self::Metadata | Self::TimeToLive | Self::TooLong => ErrorKind::Invalid,
            Self::Function | Self::StreamFails { .. } | Self::Promise => ErrorKind::Source,
        }
    }

    /// Returns `true` if an upload begins before the defect is detected.
    fn uploads(self) -> bool {
        matches!(
            self,
            Self::TooLong | Self::StreamFails { after: LARGE } | Self::Promise
        )
    }
}

async fn store() -> Store {
    let mut config: Config = quick();
    config.limits.payload_bytes_max = PAYLOAD_MAX as u64;
    config.limits.restarts.max = usize::MAX;
    Store::with(config).await
}

#[expect(
    clippy::disallowed_methods,
    reason = "the rule applies to code under test only"
)]
fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(work)
}

fn start(engine: &Engine, wrong: Wrong) -> JoinHandle<Result<Updated>> {
    let engine = engine.clone();
    spawn(async move { engine.update("k", async |_| wrong.update()).await })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_update_keeps_the_old_object() {
    for bytes in [None, Some(10), Some(LARGE)] {
        let store = store().await;
        if let Some(bytes) = bytes {
            store
                .engine
                .put("k", payload(7, bytes))
                .custom("a", "b")
                .await
                .unwrap();
        }
        let before = store.engine.head("k").await.unwrap();
        for wrong in WRONGS {
            let error = store
                .engine
                .update("k", async |_| wrong.update())
                .await
                .unwrap_err();
            assert_eq!(error.kind(), wrong.kind(), "{wrong:?}: {error:?}");
            assert_eq!(store.engine.head("k").await.unwrap(), before, "{wrong:?}");
            assert_eq!(
                store.bytes("k").await,
                bytes.map(|bytes| payload(7, bytes)),
                "{wrong:?}"
            );
            store.assert_settled().await;
        }
        assert_eq!(
            blobs(&store.blobs).await.len(),
            usize::from(bytes == Some(LARGE))
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_update_keeps_the_object_despite_kills_and_rivals() {
    for wrong in WRONGS.into_iter().filter(|wrong| wrong.uploads()) {
        for sync_point in [
            SyncPoint::UploadBeforeRecord,
            SyncPoint::UploadAfterRecord,
            SyncPoint::UploadMidStream,
        ] {
            // A single chunk over the limit is refused before any of it is written.
            if matches!(
                (wrong, sync_point),
                (Wrong::TooLong, SyncPoint::UploadMidStream)
            ) {
                continue;
            }
            for kills in [true, false] {
                let store = store().await;
                store.engine.put("k", payload(7, LARGE)).await.unwrap();
                let mut held = store.stage.hold(sync_point);
                let update = start(&store.engine, wrong);
                held.arrived().await;
                // A killed upload stays held: the supervisor may need a moment to stop it.
                let _held = if kills {
                    assert!(store.engine.kill(ActorKind::EveryUpload));
                    Some(held)
                } else {
                    // Another write commits meanwhile. Losing to it does not make the update valid.
                    store.engine.put("k", payload(8, 10)).await.unwrap();
                    held.release();
                    None
                };
                let error = update.await.unwrap().unwrap_err();
                let expected = if kills {
                    ErrorKind::Unavailable
                } else {
                    wrong.kind()
                };
                let lost = matches!(error.kind(), ErrorKind::Conflict { .. }) && !kills;
                assert!(
                    error.kind() == expected || lost,
                    "{wrong:?} at {sync_point:?}: {error:?}"
                );
                let expected = if kills {
                    payload(7, LARGE)
                } else {
                    payload(8, 10)
                };
                assert_eq!(
                    store.bytes("k").await,
                    Some(expected),
                    "{wrong:?} at {sync_point:?}"
                );
                store.assert_settled().await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conflict_repeats_the_function_on_the_new_state() {
    let store = store().await;
    store.engine.put("k", payload(1, LARGE)).await.unwrap();
    let mut seen = Vec::new();
    let engine = store.engine.clone();
    let updated = store.engine.update("k", |current| {
        seen.push(current.map(|object| object.version().unwrap().get()));
        let engine = engine.clone();
        let rival = seen.len();
        async move {
            match rival {
                1 => _ = engine.put("k", payload(2, 10)).await?,
                2 => _ = engine.delete("k").await?,
                3 => _ = engine.put("k", payload(3, LARGE)).await?,
                _ => {}
            }
            Ok::<_, Error>(Update::put(payload(4, LARGE)))
        }
    });
    let Updated::Written(written) = updated.await.unwrap() else {
        panic!("not written")
    };
    assert_eq!(seen, [Some(1), Some(2), None, Some(3)]);
    assert_eq!(
        (written.version.unwrap().get(), written.created),
        (4, false)
    );
    assert_eq!(store.bytes("k").await, Some(payload(4, LARGE)));
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn update_conflicts_after_its_last_attempt() {
    let store = store().await;
    let mut asked = 0u64;
    let engine = store.engine.clone();
    let outcome = store.engine.update("k", |_| {
        asked += 1;
        let put = engine.put("k", payload(asked, 10));
        async move { put.await.map(|_| Update::Delete) }
    });
    let error = outcome.await.unwrap_err();
    let ErrorKind::Conflict {
        current: Some(current),
    } = error.kind()
    else {
        panic!("{error:?}")
    };
    assert_eq!((asked, current.version.get()), (5, 5));
    assert_eq!(store.bytes("k").await, Some(payload(5, 10)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_function_does_not_block_other_updates() {
    let store = store().await;
    store.engine.put("k", "0").await.unwrap();
    // The function waits in its second call: the update has then lost once and has its turn.
    let (entered, has_entered) = tokio::sync::oneshot::channel();
    let engine = store.engine.clone();
    let mut entered = Some(entered);
    let mut asked = 0;
    let slow = spawn(async move {
        let inner = engine.clone();
        engine
            .update("k", |_| {
                asked += 1;
                let inner = inner.clone();
                let entered = if asked == 2 { entered.take() } else { None };
                async move {
                    if asked == 1 {
                        inner.put("k", "1").await?;
                    }
                    if let Some(entered) = entered {
                        let _ = entered.send(());
                        std::future::pending::<()>().await;
                    }
                    Ok::<_, Error>(Update::Delete)
                }
            })
            .await
    });
    has_entered.await.unwrap();
    let env = Env::new(store.stage.clone());
    for _ in 0..3 {
        let update = store
            .engine
            .update("k", async |_| Ok::<_, Error>(Update::put("2")));
        let updated = env
            .deadline(Duration::from_secs(20), update)
            .await
            .expect("an update does not need its turn")
            .unwrap();
        assert!(matches!(updated, Updated::Written(_)), "{updated:?}");
    }
    slow.abort();
    drop(slow.await);
    assert_eq!(store.bytes("k").await, Some("2".into()));
}

/// Tasks that each try one kind of defective update, concurrent with two writers and with kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_acknowledged_updates_are_visible_despite_kills() {
    let store = store().await;
    let env = Env::new(store.stage.clone());
    let over = Arc::new(AtomicBool::new(false));
    let applied = Arc::default();
    let mut tasks = Vec::new();
    for wrong in WRONGS {
        let engine = store.engine.clone();
        let over = Arc::clone(&over);
        tasks.push(spawn(async move {
            while !over.load(Ordering::SeqCst) {
                let error = engine
                    .update("k", async |_| wrong.update())
                    .await
                    .unwrap_err();
                let expected = error.kind() == wrong.kind()
                    || matches!(error.kind(), ErrorKind::Conflict { .. });
                assert!(expected || error.is_retryable(), "{wrong:?}: {error:?}");
            }
        }));
    }
    for rival in 0..2u64 {
        let engine = store.engine.clone();
        let over = Arc::clone(&over);
        let applied = Arc::clone(&applied);
        tasks.push(spawn(async move {
            write(&engine, rival, &over, &applied).await
        }));
    }
    let until = env.monotonic() + Duration::from_millis(1500);
    while env.monotonic() < until {
        let shard = store.engine.shard_of("k").unwrap();
        store.engine.kill(if env.random_u64().is_multiple_of(2) {
            ActorKind::EveryUpload
        } else {
            ActorKind::Shard(shard)
        });
        let object = store.engine.get("k").await.unwrap();
        if let Some(object) = object {
            let bytes = object.metadata().size;
            let seed = object.metadata().attributes.custom["seed"].parse().unwrap();
            assert!(
                object.bytes().await.unwrap() == payload(seed, usize::try_from(bytes).unwrap()),
                "the object of a writer, whole"
            );
        }
        env.sleep(env.jitter(Duration::from_millis(20))).await;
    }
    over.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await.unwrap();
    }
    let applied: u64 = applied.load(Ordering::SeqCst);
    let version = store
        .engine
        .head("k")
        .await
        .unwrap()
        .expect("at least one write committed")
        .version
        .unwrap()
        .get();
    assert_eq!(version, applied, "each version is an acknowledged write");
    store.assert_settled().await;
}

/// Makes valid updates until `over` is set and counts the commits.
async fn write(engine: &Engine, rival: u64, over: &AtomicBool, applied: &AtomicU64) {
    let mut round = 0;
    while !over.load(Ordering::SeqCst) {
        round += 1;
        let seed = rival * 1_000_000 + round;
        let bytes = if round % 3 == 0 { LARGE } else { 10 };
        let candidate = || NewContent::new(payload(seed, bytes)).custom("seed", seed.to_string());
        match engine
            .update("k", async |_| Ok::<_, Error>(candidate().into()))
            .await
        {
            Ok(Updated::Written(written)) => {
                assert_eq!(
                    written.outcome,
                    WriteOutcome::Applied,
                    "a conditional write is never superseded"
                );
                applied.fetch_add(1, Ordering::SeqCst);
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                let lost = matches!(error.kind(), ErrorKind::Conflict { .. });
                assert!(lost || error.is_retryable(), "{error:?}");
            }
        }
    }
}
