//! The shared index on a real PostgreSQL server: the contract of an index, commits whose connections
//! break, a server that is killed, a standby that does not answer, and members that die.
//!
//! The server is an optional program (CONTRIBUTING.md describes its installation). Without it the
//! tests print `SKIPPED` and pass. With `CENOTAPH_SERVERS=required` they fail.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cenotaph::{Env, ErrorKind, Result};
use cenotaph_storage::index::contract::{self, Subject, shared, shared::SharedSubject};
use cenotaph_storage::index::postgres::{PostgresIndex, PostgresOptions};
use cenotaph_storage::index::{Batch, CommitError, Index, SharedIndex, Table};
use cenotaph_tests::servers::launch::find;
use cenotaph_tests::servers::postgres::{Postgres, PostgresData, url};
use cenotaph_tests::servers::proxy::Proxy;
use futures::future::{BoxFuture, join_all};
use tokio::sync::oneshot;

use crate::servers::required;

/// Options of a server whose machine does not fail: it need not wait for the disk. Deadlocks are
/// found soon.
const NO_SYNC: &[&str] = &["fsync=off", "max_connections=60", "deadlock_timeout=20ms"];

/// A store on a server, behind a proxy.
struct Store {
    proxy: Proxy,
    options: PostgresOptions,
    server: Option<Postgres>,
}

impl Store {
    /// Starts a server, or returns `None` if none is installed.
    async fn start() -> Option<(Self, PostgresData)> {
        let data = required("PostgreSQL", PostgresData::new())?;
        let server = data.start(NO_SYNC).await;
        let store = Self {
            proxy: Proxy::start(server.port()).await.unwrap(),
            options: PostgresOptions {
                heartbeat: Duration::from_millis(100),
                ..PostgresOptions::default()
            },
            server: Some(server),
        };
        Some((store, data))
    }

    async fn member(&self) -> Arc<PostgresIndex> {
        self.member_at(self.proxy.port()).await
    }

    /// Opens a member whose connections do not pass the proxy.
    async fn direct_member(&self) -> Arc<PostgresIndex> {
        let server = self.server.as_ref().expect("the server runs");
        self.member_at(server.port()).await
    }

    async fn member_at(&self, port: u16) -> Arc<PostgresIndex> {
        let url = url(port);
        let index = PostgresIndex::open(&url, Env::real().unwrap(), self.options.clone()).await;
        Arc::new(index.unwrap())
    }
}

impl Subject for Store {
    fn open(&self) -> BoxFuture<'_, Result<Arc<dyn Index>>> {
        Box::pin(async move { Ok(self.member().await as Arc<dyn Index>) })
    }
}

/// Proxy that stops to cut when this value is dropped.
struct Disturbance(Proxy);

impl Drop for Disturbance {
    fn drop(&mut self) {
        self.0.cut(false);
    }
}

