//! Rates of a namespace: operations and bytes per second, and the tokens of refused and cancelled
//! operations. Most tests run in the simulator, whose time passes only while every task sleeps.

use std::time::Duration;

use bytes::Bytes;
use cenotaph::{
    BatchWrite, Body, Engine, Error, ErrorKind, Namespace, NamespaceLimits, ObjectId, Result,
};
use cenotaph_sim::{Controls, Faults, Odds, Schedule, Sim};
use cenotaph_tests::store::{Store, payload, quick};
use futures::{StreamExt, TryStreamExt};

use super::{
    LARGE, SECOND, SERVED, bytes, bytes_per_second, disabled, id, limited, try_all, unlimited,
};

/// Runs an async function in the simulator, where time passes only while every task sleeps. Asserts
/// at the end that both tiers are consistent.
fn in_virtual_time(life: impl AsyncFnOnce(Controls, Engine) -> Result<()>) {
    let schedule = Schedule {
        delay: Odds::NEVER,
        ..Schedule::default()
    };
    let mut sim = Sim::new(1).config(quick()).schedule(schedule);
    let ended = sim.run(async |world| {
        let engine = world.open().await?;
        life(world, engine).await
    });
    ended.ended().expect("no crash is planned").unwrap();
    sim.settle().unwrap();
}

/// Asserts a duration, with a tolerance of a quarter of a second.
fn assert_about(took: Duration, expected: Duration) {
    assert!(
        took.abs_diff(expected) < SECOND / 4,
        "took {took:?}, expected {expected:?}"
    );
}

#[test]
fn operation_tokens_refill_with_time() {
    in_virtual_time(async |world, engine| {
        let limits = NamespaceLimits {
            operations_per_second: Some(4),
            ..unlimited()
        };
        engine.limit_namespace(&limited(), limits)?;
        for key in ["a", "b", "c", "d"] {
            engine.put(id(key), key).await?;
        }
        let batches = engine.stats().await?.index.batches;
        assert_eq!(
            try_all(&engine, &limited()).await,
            [Some(ErrorKind::Overloaded); 6]
        );
        assert_eq!(
            engine
                .put(id("e"), payload(1, LARGE))
                .await
                .unwrap_err()
                .kind(),
            ErrorKind::Overloaded
        );
        assert_eq!(
            engine.stats().await?.index.batches,
            batches,
            "no batch was submitted"
        );
        assert_eq!(try_all(&engine, &"jobs".parse()?).await, SERVED);
        world.advance(SECOND / 2).await;
        assert_eq!(engine.list("").namespace(limited()).await?.entries.len(), 4);
        assert_eq!(bytes(&engine, &id("a")).await, "a");
        assert_eq!(
            engine.head(id("a")).await.unwrap_err().kind(),
            ErrorKind::Overloaded
        );
        Ok(())
    });
}

#[test]
fn small_puts_and_gets_share_the_byte_rate() {
    in_virtual_time(async |world, engine| {
        engine.limit_namespace(&limited(), bytes_per_second(1000))?;
        engine.put(id("a"), payload(1, 600)).await?;
        let batches = engine.stats().await?.index.batches;
        assert_eq!(
            engine
                .put(id("b"), payload(2, 500))
                .await
                .unwrap_err()
                .kind(),
            ErrorKind::Overloaded
        );
        assert_eq!(
            engine.get(id("a")).await.unwrap_err().kind(),
            ErrorKind::Overloaded
        );
        assert_eq!(
            engine.stats().await?.index.batches,
            batches,
            "no batch was submitted"
        );
        assert_eq!(
            engine
                .get(id("a"))
                .range(..400)
                .await?
                .expect("the object exists")
                .bytes()
                .await?
                .len(),
            400
        );
        assert_eq!(
            engine
                .head(id("a"))
                .await?
                .expect("a head costs no bytes")
                .metadata
                .size,
            600
        );
        world.advance(SECOND * 6 / 10).await;
        assert_eq!(bytes(&engine, &id("a")).await, payload(1, 600));
        assert!(engine.head(id("b")).await?.is_none());

        engine.limit_namespace(&limited(), bytes_per_second(100))?;
        engine.put(id("b"), payload(2, 500)).await?;
        assert_eq!(
            engine.put(id("c"), "c").await.unwrap_err().kind(),
            ErrorKind::Overloaded,
            "no byte token is left"
        );
        Ok(())
    });
}

#[test]
fn large_object_is_transferred_at_the_byte_rate() {
    in_virtual_time(async |world, engine| {
        let large = payload(1, 30_000);
        engine.limit_namespace(&limited(), bytes_per_second(10_000))?;
        let begun = world.elapsed();
        engine.put(id("large"), large.clone()).await?;
        assert_about(world.elapsed() - begun, 2 * SECOND);
        engine.put("other", large.clone()).await?;
        assert_about(world.elapsed() - begun, 2 * SECOND);

        let begun = world.elapsed();
        assert_eq!(bytes(&engine, &id("large")).await, large);
        assert_about(world.elapsed() - begun, 3 * SECOND);
        let stream = engine
            .get(id("large"))
            .await?
            .expect("the object exists")
            .stream();
        let streamed: Vec<Bytes> = stream.try_collect().await?;
        assert_eq!(streamed.concat(), large);
        assert_about(world.elapsed() - begun, 6 * SECOND);
        assert_eq!(
            engine
                .get("other")
                .await?
                .expect("the object exists")
                .bytes()
                .await?,
            large
        );
        assert_about(world.elapsed() - begun, 6 * SECOND);
        Ok(())
    });
}

