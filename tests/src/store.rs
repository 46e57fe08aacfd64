//! A store for tests: an engine over real fjall files and a blob tier with fault injection.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cenotaph::{Config, Engine, Env, Limits, Operator, RestartLimits, SweepLimits};
use cenotaph_storage::blobs::{BlobName, BlobOptions, BlobTier};
use cenotaph_storage::index::fjall::{FjallIndex, FjallOptions};
use cenotaph_storage::index::{Index, Range, Table};
use cenotaph_storage::records::Row;
use cenotaph_storage::{ObjectId, RevisionKey};
use futures::TryStreamExt;
use tempfile::TempDir;

use crate::counting::{Counting, Counts};
use crate::faulty::{self, Faults};
use crate::stage::Stage;
use crate::tables::{Uploads, assert_beside_rows};

/// Payloads longer than this go to the blob tier of a test store.
pub const INLINE: usize = 1000;

/// An engine under test, with access to its index, its blob tier and its sync points.
pub struct Store {
    /// The engine.
    pub engine: Engine,
    /// Environment that pauses work at sync points.
    pub stage: Stage,
    /// Fault switches of the blob tier.
    pub faults: Faults,
    /// Index, for inspection.
    pub index: Arc<dyn Index>,
    /// Counters of scanned and written index entries.
    pub counts: Counts,
    /// Time it took to open the index, and time it took to open the engine over it.
    pub opening: [Duration; 2],
    /// Blob tier without the faults, for inspection.
    pub blobs: BlobTier,
    directory: Arc<TempDir>,
}

/// Returns a configuration with short delays, so that tests do not wait.
pub fn quick() -> Config {
    Config {
        inline_bytes_max: INLINE,
        limits: Limits {
            restarts: RestartLimits {
                max: 1000,
                backoff_min: Duration::from_millis(1),
                backoff_max: Duration::from_millis(20),
                ..RestartLimits::default()
            },
            sweep: SweepLimits {
                grace: Duration::from_millis(20),
                backoff_min: Duration::from_millis(5),
                backoff_max: Duration::from_millis(50),
                ..SweepLimits::default()
            },
            heartbeat: Duration::from_millis(50),
            close_timeout: Duration::from_secs(10),
            ..Limits::default()
        },
        ..Config::default()
    }
}

impl Store {
    /// Creates a store with short delays.
    pub async fn new() -> Self {
        Self::with(quick()).await
    }

    /// Creates a store with this configuration.
    pub async fn with(config: Config) -> Self {
        Self::open(Arc::new(TempDir::new().unwrap()), config).await
    }

    /// Closes this store and opens it again, with a new environment and no faults.
    pub async fn reopen(self) -> Self {
        self.engine.close().await.unwrap();
        let config = self.engine.config().clone();
        Self::open(self.directory, config).await
    }

    /// Stops this store as a crash of the process would, as far as possible within one process:
    /// nothing is settled. Opens it again.
    pub async fn crash(self) -> Self {
        // Fence first: otherwise other actors would settle the work of the killed ones.
        self.stage.fence();
        // All actors are children of the supervisor and stop with it.
        self.engine.kill(cenotaph::ActorKind::Supervisor);
        // The lock of the index must be free before the store is opened again.
        self.index.close().await.unwrap();
        let config = self.engine.config().clone();
        let Self {
            engine, directory, ..
        } = self;
        drop(engine);
        Self::open(directory, config).await
    }

