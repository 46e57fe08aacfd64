//! Writes the results into the documents of the repository.

use std::fs;
use std::path::Path;

use clap::ValueEnum;

use crate::contenders::Contender;
use crate::gets::{FILE, FILE_BLOCKING};
use crate::options::Workload;
use crate::plot::Chart;
use crate::results::{Cell, Report};
use crate::swaps::{FJALL, IF_VERSION, UPDATE};
use crate::table;

const BEGIN: &str = "<!-- tables of bench: begin -->\n";
const END: &str = "<!-- tables of bench: end -->\n";

/// Replaces the tables in docs/benchmarks.md, and writes the plots and the JSON into docs/plots.
pub(crate) fn write(repository: &Path, report: &Report) {
    let page = repository.join("docs/benchmarks.md");
    let text = fs::read_to_string(&page).expect("the repository has a page of benchmarks");
    let text = replaced(&text, &table::render(report));
    fs::write(&page, text).expect("the page is writable");

    let plots = repository.join("docs/plots");
    fs::create_dir_all(&plots).expect("the repository is writable");
    for (name, chart) in charts(report) {
        let path = plots.join(format!("{name}.svg"));
        fs::write(path, chart.render()).expect("the repository is writable");
    }
    report.save(&plots.join("payload-sizes.json"));
}

/// Replaces the text between the two marks.
fn replaced(text: &str, tables: &str) -> String {
    let marks = "the page has both marks";
    let (before, rest) = text.split_once(BEGIN).expect(marks);
    let (_, after) = rest.split_once(END).expect(marks);
    format!("{before}{BEGIN}{tables}{END}{after}")
}

fn charts(report: &Report) -> Vec<(String, Chart)> {
    let contenders = Contender::value_variants().iter();
    let stores: Vec<_> = contenders.map(|contender| contender.name()).collect();
    let readers = [FILE, FILE_BLOCKING, "fjall", "Cenotaph"];
    let mut charts = by_tasks(report, Workload::Puts, "Durable puts", &stores);
    charts.extend(by_tasks(report, Workload::Gets, "Warm gets", &readers));
    let swaps = [FJALL, IF_VERSION, UPDATE];
    for group in report.groups(Workload::Swaps) {
        let speed = |cell: &Cell| cell.median(|sample| sample.ops_per_s);
        let values = swaps.map(|name| report.cell(Workload::Swaps, group, name).map(speed));
        let chart = Chart {
            title: format!("Durable swaps of one key by {} tasks, swaps/s", group.1),
            series: swaps.map(str::to_owned).to_vec(),
            groups: vec![(String::new(), values.to_vec())],
        };
        charts.push(("swaps".to_owned(), chart));
    }
    charts
}

/// Returns a chart of each number of tasks, with a group of each size.
fn by_tasks(
    report: &Report,
    workload: Workload,
    title: &str,
    series: &[&str],
) -> Vec<(String, Chart)> {
    let groups = report.groups(workload);
    let mut all_tasks: Vec<_> = groups.iter().map(|(_, tasks)| *tasks).collect();
    all_tasks.sort_unstable();
    all_tasks.dedup();
    let chart = |tasks: usize| {
        let sizes = groups.iter().filter(|group| group.1 == tasks);
        let values = |group: &(usize, usize)| {
            let speed = |name: &&str| report.cell(workload, *group, name).map(Cell::mb_per_s);
            (table::size(group.0), series.iter().map(speed).collect())
        };
        let plural = if tasks == 1 { "task" } else { "tasks" };
        let chart = Chart {
            title: format!("{title} by {tasks} {plural}, MB/s"),
            series: series.iter().map(|&name| name.to_owned()).collect(),
            groups: sizes.map(values).collect(),
        };
        let name = title.split(' ').next_back().unwrap_or(title);
        (format!("{name}-{tasks}"), chart)
    };
    all_tasks.into_iter().map(chart).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_tables_of_a_page_are_replaced() {
        let page = format!("# Page\n{BEGIN}old\n{END}rest\n");
        let expected = format!("# Page\n{BEGIN}new\n{END}rest\n");
        assert_eq!(replaced(&page, "new\n"), expected);
    }
}
