//! Power cuts (I9): the disk of a writing process loses everything that was not synced. Its store
//! is mounted again, opened and checked.
//!
//! ```text
//! cut      a victim (crash/load.rs) writes; the file system is shut down at a random moment
//!          only acknowledgements that had arrived before count
//!          kill the victim, unmount, mount
//!          a control writer beside it lost unsynced records, and no synced one (control.rs)
//!          doctor: no damage; then the checks of the crash test (crash/scene.rs)
//! kinds    in turn: creation of a store, inline payloads, overwrites with collection, all tiers
//! ```
//!
//! A missing sync of a directory is not found out: on both file systems the sync of a new file also
//! makes its name durable. A missing sync of a segment or of a journal fails at the first cut.
//!
//! All cuts of a test except those of creations hit the same store. The disk is an ext4 or XFS
//! image (disk.rs), whose mount needs root: SKIPPED otherwise. `CENOTAPH_POWER_CUTS` sets the number
//! of cuts on each file system, and `CENOTAPH_POWER_SEED` the seed. A failure prints the seed and
//! keeps a copy of the disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use cenotaph::doctor::{self, Condition};
use cenotaph::{Env, ErrorKind};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::crash::chance::Chance;
use crate::crash::env_number;
use crate::crash::load::{self, Load};
use crate::crash::scene::Scene;
use crate::crash::seen::Seen;
use crate::crash::victim::{self, Again, Moment};

mod control;
mod disk;

use control::Control;
use disk::{FileSystem, PowerDisk};

const AGAIN: Again = Again {
    test: "power::power_cut_on_ext4_loses_no_acknowledged_write",
    orders: "CENOTAPH_POWER_ORDERS",
};
const CUTS: u64 = 8;
/// Time limit of a cut during a creation, since its begin.
const CREATION: Duration = Duration::from_millis(300);
/// Number of cuts after which every object is read, also those that have not changed.
const FULL_CHECK: u64 = 10;

#[test]
fn power_cut_on_ext4_loses_no_acknowledged_write() {
    cut_power(FileSystem::Ext4);
}

#[test]
fn power_cut_on_xfs_loses_no_acknowledged_write() {
    cut_power(FileSystem::Xfs);
}

/// Kind of a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Creation,
    Writes(Load),
}

impl Kind {
    fn of(cut: u64) -> Self {
        match cut % 4 {
            0 => Self::Creation,
            1 => Self::Writes(Load::Overwrites),
            2 => Self::Writes(Load::Inline),
            _ => Self::Writes(Load::Tiers),
        }
    }
}

fn cut_power(file_system: FileSystem) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    if let Ok(orders) = std::env::var(AGAIN.orders) {
        return runtime.block_on(load::run(serde_json::from_str(&orders).unwrap()));
    }
    let Some(disk) = PowerDisk::new(file_system) else {
        return;
    };
    let cuts = env_number("CENOTAPH_POWER_CUTS").unwrap_or(CUTS);
    let env = runtime.block_on(async { Env::real().unwrap() });
    let seed = env_number("CENOTAPH_POWER_SEED").unwrap_or_else(|| env.random_u64());
    let mut site = Site::new(disk, env, seed);
    for cut in 0..cuts {
        site.play(cut, &runtime);
    }
    println!("{file_system:?} seed={seed} {:#?}", site.totals);
    if cuts >= CUTS {
        site.totals.assert_enough();
    }
}

/// Events of all cuts.
#[derive(Debug, Default)]
struct Totals {
    cuts: BTreeMap<Kind, u64>,
    seen: Seen,
    /// Cuts of creations before the engine was open.
    half_created: u64,
    /// Records of the control that were lost, and the cuts that lost some.
    control_lost: u64,
    cuts_with_loss: u64,
}

impl Totals {
    /// Asserts that the cuts were real, and hit running operations.
    fn assert_enough(&self) {
        let enough = [
            self.seen.acks,
            self.seen.unanswered,
            self.seen.objects_read,
            self.seen.collecting,
            self.control_lost,
        ];
        assert!(
            enough.iter().all(|&count| count > 0),
            "an event never happened: {self:#?}"
        );
    }
}

/// A disk and the store on it.
struct Site {
    disk: PowerDisk,
    env: Env,
    seed: u64,
    chance: Chance,
    scene: Scene,
    totals: Totals,
}

impl Site {
    fn new(disk: PowerDisk, env: Env, seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        Self {
            scene: Scene::new(disk.path().join("data"), chance.number()),
            disk,
            env,
            seed,
            chance,
            totals: Totals::default(),
        }
    }

    fn play(&mut self, cut: u64, runtime: &Runtime) {
        let kind = Kind::of(cut);
        *self.totals.cuts.entry(kind).or_default() += 1;
        match kind {
            Kind::Creation => self.create(cut, runtime),
            Kind::Writes(load) => self.write(load, cut, runtime),
        }
    }

    /// Cuts the power while a store is created, and shortly after.
    fn create(&mut self, cut: u64, runtime: &Runtime) {
        let data = self.disk.path().join(format!("created-{cut}"));
        let mut scene = Scene::new(data.clone(), self.chance.number());
        let moment = if self.chance.below(2) == 0 {
            scene.while_opening()
        } else {
            Moment::SinceOpening(scene.up_to(CREATION))
        };
        let opening = self.totals.seen.kills_opening;
        self.cut(&mut scene, Load::Inline, moment);
        self.totals.half_created += self.totals.seen.kills_opening - opening;
        self.check(&mut scene, true, runtime);
        fs::remove_dir_all(data).unwrap();
    }

    /// Cuts the power while victims write to the store, and in a quarter of the cuts while they
    /// open it.
    fn write(&mut self, load: Load, cut: u64, runtime: &Runtime) {
        let fresh = Scene::new(self.scene.data.clone(), 0);
        let mut scene = std::mem::replace(&mut self.scene, fresh);
        let moment = if scene.incarnations > 0 && self.chance.below(4) == 0 {
            scene.while_opening()
        } else {
            scene.while_writing(load)
        };
        self.cut(&mut scene, load, moment);
        let is_full = cut % FULL_CHECK == FULL_CHECK - 1;
        self.check(&mut scene, is_full, runtime);
        self.scene = scene;
    }

    fn cut(&mut self, scene: &mut Scene, load: Load, moment: Moment) {
        let control = Control::start(&self.env, self.disk.path().join("control"));
        let orders = scene.orders(load);
        let mut written = None;
        let lines = victim::run_and_cut(AGAIN, &orders, moment, || {
            written = Some(control.written());
            self.disk.cut();
        });
        control.join();
        self.disk.restart();
        let lost = written.expect("the power was cut").lost();
        self.totals.control_lost += lost;
        self.totals.cuts_with_loss += u64::from(lost > 0);
        scene.crashed(&lines, false, &mut self.totals.seen);
    }

    fn check(&mut self, scene: &mut Scene, is_full: bool, runtime: &Runtime) {
        assert_undamaged(&scene.data);
        runtime.block_on(scene.examine(is_full, &mut self.totals.seen));
        self.totals.seen.rounds += 1;
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let copy = TempDir::new().unwrap().keep();
            self.disk.copy_to(&copy);
            eprintln!(
                "CENOTAPH_POWER_SEED={} copy={copy:?} {:#?}",
                self.seed, self.totals
            );
        }
    }
}

/// Asserts that the doctor finds no damage, or no index in a store that was not created.
fn assert_undamaged(data: &Path) {
    match doctor::examine(data) {
        Ok(diagnosis) => assert_eq!(diagnosis.condition, Condition::Healthy, "{diagnosis}"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}"),
    }
}
