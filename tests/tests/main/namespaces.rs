//! Limits per namespace: an operation over a limit is refused at once and changes nothing, running
//! operations finish, and other namespaces are unaffected.

mod rates;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use cenotaph::{
    BatchWrite, Body, Config, Engine, Error, ErrorKind, Namespace, NamespaceLimits, ObjectId,
    Result, Update, WriteOutcome,
};
use cenotaph_storage::SyncPoint;
use cenotaph_storage::index::{Range, Table};
use cenotaph_tests::store::{INLINE, Store, blobs, payload, quick};
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

/// Returns the namespace that the tests limit.
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
        .expect("the object exists")
        .bytes()
        .await
        .unwrap()
}

/// Tries every kind of operation on a namespace and returns the kinds of the errors.
async fn try_all(engine: &Engine, namespace: &Namespace) -> [Option<ErrorKind>; 6] {
    let id = ObjectId::new(namespace, "asked").unwrap();
    let kind = |error: Option<Error>| error.map(|error| error.kind());
    // The stream never yields a payload, so only a refusal answers the put at once.
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

/// Result of [`try_all`] if all operations are admitted; the last one is still pending.
const SERVED: [Option<ErrorKind>; 6] = [None; 6];

async fn assert_no_trace(store: &Store, key: &str) {
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
async fn operation_over_the_limit_is_overloaded_at_once() {
    let store = Store::new().await;
    store
        .engine
        .limit_namespace(&limited(), one_at_once())
        .unwrap();
    let mut midway = store.stage.hold(SyncPoint::UploadMidStream);
    let put = start(
        store
            .engine
            .put(id("large"), payload(1, LARGE))
            .into_future(),
    );
    midway.arrived().await;
    assert_eq!(
        try_all(&store.engine, &limited()).await,
        [Some(ErrorKind::Overloaded); 6]
    );
    for other in ["jobs", "jobs/org=17/team=2", "jobs/org=18", "default"] {
        assert_eq!(
            try_all(&store.engine, &other.parse().unwrap()).await,
            SERVED,
            "{other}"
        );
    }
    midway.release();
    assert_eq!(put.await.unwrap().unwrap().outcome, WriteOutcome::Applied);
    assert_eq!(try_all(&store.engine, &limited()).await, SERVED);
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn get_counts_until_its_object_is_read_or_dropped() {
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
        assert_eq!(head().await, Ok(()), "after the last chunk: {bytes}");
        let again = store.engine.get(id("k")).await.unwrap().unwrap().stream();
        assert_eq!(head().await, Err(ErrorKind::Overloaded), "{bytes}");
        drop((object, again));
        assert_eq!(head().await, Ok(()), "after the drop: {bytes}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disabling_refuses_new_and_finishes_running_operations() {
    let store = Store::new().await;
    // The object has two read units; the second is fetched after the namespace is disabled.
    let old = payload(1, 20 * 1024 * 1024);
    store.engine.put(id("old"), old.clone()).await.unwrap();
    let mut reading = store.engine.get(id("old")).await.unwrap().unwrap();
    let mut read = reading.chunk().await.unwrap().unwrap().to_vec();
    let mut midway = store.stage.hold(SyncPoint::UploadMidStream);
    let put = start(store.engine.put(id("new"), payload(2, LARGE)).into_future());
    midway.arrived().await;

    store
        .engine
        .limit_namespace(&limited(), disabled())
        .unwrap();
    assert_eq!(
        try_all(&store.engine, &limited()).await,
        [Some(ErrorKind::Disabled); 6]
    );
    assert_eq!(
        try_all(&store.engine, &"jobs".parse().unwrap()).await,
        SERVED
    );
    while let Some(chunk) = reading.chunk().await.unwrap() {
        read.extend_from_slice(&chunk);
    }
    assert!(read == old, "the running read finishes");
    midway.release();
    assert_eq!(
        put.await.unwrap().unwrap().outcome,
        WriteOutcome::Applied,
        "the running put finishes"
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
async fn refused_put_changes_nothing() {
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
        "no batch was submitted"
    );
    assert_no_trace(&store, "refused").await;
    drop(held);
    store
        .engine
        .limit_namespace(&limited(), unlimited())
        .unwrap();
    assert_eq!(bytes(&store.engine, &id("held")).await, payload(1, LARGE));
    store.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configured_limits_apply_at_open_and_later_ones_are_not_kept() {
    let namespaces = BTreeMap::from([(limited().to_string(), disabled())]);
    let store = Store::with(Config {
        namespaces,
        ..quick()
    })
    .await;
    assert_eq!(
        try_all(&store.engine, &limited()).await,
        [Some(ErrorKind::Disabled); 6]
    );
    store
        .engine
        .limit_namespace(&limited(), one_at_once())
        .unwrap();
    assert_eq!(try_all(&store.engine, &limited()).await, SERVED);
    assert_eq!(store.engine.namespace_limits(&limited()), one_at_once());
    let store = store.reopen().await;
    assert_eq!(store.engine.namespace_limits(&limited()), disabled());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_namespace_or_limit_in_the_config_is_refused() {
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
            "no file was created"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disabled_namespace_refuses_every_write() {
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
            .atomic([
                BatchWrite::put(&open, "other"),
                BatchWrite::put(id("a"), "other"),
            ])
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
