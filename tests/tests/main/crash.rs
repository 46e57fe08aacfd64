//! I9 and I5, and with them I1, I2 and I3: real crashes. A process that writes is killed with
//! SIGKILL at random moments; then its store is opened again, and everything is where it must be.
//!
//! ```text
//! round    a victim works and is killed; maybe another one is killed while it recovers from that, and another
//!          look behind: what is on disk is accounted for (I1, I2, I3, remains.rs)
//!          open: no change is left, each that was found is fenced
//!          judge every key (I9, model.rs), settle, blobs == named revisions (I5)
//! 10 rounds in one directory, so that one crash stands on the remains of the last
//! ```
//!
//! `CENOTAPH_CRASH_ROUNDS` says how many rounds, `CENOTAPH_CRASH_SEED` what is written and when is
//! killed; the machine's scheduling stays chance. A failure tells the seed and keeps the directory.
//! Deliberately not here: power cuts. What a killed process has written the kernel keeps, synced or
//! not.

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
    test: "crash::a_process_killed_at_any_moment_loses_nothing_acknowledged_and_leaves_nothing_behind",
    orders: "CENOTAPH_CRASH_ORDERS",
};
const ROUNDS: u64 = 50;
const ROUNDS_PER_DIRECTORY: u64 = 10;

#[test]
fn a_process_killed_at_any_moment_loses_nothing_acknowledged_and_leaves_nothing_behind() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    if let Ok(orders) = std::env::var(AGAIN.orders) {
        return runtime.block_on(load::run(serde_json::from_str(&orders).unwrap()));
    }
    let rounds = told("CENOTAPH_CRASH_ROUNDS").unwrap_or(ROUNDS);
    let seed = told("CENOTAPH_CRASH_SEED")
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

fn told(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|error| panic!("{variable}: {error}")),
    )
}

/// What has happened at all: a test that kills nobody in the act proves nothing.
#[derive(Debug, Default)]
struct Seen {
    rounds: u64,
    kills: u64,
    /// .. before the engine was open.
    kills_opening: u64,
    /// .. before it was open, with an earlier crash to recover from.
    kills_recovering: u64,
    acks: u64,
    superseded: u64,
    /// Operations that were under way at a kill.
    unanswered: u64,
    /// Unanswered puts that surely had committed, and that surely had not.
    kept: u64,
    lost: u64,
    /// Crashes that left changes, orphans, blobs that no row names.
    rounds_with_changes: u64,
    rounds_with_orphans: u64,
    rounds_with_unnamed_blobs: u64,
    /// .. and uploads that were under way.
    rounds_with_open_uploads: u64,
    fenced: u64,
    swept: u64,
    objects_read: u64,
}

impl Seen {
    /// What is certain to happen in so many rounds, if the test is any good.
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
            "something was never tested: {self:#?}"
        );
    }

    fn add(&mut self, heard: &[Line], unanswered: usize, again: bool) {
        let opened = heard.iter().any(|line| matches!(line, Line::Open { .. }));
        self.kills += 1;
        self.kills_opening += u64::from(!opened);
        self.kills_recovering += u64::from(!opened && again);
        self.unanswered += unanswered as u64;
        for line in heard {
            if let Line::Ack { answer, .. } = line {
                self.acks += 1;
                self.superseded += u64::from(*answer == Answer::Superseded);
            }
        }
    }
}

/// One directory, its story so far, and what must be in it.
struct Scene {
    directory: Option<TempDir>,
    /// Of the whole test.
    seed: u64,
    chance: Chance,
    model: Model,
    incarnations: u32,
    /// How long an engine took to open, lately.
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

    /// The kills of a round: one at work, and maybe some while the next incarnations open. The
    /// first round may begin with a kill in the midst of creation.
    fn moments(&mut self, round: u64) -> Vec<Moment> {
        let mut moments = Vec::new();
        if round == 1 && self.chance.below(2) == 0 {
            moments.push(self.while_opening());
        }
        // As many as a power of two, so that the early moments have their share.
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
        let heard = victim::run_and_kill(AGAIN, &orders, moment);
        for line in &heard {
            if let Line::Open { took_us } = line {
                self.opening = Duration::from_micros(*took_us);
            }
            self.model.hear(line).unwrap_or_else(|why| panic!("{why}"));
        }
        seen.add(&heard, self.model.crash(), again);
    }

    fn data(&self) -> PathBuf {
        self.directory
            .as_ref()
            .expect("it is there until the end")
            .path()
            .join("data")
    }

    /// Opens what is left, and sees whether all is well. The last time every object is read.
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
            "open settles every change that it finds"
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
                Entry::Prefix(prefix) => panic!("nobody has asked for prefixes: {prefix}"),
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
            if let Some(stood) = self.model.untouched(&key).filter(|_| !last) {
                assert_eq!(
                    version,
                    stood.map(|stood| stood.version),
                    "{key} was not touched"
                );
                continue;
            }
            let found = read(engine, &key).await;
            assert_eq!(
                found.map(|found| found.version),
                version,
                "{key} is listed and read alike"
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

/// Aborts what was under way, so that nothing but rows names anything.
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

/// The object, all of it, whole and by one author.
async fn read(engine: &Engine, key: &str) -> Option<Found> {
    let object = engine.get(key).await.unwrap()?;
    let version = object.version();
    let metadata = object.metadata().clone();
    let bytes = object.bytes().await.unwrap();
    let number = load::author(&bytes)
        .unwrap_or_else(|| panic!("{key} {version} is not whole: {metadata:?}"));
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
