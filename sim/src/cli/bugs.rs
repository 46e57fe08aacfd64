//! `bugs`: counts the seeds that find each planted bug.

use cenotaph_sim::{Bug, Options};

use super::args::Seeds;
use super::output::{Watch, bar, line};
use super::pool::run_all;

/// Runs the seeds with each bug and prints a table. Returns `true` if every bug was found.
pub(crate) fn bugs(seeds: &Seeds, only: Option<Bug>) -> bool {
    line("| bug | first seed | seeds that find it | seconds | found first by |");
    line("|---|---|---|---|---|");
    let mut all = true;
    for bug in Bug::ALL
        .into_iter()
        .filter(|&bug| only.is_none_or(|only| bug == only))
    {
        let progress = bar(seeds.seeds, bug.name());
        let watch = Watch::start();
        let options = Options {
            bug: Some(bug),
            is_shared: bug.is_shared(),
            ..Options::default()
        };
        let range = seeds.from..seeds.from.saturating_add(seeds.seeds);
        let total = run_all(range, seeds.ops, &options, seeds.jobs.count(), |_, _| {
            progress.inc(1);
            true
        });
        progress.finish_and_clear();
        // Failures are ordered by seed.
        let found = total
            .failures
            .first()
            .map(|(seed, violations)| (*seed, violations[0].clone()));
        all &= found.is_some();
        let (seed, by) = found.map_or(("never".to_owned(), String::new()), |(seed, violation)| {
            (seed.to_string(), violation.to_string())
        });
        let runs = total.runs;
        let seconds = watch.elapsed().as_secs_f64();
        line(format_args!(
            "| {} | {seed} | {} of {runs} | {seconds:.0} | {by} |",
            bug.name(),
            total.failures.len()
        ));
    }
    all
}
