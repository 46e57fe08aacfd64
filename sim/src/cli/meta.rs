//! `meta`: the simulator about itself. The same seeds must give the same traces, in one process and
//! in two.

use std::io;
use std::process::Command;

use cenotaph_sim::{Options, Plan, run};

use super::args::Seeds;
use super::output::{bar, line, text};

/// Whether every trace came out the same each time.
pub(crate) fn meta(seeds: &Seeds) -> io::Result<bool> {
    let progress = bar(seeds.seeds, "seeds");
    let (mut here, mut different) = (String::new(), 0);
    for seed in range(seeds) {
        let first = trace(seed, seeds.ops);
        // On another thread: what is bound to a thread must not matter either.
        let second = std::thread::scope(|scope| scope.spawn(|| trace(seed, seeds.ops)).join());
        if second.ok().as_ref() != Some(&first) {
            different += 1;
            progress.suspend(|| {
                line(format_args!(
                    "seed {seed} is not the same twice in one process"
                ));
            });
        }
        here.push_str(&first);
        progress.inc(1);
    }
    progress.finish_and_clear();
    let there = Command::new(std::env::current_exe()?)
        .args([
            "meta",
            "--print",
            "--seeds",
            &seeds.seeds.to_string(),
            "--from",
            &seeds.from.to_string(),
        ])
        .args(["--ops", &seeds.ops.to_string()])
        .output()?;
    let same = there.status.success() && there.stdout == here.as_bytes();
    if !same {
        different += 1;
        line("another process has seen something else:");
        let (ours, theirs) = (here.lines(), String::from_utf8_lossy(&there.stdout));
        if let Some((ours, theirs)) = ours
            .zip(theirs.lines())
            .find(|(ours, theirs)| ours != theirs)
        {
            line(format_args!("  here:  {ours}\n  there: {theirs}"));
        }
    }
    line(format_args!(
        "{} seeds, {} bytes of traces, {different} differences",
        seeds.seeds,
        here.len()
    ));
    Ok(different == 0)
}

/// Prints the traces of these seeds; what the other process does.
pub(crate) fn print(seeds: &Seeds) -> bool {
    range(seeds).for_each(|seed| text(&trace(seed, seeds.ops)));
    true
}

fn range(seeds: &Seeds) -> std::ops::Range<u64> {
    seeds.from..seeds.from.saturating_add(seeds.seeds)
}

fn trace(seed: u64, operations: usize) -> String {
    let report = run(&Plan::generate(seed, operations), &Options::default());
    format!("seed {seed}\n{}", report.sim.timeline())
}
