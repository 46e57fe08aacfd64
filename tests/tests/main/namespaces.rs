//! Limits per namespace: whoever is over them hears so at once and leaves nothing, whoever has
//! begun ends, and nobody else notices.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use cenotaph::{
    Body, Config, Engine, Error, ErrorKind, Namespace, NamespaceLimits, ObjectId, Outcome, Result,
    Update, Write,
};
use cenotaph_sim::{Controls, Faults, Odds, Schedule, Sim};
use cenotaph_storage::Seam;
use cenotaph_storage::index::{Range, Table};
use cenotaph_tests::store::{INLINE, Store, blobs, payload, quick};
use futures::{StreamExt, TryStreamExt};
use tokio::task::JoinHandle;

const LARGE: usize = 10 * INLINE;
const SECOND: Duration = Duration::from_secs(1);

fn unlimited() -> NamespaceLimits {
    NamespaceLimits::default()
}

fn disabled() -> NamespaceLimits {
    NamespaceLimits {
        disabled: true,
        ..unlimited()
    }
}

fn one_at_once() -> NamespaceLimits {
    NamespaceLimits {
        operations_at_once: Some(1),
        ..unlimited()
    }
}

fn bytes_per_second(bytes: u64) -> NamespaceLimits {
    NamespaceLimits {
        bytes_per_second: Some(bytes),
        ..unlimited()
    }
}

/// The namespace that is limited.
fn limited() -> Namespace {
    "jobs/org=17".parse().unwrap()
}

fn id(key: &str) -> ObjectId {
    ObjectId::new(&limited(), key).unwrap()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the rule applies to code under test only"
)]
fn start<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(task)
}

async fn bytes(engine: &Engine, id: &ObjectId) -> Bytes {
    engine
        .get(id)
        .await
        .unwrap()
        .expect("it is there")
        .bytes()
        .await
        .unwrap()
}

/// What everything that can be asked of a namespace is answered with.
async fn everything(engine: &Engine, namespace: &Namespace) -> [Option<ErrorKind>; 6] {
    let id = ObjectId::new(namespace, "asked").unwrap();
    let kind = |error: Option<Error>| error.map(|error| error.kind());
    // A payload that never comes: whoever is answered is answered at once.
    let never = Body::stream(futures::stream::pending::<std::io::Result<Bytes>>());
    let never = engine.put(&id, never).into_future();
    [
        kind(engine.put(&id, "small").await.err()),
        kind(engine.get(&id).await.err()),
        kind(engine.head(&id).await.err()),
        kind(engine.list("").namespace(namespace.clone()).await.err()),
        kind(engine.delete(&id).await.err()),
        kind(futures::FutureExt::now_or_never(never).and_then(Result::err)),
    ]
}

/// Everything is served; the last goes on waiting for its payload.
const SERVED: [Option<ErrorKind>; 6] = [None; 6];

