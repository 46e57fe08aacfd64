//! Random kills of actors under load, with real threads and real files: every caller receives the
//! true outcome (I10), and in the end nothing is lost and nothing remains (I5, I9).
//!
//! In the first test each client has its own key and knows after every answer the value of its
//! object: the new value after `Applied`, the old one after an error that is not `Indeterminate`.
//! In the second test all clients use the same keys, and their answers must be linearizable.
//! `CENOTAPH_CHAOS_SECONDS` sets the duration of each test; 3 by default.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cenotaph::{ActorKind, Engine, Env, ErrorKind, PutResult, WriteOutcome};
use cenotaph_sim::{ClientOperation, Search, linearize};
use cenotaph_tests::store::{INLINE, Store, payload, quick};

const CLIENTS: u64 = 8;
const SIZES: [usize; 5] = [0, 10, INLINE, 20 * INLINE, 2_000_000];

/// Counters of a client.
#[derive(Debug, Default)]
struct Seen {
    applied: u64,
    in_parts: u64,
    refused: u64,
    deleted: u64,
}

fn seconds() -> Duration {
    let set = std::env::var("CENOTAPH_CHAOS_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    Duration::from_secs(set.unwrap_or(3))
}

async fn store() -> Store {
    let mut config = quick();
    config.limits.restarts.max = usize::MAX;
    Store::with(config).await
}

/// Kills a random actor every few milliseconds and returns the number of kills that hit an actor.
async fn kill_at_random(engine: &Engine, env: &Env, until: Duration) -> u64 {
    let shards = engine.config().limits.shards;
    let mut kills = 0;
    while env.monotonic() < until {
        let kind = match env.random_u64() % 10 {
            0..4 => ActorKind::Shard(usize::try_from(env.random_u64() % 1024).unwrap() % shards),
            4..6 => ActorKind::EveryUpload,
            6 => ActorKind::Uploads,
            7 | 8 => ActorKind::Recovery,
            _ => ActorKind::Sweeper,
        };
        kills += u64::from(engine.kill(kind));
        env.sleep(env.jitter(Duration::from_millis(4))).await;
    }
    kills
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_kills_lose_no_acknowledged_write() {
    let store = store().await;
    let env = Env::new(store.stage.clone());
    let until = env.monotonic() + seconds();
    let clients =
        futures::future::join_all((0..CLIENTS).map(|number| client(&store, &env, number, until)));
    let (seen, kills) = futures::join!(clients, kill_at_random(&store.engine, &env, until));
    println!("{kills} kills; {seen:?}");
    assert!(kills > 20, "only {kills} kills");
    assert!(seen.iter().all(|seen| seen.applied > 0), "{seen:?}");
    assert!(seen.iter().any(|seen| seen.in_parts > 0), "{seen:?}");
    store.assert_settled().await;
}

async fn client(store: &Store, env: &Env, number: u64, until: Duration) -> Seen {
    let key = format!("client/{number}");
    let mut expected = None;
    let mut seen = Seen::default();
    let mut round = 0;
    while env.monotonic() < until {
        round += 1;
        let seed = number * 1_000_000 + round;
        if env.random_u64().is_multiple_of(5) {
            match store.engine.delete(&key).await {
                Ok(deleted) => {
                    assert_eq!(deleted.existed, expected.is_some(), "{key} round {round}");
                    expected = None;
                    seen.deleted += 1;
                }
                Err(error) => assert_refused(&error, &mut seen),
            }
        } else {
            let body = payload(
                seed,
                SIZES[usize::try_from(env.random_u64() % SIZES.len() as u64).unwrap()],
            );
            let in_parts = env.random_u64().is_multiple_of(3);
            let written = match in_parts {
                true => put_in_parts(&store.engine, &key, &body).await,
                false => store.engine.put(&key, body.clone()).await,
            };
            match written {
                Ok(written) => {
                    seen.in_parts += u64::from(in_parts);
                    assert_eq!(
                        written.outcome,
                        WriteOutcome::Applied,
                        "no other client writes {key}"
                    );
                    assert_eq!(written.created, expected.is_none(), "{key} round {round}");
                    expected = Some(body);
                    seen.applied += 1;
                }
                Err(error) => assert_refused(&error, &mut seen),
            }
        }
        assert_eq!(store.bytes(&key).await, expected, "{key} round {round}");
    }
    seen
}

/// Puts an object in three parts. An upload that fails stays open.
async fn put_in_parts(engine: &Engine, key: &str, body: &Bytes) -> cenotaph::Result<PutResult> {
    let upload = engine.multipart(key).await?;
    let first = body.len() / 3;
    let rest = body.len() / 2;
    for (number, part) in [(3, rest..body.len()), (1, 0..first), (2, first..rest)] {
        // Sending a part again is safe: the part number is the identity.
        let mut attempts = 0;
        while let Err(error) = upload.part(number, body.slice(part.clone())).await {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
            attempts += 1;
            if attempts == 20 {
                return Err(error);
            }
        }
    }
    let written = upload.complete().await?;
    match upload.complete().await {
        Ok(again) => assert_eq!(again, written),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}"),
    }
    Ok(written)
}

fn assert_refused(error: &cenotaph::Error, seen: &mut Seen) {
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    seen.refused += 1;
}

/// Operations on an object, with the times of their call and their answer.
type History = Vec<(u64, Option<u64>, ClientOperation<u64>)>;

/// Concurrent clients of an object.
const RIVALS: u64 = 4;
/// Operations of each of them: few enough to search for an order.
const ASKED: u64 = 8;
/// Limit on the steps of a search.
const SEARCH_MAX: usize = 2_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(
    clippy::disallowed_methods,
    reason = "the clients run on several threads"
)]
async fn answers_of_rivals_are_linearizable_under_kills() {
    let store = store().await;
    let env = Env::new(store.stage.clone());
    let until = env.monotonic() + seconds();
    let engine = store.engine.clone();
    let killing = env.clone();
    let killer = tokio::spawn(async move { kill_at_random(&engine, &killing, until).await });
    let mut rounds = 0u64;
    let mut undecided = 0;
    while env.monotonic() < until {
        let moments = Arc::new(AtomicU64::new(0));
        let rivals = (0..RIVALS).map(|number| {
            let rival = Rival {
                engine: store.engine.clone(),
                env: env.clone(),
                moments: Arc::clone(&moments),
                number,
            };
            tokio::spawn(rival.ask(format!("hot/{rounds}")))
        });
        let mut history = History::new();
        for rival in rivals.collect::<Vec<_>>() {
            history.extend(rival.await.unwrap());
        }
        match linearize(&history, SEARCH_MAX) {
            Search::Linearizable => {}
            Search::Undecided => undecided += 1,
            Search::Violated => panic!("round {rounds} is not linearizable: {history:#?}"),
        }
        rounds += 1;
    }
    let kills = killer.await.unwrap();
    println!("{kills} kills, {rounds} rounds of {RIVALS} x {ASKED}, {undecided} undecided");
    assert!(kills > 20, "only {kills} kills");
    assert!(
        rounds > 20 && undecided * 10 < rounds,
        "undecided rounds: {undecided} of {rounds}"
    );
    store.assert_settled().await;
}

