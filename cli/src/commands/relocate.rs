//! `migrate --tier`: moves the large objects of the store to another blob tier. The exit code is
//! not 0 as long as the store needs an older tier.
//!
//! The open of the store has made the given tier the current one, and remembers both.

use std::time::Duration;

use cenotaph::{RelocationReport, ScrubReport};
use serde_json::json;

use super::scrub::print_finding;
use crate::args::MigrateArgs;
use crate::store::OpenStore;
use crate::ui::clock::Stopwatch;
use crate::ui::failure::{Failure, one_line};
use crate::ui::human;
use crate::ui::report::Report;

/// State of the tiers after a relocation.
struct Outcome {
    relocated: RelocationReport,
    /// Locations of the tiers that this relocation released.
    released: Vec<String>,
    /// Locations of the older tiers that the store still needs.
    older: Vec<String>,
    /// Scrub of `--verify`.
    scrubbed: Option<ScrubReport>,
}

/// Runs `migrate --tier`.
pub(crate) async fn run(
    store: &OpenStore,
    report: &Report,
    options: &MigrateArgs,
) -> Result<(), Failure> {
    let watch = Stopwatch::start(&store.env);
    let before = older(store);
    let relocated = relocate(store, report, options).await?;
    let older = older(store);
    if !options.dry_run {
        store.tiers.remember(&store.engine);
    }
    let scrubbed = match options.verify && !options.dry_run {
        true => Some(verify(store, report).await?),
        false => None,
    };
    let is_released = |uri: &String| !older.contains(uri);
    let outcome = Outcome {
        released: before.into_iter().filter(is_released).collect(),
        relocated,
        older,
        scrubbed,
    };
    print(store, report, options, &outcome, watch.elapsed())?;
    match options.dry_run {
        true => Ok(()),
        false => success(store, &outcome).await,
    }
}

fn older(store: &OpenStore) -> Vec<String> {
    let older = store.tiers.older(&store.engine).into_iter();
    older.map(str::to_owned).collect()
}

async fn relocate(
    store: &OpenStore,
    report: &Report,
    options: &MigrateArgs,
) -> Result<RelocationReport, Failure> {
    let bar = report.bar("migrate", None);
    let mut relocation = store.engine.relocate().objects_at_once(options.jobs);
    if let Some(bytes) = options.bytes_per_second {
        relocation = relocation.bytes_per_second(bytes);
    }
    if options.dry_run {
        relocation = relocation.dry_run();
    }
    let shown = bar.clone();
    let show = move |at: &RelocationReport| {
        shown.at(at.bytes, None, at.relocated, at.relocated + at.failed);
    };
    let relocated = relocation.on_progress(show).await?;
    bar.end();
    Ok(relocated)
}

/// Reads every byte of the store.
async fn verify(store: &OpenStore, report: &Report) -> Result<ScrubReport, Failure> {
    let bar = report.bar("verify", None);
    let shown = bar.clone();
    let scrub = store.engine.scrub().on_progress(move |at| {
        let (bytes, objects) = (at.looked.bytes, at.looked.objects);
        shown.at(bytes, at.bytes_total, at.objects_done, objects);
    });
    let scrubbed = scrub.await?;
    bar.end();
    for finding in &scrubbed.findings {
        print_finding(report, finding)?;
    }
    Ok(scrubbed)
}

fn print(
    store: &OpenStore,
    report: &Report,
    options: &MigrateArgs,
    outcome: &Outcome,
    took: Duration,
) -> Result<(), Failure> {
    let relocated = &outcome.relocated;
    for failure in &relocated.failures {
        let error = one_line(&failure.error);
        report.result(
            || json!({ "event": "failed", "object": failure.object, "error": error }),
            || format!("failed {}: {error}", failure.object),
        )?;
    }
    let problems = outcome.scrubbed.as_ref().map(ScrubReport::left);
    report.result(
        || {
            json!({
                "event": "summary",
                "dry_run": options.dry_run,
                "blobs": store.tiers.current(),
                "older_blobs": outcome.older,
                "released": outcome.released,
                "moved": relocated.relocated,
                "failed": relocated.failed,
                "bytes": relocated.bytes,
                "left": relocated.left,
                "passes": relocated.passes,
                "problems": problems,
                "elapsed_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            })
        },
        || {
            let verb = match options.dry_run {
                true => "would move",
                false => "moved",
            };
            let mut line = format!(
                "{verb} {}, {} to {} in {}; {} failed",
                human::counted(relocated.relocated, "object"),
                human::bytes(relocated.bytes),
                store.tiers.readable(store.tiers.current()),
                human::duration(took),
                human::grouped(relocated.failed),
            );
            if let Some(problems) = problems {
                line += &format!("; {} found", human::counted(problems, "problem"));
            }
            for uri in &outcome.released {
                let uri = store.tiers.readable(uri);
                line += &format!("; {uri} is no longer needed");
            }
            line
        },
    )
}

/// Returns an error if the store still needs an older tier, or the scrub found a problem.
async fn success(store: &OpenStore, outcome: &Outcome) -> Result<(), Failure> {
    let failed = outcome.relocated.failed;
    let problems = outcome.scrubbed.as_ref().map_or(0, ScrubReport::left);
    if !outcome.older.is_empty() {
        return Err(Failure::Failed(still_needed(store, outcome).await?));
    }
    if problems > 0 {
        let problems = human::counted(problems, "problem");
        return Err(Failure::Failed(format!("{problems} left; see `scrub`")));
    }
    if failed > 0 {
        let failed = human::counted(failed, "row");
        let message = format!("{failed} can't be read; run `scrub`");
        return Err(Failure::Failed(message));
    }
    Ok(())
}

/// Returns the reasons why the store still needs an older tier, and the ways out.
async fn still_needed(store: &OpenStore, outcome: &Outcome) -> Result<String, Failure> {
    let actors = store.engine.stats().await?.actors;
    let readable = |uri: &String| store.tiers.readable(uri);
    let older: Vec<String> = outcome.older.iter().map(readable).collect();
    let mut message = format!(
        "the store still needs {}: {} left",
        older.join(", "),
        human::counted(outcome.relocated.left, "blob"),
    );
    let mut reason = |count: u64, noun: &str, why: &str| {
        if count > 0 {
            message += &format!("; {} {why}", human::counted(count, noun));
        }
    };
    reason(
        outcome.relocated.failed,
        "object",
        "could not be copied (`scrub` names the damage)",
    );
    reason(
        actors.open_uploads,
        "upload",
        "open (complete or abort; `uploads` lists them)",
    );
    reason(
        actors.orphans,
        "deletion",
        "delayed, up to a minute after a crash",
    );
    let tier = store.tiers.current();
    Ok(format!(
        "{message}; then run `migrate --tier '{tier}'` again"
    ))
}
