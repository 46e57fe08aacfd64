//! `scrub`: both tiers against each other, every byte of them, and repairs on request. Not zero if
//! anything is left.

use std::time::Duration;

use cenotaph::{Fate, Finding, ScrubDepth, ScrubProgress, ScrubReport};
use serde_json::{Value, json};

use crate::args::ScrubArgs;
use crate::clock::Stopwatch;
use crate::failure::Failure;
use crate::human;
use crate::report::Report;
use crate::store::Store;

/// Findings that are named; all are counted.
const FINDINGS_MAX: usize = 10_000;

pub(crate) async fn run(
    store: &Store,
    report: &Report,
    options: &ScrubArgs,
) -> Result<(), Failure> {
    let watch = Stopwatch::start(&store.env);
    let bar = report.bar("scrub", None);
    let depth = if options.shallow {
        ScrubDepth::Presence
    } else {
        ScrubDepth::Bytes
    };
    let mut scrub = store
        .engine
        .scrub()
        .depth(depth)
        .grace(options.grace)
        .findings_max(FINDINGS_MAX);
    if options.repair {
        scrub = scrub.repair();
    }
    if options.drop_damaged {
        scrub = scrub.drop_damaged();
    }
    let shown = bar.clone();
    let show = move |at: ScrubProgress| {
        let total = at.bytes_total.filter(|_| depth == ScrubDepth::Bytes);
        shown.at(at.looked.bytes, total, at.objects_done, at.looked.objects);
    };
    let scrubbed = scrub.on_progress(show).await?;
    bar.end();
    for finding in &scrubbed.findings {
        tell(report, finding)?;
    }
    summarise(report, &scrubbed, watch.elapsed())?;
    success(&scrubbed)
}

fn tell(report: &Report, finding: &Finding) -> Result<(), Failure> {
    report.result(
        || with_event("finding", json!(finding)),
        || {
            format!(
                "{} {}",
                fate(finding.fate),
                human::key(&finding.damage.to_string())
            )
        },
    )
}

fn fate(fate: Fate) -> &'static str {
    match fate {
        Fate::Left => "left",
        Fate::Repaired => "repaired",
        Fate::Withheld => "withheld",
    }
}

fn with_event(event: &str, mut value: Value) -> Value {
    value["event"] = json!(event);
    value
}

fn summarise(report: &Report, scrubbed: &ScrubReport, took: Duration) -> Result<(), Failure> {
    let unnamed = scrubbed.found - scrubbed.findings.len() as u64;
    report.result(
        || {
            let mut value = with_event("summary", json!(scrubbed.looked));
            value["found"] = json!(scrubbed.found);
            value["repaired"] = json!(scrubbed.repaired);
            value["left"] = json!(scrubbed.left());
            value["unnamed"] = json!(unnamed);
            value["elapsed_ms"] = json!(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
            value
        },
        || {
            let looked = &scrubbed.looked;
            let (objects, blobs) = (
                human::counted(looked.objects, "object"),
                human::counted(looked.blobs, "blob"),
            );
            let found = match unnamed {
                0 => human::counted(scrubbed.found, "problem"),
                _ => format!(
                    "{}, {} of them not named here",
                    human::counted(scrubbed.found, "problem"),
                    human::grouped(unnamed)
                ),
            };
            let (bytes, took) = (human::bytes(looked.bytes), human::duration(took));
            format!(
                "looked at {objects}, {blobs}, {bytes} in {took}; {found}, {} repaired",
                human::grouped(scrubbed.repaired)
            )
        },
    )
}

/// An error if anything is left.
fn success(scrubbed: &ScrubReport) -> Result<(), Failure> {
    if scrubbed.left() == 0 {
        return Ok(());
    }
    let left = human::counted(scrubbed.left(), "problem");
    match scrubbed
        .findings
        .iter()
        .find(|finding| finding.fate != Fate::Repaired)
    {
        Some(first) => Err(Failure::Failed(format!(
            "{left} left; the first: {}",
            human::key(&first.damage.to_string())
        ))),
        None => Err(Failure::Failed(format!("{left} left"))),
    }
}