async fn assert_nothing_is_left_of(store: &Store, key: &str) {
    let rows = store
        .index
        .snapshot()
        .unwrap()
        .scan(Table::Rows, Range::all(1000))
        .await
        .unwrap();
    assert!(
        !rows.iter().any(|(row, _)| row == id(key).encoded()),
        "no row"
    );
    let actors = store.engine.stats().await.unwrap().actors;
    assert_eq!(
        (actors.changes, actors.orphans),
        (0, 0),
        "no change, no orphan"
    );
    assert!(
        !blobs(&store.blobs)
            .await
            .iter()
            .any(|blob| blob.object == id(key)),
        "no blob"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_too_many_at_once_is_overloaded_until_one_ends_and_others_do_not_notice() {
    let store = Store::new().await;
    store
        .engine
        .limit_namespace(&limited(), one_at_once())
        .unwrap();
    let mut midway = store.stage.hold(Seam::UploadMidStream);
    let put = start(
        store
            .engine
            .put(id("large"), payload(1, LARGE))
            .into_future(),
    );
    midway.arrived().await;
    assert_eq!(
        everything(&store.engine, &limited()).await,
        [Some(ErrorKind::Overloaded); 6]
    );
    for other in ["jobs", "jobs/org=17/team=2", "jobs/org=18", "default"] {
        assert_eq!(
            everything(&store.engine, &other.parse().unwrap()).await,
            SERVED,
            "{other}"
        );
    }
    midway.release();
    assert_eq!(put.await.unwrap().unwrap().outcome, Outcome::Applied);
    assert_eq!(everything(&store.engine, &limited()).await, SERVED);
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_get_is_under_way_until_its_object_is_read_to_the_end_or_dropped() {
    let store = Store::new().await;
    for bytes in [10, LARGE] {
        store
            .engine
            .limit_namespace(&limited(), one_at_once())
            .unwrap();
        store.engine.put(id("k"), payload(1, bytes)).await.unwrap();
        let head = || async {
            store
                .engine
                .head(id("k"))
                .await
                .map(drop)
                .map_err(|error| error.kind())
        };
        let mut object = store.engine.get(id("k")).await.unwrap().unwrap();
        assert_eq!(head().await, Err(ErrorKind::Overloaded), "{bytes}");
        while object.chunk().await.unwrap().is_some() {
            assert_eq!(head().await, Err(ErrorKind::Overloaded), "{bytes}");
        }
        assert_eq!(head().await, Ok(()), "read to the end: {bytes}");
        let again = store.engine.get(id("k")).await.unwrap().unwrap().stream();
        assert_eq!(head().await, Err(ErrorKind::Overloaded), "{bytes}");
        drop((object, again));
        assert_eq!(head().await, Ok(()), "dropped: {bytes}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_thrown_at_run_time_is_heard_at_once_and_what_runs_ends() {
    let store = Store::new().await;
    // Two units of a read, so that the second is fetched behind the switch.
    let old = payload(1, 20 * 1024 * 1024);
    store.engine.put(id("old"), old.clone()).await.unwrap();
    let mut reading = store.engine.get(id("old")).await.unwrap().unwrap();
    let mut read = reading.chunk().await.unwrap().unwrap().to_vec();
    let mut midway = store.stage.hold(Seam::UploadMidStream);
    let put = start(store.engine.put(id("new"), payload(2, LARGE)).into_future());
    midway.arrived().await;

    store
        .engine
        .limit_namespace(&limited(), disabled())
        .unwrap();
    assert_eq!(
        everything(&store.engine, &limited()).await,
        [Some(ErrorKind::Disabled); 6]
    );
    assert_eq!(
        everything(&store.engine, &"jobs".parse().unwrap()).await,
        SERVED
    );
    while let Some(chunk) = reading.chunk().await.unwrap() {
        read.extend_from_slice(&chunk);
    }
    assert!(read == old, "a read goes on");
    midway.release();
    assert_eq!(
        put.await.unwrap().unwrap().outcome,
        Outcome::Applied,
        "a put goes on"
    );
    let error = store.engine.get(id("new")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "get: disabled: the namespace is switched off: namespace=jobs/org=17 object=jobs/org=17:new"
    );

    store
        .engine
        .limit_namespace(&limited(), unlimited())
        .unwrap();
    assert_eq!(bytes(&store.engine, &id("new")).await, payload(2, LARGE));
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_put_leaves_nothing_and_takes_nothing_away() {
    let store = Store::new().await;
    store
        .engine
        .limit_namespace(&limited(), one_at_once())
        .unwrap();
    store
        .engine
        .put(id("held"), payload(1, LARGE))
        .await
        .unwrap();
    let held = store.engine.get(id("held")).await.unwrap().unwrap();
    let batches = store.engine.stats().await.unwrap().index.batches;
    for limits in [one_at_once(), disabled()] {
        store.engine.limit_namespace(&limited(), limits).unwrap();
        for size in [10, LARGE] {
            store
                .engine
                .put(id("refused"), payload(2, size))
                .await
                .unwrap_err();
            store
                .engine
                .put(id("held"), payload(2, size))
                .await
                .unwrap_err();
        }
        store.engine.delete(id("held")).await.unwrap_err();
    }
    assert_eq!(
        store.engine.stats().await.unwrap().index.batches,
        batches,
        "the index heard of nothing"
    );
    assert_nothing_is_left_of(&store, "refused").await;
    drop(held);
    store
        .engine
        .limit_namespace(&limited(), unlimited())
        .unwrap();
    assert_eq!(bytes(&store.engine, &id("held")).await, payload(1, LARGE));
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configured_limits_are_there_from_the_beginning_and_later_ones_are_forgotten() {
    let namespaces = BTreeMap::from([(limited().to_string(), disabled())]);
    let store = Store::with(Config {
        namespaces,
        ..quick()
    })
    .await;
    assert_eq!(
        everything(&store.engine, &limited()).await,
        [Some(ErrorKind::Disabled); 6]
    );
    store
        .engine
        .limit_namespace(&limited(), one_at_once())
        .unwrap();
    assert_eq!(everything(&store.engine, &limited()).await, SERVED);
    assert_eq!(store.engine.namespace_limits(&limited()), one_at_once());
    let store = store.reopen().await;
    assert_eq!(store.engine.namespace_limits(&limited()), disabled());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_illegal_namespace_or_limit_in_the_configuration_is_invalid() {
    let zero = NamespaceLimits {
        operations_per_second: Some(0),
        ..unlimited()
    };
    let illegal = [
        ("", disabled()),
        ("no spaces", disabled()),
        ("jobs/17", disabled()),
        ("jobs", zero),
    ];
    for (namespace, limits) in illegal {
        let directory = tempfile::tempdir().unwrap();
        let config = Config {
            namespaces: BTreeMap::from([(namespace.to_owned(), limits)]),
            ..quick()
        };
        let error = Engine::builder(directory.path())
            .config(config)
            .open()
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(
            error
                .to_string()
                .ends_with(&format!("namespace={namespace:?}")),
            "{error}"
        );
        assert!(
            std::fs::read_dir(directory.path())
                .unwrap()
                .next()
                .is_none(),
            "nothing was begun"
        );
    }
}

/// A life in a world where time passes only while everybody sleeps. It ends with both tiers as they
/// must be.
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
    ended.ended().expect("nothing crashes").unwrap();
    sim.settle().unwrap();
}

/// Asserts that it took this long, but for the length of a turn.
fn assert_about(took: Duration, expected: Duration) {
    assert!(
        took.abs_diff(expected) < SECOND / 4,
        "{took:?} and not {expected:?}"
    );
}

#[test]
fn operations_a_second_come_back_with_time_and_a_refused_one_leaves_nothing() {
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
            everything(&engine, &limited()).await,
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
            "the index heard of nothing"
        );
        assert_eq!(everything(&engine, &"jobs".parse()?).await, SERVED);
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
fn small_payloads_in_and_out_share_the_bytes_a_second() {
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
            "the index heard of nothing"
        );
        assert_eq!(
            engine
                .get(id("a"))
                .range(..400)
                .await?
                .expect("it was put")
                .bytes()
                .await?
                .len(),
            400
        );
        assert_eq!(
            engine
                .head(id("a"))
                .await?
                .expect("no payload, no charge")
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
            "all was taken"
        );
        Ok(())
    });
}

#[test]
fn a_large_object_flows_at_the_rate_each_way_and_whole() {
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
        let stream = engine.get(id("large")).await?.expect("it was put").stream();
        let streamed: Vec<Bytes> = stream.try_collect().await?;
        assert_eq!(streamed.concat(), large);
        assert_about(world.elapsed() - begun, 6 * SECOND);
        assert_eq!(
            engine
                .get("other")
                .await?
                .expect("it was put")
                .bytes()
                .await?,
            large
        );
        assert_about(world.elapsed() - begun, 6 * SECOND);
        Ok(())
    });
}

#[test]
fn a_chunk_that_nobody_waited_for_is_not_lost() {
    in_virtual_time(async |world, engine| {
        let large = payload(1, 20_000);
        engine.put(id("large"), large.clone()).await?;
        engine.limit_namespace(&limited(), bytes_per_second(1000))?;
        let mut object = engine.get(id("large")).await?.expect("it was put");
        let begun = world.elapsed();
        let mut read = Vec::new();
        let mut given_up = 0;
        loop {
            match world.env().deadline(SECOND / 2, object.chunk()).await {
                None => given_up += 1,
                Some(chunk) => match chunk? {
                    Some(chunk) => read.extend_from_slice(&chunk),
                    None => break,
                },
            }
        }
        assert!(given_up > 10 && read == large, "{given_up}");
        assert!(
            (19 * SECOND..25 * SECOND).contains(&(world.elapsed() - begun)),
            "what was paid stays paid"
        );
        let rest = engine.get(id("large")).await?.expect("it was put");
        assert_eq!(rest.stream().take(1).count().await, 1);
        Ok(())
    });
}

#[test]
fn a_large_put_that_is_dropped_while_it_waits_leaves_nothing() {
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
            "it takes a quarter of an hour"
        );
        world.settle(&engine).await?;
        assert!(engine.head(id("large")).await?.is_none());
        Ok(())
    });
}

