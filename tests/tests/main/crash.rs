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
//! Inline payloads have up to 600 KiB and segments of 1 MiB. In a fifth of the rounds victims
//! overwrite them so often that the payload log is collected all the time.
//!
//! `CENOTAPH_CRASH_ROUNDS` sets the number of rounds. `CENOTAPH_CRASH_SEED` determines the writes
//! and the moments of the kills; thread scheduling remains random. A failure prints the seed and
//! keeps the directory. The kernel keeps everything that a killed process has written, synced or
//! not; `power.rs` cuts the power.

use cenotaph::Env;
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub(crate) mod chance;
pub(crate) mod load;
mod log;
mod model;
mod pairs;
mod remains;
pub(crate) mod scene;
pub(crate) mod seen;
pub(crate) mod victim;

use chance::Chance;
use load::Load;
use scene::Scene;
use seen::Seen;
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
        Stage::new(seed, chance.number()).play(rounds, &runtime, &mut seen);
        left -= rounds;
    }
    println!("seed {seed}: {seen:#?}");
    if rounds >= ROUNDS {
        seen.assert_enough();
    }
}

pub(crate) fn env_number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|error| panic!("{variable}: {error}")),
    )
}

/// A directory and the scene in it.
struct Stage {
    directory: Option<TempDir>,
    /// Seed of the whole test.
    seed: u64,
    scene: Scene,
}

impl Stage {
    fn new(seed: u64, ours: u64) -> Self {
        let directory = TempDir::new().unwrap();
        Self {
            scene: Scene::new(directory.path().join("data"), ours),
            directory: Some(directory),
            seed,
        }
    }

    fn play(mut self, rounds: u64, runtime: &Runtime, seen: &mut Seen) {
        for round in 1..=rounds {
            let load = if self.scene.chance.below(5) == 0 {
                Load::Overwrites
            } else {
                Load::Tiers
            };
            for (place, moment) in self.moments(round, load).into_iter().enumerate() {
                let orders = self.scene.orders(load);
                let lines = victim::run_and_kill(AGAIN, &orders, moment);
                self.scene.crashed(&lines, place > 0, seen);
            }
            runtime.block_on(self.scene.examine(round == rounds, seen));
            seen.rounds += 1;
        }
    }

    /// Chooses the kills of a round: one during writes, and up to two while the next incarnations
    /// open. The first round may begin with a kill during the creation of the store.
    fn moments(&mut self, round: u64, load: Load) -> Vec<Moment> {
        let scene = &mut self.scene;
        let mut moments = Vec::new();
        if round == 1 && scene.chance.below(2) == 0 {
            moments.push(scene.while_opening());
        }
        moments.push(scene.while_writing(load));
        for _ in 0..scene.chance.below(3) {
            moments.push(scene.while_opening());
        }
        moments
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let kept = self.directory.take().map(TempDir::keep);
            eprintln!(
                "CENOTAPH_CRASH_SEED={} incarnations={} directory={kept:?}",
                self.seed, self.scene.incarnations
            );
        }
    }
}