#[test]
fn chunk_of_a_cancelled_wait_is_not_lost() {
    in_virtual_time(async |world, engine| {
        let large = payload(1, 20_000);
        engine.put(id("large"), large.clone()).await?;
        engine.limit_namespace(&limited(), bytes_per_second(1000))?;
        let mut object = engine.get(id("large")).await?.expect("the object exists");
        let begun = world.elapsed();
        let mut read = Vec::new();
        let mut cancelled = 0;
        loop {
            match world.env().deadline(SECOND / 2, object.chunk()).await {
                None => cancelled += 1,
                Some(chunk) => match chunk? {
                    Some(chunk) => read.extend_from_slice(&chunk),
                    None => break,
                },
            }
        }
        assert!(cancelled > 10 && read == large, "{cancelled}");
        assert!(
            (19 * SECOND..25 * SECOND).contains(&(world.elapsed() - begun)),
            "a cancelled wait keeps its tokens"
        );
        let rest = engine.get(id("large")).await?.expect("the object exists");
        assert_eq!(rest.stream().take(1).count().await, 1);
        Ok(())
    });
}

#[test]
fn dropped_waiting_put_leaves_nothing() {
    in_virtual_time(async |world, engine| {
        engine.limit_namespace(
            &limited(),
            NamespaceLimits {
                operations_at_once: Some(1),
                ..bytes_per_second(1000)
            },
        )?;
        let put = engine.put(id("large"), payload(1, 1_000_000)).into_future();
        assert!(
            world.env().deadline(5 * SECOND, put).await.is_none(),
            "the put takes about 15 minutes at this rate"
        );
        world.settle(&engine).await?;
        assert!(engine.head(id("large")).await?.is_none());
        Ok(())
    });
}

#[test]
fn killed_actors_lose_no_permit_and_no_byte() {
    for seed in 0..10 {
        let faults = Faults {
            kill: Odds::in_ten_thousand(300),
            ..Faults::default()
        };
        let mut sim = Sim::new(seed).config(quick()).faults(faults);
        let life = sim.run(async |world| {
            let engine = world.open_patiently().await?;
            engine.limit_namespace(
                &limited(),
                NamespaceLimits {
                    operations_at_once: Some(1),
                    ..bytes_per_second(50_000)
                },
            )?;
            for round in 0..20 {
                let large = payload(round, LARGE);
                // A kill may fail the put, but no lost permit makes it `Overloaded`.
                match engine.put(id("k"), large.clone()).await {
                    Ok(_) => assert_eq!(bytes(&engine, &id("k")).await, large),
                    Err(error) => assert_ne!(error.kind(), ErrorKind::Overloaded, "{error}"),
                }
            }
            Ok::<_, Error>(())
        });
        life.ended().expect("no crash is planned").unwrap();
        sim.quieten();
        sim.settle()
            .unwrap_or_else(|found| panic!("seed {seed}: {found:?}"));
    }
}

/// The rates are so low that tokens taken by mistake would be missing for a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_operations_cost_no_tokens() {
    let mut config = quick();
    config.limits.payload_bytes_max = 1000;
    let store = Store::with(config).await;
    let engine = &store.engine;
    let off = "off/org=1".parse::<Namespace>().unwrap();
    let in_off = ObjectId::new(&off, "b").unwrap();
    engine.limit_namespace(&off, disabled()).unwrap();
    let rates = NamespaceLimits {
        operations_per_second: Some(1),
        ..bytes_per_second(1000)
    };
    engine.limit_namespace(&limited(), rates).unwrap();
    for _ in 0..3 {
        let writes = [
            BatchWrite::put(id("a"), vec![0u8; 1000]),
            BatchWrite::put(&in_off, "x"),
        ];
        assert_eq!(
            engine.atomic(writes).await.unwrap_err().kind(),
            ErrorKind::Disabled
        );
        assert_eq!(
            engine.rename(id("a"), &in_off).await.unwrap_err().kind(),
            ErrorKind::Disabled
        );
        assert_eq!(
            engine
                .put(id("a"), vec![0u8; 1001])
                .await
                .unwrap_err()
                .kind(),
            ErrorKind::Invalid
        );
    }
    engine
        .put(id("a"), vec![0u8; 1000])
        .await
        .expect("the first admitted operation has all tokens");
}

/// The put has recorded a change and written bytes before it is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn put_refused_after_its_stream_costs_its_operation() {
    let mut config = quick();
    config.limits.payload_bytes_max = 2 * LARGE as u64;
    let store = Store::with(config).await;
    let rates = NamespaceLimits {
        operations_per_second: Some(1),
        ..unlimited()
    };
    store.engine.limit_namespace(&limited(), rates).unwrap();
    let too_long = || {
        Body::stream(futures::stream::iter(
            (0..3).map(|_| Ok::<_, std::io::Error>(vec![1u8; LARGE])),
        ))
    };
    let mut kinds = Vec::new();
    for number in 0..20 {
        kinds.push(
            store
                .engine
                .put(id(&number.to_string()), too_long())
                .await
                .unwrap_err()
                .kind(),
        );
    }
    assert_eq!(kinds[0], ErrorKind::Invalid);
    assert!(
        kinds.contains(&ErrorKind::Overloaded),
        "each put costs a token: {kinds:?}"
    );
    store.assert_settled().await;
}
