//! The cost of each operation on a shared index, in round trips to the server.
//!
//! A proxy delays every answer. The time of an operation, as a multiple of the delay, is the number of
//! round trips that it waits for. Of several tries the fastest counts, so that a slow machine does not
//! add to the number.

use std::time::Duration;

use cenotaph::{Engine, Env};
use cenotaph_tests::servers::postgres::url;
use cenotaph_tests::servers::proxy::Proxy;
use cenotaph_tests::store::payload;

use super::SharedStore;

/// Delay of each answer, far longer than anything else takes.
const DELAY: Duration = Duration::from_millis(60);
/// Tries of each operation. The first ones also prepare the statements of each connection.
const TRIES: usize = 10;
/// Bytes of a payload that is an entry of its own.
const SEPARATE: usize = 10_000;
/// Bytes of a payload in the blob tier.
const LARGE: usize = 200_000;

/// Returns the number of round trips of an operation. It is called with the number of the try.
async fn round_trips<T>(mut operation: impl AsyncFnMut(usize) -> T) -> u128 {
    let env = Env::real().unwrap();
    let mut least = Duration::MAX;
    for number in 0..TRIES {
        let before = env.monotonic();
        operation(number).await;
        least = least.min(env.monotonic() - before);
    }
    least.as_millis() / DELAY.as_millis()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_take_the_documented_number_of_round_trips() {
    let Some(mut store) = SharedStore::start().await else {
        return;
    };
    // Background work would use the same connections.
    let minute = Duration::from_secs(60);
    store.options.heartbeat = minute;
    store.options.connections_max = 3;
    store.config.inline_bytes_max = SEPARATE;
    store.config.limits.heartbeat = minute;
    store.config.limits.members.lease = 10 * minute;
    store.config.limits.members.reader_grace = 10 * minute;
    let proxy = Proxy::start(store.server.port()).await.unwrap();
    proxy.delay(DELAY);
    let builder = Engine::builder(store.directory.path()).config(store.config.clone());
    let builder = builder.shared_with(url(proxy.port()), store.options.clone());
    let engine = builder.open().await.unwrap();
    let put = async |key: String, bytes: usize| engine.put(key, payload(7, bytes)).await.unwrap();

    let measured = [
        (
            "put, new",
            round_trips(async |n| put(format!("new/{n}"), 100).await).await,
        ),
        (
            "put, replaced",
            round_trips(async |_| put("same".into(), 100).await).await,
        ),
        ("put, conditional", {
            let mut version = engine.head("same").await.unwrap().unwrap().version.unwrap();
            round_trips(async |_| {
                let put = engine
                    .put("same", payload(8, 100))
                    .if_version(version)
                    .await;
                version = put.unwrap().version.unwrap();
            })
            .await
        }),
        (
            "put, large and new",
            round_trips(async |n| put(format!("film/{n}"), LARGE).await).await,
        ),
        (
            "head",
            round_trips(async |_| engine.head("same").await.unwrap()).await,
        ),
        (
            "get, small",
            round_trips(async |_| bytes(&engine, "same").await).await,
        ),
        ("get, up to the inline limit", {
            put("separate".into(), SEPARATE).await;
            round_trips(async |_| bytes(&engine, "separate").await).await
        }),
        (
            "get, large",
            round_trips(async |_| bytes(&engine, "film/0").await).await,
        ),
        (
            "list, a page",
            round_trips(async |_| engine.list("new/").await.unwrap()).await,
        ),
        (
            "delete",
            round_trips(async |n| engine.delete(format!("new/{n}")).await.unwrap()).await,
        ),
    ];
    let expected = [5, 3, 3, 10, 1, 1, 2, 3, 1, 3];
    let measured_only: Vec<u128> = measured.iter().map(|(_, trips)| *trips).collect();
    assert_eq!(measured_only, expected, "{measured:?}");
    engine.close().await.unwrap();
}

async fn bytes(engine: &Engine, key: &str) -> bytes::Bytes {
    let object = engine.get(key).await.unwrap().expect("it was put");
    object.bytes().await.unwrap()
}