    async fn open(directory: Arc<TempDir>, config: Config) -> Self {
        let stage = Stage::new();
        let env = Env::new(stage.clone());
        let root = directory.path().join("blobs");
        let plain = cenotaph_storage::blobs::local(&root).unwrap();
        let faults = Faults::default();
        // The engine uses the faulty tier; inspections use the plain one.
        let operator: Operator = plain.clone().layer(faulty::layer(&faults));
        let path = directory.path().join("index");
        let began = env.monotonic();
        let index = Counting::new(Arc::new(
            FjallIndex::open(&path, env.clone(), FjallOptions::default()).unwrap(),
        ));
        let counts = index.counts();
        let index_opened = env.monotonic();
        let index: Arc<dyn Index> = Arc::new(index);
        let engine = Engine::builder(directory.path())
            .config(config)
            .env(env.clone())
            .index(Arc::clone(&index))
            .blobs(operator)
            .open()
            .await
            .unwrap();
        let opening = [index_opened - began, env.monotonic() - index_opened];
        let blobs = BlobTier::new(plain, env, BlobOptions::default());
        Self {
            opening,
            engine,
            stage,
            faults,
            index,
            counts,
            blobs,
            directory,
        }
    }

    /// Returns the directory of the index and the blob tier.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Waits until nothing remains to settle, and asserts I5 and I3; see [`assert_settled`].
    pub async fn assert_settled(&self) {
        assert_settled(
            &self.engine,
            &Env::new(self.stage.clone()),
            &*self.index,
            &self.blobs,
        )
        .await;
    }

    /// Returns the bytes of an object, or `None` if it is absent.
    pub async fn bytes(&self, key: &str) -> Option<bytes::Bytes> {
        match self.engine.get(key).await.unwrap() {
            Some(object) => Some(object.bytes().await.unwrap()),
            None => None,
        }
    }
}

/// Waits until an engine has nothing to settle, then asserts I5 and I3.
///
/// I5: the blob tier contains exactly the revisions that rows and the parts of open uploads name.
/// I3: the dependent tables contain exactly the entries that the rows need.
pub async fn assert_settled(engine: &Engine, env: &Env, index: &dyn Index, tier: &BlobTier) {
    settle(engine, env).await;
    assert_eq!(
        blobs(tier).await,
        named(index).await,
        "I5: blobs == revisions named by rows and parts"
    );
    assert_beside_rows(index).await;
}

/// Waits until an engine has nothing to settle.
pub async fn settle(engine: &Engine, env: &Env) {
    let patience = Duration::from_secs(20);
    let settled = env.deadline(patience, async {
        // Repeated: a failed or delayed deletion is tried again in a later pass.
        loop {
            engine.settle().await.unwrap();
            // `settle` returns the number of orphans only, and an upload may still have a change.
            let actors = engine.stats().await.unwrap().actors;
            if (actors.changes, actors.orphans) == (0, 0) {
                return;
            }
            env.sleep(Duration::from_millis(5)).await;
        }
    });
    if settled.await.is_none() {
        panic!("not settled after {patience:?}: {:?}", engine.stats().await);
    }
}

/// Returns the revisions in a blob tier.
pub async fn blobs(tier: &BlobTier) -> BTreeSet<RevisionKey> {
    let found: Vec<_> = tier.list().try_collect().await.unwrap();
    let mut keys = BTreeSet::new();
    for blob in found {
        match tier.name_of(&blob).await.unwrap() {
            BlobName::Of(key) => keys.insert(key),
            BlobName::Unknown | BlobName::Gone => panic!("unknown blob: path={}", blob.path),
        };
    }
    keys
}

/// Returns the revisions that rows and the parts of open uploads name.
pub async fn named(index: &dyn Index) -> BTreeSet<RevisionKey> {
    let snapshot = index.snapshot().unwrap();
    let rows = snapshot
        .scan(Table::Rows, Range::all(1_000_000))
        .await
        .unwrap();
    let of_rows = rows.into_iter().flat_map(|(key, value)| {
        let object = ObjectId::decode(&key).unwrap();
        Row::decode(&value).unwrap().revision_keys(&object)
    });
    of_rows
        .chain(Uploads::of(&*snapshot).await.revisions())
        .collect()
}

/// Returns a payload of `bytes` bytes that differs for each seed.
pub fn payload(seed: u64, bytes: usize) -> bytes::Bytes {
    // xorshift64. The factor, 2^64 divided by the golden ratio, makes neighbouring seeds differ in
    // many bits; a state of 0 would stay 0.
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    // The last step may exceed the length by up to 7 bytes.
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(bytes);
    out.into()
}
