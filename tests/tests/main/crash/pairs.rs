//! Crashes during conditional puts, atomic batches and renames. The histories of this victim are
//! so simple that no model is needed.
//!
//! ```text
//! client  each step, in sequence                          found after a crash; n: last ack
//! ------- ----------------------------------------------- --------------------------------
//! pair    atomic: both objects get the next number, with  both n, or both n + 1
//!         the versions of the step before as conditions
//! walk    rename to the next of three names               at one name only: n or n + 1,
//!                                                         whole
//! count   put the next content, of any size, with an      n or n + 1, whole
//!         etag as condition
//! ```
//!
//! An acknowledgement is a line of `log.rs` whose `number` has the client in its upper half and the
//! step in its lower half. The next victim reads the last step and continues from there.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cenotaph::{BatchWrite, Engine, Env, Etag, Index, Object, Version, WriteOutcome};
use cenotaph_storage::blobs::{self, BlobOptions, BlobTier};
use cenotaph_storage::index::fjall::FjallIndex;
use cenotaph_tests::store::{self, payload};
use tempfile::TempDir;

use super::chance::Chance;
use super::load::{Load, Orders, config};
use super::log::{Answer, Line, Number};
use super::victim::{self, Again, Moment};
use super::{env_number, remains};

const AGAIN: Again = Again {
    test: "crash::pairs::killed_process_leaves_each_step_whole_or_undone",
    orders: "CENOTAPH_PAIRS_ORDERS",
};
const ROUNDS: u64 = 12;

/// Number of clients of each kind.
const EACH: u64 = 3;
/// Payload sizes, in bytes: inside the row, in the payload log, in the blob tier.
const LOADS: [usize; EACH as usize] = [100, 20_000, 700_000];

#[test]
fn killed_process_leaves_each_step_whole_or_undone() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    if let Ok(orders) = std::env::var(AGAIN.orders) {
        return runtime.block_on(run(serde_json::from_str(&orders).unwrap()));
    }
    let rounds = env_number("CENOTAPH_CRASH_ROUNDS").unwrap_or(ROUNDS);
    let seed = env_number("CENOTAPH_CRASH_SEED")
        .unwrap_or_else(|| runtime.block_on(async { Env::real().unwrap().random_u64() }));
    println!("seed {seed}");
    let directory = TempDir::new().unwrap();
    let mut chance = Chance::new(seed);
    let mut seen = Seen::default();
    let data = directory.path().join("data");
    for round in 0..rounds {
        let orders = Orders {
            data: data.clone(),
            incarnation: 0,
            seed: 0,
            load: Load::Tiers,
        };
        let linger = Duration::from_micros(chance.below(10_000));
        let moment = match chance.below(4) {
            0 if round > 0 => Moment::SinceOpening(linger * 4),
            _ => Moment::SinceAcks(chance.between(1, 600), linger),
        };
        let lines = victim::run_and_kill(AGAIN, &orders, moment);
        seen.take(&lines);
        runtime.block_on(examine(&data, &mut seen));
    }
    println!("{rounds} rounds: {seen:?}");
    let enough = [seen.kept, seen.lost, seen.changes + seen.orphans];
    assert!(
        seen.steps > rounds && enough.iter().all(|&count| count > 0),
        "an event never happened: {seen:?}"
    );
}

/// Events seen so far.
#[derive(Debug, Default)]
struct Seen {
    /// Last step of each client that was acknowledged or found.
    stands: BTreeMap<u64, u64>,
    /// Acknowledged steps.
    steps: u64,
    /// Steps running at a kill that were found afterwards, and that were not.
    kept: u64,
    lost: u64,
    /// Changes and orphans that crashes left.
    changes: u64,
    orphans: u64,
}

impl Seen {
    /// Counts the acknowledged steps and asserts that each client's steps are in sequence.
    fn take(&mut self, lines: &[Line]) {
        for line in lines {
            if let Line::Ack {
                number: Number(number),
                ..
            } = line
            {
                let client = number >> 32;
                let step = number & u64::from(u32::MAX);
                let before = self.stands.insert(client, step).unwrap_or(0);
                assert_eq!(step, before + 1, "client {client}: steps are in sequence");
                self.steps += 1;
            }
        }
    }

    /// Checks the step found: the last acknowledged or the running one.
    fn judge(&mut self, client: Client, found: &Stand) {
        let acknowledged = self.stands.insert(client.number(), found.step).unwrap_or(0);
        match found.step.checked_sub(acknowledged) {
            Some(0) => self.lost += 1,
            Some(1) => self.kept += 1,
            _ => panic!(
                "{client:?} is at step {}, {acknowledged} was acknowledged",
                found.step
            ),
        }
    }
}

async fn examine(data: &Path, seen: &mut Seen) {
    let env = Env::real().unwrap();
    let index = FjallIndex::open(&data.join("index"), env.clone(), config().index).unwrap();
    let index: Arc<dyn Index> = Arc::new(index);
    let tier = BlobTier::new(
        blobs::local(&data.join("blobs")).unwrap(),
        env.clone(),
        BlobOptions::default(),
    );
    let remains = remains::inspect(&*index, &tier).await;
    seen.changes += remains.changes;
    seen.orphans += remains.orphans;
    let engine = Engine::builder(data)
        .config(config())
        .index(Arc::clone(&index))
        .open()
        .await
        .unwrap();
    for client in clients() {
        seen.judge(client, &client.find(&engine).await);
    }
    store::assert_settled(&engine, &env, &*index, &tier).await;
    engine.close().await.unwrap();
}

