//! Crash test of I9 and I5, and with them I1, I2 and I3: a writing process is killed with SIGKILL
//! at random moments, and its store is opened again and checked.
//!
//! ```text
//! round    a victim writes and is killed; sometimes another is killed during its recovery
//!          inspect the files: every blob is accounted for (I1, I2, I3, remains.rs)
//!          open: no change remains, each change found is fenced
//!          judge every key (I9, model.rs), settle, blobs == named revisions (I5)
//! 10 rounds in one directory, so that a crash also follows the remains of earlier ones
//! ```
//!
//! `CENOTAPH_CRASH_ROUNDS` sets the number of rounds. `CENOTAPH_CRASH_SEED` determines the writes
//! and the moments of the kills; thread scheduling remains random. A failure prints the seed and
//! keeps the directory. Power cuts are not simulated: the kernel keeps everything that a killed
//! process has written, synced or not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cenotaph::{Engine, Entry, Env, Index, Stats, Version};
use cenotaph_storage::blobs::{self, BlobOptions, BlobTier};
use cenotaph_storage::index::fjall::{FjallIndex, FjallOptions};
use cenotaph_tests::store;
use futures::TryStreamExt;
use tempfile::TempDir;
use tokio::runtime::Runtime;

mod chance;
mod load;
mod log;
mod model;
mod pairs;
mod remains;
mod victim;

use chance::Chance;
use load::Orders;
use log::{Answer, Line};
use model::{Found, Model};
use victim::{Again, Moment};

const AGAIN: Again = Again {
    test: "crash::killed_process_loses_no_acknowledged_write",
    orders: "CENOTAPH_CRASH_ORDERS",
};
const ROUNDS: u64 = 50;
const ROUNDS_PER_DIRECTORY: u64 = 10;

#[test]
fn killed_process_loses_no_acknowledged_write() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    if let Ok(orders) = std::env::var(AGAIN.orders) {
        return runtime.block_on(load::run(serde_json::from_str(&orders).unwrap()));
    }
    let rounds = env_number("CENOTAPH_CRASH_ROUNDS").unwrap_or(ROUNDS);
    let seed = env_number("CENOTAPH_CRASH_SEED")
        .unwrap_or_else(|| runtime.block_on(async { Env::real().unwrap().random_u64() }));
    let mut chance = Chance::new(seed);
    let mut seen = Seen::default();
    let mut left = rounds;
    while left > 0 {
        let rounds = left.min(ROUNDS_PER_DIRECTORY);
        Scene::new(seed, chance.number()).play(rounds, &runtime, &mut seen);
        left -= rounds;
    }
    println!("seed {seed}: {seen:#?}");
    if rounds >= ROUNDS {
        seen.assert_enough();
    }
}

fn env_number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|error| panic!("{variable}: {error}")),
    )
}

/// Events seen so far: a test in which no kill hits a running operation proves nothing.
#[derive(Debug, Default)]
struct Seen {
    rounds: u64,
    kills: u64,
    /// Kills before the engine was open.
    kills_opening: u64,
    /// Kills before the engine was open, during recovery from an earlier crash.
    kills_recovering: u64,
    acks: u64,
    superseded: u64,
    /// Operations that were running at a kill.
    unanswered: u64,
    /// Unanswered puts that certainly had committed, and that certainly had not.
    kept: u64,
    lost: u64,
    /// Rounds whose crash left changes, orphans, or blobs that no row names.
    rounds_with_changes: u64,
    rounds_with_orphans: u64,
    rounds_with_unnamed_blobs: u64,
    /// Rounds whose crash left open uploads.
    rounds_with_open_uploads: u64,
    fenced: u64,
    swept: u64,
    objects_read: u64,
}

impl Seen {
    /// Asserts that every event that is certain over many rounds has happened.
    fn assert_enough(&self) {
        let enough = [
            self.kills_opening,
            self.kills_recovering,
            self.superseded,
            self.kept,
            self.lost,
            self.rounds_with_changes,
            self.rounds_with_orphans,
            self.rounds_with_unnamed_blobs,
            self.rounds_with_open_uploads,
            self.fenced,
            self.swept,
        ];
        assert!(
            enough.iter().all(|&count| count > 0),
            "an event never happened: {self:#?}"
        );
    }

