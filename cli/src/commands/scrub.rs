//! `scrub`: checks every byte of both tiers, and repairs problems on request. The exit code is not
//! 0 if a problem remains.

use std::time::Duration;

use cenotaph::{Finding, RepairOutcome, ScrubDepth, ScrubProgress, ScrubReport};
use serde_json::{Value, json};

use crate::args::ScrubArgs;
use crate::store::OpenStore;
use crate::ui::clock::Stopwatch;
use crate::ui::failure::Failure;
use crate::ui::human;
use crate::ui::report::Report;

/// Largest number of findings that are printed. All findings are counted.
const FINDINGS_MAX: usize = 10_000;

/// Runs `scrub`.
pub(crate) async fn run(
    store: &OpenStore,
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
        // A scrub of presence reads no bytes, so the total would never be reached.
        let total = at.bytes_total.filter(|_| depth == ScrubDepth::Bytes);
        shown.at(at.looked.bytes, total, at.objects_done, at.looked.objects);
    };
    let scrubbed = scrub.on_progress(show).await?;
    bar.end();
    for finding in &scrubbed.findings {
        print_finding(report, finding)?;
    }
    print_summary(report, &scrubbed, watch.elapsed())?;
    success(&scrubbed)
}

/// Prints a finding.
pub(super) fn print_finding(report: &Report, finding: &Finding) -> Result<(), Failure> {
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

/// Returns the outcome of a finding as a word.
fn fate(fate: RepairOutcome) -> &'static str {
    match fate {
        RepairOutcome::Left => "left",
        RepairOutcome::Repaired => "repaired",
        RepairOutcome::Withheld => "withheld",
    }
}

/// Adds the field `event` to a JSON object.
fn with_event(event: &str, mut value: Value) -> Value {
    value["event"] = json!(event);
    value
}

/// Prints the counts of the scrub.
fn print_summary(report: &Report, scrubbed: &ScrubReport, took: Duration) -> Result<(), Failure> {
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
            let counts = &scrubbed.looked;
            let objects = human::counted(counts.objects, "object");
            let blobs = human::counted(counts.blobs, "blob");
            let problems = human::counted(scrubbed.found, "problem");
            let found = match unnamed {
                0 => problems,
                _ => format!("{problems}, {} of them not listed", human::grouped(unnamed)),
            };
            let bytes = human::bytes(counts.bytes);
            let took = human::duration(took);
            format!(
                "checked {objects}, {blobs}, {bytes} in {took}; {found}, {} repaired",
                human::grouped(scrubbed.repaired)
            )
        },
    )
}

/// Returns an error if a problem remains.
fn success(scrubbed: &ScrubReport) -> Result<(), Failure> {
    if scrubbed.left() == 0 {
        return Ok(());
    }
    let left = human::counted(scrubbed.left(), "problem");
    // The first remaining problem may be beyond the listed findings.
    match scrubbed
        .findings
        .iter()
        .find(|finding| finding.fate != RepairOutcome::Repaired)
    {
        Some(first) => Err(Failure::Failed(format!(
            "{left} left; the first: {}",
            human::key(&first.damage.to_string())
        ))),
        None => Err(Failure::Failed(format!("{left} left"))),
    }
}