/// A client: its kind and its number within the kind.
#[derive(Clone, Copy, Debug)]
enum Client {
    Pair(u64),
    Walk(u64),
    Count(u64),
}

/// Position of a client.
#[derive(Clone, Debug, Default)]
struct Stand {
    step: u64,
    versions: Vec<(Version, Etag)>,
}

fn clients() -> impl Iterator<Item = Client> {
    (0..EACH).flat_map(|which| {
        [
            Client::Pair(which),
            Client::Walk(which),
            Client::Count(which),
        ]
    })
}

/// Opens the engine and continues all clients until the process is killed.
async fn run(orders: Orders) {
    Line::Opening.print();
    let engine = Engine::builder(&orders.data)
        .config(config())
        .open()
        .await
        .unwrap();
    Line::Open { took_us: 0 }.print();
    let stories = clients().map(|client| {
        let engine = &engine;
        async move {
            let mut stand = client.find(engine).await;
            loop {
                stand = client.step(engine, stand).await;
                let answer = Answer::Applied {
                    version: Version::new(stand.step),
                };
                Line::Ack {
                    number: Number(client.number() << 32 | stand.step),
                    answer,
                }
                .print();
            }
        }
    });
    futures::future::join_all(stories).await;
}

impl Client {
    fn number(self) -> u64 {
        match self {
            Self::Pair(which) => which,
            Self::Walk(which) => EACH + which,
            Self::Count(which) => 2 * EACH + which,
        }
    }

    /// Returns the position of this client, and asserts that its objects are whole.
    async fn find(self, engine: &Engine) -> Stand {
        let mut stand = Stand::default();
        let mut seen = Vec::new();
        for key in self.keys() {
            let Some(object) = engine.get(&key).await.unwrap() else {
                continue;
            };
            stand
                .versions
                .push((object.version().unwrap(), object.etag().unwrap()));
            seen.push((key, step_of(&object), object.bytes().await.unwrap()));
        }
        let Some((_, step, _)) = seen.first() else {
            return stand;
        };
        stand.step = *step;
        match self {
            Self::Pair(_) => {
                assert!(
                    seen.len() == 2 && seen[0].1 == seen[1].1,
                    "{self:?}: part of a batch: {seen:?}"
                );
                assert_eq!(
                    (&seen[0].2, &seen[1].2),
                    (
                        &stand.step.to_string().into(),
                        &stand.step.to_string().into()
                    )
                );
            }
            Self::Walk(which) => {
                let names: Vec<_> = seen.iter().map(|(key, ..)| key).collect();
                assert_eq!(names.len(), 1, "{self:?} has one name: {names:?}");
                let place = self.keys().iter().position(|key| key == names[0]).unwrap() as u64;
                assert!(
                    seen[0].2 == payload(which, LOADS[which as usize]),
                    "{self:?} keeps its content"
                );
                // A rename changes no metadata. The version counts the visits to this name, which
                // gives the number of steps.
                stand.step = 3 * (stand.versions[0].0.get() - 1) + place + 1;
            }
            Self::Count(_) => assert!(seen[0].2 == counted(stand.step), "{self:?} is whole"),
        }
        stand
    }

    fn keys(self) -> Vec<String> {
        match self {
            Self::Pair(which) => vec![format!("pair/{which}/left"), format!("pair/{which}/right")],
            Self::Walk(which) => (0..3)
                .map(|place| format!("walk/{which}/{place}"))
                .collect(),
            Self::Count(which) => vec![format!("count/{which}")],
        }
    }

    /// Takes the next step under the condition that nothing has changed since the last.
    async fn step(self, engine: &Engine, stand: Stand) -> Stand {
        let keys = self.keys();
        let step = stand.step + 1;
        let put =
            |key: &String| BatchWrite::put(key, step.to_string()).custom("step", step.to_string());
        match self {
            Self::Pair(_) => {
                let writes =
                    keys.iter()
                        .enumerate()
                        .map(|(place, key)| match stand.versions.get(place) {
                            Some((version, _)) => put(key).if_version(*version),
                            None => put(key).if_absent(),
                        });
                engine
                    .atomic(writes)
                    .await
                    .unwrap_or_else(|error| panic!("{self:?} step {step}: {error:?}"));
            }
            Self::Walk(which) if stand.step == 0 => {
                let load = payload(which, LOADS[which as usize]);
                let put = engine
                    .put(&keys[0], load)
                    .custom("step", "0")
                    .if_absent()
                    .await
                    .unwrap();
                assert_eq!(put.outcome, WriteOutcome::Applied);
            }
            Self::Walk(_) => {
                let from = (stand.step - 1) % 3;
                let to = stand.step % 3;
                let rename = engine
                    .rename(&keys[from as usize], &keys[to as usize])
                    .if_absent();
                let renamed = rename.if_source_version(stand.versions[0].0).await;
                renamed
                    .unwrap_or_else(|error| panic!("{self:?} step {step}: {error:?}"))
                    .expect("the source exists");
            }
            Self::Count(_) => {
                let put = engine
                    .put(&keys[0], counted(step))
                    .custom("step", step.to_string());
                let put = match stand.versions.first() {
                    Some((_, etag)) => put.if_etag(*etag),
                    None => put.if_absent(),
                };
                put.await
                    .unwrap_or_else(|error| panic!("{self:?} step {step}: {error:?}"));
            }
        }
        self.find(engine).await
    }
}

/// Returns the content of this step: of each size in turn.
fn counted(step: u64) -> Bytes {
    payload(step, LOADS[(step % EACH) as usize])
}

fn step_of(object: &Object) -> u64 {
    object.metadata().attributes.custom["step"].parse().unwrap()
}
