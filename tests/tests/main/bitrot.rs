//! Bit rot: the bytes of a small store are changed, one at a time, and everything is read.
//!
//! ```text
//! made      a store with every kind of file, closed
//! child     for each flip: change a byte, open, read everything, print the judgement
//! parent    a child that dies or prints nothing for too long is a violation of its current flip;
//!           another child continues with the next flip
//! ```
//!
//! | outcome | meaning |
//! |---|---|
//! | right | everything is present and equals what was put |
//! | error | unreadable data is a clear error; everything else is right |
//! | violation | wrong bytes, missing objects without an error, a panic, an abort, a hang |
//!
//! By default some hundred places are tried. `CENOTAPH_BITROT=full` changes every byte once: bit 0
//! of the first byte, bit 1 of the next, and so on. `CENOTAPH_BITROT=16` changes every sixteenth
//! byte in two ways. The address space of a child is limited to 4 GiB: an allocation that trusts a
//! damaged length ends the child.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

mod flips;
mod look;
mod made;

use flips::{Flip, Kind};
use look::{Judgement, Orders};

const TEST: &str = "bitrot::no_changed_byte_gives_silently_wrong_or_missing_data";
const ORDERS: &str = "CENOTAPH_BITROT_ORDERS";
const MODE: &str = "CENOTAPH_BITROT";

/// Time limit without a line from a child.
const PATIENCE: Duration = Duration::from_secs(90);
/// Concurrent children.
const CHILDREN: usize = 2;
const ADDRESS_SPACE_KIB: u64 = 4 << 20;

#[test]
fn no_changed_byte_gives_silently_wrong_or_missing_data() {
    // A single thread: wake-ups of other threads would dominate the time.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    if let Ok(orders) = std::env::var(ORDERS) {
        let orders: Orders = serde_json::from_slice(&fs::read(orders).unwrap()).unwrap();
        return look::run(&runtime, &orders);
    }
    let step = std::env::var(MODE).ok().map(|mode| {
        if mode == "full" {
            1
        } else {
            mode.parse().expect("CENOTAPH_BITROT is \"full\" or a step")
        }
    });
    // The test does not depend on syncs, and in memory they are free.
    let memory = Path::new("/dev/shm");
    let root = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    }
    .unwrap();
    let golden = root.path().join("golden");
    let expected = runtime.block_on(made::make(&golden));
    let flips = match step {
        None => flips::some(&golden),
        Some(1) => flips::all(&golden),
        Some(step) => flips::every(&golden, step),
    };
    println!(
        "{} changes, in {} files",
        flips.len(),
        flips::files(&golden, "").len()
    );
    let judgements = std::thread::scope(|scope| {
        let shares = flips
            .chunks(flips.len().div_ceil(CHILDREN))
            .enumerate()
            .map(|(number, flips)| {
                let scratch = root.path().join(format!("scratch-{number}"));
                let golden = golden.clone();
                let expected = expected.clone();
                let flips = flips.to_vec();
                let orders = Orders {
                    golden,
                    scratch,
                    expected,
                    flips,
                    from: 0,
                };
                let path = root.path().join(format!("orders-{number}.json"));
                scope.spawn(move || judge_all(orders, &path))
            });
        let shares: Vec<_> = shares.collect();
        shares
            .into_iter()
            .flat_map(|share| share.join().unwrap())
            .collect::<Vec<_>>()
    });
    report(&flips, &judgements);
}

/// Runs children until every flip is judged.
fn judge_all(mut orders: Orders, path: &Path) -> Vec<Judgement> {
    let mut judgements = Vec::new();
    while judgements.len() < orders.flips.len() {
        orders.from = judgements.len();
        fs::write(path, serde_json::to_vec(&orders).unwrap()).unwrap();
        let before = judgements.len();
        let end = run_child(path, &mut judgements);
        if judgements.len() < orders.flips.len() {
            judgements.push(Judgement::Violation(format!("the process ended: {end}")));
        }
        assert!(judgements.len() > before, "{end}");
    }
    judgements
}

/// Runs a child until it ends or prints nothing for too long. Returns the reason of the end.
fn run_child(orders: &Path, judgements: &mut Vec<Judgement>) -> String {
    let complaints = orders.with_extension("complaints");
    let exe = std::env::current_exe().unwrap();
    let limited = format!("ulimit -v {ADDRESS_SPACE_KIB}; exec \"$0\" \"$@\"");
    let mut child = Command::new("sh")
        .args(["-c", &limited])
        .arg(exe)
        .args([TEST, "--exact", "--nocapture", "--test-threads=1"])
        .env(ORDERS, orders)
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::piped())
        .stderr(File::create(&complaints).unwrap())
        .spawn()
        .unwrap();
    let stdout = child.stdout.take().unwrap();
    let child = Reaped(child);
    let (sender, lines) = mpsc::channel();
    let listener = std::thread::scope(move |scope| {
        let mut child = child;
        scope.spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        loop {
            match lines.recv_timeout(PATIENCE) {
                Ok(line) => judgements.extend(Judgement::parse(&line)),
                Err(mpsc::RecvTimeoutError::Timeout) => return format!("no line for {PATIENCE:?}"),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return child.0.wait().unwrap().to_string();
                }
            }
        }
    });
    let complaints = fs::read_to_string(complaints).unwrap_or_default();
    let tail: Vec<&str> = complaints.lines().rev().take(5).collect();
    format!(
        "{listener}, stderr: {}",
        tail.into_iter().rev().collect::<Vec<_>>().join(" | ")
    )
}

/// A process that is killed when this value is dropped.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Debug, Default)]
struct Counts {
    flips: u64,
    right: u64,
    errors: u64,
    violations: u64,
}

fn report(flips: &[Flip], judgements: &[Judgement]) {
    let mut counts: BTreeMap<Kind, Counts> = BTreeMap::new();
    let mut violations = Vec::new();
    for (flip, judgement) in flips.iter().zip(judgements) {
        let count = counts.entry(flip.kind).or_default();
        count.flips += 1;
        match judgement {
            Judgement::Right => count.right += 1,
            Judgement::Error(_) => count.errors += 1,
            Judgement::Violation(violation) => {
                count.violations += 1;
                violations.push(format!(
                    "{} byte {} ^ {:#04x}: {violation}",
                    flip.file, flip.at, flip.with
                ));
            }
        }
    }
    println!(
        "| files | bytes changed | right data | clear error | violations |\n|---|---|---|---|---|"
    );
    for (
        kind,
        Counts {
            flips,
            right,
            errors,
            violations,
        },
    ) in &counts
    {
        println!("| {kind} | {flips} | {right} | {errors} | {violations} |");
    }
    for kind in Kind::ALL {
        assert!(
            counts.contains_key(&kind),
            "no file of the store is of the kind {kind}"
        );
    }
    let first: Vec<_> = violations.iter().take(20).collect();
    assert!(
        violations.is_empty(),
        "{} violations: {first:#?}",
        violations.len()
    );
    let errors = counts.values().map(|count| count.errors).sum::<u64>();
    assert!(errors > 0, "no change was detected");
}
