//! Puts: the choice of the tier, replacement, preconditions, races, and failed puts.

use cenotaph::{Body, Engine, ErrorKind, Precondition, WriteOutcome};
use cenotaph_tests::store::{INLINE, payload};
use futures::future::{self, Either, join_all};
use futures::{StreamExt, channel::oneshot, stream};
use xxhash_rust::xxh3::xxh3_64;

use super::{LARGE, MEDIUM, PART_BYTES, SMALL, assert_holds, bytes, put, streamed};

pub(super) async fn small_object_stays_in_the_index(engine: &Engine) {
    for length in [0, SMALL, INLINE] {
        let key = format!("small/{length}");
        engine
            .put(&key, payload(1, length))
            .content_type("text/plain")
            .custom("a", "b")
            .await
            .unwrap();
        assert_holds(engine, &key, 1, length).await;
        let attributes = engine
            .head(&key)
            .await
            .unwrap()
            .unwrap()
            .metadata
            .attributes;
        assert_eq!(
            (
                attributes.content_type.as_deref(),
                attributes.custom["a"].as_str()
            ),
            (Some("text/plain"), "b")
        );
    }
    let usage = engine.usage().await.unwrap();
    assert_eq!((usage.inline_objects, usage.blob_objects), (3, 0));
    put(engine, "one byte more", 1, INLINE + 1).await;
    assert_eq!(engine.usage().await.unwrap().blob_objects, 1);
}

pub(super) async fn large_object_round_trips(engine: &Engine) {
    let lengths = [
        INLINE + 1,
        PART_BYTES - 1,
        PART_BYTES,
        PART_BYTES + 1,
        LARGE,
    ];
    for length in lengths {
        let whole = payload(2, length);
        for (key, promised) in [
            (format!("streamed/{length}"), false),
            (format!("promised/{length}"), true),
        ] {
            let body = streamed(&whole, 700_001);
            let body = if promised {
                body.promise(length as u64)
            } else {
                body
            };
            let written = engine
                .put(&key, body)
                .content_type("video/mp4")
                .await
                .unwrap();
            assert_eq!(
                (written.outcome, written.created),
                (WriteOutcome::Applied, true)
            );
            assert_holds(engine, &key, 2, length).await;
            let metadata = engine.head(&key).await.unwrap().unwrap().metadata;
            assert_eq!(
                (metadata.size, metadata.checksum.unwrap().get()),
                (length as u64, xxh3_64(&whole))
            );
            assert_eq!(
                metadata.attributes.content_type.as_deref(),
                Some("video/mp4")
            );
        }
    }
    let usage = engine.usage().await.unwrap();
    assert_eq!(
        (usage.blob_objects, usage.blob_bytes),
        (10, 2 * lengths.iter().sum::<usize>() as u64)
    );
}

pub(super) async fn any_size_replaces_any_other(engine: &Engine) {
    // Each size follows each other size and itself.
    let sizes = [
        SMALL, SMALL, MEDIUM, MEDIUM, LARGE, LARGE, SMALL, LARGE, MEDIUM, SMALL, LARGE,
    ];
    for (version, length) in (1..).zip(sizes) {
        let written = put(engine, "k", version, length).await;
        assert_eq!(
            (written.version.unwrap().get(), written.created),
            (version, version == 1)
        );
        assert_holds(engine, "k", version, length).await;
    }
}