/// One of several clients of the same object.
struct Rival {
    engine: Engine,
    env: Env,
    moments: Arc<AtomicU64>,
    number: u64,
}

impl Rival {
    fn moment(&self) -> u64 {
        self.moments.fetch_add(1, Ordering::SeqCst)
    }

    async fn ask(self, key: String) -> History {
        let mut history = History::new();
        for round in 0..ASKED {
            let called = self.moment();
            let value = 1 + self.number * ASKED + round;
            let operation = match self.env.random_u64() % 4 {
                0 => self.delete(&key).await,
                1 => self.read(&key).await,
                kind => {
                    self.write(&key, value, if kind == 2 { 10 } else { 3 * INLINE })
                        .await
                }
            };
            let answered = self.moment();
            if let Some(operation) = operation {
                // An operation with an unknown outcome may still take effect later.
                let known = !matches!(
                    operation,
                    ClientOperation::MayWrite(_) | ClientOperation::Delete(None)
                );
                history.push((called, known.then_some(answered), operation));
            }
        }
        history
    }

    /// Returns `None` if nothing was committed. A superseded write counts as overwritten at once:
    /// no reader sees it.
    async fn write(&self, key: &str, value: u64, bytes: usize) -> Option<ClientOperation<u64>> {
        match self
            .engine
            .put(key, payload(value, bytes))
            .custom("value", value.to_string())
            .await
        {
            Ok(written) => {
                (written.outcome == WriteOutcome::Applied).then_some(ClientOperation::Write(value))
            }
            Err(error) if error.kind() == ErrorKind::Indeterminate => {
                Some(ClientOperation::MayWrite(value))
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
                None
            }
        }
    }

    async fn delete(&self, key: &str) -> Option<ClientOperation<u64>> {
        match self.engine.delete(key).await {
            Ok(deleted) => Some(ClientOperation::Delete(Some(deleted.existed))),
            Err(error) if error.kind() == ErrorKind::Indeterminate => {
                Some(ClientOperation::Delete(None))
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
                None
            }
        }
    }

    async fn read(&self, key: &str) -> Option<ClientOperation<u64>> {
        match self.engine.get(key).await {
            Ok(None) => Some(ClientOperation::Read(None)),
            Ok(Some(object)) => {
                let value = object.metadata().attributes.custom["value"]
                    .parse()
                    .unwrap();
                let bytes = usize::try_from(object.metadata().size).unwrap();
                assert_eq!(
                    object.bytes().await.unwrap(),
                    payload(value, bytes),
                    "bytes of one version to the end (I8)"
                );
                Some(ClientOperation::Read(Some(value)))
            }
            // The object was replaced during every attempt of the read.
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
                None
            }
        }
    }
}