impl SharedSubject for Store {
    fn declare_dead<'a>(&'a self, index: &'a dyn Index) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            // The oldest member is the one to die.
            assert!(index.is_shared());
            let witness = self.member().await;
            loop {
                let members = witness.members().await.unwrap();
                let oldest = &members[0];
                assert_ne!(oldest.epoch, witness.epoch());
                if witness
                    .declare_dead(oldest.epoch, oldest.beat)
                    .await
                    .unwrap()
                {
                    break;
                }
                // Its heart has beaten in between.
            }
            witness.close().await.unwrap();
        })
    }

    fn disturb(&self) -> Box<dyn Send> {
        self.proxy.cut(true);
        Box::new(Disturbance(self.proxy.clone()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn index_keeps_the_contract() {
    let Some((store, _data)) = Store::start().await else {
        return;
    };
    contract::all(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn index_keeps_the_contract_of_a_shared_index() {
    let Some((store, _data)) = Store::start().await else {
        return;
    };
    shared::all(&store).await;
    let cuts = store.proxy.cuts();
    assert!(cuts.iter().all(|&cuts| cuts > 0), "{cuts:?}");
}

/// Variable with the number of connections to cut.
const CUTS: &str = "CENOTAPH_POSTGRES_CUTS";
/// Number of connections to cut without the variable.
const CUTS_WANTED: u64 = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_are_right_when_connections_break_at_the_commit() {
    let Some((store, _data)) = Store::start().await else {
        return;
    };
    let wanted = std::env::var(CUTS).map_or(CUTS_WANTED, |cuts| cuts.parse().expect("a number"));
    let index = store.member().await;
    let witness = store.direct_member().await;
    let disturbance = store.disturb();
    let mut number = 0;
    loop {
        if store.proxy.cuts().iter().all(|&cuts| cuts >= wanted / 3) {
            break;
        }
        // A swap that commits twice would find its own result, and be `Changed`.
        let mut batch = Batch::new();
        let text = |number: u64| Bytes::from(number.to_string());
        let expected = (number > 0).then(|| text(number));
        batch.require(Table::Rows, "number", expected);
        number += 1;
        batch.put(Table::Rows, "number", text(number));
        committed(&*index, batch).await.unwrap();
        // Acknowledged: another member sees it.
        let seen = witness.get(Table::Rows, b"number").await.unwrap();
        assert_eq!(seen, Some(text(number)));
    }
    drop(disturbance);
    eprintln!(
        "{number} swaps, connections cut before, after and during the commit: {:?}",
        store.proxy.cuts()
    );
    index.close().await.unwrap();
    witness.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_server_loses_no_acknowledged_commit() {
    const KILLS: usize = 5;
    let Some((mut store, data)) = Store::start().await else {
        return;
    };
    let index = store.member().await;
    let acknowledged = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let writers = join_all((0..8).map(|task| {
        let (index, acknowledged, stop) = (&index, &acknowledged, &stop);
        async move {
            let mut number = 0;
            while !stop.load(Ordering::SeqCst) {
                let mut batch = Batch::new();
                let key = format!("{task}/{number}");
                // Two tables: a torn commit would show.
                batch.require(Table::Rows, key.clone(), None);
                batch.put(Table::Rows, key.clone(), "row");
                batch.put(Table::Payloads, key, vec![7; 4096]);
                committed(&**index, batch).await.unwrap();
                acknowledged.fetch_add(1, Ordering::SeqCst);
                number += 1;
            }
            number
        }
    }));
    let kills = async {
        let env = Env::real().unwrap();
        for _ in 0..KILLS {
            let before = acknowledged.load(Ordering::SeqCst);
            while acknowledged.load(Ordering::SeqCst) < before + 50 {
                env.sleep(Duration::from_millis(5)).await;
            }
            // Killed with SIGKILL, and started again on the same data.
            drop(store.server.take());
            let server = data.start(NO_SYNC).await;
            store.proxy.redirect(server.port());
            store.server = Some(server);
        }
        stop.store(true, Ordering::SeqCst);
    };
    let (written, ()) = futures::join!(writers, kills);
    let snapshot = index.snapshot().unwrap();
    for (task, count) in written.into_iter().enumerate() {
        for number in 0..count {
            let key = format!("{task}/{number}");
            let row = snapshot.get(Table::Rows, key.as_bytes()).await.unwrap();
            let payload = snapshot.get(Table::Payloads, key.as_bytes()).await.unwrap();
            assert!(row.is_some() && payload.is_some(), "{key}");
        }
    }
    drop(snapshot);
    index.close().await.unwrap();
}

/// A commit that the standby does not have would be lost if the standby took over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commit_is_not_acknowledged_without_the_synchronous_standby() {
    let Some((mut store, data)) = Store::start().await else {
        return;
    };
    store.options.statement_timeout = Duration::from_millis(300);
    store.options.outage_max = Duration::from_secs(3);
    let index = store.member().await;
    drop(store.server.take());
    let options = [NO_SYNC, &["synchronous_standby_names=absent"]].concat();
    let server = data.start(&options).await;
    store.proxy.redirect(server.port());
    let mut batch = Batch::new();
    batch.put(Table::Rows, "key", "value");
    let outcome = committed(&*index, batch).await;
    assert!(
        matches!(outcome, Err(CommitError::Unknown(_))),
        "{outcome:?}"
    );
    assert!(index.poisoned().is_some());
    // Joining is a commit, too.
    let url = url(store.proxy.port());
    let opened = PostgresIndex::open(&url, Env::real().unwrap(), store.options.clone()).await;
    let error = opened.expect_err("nobody can join");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_listed_and_heartbeats_go_on() {
    let Some((store, _data)) = Store::start().await else {
        return;
    };
    let [first, second] = [store.member().await, store.member().await];
    let members = first.members().await.unwrap();
    let epochs: Vec<_> = members.iter().map(|member| member.epoch).collect();
    assert_eq!(epochs, [first.epoch(), second.epoch()]);
    let env = Env::real().unwrap();
    let beating = async {
        loop {
            let now = first.members().await.unwrap();
            if now
                .iter()
                .zip(&members)
                .all(|(now, before)| now.beat > before.beat)
            {
                return;
            }
            env.sleep(Duration::from_millis(20)).await;
        }
    };
    env.deadline(Duration::from_secs(60), beating)
        .await
        .expect("the hearts beat");
    // A stale count removes nobody.
    assert!(
        !first
            .declare_dead(second.epoch(), members[1].beat)
            .await
            .unwrap()
    );
    second.close().await.unwrap();
    let left = first.members().await.unwrap();
    assert_eq!(left.len(), 1, "a closed member has left: {left:?}");
    first.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_too_long_and_other_formats_are_refused() {
    let Some((store, _data)) = Store::start().await else {
        return;
    };
    let index = store.member().await;
    let mut batch = Batch::new();
    batch.put(Table::Rows, vec![7; index.key_bytes_max() + 1], "row");
    match committed(&*index, batch).await {
        Err(CommitError::NotStarted(error)) => assert_eq!(error.kind(), ErrorKind::Invalid),
        outcome => panic!("{outcome:?}"),
    }
    let mut batch = Batch::new();
    batch.require(Table::Rows, vec![7; index.key_bytes_max() + 1], None);
    let outcome = committed(&*index, batch).await;
    assert!(
        matches!(outcome, Err(CommitError::NotStarted(_))),
        "{outcome:?}"
    );
    assert!(index.poisoned().is_none());
    index.close().await.unwrap();
    let out_of_bounds = PostgresOptions {
        heartbeat: Duration::ZERO,
        ..store.options.clone()
    };
    let opened = PostgresIndex::open(&url(1), Env::real().unwrap(), out_of_bounds).await;
    let error = opened.expect_err("the heartbeat is out of bounds");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let absent = PostgresOptions {
        schema: "mistyped".to_owned(),
        create: false,
        ..store.options.clone()
    };
    // The second time, too: a refusal creates nothing.
    for _ in 0..2 {
        let url = url(store.proxy.port());
        let opened = PostgresIndex::open(&url, Env::real().unwrap(), absent.clone()).await;
        let error = opened.expect_err("the schema has no tables");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        let reason = "the database has no store in this schema: schema=mistyped";
        assert!(error.to_string().contains(reason), "{error}");
    }
    let present = PostgresOptions {
        schema: store.options.schema.clone(),
        ..absent
    };
    let opened = PostgresIndex::open(&url(store.proxy.port()), Env::real().unwrap(), present).await;
    opened.unwrap().close().await.unwrap();
    let secret = "postgres://cenotaph:hunter2@127.0.0.1:notaport/x";
    let env = Env::real().unwrap();
    let opened = PostgresIndex::open(secret, env, PostgresOptions::default()).await;
    let error = opened.expect_err("the URL is invalid");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        !format!("{error:?} {error}").contains("hunter2"),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_with_tls_verify_the_server() {
    let Some((mut store, data)) = Store::start().await else {
        return;
    };
    let Some(openssl) = required("openssl", find("openssl")) else {
        return;
    };
    drop(store.server.take());
    let certificates = data.certify(&openssl, "localhost");
    let server = data.start(&[NO_SYNC, &["ssl=on"]].concat()).await;
    let port = server.port();
    let open = |host: &str, root_certificates: Option<PathBuf>| {
        let url = format!("postgres://cenotaph@{host}:{port}/postgres?sslmode=require");
        let options = PostgresOptions {
            root_certificates,
            ..store.options.clone()
        };
        async move { PostgresIndex::open(&url, Env::real().unwrap(), options).await }
    };
    let trusting = Some(certificates.clone());
    open("localhost", trusting.clone())
        .await
        .unwrap()
        .close()
        .await
        .unwrap();
    for (host, roots) in [("localhost", None), ("127.0.0.1", trusting)] {
        let error = open(host, roots)
            .await
            .expect_err("the server is not trusted");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{host}: {error}");
    }
    let nothing = Some(data.path().join("absent.pem"));
    let error = open("localhost", nothing)
        .await
        .expect_err("no certificates");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}

/// A snapshot may be held while a commit is awaited: it takes no connection from commits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn held_snapshots_stop_neither_commits_nor_heartbeats() {
    let Some((mut store, _data)) = Store::start().await else {
        return;
    };
    store.options.connections_max = 2;
    let index = store.member().await;
    let held: Vec<_> = (0..2).map(|_| index.snapshot().unwrap()).collect();
    for snapshot in &held {
        assert_eq!(snapshot.get(Table::Rows, b"key").await.unwrap(), None);
    }
    let before = index.members().await.unwrap()[0].beat;
    let mut batch = Batch::new();
    batch.put(Table::Rows, "key", "value");
    committed(&*index, batch).await.unwrap();
    let env = Env::real().unwrap();
    let beating = async {
        while index.members().await.unwrap()[0].beat == before {
            env.sleep(Duration::from_millis(20)).await;
        }
    };
    env.deadline(Duration::from_secs(60), beating)
        .await
        .expect("the heart beats");
    // They keep what they saw, and return their connections.
    for snapshot in held {
        assert_eq!(snapshot.get(Table::Rows, b"key").await.unwrap(), None);
    }
    assert!(index.get(Table::Rows, b"key").await.unwrap().is_some());
    index.close().await.unwrap();
}

#[tokio::test]
async fn dropped_member_does_not_block_its_only_thread() {
    let Some((store, _data)) = Store::start().await else {
        return;
    };
    let index = store.member().await;
    let epoch = index.epoch();
    let (sender, mut outcomes) = tokio::sync::mpsc::unbounded_channel();
    for number in 0..100 {
        let mut batch = Batch::new();
        batch.put(Table::Rows, number.to_string(), "row");
        let sender = sender.clone();
        index.submit(batch, Box::new(move |outcome| drop(sender.send(outcome))));
    }
    drop((index, sender));
    // Every completion fires, although nobody has closed the index.
    while let Some(outcome) = outcomes.recv().await {
        outcome.expect("durable");
    }
    let witness = store.member().await;
    let members = witness.members().await.unwrap();
    let left = members.iter().find(|member| member.epoch == epoch);
    let left = left.expect("the entry of the dropped member remains");
    assert!(witness.declare_dead(epoch, left.beat).await.unwrap());
    witness.close().await.unwrap();
}

async fn committed(index: &dyn Index, batch: Batch) -> Result<(), CommitError> {
    let (sender, receiver) = oneshot::channel();
    index.submit(batch, Box::new(move |outcome| drop(sender.send(outcome))));
    receiver.await.expect("a completion is never dropped")
}
