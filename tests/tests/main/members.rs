//! Several engines on one shared index in PostgreSQL and one blob tier, in one process.
//!
//! Without PostgreSQL the tests print `SKIPPED` and pass (CONTRIBUTING.md describes its installation).
//! Long reads, background work and limits are in `members/together.rs`, killed servers in `members/failover.rs`, processes that are killed or
//! stopped in `members/processes.rs`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cenotaph::{
    BatchWrite, Config, Engine, Env, Error, ErrorKind, MemberLimits, Object, PostgresOptions,
    Update, WriteReply,
};
use cenotaph_storage::blobs::{BlobOptions, BlobTier};
use cenotaph_storage::index::Index;
use cenotaph_storage::index::postgres::PostgresIndex;
use cenotaph_tests::servers::postgres::{Postgres, PostgresData, url};
use cenotaph_tests::store::{INLINE, assert_settled, payload, quick};
use futures::future::{join_all, try_join_all};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::servers::required;

mod failover;
mod process;
mod processes;
mod round_trips;
mod together;

/// Settings of a server whose machine does not fail.
const SETTINGS: &[&str] = &["fsync=off", "max_connections=100", "deadlock_timeout=20ms"];

/// Returns a configuration with short delays.
fn config() -> Config {
    let mut config = quick();
    config.limits.members = MemberLimits {
        lease: Duration::from_secs(1),
        reader_grace: Duration::from_millis(400),
        ..MemberLimits::default()
    };
    config
}

/// Returns the options of the index of a member.
fn options() -> PostgresOptions {
    PostgresOptions {
        heartbeat: Duration::from_millis(100),
        ..PostgresOptions::default()
    }
}

/// A shared store of a test.
struct SharedStore {
    directory: TempDir,
    config: Config,
    options: PostgresOptions,
    server: Postgres,
    data: PostgresData,
}

impl SharedStore {
    /// Starts a server, or returns `None` if none is installed.
    async fn start() -> Option<Self> {
        let data = required("PostgreSQL", PostgresData::new())?;
        let server = data.start(SETTINGS).await;
        Some(Self {
            directory: TempDir::new().unwrap(),
            config: config(),
            options: options(),
            server,
            data,
        })
    }

    fn url(&self) -> String {
        url(self.server.port())
    }

    /// Opens a member.
    async fn member(&self) -> Engine {
        let builder = Engine::builder(self.directory.path()).config(self.config.clone());
        let builder = builder.shared_with(self.url(), self.options.clone());
        builder.open().await.unwrap()
    }

    async fn members(&self, number: usize) -> Vec<Engine> {
        join_all((0..number).map(|_| self.member())).await
    }

    /// Asserts I5 and I3 with all other members closed.
    async fn assert_settled(&self, engine: &Engine) {
        let env = Env::real().unwrap();
        let index = PostgresIndex::open(&self.url(), env.clone(), self.options.clone()).await;
        let index: Arc<dyn Index> = Arc::new(index.unwrap());
        let operator =
            cenotaph_storage::blobs::local(&self.directory.path().join("blobs")).unwrap();
        let tier = BlobTier::new(operator, env.clone(), BlobOptions::default());
        assert_settled(engine, &env, &*index, &tier).await;
        index.close().await.unwrap();
    }

    /// Closes all members but the first, and asserts that nothing is left.
    async fn end(self, members: Vec<Engine>) {
        let mut members = members.into_iter();
        let first = members.next().unwrap();
        for member in members {
            member.close().await.unwrap();
        }
        self.assert_settled(&first).await;
        first.close().await.unwrap();
    }
}

async fn count(engine: &Engine, key: &str) -> u64 {
    match engine.get(key).await.unwrap() {
        Some(object) => number(&object.bytes().await.unwrap()),
        None => 0,
    }
}

fn number(bytes: &[u8]) -> u64 {
    std::str::from_utf8(bytes).unwrap().trim().parse().unwrap()
}

