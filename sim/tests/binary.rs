//! The binary `cenotaph-sim`: exit codes, output, and traces that are the same in every process.

use std::process::{Command, Output};

fn sim(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cenotaph-sim"))
        .args(arguments)
        .output()
        .expect("the binary runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn traces_are_equal_within_and_across_processes() {
    let output = sim(&["meta", "--seeds", "200"]);
    assert!(output.status.success(), "{}", stdout(&output));
    assert!(
        stdout(&output).contains("200 seeds") && stdout(&output).contains(" 0 differences"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn run_prints_rates_and_coverage() {
    let output = sim(&["run", "--seeds", "20", "--ops", "50", "--jobs", "1"]);
    assert!(output.status.success(), "{}", stdout(&output));
    for part in [
        "heard: applied",
        "runs/s",
        "operations/s",
        "0 of 20 runs violated something",
    ] {
        assert!(
            stdout(&output).contains(part),
            "{part}: {}",
            stdout(&output)
        );
    }
}

#[test]
fn replay_prints_a_timeline_or_writes_a_page() {
    let output = sim(&["replay", "7"]);
    assert!(output.status.success(), "{}", stdout(&output));
    assert!(
        stdout(&output).contains("shard: before decide"),
        "the timeline contains a step"
    );
    let directory = tempfile::tempdir().unwrap();
    let page = directory.path().join("page.html");
    assert!(
        sim(&["replay", "7", "--html", page.to_str().unwrap()])
            .status
            .success()
    );
    let page = std::fs::read_to_string(page).unwrap();
    assert!(
        page.contains("shard 0") && page.contains("client 0") && !page.contains("https://"),
        "the page contains all lanes and loads nothing"
    );
}

#[test]
fn sweep_and_hunt_without_a_failure_succeed() {
    assert!(sim(&["sweep", "crash", "5", "--ops", "6"]).status.success());
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("failures");
    let output = sim(&[
        "hunt",
        "--for",
        "1",
        "--ops",
        "20",
        "--out",
        out.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", stdout(&output));
    assert!(!out.exists(), "a hunt without a failure writes no file");
}

#[test]
fn hunt_writes_a_small_replayable_plan() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().to_str().unwrap();
    let output = sim(&[
        "hunt",
        "--for",
        "300",
        "--failures",
        "1",
        "--ops",
        "60",
        "--jobs",
        "1",
        "--bug",
        "version-reuse",
        "--out",
        out,
    ]);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    let plans = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let plan = plans
        .into_iter()
        .find(|path| path.extension().is_some_and(|end| end == "json"))
        .expect("a plan");
    let text = std::fs::read_to_string(plan.with_extension("txt")).unwrap();
    assert!(
        text.contains("versions: unexpected version: version=1 last=1"),
        "{text}"
    );
    let small: cenotaph_sim::RunPlan =
        serde_json::from_slice(&std::fs::read(&plan).unwrap()).unwrap();
    assert!(
        small.operations() <= 3,
        "a put, a delete and a put are enough: {small:?}"
    );
    let again = sim(&[
        "replay",
        "--plan",
        plan.to_str().unwrap(),
        "--bug",
        "version-reuse",
    ]);
    assert_eq!(again.status.code(), Some(1), "{}", stdout(&again));
    assert!(
        sim(&["replay", "--plan", plan.to_str().unwrap()])
            .status
            .success(),
        "without the bug nothing is reported"
    );
}

#[test]
fn unknown_bug_is_an_error() {
    let output = sim(&["bugs", "--bug", "no-such"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("no-barrier"),
        "the error lists the known bugs"
    );
}
