//! Actors killed at random under load, on real threads, real fjall and real files: every caller
//! hears the truth (I10), and in the end nothing is lost and nothing is left (I5, I9).
//!
//! Once each client has keys of its own, so that it knows after every answer what its object must
//! be: `Applied` means the new value, an error that is not `Indeterminate` the old one. And once
//! all want the same keys, and what they heard must have an order. `CENOTAPH_CHAOS_SECONDS` says
//! for how long; 3 unless told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cenotaph::{ActorKind, Engine, Env, ErrorKind, Outcome, Written};
use cenotaph_sim::{Operation, Search, linearize};
use cenotaph_tests::store::{INLINE, Store, payload, quick};

const CLIENTS: u64 = 8;
const SIZES: [usize; 5] = [0, 10, INLINE, 20 * INLINE, 2_000_000];

/// What one client has seen.
#[derive(Debug, Default)]
struct Seen {
    applied: u64,
    in_parts: u64,
    refused: u64,
    deleted: u64,
}

fn seconds() -> Duration {
    let told = std::env::var("CENOTAPH_CHAOS_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    Duration::from_secs(told.unwrap_or(3))
}

async fn store() -> Store {
    let mut config = quick();
    config.limits.restarts.max = usize::MAX;
    Store::with(config).await
}

/// Kills somebody every few milliseconds; how often there was somebody to kill.
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
async fn actors_killed_at_random_under_load_lose_nothing_and_lie_to_nobody() {
    let store = store().await;
    let env = Env::new(store.stage.clone());
    let until = env.monotonic() + seconds();
    let clients =
        futures::future::join_all((0..CLIENTS).map(|number| client(&store, &env, number, until)));
    let (seen, kills) = futures::join!(clients, kill_at_random(&store.engine, &env, until));
    println!("{kills} kills; {seen:?}");
    assert!(kills > 20, "{kills} kills are not chaos");
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
                        Outcome::Applied,
                        "nobody else writes {key}"
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

/// As a put, in three parts; an upload that does not get to its end stays open.
async fn put_in_parts(engine: &Engine, key: &str, body: &Bytes) -> cenotaph::Result<Written> {
    let upload = engine.multipart(key).await?;
    let first = body.len() / 3;
    let rest = body.len() / 2;
    for (number, part) in [(3, rest..body.len()), (1, 0..first), (2, first..rest)] {
        // A part may be sent again as often as one likes: its number is its place.
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

/// What was asked of one object and heard, with the moments of call and answer.
type History = Vec<(u64, Option<u64>, Operation<u64>)>;

/// Clients that want the same object at once.
const RIVALS: u64 = 4;
/// What each of them asks: few enough that an order can be looked for.
const ASKED: u64 = 8;
/// Steps that a search may take.
const SEARCH_MAX: usize = 2_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(
    clippy::disallowed_methods,
    reason = "rivals on threads of their own are the point"
)]
async fn what_rivals_hear_about_one_object_while_actors_die_has_an_order() {
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
            Search::Violated => panic!("round {rounds} has no order: {history:#?}"),
        }
        rounds += 1;
    }
    let kills = killer.await.unwrap();
    println!("{kills} kills, {rounds} rounds of {RIVALS} x {ASKED}, {undecided} too hard to tell");
    assert!(kills > 20, "{kills} kills are not chaos");
    assert!(
        rounds > 20 && undecided * 10 < rounds,
        "{undecided} of {rounds} rounds could not be told"
    );
    store.assert_settled().await;
}

/// One of several who want the same object.
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
            let heard = match self.env.random_u64() % 4 {
                0 => self.delete(&key).await,
                1 => self.read(&key).await,
                kind => {
                    self.write(&key, value, if kind == 2 { 10 } else { 3 * INLINE })
                        .await
                }
            };
            let answered = self.moment();
            if let Some(operation) = heard {
                // An outcome that is unknown may still come to pass.
                let sure = !matches!(operation, Operation::MayWrite(_) | Operation::Delete(None));
                history.push((called, sure.then_some(answered), operation));
            }
        }
        history
    }

    /// None if nothing was committed. A superseded write was overwritten the moment it was made:
    /// nobody ever sees it.
    async fn write(&self, key: &str, value: u64, bytes: usize) -> Option<Operation<u64>> {
        match self
            .engine
            .put(key, payload(value, bytes))
            .custom("value", value.to_string())
            .await
        {
            Ok(written) => (written.outcome == Outcome::Applied).then_some(Operation::Write(value)),
            Err(error) if error.kind() == ErrorKind::Indeterminate => {
                Some(Operation::MayWrite(value))
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
                None
            }
        }
    }

    async fn delete(&self, key: &str) -> Option<Operation<u64>> {
        match self.engine.delete(key).await {
            Ok(deleted) => Some(Operation::Delete(Some(deleted.existed))),
            Err(error) if error.kind() == ErrorKind::Indeterminate => Some(Operation::Delete(None)),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
                None
            }
        }
    }

    async fn read(&self, key: &str) -> Option<Operation<u64>> {
        match self.engine.get(key).await {
            Ok(None) => Some(Operation::Read(None)),
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
                Some(Operation::Read(Some(value)))
            }
            // Replaced under its eyes again and again.
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
                None
            }
        }
    }
}
