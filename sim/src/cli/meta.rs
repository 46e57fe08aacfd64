//! `meta`: checks that the simulator is deterministic. Equal seeds must give equal traces, within a
//! process and across two processes.

use std::io;
use std::process::Command;

use cenotaph_sim::{Options, run};

use super::args::{How, Seeds};
use super::output::{bar, line, text};

/// Runs every seed three times and compares the traces. Returns `true` if all are equal.
///
/// # Errors
/// Any error of starting the other process.
pub(crate) fn meta(seeds: &Seeds, how: How) -> io::Result<bool> {
    let options = how.options();
    let progress = bar(seeds.seeds, "seeds");
    let mut here = String::new();
    let mut different = 0;
    for seed in range(seeds) {
        let first = trace(seed, seeds.ops, &options);
        // The second run is on another thread, because state of a thread must have no influence.
        let second =
            std::thread::scope(|scope| scope.spawn(|| trace(seed, seeds.ops, &options)).join());
        if second.ok().as_ref() != Some(&first) {
            different += 1;
            progress.suspend(|| {
                line(format_args!("two runs in this process differ: seed={seed}"));
            });
        }
        here.push_str(&first);
        progress.inc(1);
    }
    progress.finish_and_clear();
    // Another process has other addresses and other hash seeds.
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
        .args(how.flags().split_whitespace())
        .output()?;
    let same = there.status.success() && there.stdout == here.as_bytes();
    if !same {
        different += 1;
        line("the traces of another process differ, first at:");
        let theirs = String::from_utf8_lossy(&there.stdout);
        if let Some((ours, theirs)) = here
            .lines()
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

/// Prints the traces of these seeds, for comparison by the process that started this process.
pub(crate) fn print(seeds: &Seeds, how: How) -> bool {
    let options = how.options();
    range(seeds).for_each(|seed| text(&trace(seed, seeds.ops, &options)));
    true
}

fn range(seeds: &Seeds) -> std::ops::Range<u64> {
    seeds.from..seeds.from.saturating_add(seeds.seeds)
}

fn trace(seed: u64, operations: usize, options: &Options) -> String {
    let report = run(&options.plan(seed, operations), options);
    format!("seed {seed}\n{}", report.sim.timeline())
}
