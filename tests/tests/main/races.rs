//! Conditional writes: of many concurrent writers one wins, and a condition on an old version never
//! holds again.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use cenotaph::{
    ActorKind, BatchWrite, Body, Engine, Env, ErrorKind, Etag, ObjectVersion, PutResult, Result,
    Version,
};
use cenotaph_tests::store::{INLINE, Store, blobs, payload, quick};
use futures::stream;

const RIVALS: u64 = 64;
const LARGE: usize = 10 * INLINE;

fn body(seed: u64, bytes: usize, streamed: bool) -> Body {
    let whole = payload(seed, bytes);
    if !streamed {
        return whole.into();
    }
    let chunks: Vec<_> = whole
        .chunks(700)
        .map(|chunk| Ok::<_, std::io::Error>(whole.slice_ref(chunk)))
        .collect();
    Body::stream(stream::iter(chunks))
}

/// Lets all rivals create the same object and repeat retryable errors. Returns the outcomes.
#[expect(
    clippy::disallowed_methods,
    reason = "the rivals run on several threads"
)]
async fn race(engine: &Engine, key: &str, bytes: usize) -> Vec<(u64, Result<PutResult>)> {
    let rivals = (0..RIVALS).map(|seed| {
        let engine = engine.clone();
        let key = key.to_owned();
        tokio::spawn(async move {
            loop {
                match engine
                    .put(&key, body(seed, bytes, seed % 2 == 0))
                    .if_absent()
                    .await
                {
                    Err(error) if error.is_retryable() => {}
                    outcome => return (seed, outcome),
                }
            }
        })
    });
    let mut outcomes = Vec::new();
    for rival in rivals.collect::<Vec<_>>() {
        outcomes.push(rival.await.unwrap());
    }
    outcomes
}

