//! `recover`: settles the changes and orphans of a crash, and prints their numbers.

use std::time::Duration;

use cenotaph::Stats;
use serde_json::json;

use crate::store::OpenStore;
use crate::store::members::live_others;
use crate::ui::clock::Stopwatch;
use crate::ui::failure::Failure;
use crate::ui::human;
use crate::ui::report::Report;

/// Runs `recover`. The open of the store has fenced the changes of dead owners already.
pub(crate) async fn run(store: &OpenStore, report: &Report) -> Result<(), Failure> {
    // The changes of a member that was killed can be settled once it is declared dead.
    live_others(&store.engine, &store.env).await?;
    let recovered = settle(store).await?;
    let actors = recovered.stats.actors;
    report.result(
        || {
            json!({
                "fenced": actors.fenced,
                "swept": actors.swept,
                "sweep_failures": actors.sweep_failures,
                "left": recovered.left,
                "changes": actors.changes,
                "orphans": actors.orphans,
                "epoch": recovered.stats.epoch.get(),
                "settle_ms": u64::try_from(recovered.took.as_millis()).unwrap_or(u64::MAX),
            })
        },
        || {
            let fenced = human::counted(actors.fenced, "interrupted write");
            let swept = human::counted(actors.swept, "blob");
            let left = human::counted(recovered.left, "blob");
            format!("fenced {fenced}, swept {swept}, left {left} for later")
        },
    )
}

/// Result of a recovery.
pub(crate) struct Recovered {
    /// Counters of the engine after the recovery.
    pub(crate) stats: Stats,
    /// Number of orphans that may not be deleted yet.
    pub(crate) left: u64,
    /// Duration of the settling. Does not include the open, which settles dead changes.
    pub(crate) took: Duration,
}

/// Settles all changes and orphans that can be settled now.
pub(crate) async fn settle(store: &OpenStore) -> Result<Recovered, Failure> {
    let watch = Stopwatch::start(&store.env);
    let left = store.engine.settle().await?;
    Ok(Recovered {
        stats: store.engine.stats().await?,
        left,
        took: watch.elapsed(),
    })
}
