//! `stats` and `recover`: what the engine tells about itself.

use std::time::Duration;

use cenotaph::{Entry, Stats};
use futures::TryStreamExt;
use serde_json::json;

use crate::args::StatsArgs;
use crate::clock::Stopwatch;
use crate::failure::Failure;
use crate::human::{self, Align};
use crate::report::Report;
use crate::store::Store;

pub(crate) async fn stats(store: &Store, report: &Report, options: &StatsArgs) -> Result<(), Failure> {
    let stats = store.engine.stats().await?;
    let count = if options.count { Some(count(store).await?) } else { None };
    if report.is_json() {
        let mut value = in_json(&stats);
        value["objects"] = json!(count.map(|count| count.objects));
        value["bytes"] = json!(count.map(|count| count.bytes));
        return report.json(&value);
    }
    let mut rows = Vec::new();
    if let Some(count) = count {
        rows.push(["objects".to_owned(), human::grouped(count.objects)]);
        rows.push(["bytes".to_owned(), human::grouped(count.bytes)]);
    }
    rows.extend(in_rows(&stats).map(|(name, value)| [name.to_owned(), human::grouped(value)]));
    report.text(&human::table([Align::Left, Align::Right], &rows))
}

/// The objects of a namespace.
#[derive(Clone, Copy, Default)]
struct Count {
    objects: u64,
    bytes: u64,
}

async fn count(store: &Store) -> Result<Count, Failure> {
    let mut listed = store.engine.list("").namespace(store.namespace.clone()).stream();
    let mut count = Count::default();
    while let Some(entry) = listed.try_next().await? {
        if let Entry::Object(head) = entry {
            count.objects += 1;
            count.bytes += head.metadata.size;
        }
    }
    Ok(count)
}

fn in_json(stats: &Stats) -> serde_json::Value {
    let (index, actors, reads) = (&stats.index, &stats.actors, &stats.reads);
    json!({
        "epoch": stats.epoch.get(),
        "changes": actors.changes,
        "orphans": actors.orphans,
        "fenced": actors.fenced,
        "swept": actors.swept,
        "sweep_failures": actors.sweep_failures,
        "superseded": actors.superseded,
        "restarts": actors.restarts,
        "writes_live": actors.writes_live,
        "uploads_live": actors.uploads_live,
        "index_batches": index.batches,
        "index_syncs": index.syncs,
        "index_waiting": index.waiting,
        "missing_blobs": reads.missing_blobs,
        "corrupt_blocks": reads.corrupt_blocks,
    })
}

fn in_rows(stats: &Stats) -> [(&'static str, u64); 7] {
    let actors = &stats.actors;
    [
        ("epoch", stats.epoch.get()),
        ("changes not settled", actors.changes),
        ("orphans not settled", actors.orphans),
        ("changes settled since open", actors.fenced),
        ("orphans settled since open", actors.swept),
        ("failed deletions since open", actors.sweep_failures),
        ("batches committed since open", stats.index.batches),
    ]
}

/// What recovery came to.
pub(crate) struct Recovered {
    /// What the engine says after it.
    pub(crate) stats: Stats,
    /// Orphans that may not be deleted yet.
    pub(crate) left: u64,
    /// How long settling took. Opening, which settles dead changes, comes before.
    pub(crate) took: Duration,
}

/// Settles what can be settled now.
pub(crate) async fn settle(store: &Store) -> Result<Recovered, Failure> {
    let watch = Stopwatch::start(&store.env);
    let left = store.engine.settle().await?;
    Ok(Recovered { stats: store.engine.stats().await?, left, took: watch.elapsed() })
}

pub(crate) async fn recover(store: &Store, report: &Report) -> Result<(), Failure> {
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
            format!("fenced {fenced}, swept {swept}, left {left} to a later moment")
        },
    )
}
