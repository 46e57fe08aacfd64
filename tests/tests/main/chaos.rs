//! Actors killed at random under load: every caller hears the truth (I10), and in the end nothing is lost and nothing is left (I5, I9).
//!
//! Each client has keys of its own, so that it knows after every answer what its object must be: `Applied` means the new
//! value, an error that is not `Indeterminate` the old one. `CENOTAPH_CHAOS_SECONDS` says for how long.

use std::time::Duration;

use cenotaph::{ActorKind, Env, ErrorKind, Outcome};
use cenotaph_tests::store::{INLINE, Store, payload, quick};

const CLIENTS: u64 = 8;
const SIZES: [usize; 5] = [0, 10, INLINE, 20 * INLINE, 2_000_000];

/// What one client has seen.
#[derive(Debug, Default)]
struct Seen {
    applied: u64,
    refused: u64,
    deleted: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn actors_killed_at_random_under_load_lose_nothing_and_lie_to_nobody() {
    let seconds = std::env::var("CENOTAPH_CHAOS_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let mut config = quick();
    config.limits.restarts.max = usize::MAX;
    let shards = config.limits.shards;
    let store = Store::with(config).await;
    let env = Env::new(store.stage.clone());
    let until = env.monotonic() + Duration::from_secs(seconds);

    let clients = futures::future::join_all((0..CLIENTS).map(|number| client(&store, &env, number, until)));
    let killer = async {
        let mut kills = 0u64;
        while env.monotonic() < until {
            let kind = match env.random_u64() % 10 {
                0..4 => ActorKind::Shard(usize::try_from(env.random_u64() % 1024).unwrap() % shards),
                4..6 => ActorKind::EveryUpload,
                6 => ActorKind::Uploads,
                7 | 8 => ActorKind::Recovery,
                _ => ActorKind::Sweeper,
            };
            kills += u64::from(store.engine.kill(kind));
            env.sleep(env.jitter(Duration::from_millis(4))).await;
        }
        kills
    };
    let (seen, kills) = futures::join!(clients, killer);
    println!("{kills} kills; {seen:?}");
    assert!(kills > 20, "{kills} kills are not chaos");
    assert!(seen.iter().all(|seen| seen.applied > 0), "{seen:?}");
    store.assert_settled().await;
}

async fn client(store: &Store, env: &Env, number: u64, until: Duration) -> Seen {
    let key = format!("client/{number}");
    let (mut expected, mut seen, mut round) = (None, Seen::default(), 0);
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
            let body = payload(seed, SIZES[usize::try_from(env.random_u64() % SIZES.len() as u64).unwrap()]);
            match store.engine.put(&key, body.clone()).await {
                Ok(written) => {
                    assert_eq!(written.outcome, Outcome::Applied, "nobody else writes {key}");
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

fn assert_refused(error: &cenotaph::Error, seen: &mut Seen) {
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    seen.refused += 1;
}
