//! Expiry with many objects: opening and idling scan due entries only, and the expirer keeps up.
//!
//! `CENOTAPH_EXPIRY_OBJECTS` sets their number; 20,000 by default. The test writes them directly to
//! the index, in batches of a thousand rows with their expiry entries, because only their removal
//! is measured.

use std::time::Duration;

use cenotaph::{Checksum, Config, Env, Expiration, Metadata, ObjectId, Timestamp};
use cenotaph_storage::index::{Batch, Index, Table};
use cenotaph_storage::records::{Attributes, Row, RowBody, expiry_key, expiry_value};
use cenotaph_tests::store::{Store, quick};

const DAY: Duration = Duration::from_secs(24 * 3600);
const SECOND: Duration = Duration::from_secs(1);
const DUE_PER_SECOND: u64 = 10_000;

fn objects() -> u64 {
    std::env::var("CENOTAPH_EXPIRY_OBJECTS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(20_000)
}

/// Creates a row with this deadline.
fn row(env: &Env, expires_at: Timestamp) -> Row {
    let payload = bytes::Bytes::from_static(b"session");
    let attributes = Attributes {
        expiration: Expiration::TimeToLive(DAY),
        ..Attributes::default()
    };
    let size = payload.len() as u64;
    let checksum = Some(Checksum::of(&payload));
    let now = env.steady_now();
    let metadata = Metadata {
        size,
        checksum,
        created: now,
        modified: now,
        expires_at: Some(expires_at),
        attributes,
    };
    Row {
        version: 1.into(),
        operation: env.operation_id(),
        metadata,
        body: RowBody::Embedded(payload),
    }
}

/// Writes `count` objects with the deadlines that `due` returns.
async fn fill(
    index: &dyn Index,
    env: &Env,
    prefix: &str,
    count: u64,
    due: impl Fn(u64) -> Timestamp,
) {
    for first in (0..count).step_by(1000) {
        let mut batch = Batch::new();
        for number in first..count.min(first + 1000) {
            let id = ObjectId::try_from(format!("{prefix}/{number:08}").as_str()).unwrap();
            batch.put(
                Table::Rows,
                id.encoded().clone(),
                row(env, due(number)).encode(),
            );
            batch.put(Table::Expiry, expiry_key(due(number), &id), expiry_value());
        }
        index.submit(batch, Box::new(|outcome| outcome.unwrap()));
    }
    index.barrier().await.unwrap();
}

async fn expired(store: &Store) -> u64 {
    store.engine.stats().await.unwrap().actors.expired
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opening_scans_due_objects_only_and_the_expirer_keeps_up() {
    let config = || Config {
        limits: cenotaph::Limits::default(),
        ..quick()
    };
    let count = objects();
    let empty = Store::with(config()).await.reopen().await;
    let store = Store::with(config()).await;
    let env = Env::new(store.stage.clone());
    let tomorrow = env.steady_now().after(DAY);
    // The deadlines are spread over one day, beginning tomorrow.
    let spread = move |number: u64| {
        tomorrow.after(DAY * u32::try_from(number * 1000 / count).unwrap() / 1000)
    };
    fill(&*store.index, &env, "spread", count, spread).await;

    let store = store.reopen().await;
    store.engine.settle().await.unwrap();
    let scanned = store.counts.scanned(Table::Expiry) + store.counts.scanned(Table::Rows);
    let [index, engine] = store.opening;
    let [_, empty_engine] = empty.opening;
    println!("{count} objects, none due: {scanned} entries scanned");
    println!(
        "opened in {engine:?}, an empty store in {empty_engine:?}; journals replayed in {index:?}"
    );
    assert!(
        scanned <= 3,
        "each pass scans the due entries and one more: {scanned}"
    );
    assert!(
        engine < empty_engine + SECOND / 4,
        "opening takes {engine:?}, and {empty_engine:?} for an empty store"
    );

    let store = all_at_once(store, count / 2).await;
    as_they_come(
        &store,
        (count / 10).clamp(DUE_PER_SECOND, 10 * DUE_PER_SECOND),
    )
    .await;
    let usage = store.engine.usage().await.unwrap();
    assert_eq!(
        (usage.objects, usage.expired),
        (count - count / 2, 0),
        "exactly the due objects are removed"
    );
}

/// Makes half of the objects due at once and measures their removal.
async fn all_at_once(store: Store, due: u64) -> Store {
    let env = Env::new(store.stage.clone());
    store.stage.advance(DAY + DAY * 499 / 1000);
    let began = env.monotonic();
    store.engine.settle().await.unwrap();
    let took = env.monotonic() - began;
    assert_eq!(expired(&store).await, due);
    println!(
        "{due} due at once: {:.0} removed per second",
        due as f64 / took.as_secs_f64()
    );
    // The next engine uses the real clock again: the rest is due tomorrow.
    store.reopen().await
}

/// Writes `count` objects that become due at 10,000 per second and measures their removal.
async fn as_they_come(store: &Store, count: u64) {
    let env = Env::new(store.stage.clone());
    let begin = env.steady_now().after(SECOND * 2);
    let due = |number: u64| {
        begin
            .after(SECOND * u32::try_from(number).unwrap() / u32::try_from(DUE_PER_SECOND).unwrap())
    };
    fill(&*store.index, &env, "live", count, due).await;
    assert!(
        env.steady_now() < begin,
        "all objects are written before the first is due"
    );
    // The expirer does not notice direct writes to the index; a put wakes it.
    store
        .engine
        .put("wake", "x")
        .time_to_live(Duration::from_millis(1))
        .await
        .unwrap();
    let mut backlog = 0;
    let limit = SECOND * 60 + SECOND * u32::try_from(count / DUE_PER_SECOND).unwrap();
    let last = due(count - 1);
    let all_gone = env.deadline(limit, async {
        loop {
            let so_far = env.steady_now().since(begin).as_millis() as u64 * DUE_PER_SECOND / 1000;
            let gone = expired(store).await.saturating_sub(1);
            backlog = backlog.max(so_far.min(count).saturating_sub(gone));
            if gone == count {
                return;
            }
            env.sleep(Duration::from_millis(10)).await;
        }
    });
    all_gone.await.expect("all objects are removed");
    let late = env.steady_now().since(last);
    println!(
        "{count} due at {DUE_PER_SECOND}/s: largest backlog {backlog}, last one {late:?} too late"
    );
}
