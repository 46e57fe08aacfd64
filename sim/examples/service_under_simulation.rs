//! Tests a service in simulated worlds with kills and crashes: a counter that never loses an
//! acknowledged increment, and a naive counter whose bug a seed shows and replays.

use cenotaph::{Engine, Error, Object, Result, Update};
use cenotaph_sim::{Faults, Odds, Sim};
use futures::future::join;

/// An increment of the counter.
#[derive(Clone, Copy)]
enum Increment {
    /// Conditional on the version that was read.
    Careful,
    /// A read and an unconditional write.
    Naive,
}

impl Increment {
    async fn run(self, engine: &Engine) -> Result<()> {
        match self {
            Self::Careful => {
                let increment = |current| async {
                    Ok::<_, Error>(Update::put((value(current).await? + 1).to_string()))
                };
                engine.update("counter", increment).await.map(drop)
            }
            Self::Naive => {
                let next = value(engine.get("counter").await?).await? + 1;
                engine.put("counter", next.to_string()).await.map(drop)
            }
        }
    }
}

async fn value(object: Option<Object>) -> Result<u64> {
    let Some(object) = object else { return Ok(0) };
    let digits = object.bytes().await?;
    let value = String::from_utf8_lossy(&digits).parse();
    Ok(value.expect("the counter is written as digits"))
}

/// Counts in the world of this seed. Returns its timeline, and true if the value is right.
fn simulate(seed: u64, increment: Increment) -> (String, bool) {
    let faults = Faults {
        kill: Odds::in_ten_thousand(100),
        crash: Odds::in_ten_thousand(50),
        ..Faults::default()
    };
    let mut sim = Sim::new(seed).faults(faults);
    let mut attempts = 0;
    let mut acknowledged = 0;
    while acknowledged < 10 {
        // A crash ends the incarnation at any step. The next one continues with the same disks.
        sim.run(async |world| {
            let engine = world.open_patiently().await.expect("it opens in the end");
            while acknowledged < 10 && engine.health().is_ok() {
                attempts += 2;
                let (a, b) = join(increment.run(&engine), increment.run(&engine)).await;
                acknowledged += u64::from(a.is_ok()) + u64::from(b.is_ok());
            }
        });
    }
    sim.quieten();
    let read = sim.run(async |world| value(world.open().await?.get("counter").await?).await);
    let read = read.ended().expect("no crash is left");
    let value = read.expect("no fault is left");
    sim.settle().expect("the store violates no invariant");
    (sim.timeline(), (acknowledged..=attempts).contains(&value))
}

fn main() {
    for seed in 0..20 {
        let (timeline, right) = simulate(seed, Increment::Careful);
        assert!(right, "seed={seed}\n{timeline}");
    }
    let naive = |seed| simulate(seed, Increment::Naive);
    let seed = (0..20).find(|seed| !naive(*seed).1);
    let seed = seed.expect("a seed shows the bug");
    assert_eq!(naive(seed), naive(seed), "the seed replays the same world");
}