/// Returns a decimal number, padded to this length.
fn padded(number: u64, bytes: usize) -> String {
    format!("{number:>bytes$}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_see_the_writes_of_each_other() {
    let Some(store) = SharedStore::start().await else {
        return;
    };
    let members = store.members(3).await;
    let epochs: BTreeSet<_> = join_all(members.iter().map(async |member| {
        let stats = member.stats().await.unwrap();
        stats.epoch
    }))
    .await
    .into_iter()
    .collect();
    assert_eq!(epochs.len(), 3, "each member has an epoch of its own");
    for (key, bytes) in [
        ("small", 10),
        ("separate", INLINE - 1),
        ("large", 10 * INLINE),
    ] {
        for (writer, member) in members.iter().enumerate() {
            let value = payload(writer as u64, bytes + writer);
            let written = member.put(key, value.clone()).await.unwrap();
            assert_eq!(written.version.unwrap().get(), 1 + writer as u64);
            for reader in &members {
                let object = reader.get(key).await.unwrap().expect("it was put");
                assert_eq!(object.version(), written.version);
                assert_eq!(object.bytes().await.unwrap(), value, "{key} by {writer}");
            }
        }
        assert!(members[0].delete(key).await.unwrap().existed);
        assert!(members[2].get(key).await.unwrap().is_none());
        let again = members[1].put(key, "again").await.unwrap();
        assert_eq!(again.version.unwrap().get(), 4, "versions are not reused");
    }
    let (listed, _) = members[0].members().await.unwrap();
    assert_eq!(listed.len(), 3);
    let own = members[0].stats().await.unwrap().epoch;
    assert!(
        listed
            .iter()
            .all(|member| member.is_self == (member.epoch == own))
    );
    store.end(members).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_of_several_members_are_exact() {
    const TASKS: usize = 8;
    const INCREMENTS: u64 = 5;
    let Some(mut store) = SharedStore::start().await else {
        return;
    };
    store.config.limits.update_attempts = 1000;
    let members = store.members(3).await;
    // An inline counter, and one in the blob tier.
    for (key, bytes) in [("inline", 20), ("large", 2 * INLINE)] {
        let mut tasks = JoinSet::new();
        for member in &members {
            for _ in 0..TASKS {
                let member = member.clone();
                tasks.spawn(async move {
                    for _ in 0..INCREMENTS {
                        let increment = |found: Option<Object>| async move {
                            let last = match found {
                                Some(object) => number(&object.bytes().await?),
                                None => 0,
                            };
                            Ok::<_, Error>(Update::put(padded(last + 1, bytes)))
                        };
                        member.update(key, increment).await.unwrap();
                    }
                });
            }
        }
        tasks.join_all().await;
        let expected = (members.len() * TASKS) as u64 * INCREMENTS;
        for member in &members {
            assert_eq!(count(member, key).await, expected, "{key}");
        }
    }
    store.end(members).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creation_races_have_one_winner() {
    let Some(store) = SharedStore::start().await else {
        return;
    };
    let members = store.members(3).await;
    for round in 0..40 {
        let key = format!("key/{round}");
        let bytes = if round % 4 == 0 { 3 * INLINE } else { 100 };
        let racing = members.iter().enumerate().map(async |(number, member)| {
            let value = padded(number as u64, bytes);
            member.put(&key, value).if_absent().await
        });
        let outcomes = join_all(racing).await;
        let winners: Vec<usize> = (0..3).filter(|&n| outcomes[n].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{key}: {outcomes:?}");
        for outcome in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
            assert!(
                matches!(outcome.kind(), ErrorKind::Conflict { .. }),
                "{outcome:?}"
            );
        }
        assert_eq!(count(&members[0], &key).await, winners[0] as u64);
    }
    store.end(members).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_and_renames_of_several_members_are_whole() {
    let Some(store) = SharedStore::start().await else {
        return;
    };
    let members = store.members(3).await;
    let keys = ["pair/a", "pair/b", "pair/c"];
    let mut tasks = JoinSet::new();
    for (number, member) in members.iter().cloned().enumerate() {
        tasks.spawn(async move {
            for round in 0..30 {
                let value = format!("{number}/{round}");
                let writes = keys.map(|key| BatchWrite::put(key, value.clone()));
                let replies = member.atomic(writes).await.unwrap();
                let version = |reply: &WriteReply| match reply {
                    WriteReply::Written(written) => written.version,
                    WriteReply::Deleted(_) => None,
                };
                let versions: BTreeSet<_> = replies.iter().map(version).collect();
                assert_eq!(versions.len(), 1, "all three have been written together");
            }
        });
    }
    tasks.join_all().await;
    let values = try_join_all(keys.map(async |key| {
        let object = members[0].get(key).await?.expect("it was put");
        Ok::<_, Error>((object.version().unwrap().get(), object.bytes().await?))
    }));
    let values: BTreeSet<_> = values.await.unwrap().into_iter().collect();
    assert_eq!(values.len(), 1, "{values:?}");
    assert_eq!(values.first().unwrap().0, 90, "each batch committed once");

    // Objects that all members move around are neither lost nor doubled.
    let places: Vec<String> = (0..4).map(|place| format!("place/{place}")).collect();
    members[0]
        .put(&places[0], payload(7, 3 * INLINE))
        .await
        .unwrap();
    let mut tasks = JoinSet::new();
    for (number, member) in members.iter().cloned().enumerate() {
        let places = places.clone();
        tasks.spawn(async move {
            for round in 0..40 {
                let from = &places[(number + round) % places.len()];
                let to = &places[(number + 3 * round + 1) % places.len()];
                if from == to {
                    continue;
                }
                match member.rename(from, to).if_absent().await {
                    Ok(_) => {}
                    Err(error) => {
                        assert!(
                            matches!(error.kind(), ErrorKind::Conflict { .. }),
                            "{error:?}"
                        );
                    }
                }
            }
        });
    }
    tasks.join_all().await;
    let left = members[1].list("place/").await.unwrap().entries;
    assert_eq!(left.len(), 1, "{left:?}");
    let object = members[2].get(left[0].name()).await.unwrap().unwrap();
    assert_eq!(object.bytes().await.unwrap(), payload(7, 3 * INLINE));
    store.end(members).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statistics_count_the_orphans_of_all_members() {
    let Some(mut store) = SharedStore::start().await else {
        return;
    };
    store.config.limits.members.reader_grace = Duration::from_secs(60);
    let members = store.members(2).await;
    members[0].put("a", payload(1, 3 * INLINE)).await.unwrap();
    members[0].delete("a").await.unwrap();
    for member in &members {
        let actors = member.stats().await.unwrap().actors;
        assert_eq!(actors.orphans, 1, "{actors:?}");
        assert!(actors.oldest_orphan.is_some());
    }
    for member in members {
        member.close().await.unwrap();
    }
}