/// Asserts that one rival has won and that all others received its version. Returns the number of
/// the winner and the version.
fn winner(outcomes: Vec<(u64, Result<PutResult>)>, version: u64) -> (u64, ObjectVersion) {
    let (won, lost): (Vec<_>, Vec<_>) = outcomes
        .into_iter()
        .partition(|(_, outcome)| outcome.is_ok());
    let [(seed, Ok(written))] = &won[..] else {
        panic!("{} winners: {won:?}", won.len())
    };
    assert!(
        written.created && written.version == Some(Version::new(version)),
        "{written:?}"
    );
    let current = ObjectVersion {
        version: written.version.unwrap(),
        etag: written.etag.unwrap(),
    };
    for (loser, outcome) in lost {
        let error = outcome.unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::Conflict {
                current: Some(current)
            },
            "rival {loser}: {error:?}"
        );
    }
    (*seed, current)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_creators_wins_and_others_get_its_version() {
    let store = Store::new().await;
    for bytes in [10, LARGE] {
        let key = format!("k{bytes}");
        for round in 1..=6 {
            let (seed, current) = winner(race(&store.engine, &key, bytes).await, round);
            assert_eq!(
                store.bytes(&key).await,
                Some(payload(seed, bytes)),
                "round {round}"
            );
            store.assert_settled().await;
            assert_eq!(
                blobs(&store.blobs).await.len(),
                usize::from(bytes == LARGE),
                "no orphan remains"
            );
            assert!(
                store
                    .engine
                    .delete(&key)
                    .if_etag(current.etag)
                    .await
                    .unwrap()
                    .existed
            );
            store.assert_settled().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_creator_wins_while_shards_and_uploads_die() {
    let mut config = quick();
    config.limits.restarts.max = usize::MAX;
    let store = Store::with(config).await;
    let env = Env::new(store.stage.clone());
    let shard = ActorKind::Shard(store.engine.shard_of("k").unwrap());
    for round in 1..=8 {
        let killing = async {
            for kill in 0..10 {
                store.engine.kill(if kill % 3 == 0 {
                    ActorKind::EveryUpload
                } else {
                    shard
                });
                env.sleep(env.jitter(Duration::from_millis(6))).await;
            }
        };
        let bytes = if round % 2 == 0 { LARGE } else { 10 };
        let (outcomes, ()) = futures::join!(race(&store.engine, "k", bytes), killing);
        let (seed, _) = winner(outcomes, round);
        assert_eq!(
            store.bytes("k").await,
            Some(payload(seed, bytes)),
            "round {round}"
        );
        store.engine.delete("k").await.unwrap();
        store.assert_settled().await;
        assert!(blobs(&store.blobs).await.is_empty(), "no orphan remains");
    }
}

/// Asserts that every kind of conditional write conflicts on these old versions and etags.
async fn assert_never_again(
    engine: &Engine,
    key: &str,
    over: &[(Version, Etag)],
    current: Option<ObjectVersion>,
) {
    let conflict = ErrorKind::Conflict { current };
    for &(version, etag) in over {
        let large = || -> Bytes { payload(9, LARGE) };
        let outcomes = [
            engine.put(key, "x").if_version(version).await.unwrap_err(),
            engine.put(key, "x").if_etag(etag).await.unwrap_err(),
            engine
                .put(key, large())
                .if_version(version)
                .await
                .unwrap_err(),
            engine.put(key, large()).if_etag(etag).await.unwrap_err(),
            engine.delete(key).if_version(version).await.unwrap_err(),
            engine.delete(key).if_etag(etag).await.unwrap_err(),
            engine
                .amend(key)
                .filename("x")
                .if_version(version)
                .await
                .unwrap_err(),
            engine
                .extend_expiry(key)
                .never()
                .if_etag(etag)
                .await
                .unwrap_err(),
            engine
                .atomic([
                    BatchWrite::delete(key).if_etag(etag),
                    BatchWrite::put("beside", "x"),
                ])
                .await
                .unwrap_err(),
            engine
                .rename("source", key)
                .if_version(version)
                .await
                .unwrap_err(),
            engine
                .rename(key, "target")
                .if_source_version(version)
                .await
                .unwrap_err(),
            engine.copy("source", key).if_etag(etag).await.unwrap_err(),
        ];
        for (place, error) in outcomes.into_iter().enumerate() {
            assert_eq!(
                error.kind(),
                conflict,
                "write {place} on version {version}: {error:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_versions_never_match_again_after_a_delete() {
    let mut store = Store::new().await;
    store.engine.put("source", "s").await.unwrap();
    let mut over: Vec<(Version, Etag)> = Vec::new();
    let mut remember =
        |written: &PutResult| over.push((written.version.unwrap(), written.etag.unwrap()));
    let sizes = [10, LARGE, 5000];
    let mut last = store.engine.put("k", payload(0, 10)).await.unwrap();
    for (round, bytes) in sizes.into_iter().cycle().take(6).enumerate() {
        remember(&last);
        match round % 3 {
            0 => drop(store.engine.delete("k").await.unwrap()),
            1 => drop(store.engine.rename("k", "moved").await.unwrap().unwrap()),
            _ => drop(
                store
                    .engine
                    .atomic([BatchWrite::delete("k"), BatchWrite::put("moved", "x")])
                    .await
                    .unwrap(),
            ),
        }
        if round > 2 {
            store = store.reopen().await;
        }
        assert_never_again(&store.engine, "k", &over_of(&last), None).await;
        last = match round % 3 {
            1 => store.engine.rename("moved", "k").await.unwrap().unwrap(),
            _ => store
                .engine
                .put("k", payload(round as u64, bytes))
                .if_absent()
                .await
                .unwrap(),
        };
        assert!(last.created, "round {round}");
    }
    let store = store.reopen().await;
    let current = ObjectVersion {
        version: last.version.unwrap(),
        etag: last.etag.unwrap(),
    };
    assert_never_again(&store.engine, "k", &over, Some(current)).await;
    let versions: BTreeSet<_> = over.iter().map(|(version, _)| version).collect();
    let etags: BTreeSet<_> = over.iter().map(|(_, etag)| etag).collect();
    assert_eq!(
        (versions.len(), etags.len()),
        (6, 6),
        "no version and no etag is used twice"
    );
    assert!(
        store
            .engine
            .delete("k")
            .if_version(current.version)
            .await
            .unwrap()
            .existed
    );
    store.assert_settled().await;
    assert_eq!(
        store.engine.head("beside").await.unwrap(),
        None,
        "a refused batch writes nothing"
    );
}

fn over_of(written: &PutResult) -> [(Version, Etag); 1] {
    [(written.version.unwrap(), written.etag.unwrap())]
}