pub(super) async fn failed_precondition_changes_nothing(engine: &Engine) {
    for length in [SMALL, MEDIUM, LARGE] {
        let key = format!("k{length}");
        let first = engine
            .put(&key, payload(1, length))
            .if_absent()
            .await
            .unwrap();
        let second = engine
            .put(&key, payload(2, length))
            .if_version(first.version.unwrap())
            .await
            .unwrap();
        let refused = [
            engine
                .put(&key, payload(3, length))
                .if_absent()
                .await
                .unwrap_err(),
            engine
                .put(&key, payload(3, length))
                .if_version(first.version.unwrap())
                .await
                .unwrap_err(),
            engine
                .put(&key, payload(3, length))
                .if_etag(first.etag.unwrap())
                .await
                .unwrap_err(),
            engine
                .delete(&key)
                .if_version(first.version.unwrap())
                .await
                .unwrap_err(),
        ];
        for error in refused {
            let ErrorKind::Conflict {
                current: Some(current),
            } = error.kind()
            else {
                panic!("{error:?}")
            };
            assert_eq!(
                (Some(current.version), Some(current.etag)),
                (second.version, second.etag)
            );
        }
        assert_holds(engine, &key, 2, length).await;
        engine
            .put(&key, payload(4, length))
            .if_etag(second.etag.unwrap())
            .await
            .unwrap();
        assert_holds(engine, &key, 4, length).await;
    }
    let absent = engine
        .put("absent", payload(5, MEDIUM))
        .if_version(1)
        .await
        .unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::Conflict { current: None });
    assert!(engine.head("absent").await.unwrap().is_none());
}

pub(super) async fn one_of_many_creators_wins(engine: &Engine) {
    let puts = (0..8).map(|seed| {
        engine
            .put("k", payload(seed, PART_BYTES + 1))
            .if_absent()
            .into_future()
    });
    let outcomes = join_all(puts).await;
    let winners: Vec<u64> = (0..)
        .zip(&outcomes)
        .filter(|(_, outcome)| outcome.is_ok())
        .map(|(seed, _)| seed)
        .collect();
    assert_eq!(winners.len(), 1, "{outcomes:?}");
    let lost = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    assert!(
        lost.map(|error| error.kind())
            .all(|kind| matches!(kind, ErrorKind::Conflict { .. })),
        "{outcomes:?}"
    );
    assert_holds(engine, "k", winners[0], PART_BYTES + 1).await;
}

pub(super) async fn highest_version_of_many_replacements_wins(engine: &Engine) {
    put(engine, "k", 100, MEDIUM).await;
    let puts = (0..12).map(|seed| {
        engine
            .put("k", payload(seed, MEDIUM + seed as usize))
            .into_future()
    });
    let written: Vec<_> = join_all(puts)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let last = (0..)
        .zip(&written)
        .max_by_key(|(_, written)| written.version)
        .map(|(seed, _)| seed)
        .unwrap();
    assert!(
        written
            .iter()
            .all(|written| (written.outcome == WriteOutcome::Applied) == written.version.is_some())
    );
    assert_holds(engine, "k", last, MEDIUM + last as usize).await;
}

pub(super) async fn failed_stream_stores_nothing(engine: &Engine) {
    put(engine, "there", 1, LARGE).await;
    for good in [0, SMALL, MEDIUM, LARGE] {
        for key in ["there", "absent"] {
            let chunks = [
                Ok(payload(2, good)),
                Err(std::io::Error::other("the client hung up")),
            ];
            let error = engine
                .put(key, Body::stream(stream::iter(chunks)))
                .await
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Source, "after {good} bytes");
        }
    }
    assert_holds(engine, "there", 1, LARGE).await;
    assert_eq!(bytes(engine, "absent").await, None);
}

pub(super) async fn dropped_caller_stores_nothing(engine: &Engine) {
    put(engine, "there", 1, MEDIUM).await;
    for key in ["there", "absent"] {
        let (arrived, arrival) = oneshot::channel();
        let good = stream::iter([Ok::<_, std::io::Error>(payload(2, LARGE))]);
        // The second poll reports its arrival and never yields a chunk.
        let waits = stream::once(async move {
            let _ = arrived.send(());
            future::pending().await
        });
        let put = engine
            .put(key, Body::stream(good.chain(waits)))
            .precondition(Precondition::None)
            .into_future();
        match future::select(put, arrival).await {
            Either::Left((outcome, _)) => panic!("the stream never ends: {outcome:?}"),
            Either::Right((arrived, put)) => drop((arrived.unwrap(), put)),
        }
    }
    assert_holds(engine, "there", 1, MEDIUM).await;
    assert_eq!(bytes(engine, "absent").await, None);
}