    fn add(&mut self, lines: &[Line], unanswered: usize, again: bool) {
        let opened = lines.iter().any(|line| matches!(line, Line::Open { .. }));
        self.kills += 1;
        self.kills_opening += u64::from(!opened);
        self.kills_recovering += u64::from(!opened && again);
        self.unanswered += unanswered as u64;
        for line in lines {
            if let Line::Ack { answer, .. } = line {
                self.acks += 1;
                self.superseded += u64::from(*answer == Answer::Superseded);
            }
        }
    }
}

/// A directory, the model of its contents, and the source of random decisions.
struct Scene {
    directory: Option<TempDir>,
    /// Seed of the whole test.
    seed: u64,
    chance: Chance,
    model: Model,
    incarnations: u32,
    /// Time that the last engine took to open.
    opening: Duration,
}

impl Scene {
    fn new(seed: u64, ours: u64) -> Self {
        Self {
            directory: Some(TempDir::new().unwrap()),
            seed,
            chance: Chance::new(ours),
            model: Model::default(),
            incarnations: 0,
            opening: Duration::from_millis(50),
        }
    }

    fn play(mut self, rounds: u64, runtime: &Runtime, seen: &mut Seen) {
        for round in 1..=rounds {
            for (place, moment) in self.moments(round).into_iter().enumerate() {
                self.kill_at(moment, place > 0, seen);
            }
            runtime.block_on(self.examine(round == rounds, seen));
            seen.rounds += 1;
        }
    }

    /// Chooses the kills of a round: one during writes, and up to two while the next incarnations
    /// open. The first round may begin with a kill during the creation of the store.
    fn moments(&mut self, round: u64) -> Vec<Moment> {
        let mut moments = Vec::new();
        if round == 1 && self.chance.below(2) == 0 {
            moments.push(self.while_opening());
        }
        // A random power of two as the limit, so that early moments are as frequent as late ones.
        let scale = self.chance.below(10);
        let acks = usize::try_from(self.chance.below(1 << scale)).unwrap();
        moments.push(Moment::SinceAcks(
            acks.max(1),
            self.up_to(Duration::from_millis(20)),
        ));
        for _ in 0..self.chance.below(3) {
            moments.push(self.while_opening());
        }
        moments
    }

    fn while_opening(&mut self) -> Moment {
        Moment::SinceOpening(self.up_to(self.opening))
    }

    fn up_to(&mut self, limit: Duration) -> Duration {
        Duration::from_micros(self.chance.below(u64::try_from(limit.as_micros()).unwrap()))
    }

    fn kill_at(&mut self, moment: Moment, again: bool, seen: &mut Seen) {
        let orders = Orders {
            data: self.data(),
            incarnation: self.incarnations,
            seed: self.chance.number(),
        };
        self.incarnations += 1;
        let lines = victim::run_and_kill(AGAIN, &orders, moment);
        for line in &lines {
            if let Line::Open { took_us } = line {
                self.opening = Duration::from_micros(*took_us);
            }
            self.model.apply(line).unwrap_or_else(|why| panic!("{why}"));
        }
        seen.add(&lines, self.model.crash(), again);
    }

    fn data(&self) -> PathBuf {
        self.directory
            .as_ref()
            .expect("the directory is taken in `drop` only")
            .path()
            .join("data")
    }