#[test]
fn no_permit_is_lost_with_a_killed_actor_and_no_byte_of_a_slowed_put() {
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
                // An actor may be killed under it; that it was too much is never said.
                match engine.put(id("k"), large.clone()).await {
                    Ok(_) => assert_eq!(bytes(&engine, &id("k")).await, large),
                    Err(error) => assert_ne!(error.kind(), ErrorKind::Overloaded, "{error}"),
                }
            }
            Ok::<_, Error>(())
        });
        life.ended().expect("nothing crashes").unwrap();
        sim.quieten();
        sim.settle()
            .unwrap_or_else(|found| panic!("seed {seed}: {found:?}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switched_off_namespace_refuses_every_kind_of_write() {
    let store = Store::new().await;
    let engine = &store.engine;
    let open = ObjectId::try_from("open").unwrap();
    for key in ["a", "b"] {
        engine.put(id(key), "bytes").await.unwrap();
    }
    engine.put(&open, "bytes").await.unwrap();
    let upload = engine.multipart(id("film")).await.unwrap();
    upload.part(1, "part").await.unwrap();
    engine.limit_namespace(&limited(), disabled()).unwrap();
    let errors = [
        engine
            .atomic([Write::put(&open, "other"), Write::put(id("a"), "other")])
            .await
            .err(),
        engine.amend(id("a")).custom("k", "v").await.err(),
        engine.extend_expiry(id("a")).after_now(SECOND).await.err(),
        engine.rename(id("a"), "away").await.err(),
        engine.rename("open", id("into")).await.err(),
        engine.copy(id("a"), "away").await.err(),
        engine.copy("open", id("into")).await.err(),
        engine
            .update(id("a"), |_| async { Ok::<_, Error>(Update::put("other")) })
            .await
            .err(),
        engine.multipart(id("another")).await.err(),
        upload.part(2, "part").await.map(drop).err(),
        upload.complete().await.err(),
        upload.abort().await.err(),
    ];
    for (number, error) in errors.into_iter().enumerate() {
        assert_eq!(
            error.map(|error| error.kind()),
            Some(ErrorKind::Disabled),
            "number {number}"
        );
    }
    engine.limit_namespace(&limited(), unlimited()).unwrap();
    assert_eq!(bytes(engine, &id("a")).await, "bytes");
    assert_eq!(bytes(engine, &open).await, "bytes");
    assert!(
        engine.head("away").await.unwrap().is_none()
            && engine.head(id("into")).await.unwrap().is_none()
    );
    upload.complete().await.unwrap();
}

/// The rates are so low that a second passes before a charge comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_costs_a_namespace_nothing() {
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
            Write::put(id("a"), vec![0u8; 1000]),
            Write::put(&in_off, "x"),
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
        .expect("it is the first operation, and has all the bytes");
}

/// Its change was recorded and its bytes written: only its outcome says that it was refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_whose_stream_has_flowed_costs_its_operation() {
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
        "its token was given back each time: {kinds:?}"
    );
    store.assert_settled().await;
}
