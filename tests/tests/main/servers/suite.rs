//! Execution of the cases on a server: each with its own bucket and engine, and the checks after
//! each.
//!
//! 1. The case runs and checks its claim.
//! 2. Everything is settled. The bucket contains exactly the revisions that rows name (I5), no
//!    upload is open, the dependent tables match the rows (I3), and a scrub of every byte finds
//!    nothing.
//! 3. The engine is closed and opened again. Every object is unchanged, and the checks of step 2
//!    pass again.
//! 4. Everything is deleted. The bucket is empty.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cenotaph::{Config, Engine, Entry, Env, Etag, Index, Operator, SplitLimits, Version};
use cenotaph_storage::BLOCK_BYTES;
use cenotaph_storage::blobs::BlobOptions;
use cenotaph_storage::index::fjall::{FjallIndex, FjallOptions};
use cenotaph_tests::store;
use cenotaph_tests::tables::assert_beside_rows;
use futures::TryStreamExt;
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_64;

use super::cases::{self, Case};
use super::remains::{Differences, Held, differences, held, named};

/// Size of a part of a blob, in bytes: the minimum of S3.
pub(super) const PART_BYTES: usize = 5 * BLOCK_BYTES;

/// A service with buckets.
pub(super) trait Server {
    /// Creates a bucket.
    async fn bucket(&self, name: &str) -> Operator;

    /// Returns the keys of all open multipart uploads; none if the service has no such uploads.
    async fn open_uploads(&self, _bucket: &str) -> Vec<String> {
        Vec::new()
    }

    /// Returns `true` if listings show which blobs were assembled from parts.
    fn cuts_blobs_into_parts(&self) -> bool {
        false
    }
}

/// Asserts that all cases pass on this server.
pub(super) async fn assert_passes(server: &impl Server) {
    let env = Env::real().unwrap();
    let mut seen = Held::default();
    for (number, case) in cases::ALL.iter().enumerate() {
        let began = env.monotonic();
        eprintln!("{} started", case.name);
        let bucket = format!("bucket{number}");
        let left = run(server, &bucket, case).await;
        eprintln!(
            "{} passed in {:?}, blobs left: {}",
            case.name,
            env.monotonic() - began,
            left.paths.len()
        );
        seen.of_parts += left.of_parts;
        seen.paths.extend(left.paths);
    }
    assert!(
        seen.paths.len() >= cases::ALL.len(),
        "the cases leave blobs to check"
    );
    assert_eq!(
        seen.of_parts > 0,
        server.cuts_blobs_into_parts(),
        "some blobs are uploaded in parts"
    );
}

/// Runs a case and all checks. Returns the blobs that the case has left.
async fn run(server: &impl Server, bucket: &str, case: &Case) -> Held {
    let operator = server.bucket(bucket).await;
    let tiers = Tiers::open(Arc::new(TempDir::new().unwrap()), operator).await;
    (case.run)(&tiers.engine).await;
    let left = tiers.assert_whole(server, bucket).await;
    let before = tiers.objects().await;

    let tiers = tiers.reopen().await;
    assert_eq!(tiers.objects().await, before, "a reopen changes no object");
    assert_eq!(
        tiers.assert_whole(server, bucket).await.paths,
        left.paths,
        "a reopen neither adds nor removes a blob"
    );

    tiers.engine.delete_prefix("").await.unwrap();
    let rest = tiers.assert_whole(server, bucket).await;
    assert!(rest.paths.is_empty(), "no row, no blob: {:?}", rest.paths);
    tiers.engine.close().await.unwrap();
    left
}

/// An engine over a bucket, with access to its index and its bucket.
pub(super) struct Tiers {
    pub(super) engine: Engine,
    index: Arc<dyn Index>,
    operator: Operator,
    directory: Arc<TempDir>,
}

/// State of an object: version, etag, size, checksum of its bytes.
type Standing = (Version, Etag, u64, u64);

impl Tiers {
    /// Opens an engine with its index in this directory.
    pub(super) async fn open(directory: Arc<TempDir>, operator: Operator) -> Self {
        let blobs = BlobOptions {
            chunk_bytes: PART_BYTES,
            ..BlobOptions::default()
        };
        let mut config = Config {
            blobs,
            ..store::quick()
        };
        config.limits.split = SplitLimits {
            over_bytes: cases::LARGE as u64,
            part_bytes: cases::SPLIT_BYTES as u64,
            at_once: 3,
        };
        let path = directory.path().join("index");
        let env = Env::real().unwrap();
        let index: Arc<dyn Index> =
            Arc::new(FjallIndex::open(&path, env, FjallOptions::default()).unwrap());
        let builder = Engine::builder(directory.path())
            .config(config)
            .index(Arc::clone(&index));
        let engine = builder.blobs(operator.clone()).open().await.unwrap();
        Self {
            engine,
            index,
            operator,
            directory,
        }
    }

    async fn reopen(self) -> Self {
        self.engine.close().await.unwrap();
        let Self {
            engine,
            index,
            operator,
            directory,
        } = self;
        drop((engine, index));
        Self::open(directory, operator).await
    }

    /// Waits until everything is settled, then compares the bucket with the rows.
    pub(super) async fn settled(&self) -> (Differences, Held) {
        store::settle(&self.engine, &Env::real().unwrap()).await;
        let held = held(&self.operator).await;
        (differences(&named(&*self.index).await, &held.paths), held)
    }

    /// Asserts everything that holds once all is settled. Returns the contents of the bucket.
    async fn assert_whole(&self, server: &impl Server, bucket: &str) -> Held {
        let (differences, held) = self.settled().await;
        assert!(
            differences == Differences::default(),
            "I5: blobs == revisions named by rows\n{differences}"
        );
        assert_eq!(
            server.open_uploads(bucket).await,
            Vec::<String>::new(),
            "no upload is open"
        );
        assert_beside_rows(&*self.index).await;
        let report = self.engine.scrub().grace(Duration::ZERO).await.unwrap();
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(
            report.looked.blobs,
            held.paths.len() as u64,
            "the scrub counts the blobs of the bucket"
        );
        held
    }

    /// Reads every object and returns its state.
    async fn objects(&self) -> BTreeMap<String, Standing> {
        let entries: Vec<Entry> = self.engine.list("").stream().try_collect().await.unwrap();
        let mut objects = BTreeMap::new();
        for key in entries.iter().map(Entry::name) {
            let object = self
                .engine
                .get(key)
                .await
                .unwrap()
                .expect("a listed object exists");
            let version = object.version().unwrap();
            let etag = object.etag().unwrap();
            let size = object.metadata().size;
            let bytes = object.bytes().await.unwrap();
            assert_eq!(bytes.len() as u64, size, "{key}");
            objects.insert(key.to_owned(), (version, etag, size, xxh3_64(&bytes)));
        }
        objects
    }
}