    /// Opens the store and checks it. In the last round every object is read.
    async fn examine(&mut self, last: bool, seen: &mut Seen) {
        let env = Env::real().unwrap();
        let data = self.data();
        let index =
            FjallIndex::open(&data.join("index"), env.clone(), FjallOptions::default()).unwrap();
        let index: Arc<dyn Index> = Arc::new(index);
        let tier = BlobTier::new(
            blobs::local(&data.join("blobs")).unwrap(),
            env.clone(),
            BlobOptions::default(),
        );
        let remains = remains::inspect(&*index, &tier).await;
        seen.rounds_with_changes += u64::from(remains.changes > 0);
        seen.rounds_with_orphans += u64::from(remains.orphans > 0);
        seen.rounds_with_unnamed_blobs += u64::from(remains.unnamed_blobs > 0);
        seen.rounds_with_open_uploads += u64::from(remains.open_uploads > 0);

        let engine = Engine::builder(&data)
            .config(load::config())
            .index(Arc::clone(&index))
            .open()
            .await
            .unwrap();
        let actors = engine.stats().await.unwrap().actors;
        assert_eq!(
            (actors.changes, actors.fenced),
            (0, remains.changes),
            "open settles every change"
        );
        self.judge(&engine, last, seen).await;
        if last {
            give_up_uploads(&engine).await;
        }
        store::assert_settled(&engine, &env, &*index, &tier).await;

        let Stats { actors, reads, .. } = engine.stats().await.unwrap();
        assert_eq!(
            (
                reads.missing_blobs,
                reads.corrupt_blocks,
                actors.restarts,
                actors.sweep_failures
            ),
            (0, 0, 0, 0)
        );
        seen.fenced += actors.fenced;
        seen.swept += actors.swept;
        engine.close().await.unwrap();
    }

    async fn judge(&mut self, engine: &Engine, last: bool, seen: &mut Seen) {
        let listed: Vec<_> = engine.list("").stream().try_collect().await.unwrap();
        let listed: BTreeMap<String, Version> = listed
            .into_iter()
            .map(|entry| match entry {
                Entry::Object(head) => (head.id.key().to_owned(), head.version),
                Entry::Prefix(prefix) => panic!("unexpected prefix in a flat listing: {prefix}"),
            })
            .collect();
        let keys: BTreeSet<String> = self
            .model
            .keys()
            .into_iter()
            .chain(listed.keys().cloned())
            .collect();
        for key in keys {
            let version = listed.get(&key).copied();
            if let Some(last) = self.model.untouched(&key).filter(|_| !last) {
                assert_eq!(
                    version,
                    last.map(|last| last.version),
                    "{key} was not written since the last check"
                );
                continue;
            }
            let found = read(engine, &key).await;
            assert_eq!(
                found.map(|found| found.version),
                version,
                "{key}: listing and read differ"
            );
            let verdict = self
                .model
                .judge(&key, found)
                .unwrap_or_else(|why| panic!("found {found:?}\n{why}"));
            seen.kept += verdict.kept;
            seen.lost += verdict.lost;
            seen.objects_read += u64::from(found.is_some());
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let kept = self.directory.take().map(TempDir::keep);
            eprintln!(
                "CENOTAPH_CRASH_SEED={} incarnations={} directory={kept:?}",
                self.seed, self.incarnations
            );
        }
    }
}

/// Aborts all open uploads, so that rows alone name revisions.
async fn give_up_uploads(engine: &Engine) {
    let uploads: Vec<_> = engine
        .list_uploads("")
        .stream()
        .try_collect()
        .await
        .unwrap();
    for upload in uploads {
        engine
            .resume(&upload.id, upload.upload_id.to_string())
            .await
            .unwrap()
            .abort()
            .await
            .unwrap();
    }
}

/// Reads an object and asserts that its content is whole and was written by one operation.
async fn read(engine: &Engine, key: &str) -> Option<Found> {
    let object = engine.get(key).await.unwrap()?;
    let version = object.version();
    let metadata = object.metadata().clone();
    let bytes = object.bytes().await.unwrap();
    let number = load::author(&bytes).unwrap_or_else(|| {
        panic!("content is not whole: key={key} version={version} {metadata:?}")
    });
    assert_eq!(metadata.size, bytes.len() as u64, "{key} {version}");
    assert_eq!(
        metadata.attributes.custom.get("number"),
        Some(&number.to_string()),
        "{key} {version}"
    );
    Some(Found {
        number,
        bytes: bytes.len(),
        version,
    })
}
