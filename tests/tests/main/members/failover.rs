//! The server of a shared store is killed under load: it starts again, or its synchronous standby takes
//! over. No acknowledged write is lost, and no outcome is unknown.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cenotaph::{Engine, Env, Error, ErrorKind, Object, Update};
use cenotaph_tests::servers::postgres::url;
use cenotaph_tests::servers::proxy::Proxy;
use cenotaph_tests::store::INLINE;
use tokio::task::JoinSet;

use super::{SETTINGS, SharedStore, count, number, padded};

/// Members of the store.
const MEMBERS: usize = 2;
/// Tasks of each member that count.
const TASKS: usize = 3;
/// Acknowledgements before and after each failure.
const ACKS: u64 = 40;
/// Pause after an error, while the server is away.
const PAUSE: Duration = Duration::from_millis(20);

/// Members under load.
struct Load {
    members: Vec<Engine>,
    tasks: JoinSet<u64>,
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// Opens members of the store that the proxy leads to, and starts to count.
    async fn start(store: &SharedStore, proxy: &Proxy) -> Self {
        let mut load = Self {
            members: Vec::new(),
            tasks: JoinSet::new(),
            acknowledged: Arc::default(),
            stop: Arc::default(),
        };
        for _ in 0..MEMBERS {
            let builder = Engine::builder(store.directory.path()).config(store.config.clone());
            let builder = builder.shared_with(url(proxy.port()), store.options.clone());
            let member = builder.open().await.unwrap();
            for task in 0..TASKS {
                // An inline counter and one in the blob tier.
                let (key, bytes) = [("inline", 20), ("large", 2 * INLINE)][task % 2];
                let (acknowledged, stop) = (Arc::clone(&load.acknowledged), Arc::clone(&load.stop));
                let member = member.clone();
                load.tasks.spawn(async move {
                    let mut own = 0;
                    while !stop.load(Ordering::SeqCst) {
                        if increment(&member, key, bytes).await {
                            own += 1;
                            acknowledged.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                    own
                });
            }
            load.members.push(member);
        }
        load
    }

    /// Waits for further acknowledgements.
    async fn wait_for_acks(&self) {
        let env = Env::real().unwrap();
        let before = self.acknowledged.load(Ordering::SeqCst);
        let waiting = env.deadline(Duration::from_secs(60), async {
            while self.acknowledged.load(Ordering::SeqCst) < before + ACKS {
                env.sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(waiting.await.is_some(), "nothing is acknowledged any more");
    }

    /// Stops, and checks that each acknowledged increment counts, and nothing else.
    async fn end(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let mut sum = 0;
        while let Some(own) = self.tasks.join_next().await {
            sum += own.unwrap();
        }
        for member in &self.members {
            assert!(member.health().is_ok(), "{:?}", member.health());
            let counted = count(member, "inline").await + count(member, "large").await;
            assert_eq!(counted, sum);
        }
        for member in self.members {
            member.close().await.unwrap();
        }
    }
}

/// Adds 1. Returns `false` if nothing was committed.
async fn increment(member: &Engine, key: &str, bytes: usize) -> bool {
    let counted = member.update(key, |found: Option<Object>| async move {
        let last = match found {
            Some(object) => number(&object.bytes().await?),
            None => 0,
        };
        Ok::<_, Error>(Update::put(padded(last + 1, bytes)))
    });
    match counted.await {
        Ok(_) => true,
        Err(error) => {
            let kinds = [
                ErrorKind::Unavailable,
                ErrorKind::Overloaded,
                ErrorKind::Source,
            ];
            let is_known =
                matches!(error.kind(), ErrorKind::Conflict { .. }) || kinds.contains(&error.kind());
            assert!(is_known, "an outcome is unknown: {error:?}");
            Env::real().unwrap().sleep(PAUSE).await;
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_server_loses_no_acknowledged_write_of_any_member() {
    let Some(mut store) = SharedStore::start().await else {
        return;
    };
    let proxy = Proxy::start(store.server.port()).await.unwrap();
    let load = Load::start(&store, &proxy).await;
    for _ in 0..3 {
        load.wait_for_acks().await;
        // Killed with SIGKILL, and started again on the same data.
        store.server.kill();
        store.server = store.data.start(SETTINGS).await;
        proxy.redirect(store.server.port());
    }
    load.wait_for_acks().await;
    load.end().await;
    let last = store.member().await;
    store.end(vec![last]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn synchronous_standby_takes_over_every_acknowledged_write() {
    let Some(mut store) = SharedStore::start().await else {
        return;
    };
    let proxy = Proxy::start(store.server.port()).await.unwrap();
    let standby = store.data.standby_of(&store.server);
    let follower = standby.start(SETTINGS).await;
    store.data.replicate_synchronously(&store.server).await;
    let load = Load::start(&store, &proxy).await;
    load.wait_for_acks().await;
    store.server.kill();
    standby.promote();
    proxy.redirect(follower.port());
    store.server = follower;
    store.data = standby;
    load.wait_for_acks().await;
    load.end().await;
    let last = store.member().await;
    store.end(vec![last]).await;
}
