//! The binary: its exit code tells, and its traces are the same in every process.

use std::process::{Command, Output};

fn sim(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cenotaph-sim"))
        .args(arguments)
        .output()
        .expect("the binary runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn two_hundred_seeds_have_the_same_traces_in_one_process_and_in_two() {
    let output = sim(&["meta", "--seeds", "200"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        said(&output).contains("200 seeds") && said(&output).contains(" 0 differences"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_run_tells_rates_and_coverage() {
    let output = sim(&["run", "--seeds", "20", "--ops", "50", "--jobs", "1"]);
    assert!(output.status.success(), "{}", said(&output));
    for part in [
        "heard: applied",
        "runs/s",
        "operations/s",
        "0 of 20 runs violated something",
    ] {
        assert!(said(&output).contains(part), "{part}: {}", said(&output));
    }
}

#[test]
fn a_replay_prints_a_timeline_or_draws_it() {
    let output = sim(&["replay", "7"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        said(&output).contains("shard: before decide"),
        "who, what, when"
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
        "self-contained"
    );
}

#[test]
fn a_sweep_and_a_hunt_that_find_nothing_succeed() {
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
    assert!(output.status.success(), "{}", said(&output));
    assert!(!out.exists(), "no failure, no file");
}

#[test]
fn a_hunt_writes_down_what_it_finds_small_and_replayable() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().to_str().unwrap();
    let output = sim(&[
        "hunt",
        "--for",
        "2",
        "--ops",
        "60",
        "--jobs",
        "1",
        "--bug",
        "version-reuse",
        "--out",
        out,
    ]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
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
    let small: cenotaph_sim::Plan = serde_json::from_slice(&std::fs::read(&plan).unwrap()).unwrap();
    assert!(small.operations() <= 3, "put, delete, put: {small:?}");
    let again = sim(&[
        "replay",
        "--plan",
        plan.to_str().unwrap(),
        "--bug",
        "version-reuse",
    ]);
    assert_eq!(again.status.code(), Some(1), "{}", said(&again));
    assert!(
        sim(&["replay", "--plan", plan.to_str().unwrap()])
            .status
            .success(),
        "with the bug out, nothing is reported"
    );
}

#[test]
fn a_bug_that_does_not_exist_is_an_error() {
    let output = sim(&["bugs", "--bug", "no-such"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("no-barrier"),
        "it says which there are"
    );
}
