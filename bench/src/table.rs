//! The results as Markdown tables.

use std::fmt::Write;

use clap::ValueEnum;

use crate::contenders::Contender;
use crate::gets::{FILE, FILE_BLOCKING};
use crate::options::Workload;
use crate::results::{Cell, Report};
use crate::swaps::{FJALL, IF_VERSION, UPDATE};

const PEERS: [Contender; 4] = [
    Contender::AppendLog,
    Contender::Fjall,
    Contender::Sqlite,
    Contender::Files,
];

/// Returns all tables of a report. Cells without results are empty.
pub(crate) fn render(report: &Report) -> String {
    let mut text = String::new();
    puts(report, &mut text);
    costs(report, &mut text);
    gets(report, &mut text);
    swaps(report, &mut text);
    text
}

fn puts(report: &Report, text: &mut String) {
    line(text, "### Durable puts of new objects");
    line(
        text,
        "MB/s, and in parentheses the ratio to the append log. The last columns are Cenotaph's.\n",
    );
    let names = Contender::value_variants().iter().map(|peer| peer.name());
    let mut head = vec!["payload", "tasks"];
    head.extend(names);
    head.extend([
        "÷ fjall",
        "puts/s",
        "p50",
        "p50 ÷ log",
        "p50 ÷ fjall",
        "p99",
    ]);
    header(text, &head);
    for group in report.groups(Workload::Puts) {
        let cell = |contender: Contender| report.cell(Workload::Puts, group, contender.name());
        let log = cell(Contender::AppendLog);
        let fjall = cell(Contender::Fjall);
        let own = cell(Contender::Cenotaph);
        let mut row = vec![size(group.0), group.1.to_string()];
        row.push(figure(log, |log| format!("{:.0}", log.mb_per_s())));
        for &contender in PEERS[1..].iter().chain(&[Contender::Cenotaph]) {
            row.push(figure(cell(contender), |cell| speed(cell, log)));
        }
        row.push(ratio(own, fjall, |cell, fjall| {
            cell.ratio(fjall, |sample| sample.ops_per_s)
        }));
        row.push(figure(own, |own| {
            thousands(own.median(|sample| sample.ops_per_s))
        }));
        row.push(figure(own, |own| time(own.median(|sample| sample.p50_us))));
        for peer in [log, fjall] {
            row.push(ratio(own, peer, |cell, peer| {
                cell.ratio(peer, |sample| sample.p50_us)
            }));
        }
        row.push(figure(own, |own| time(own.median(|sample| sample.p99_us))));
        push_row(text, &row);
    }
}

/// Processor time and written bytes of puts by the second number of tasks.
fn costs(report: &Report, text: &mut String) {
    line(text, "\n### Costs of a put by 16 tasks");
    line(
        text,
        "Processor time of the process per put, and bytes written to the disk per byte of payload \
         until the store is closed.\n",
    );
    let names = Contender::value_variants().iter().map(|peer| peer.name());
    let mut head = vec!["payload"];
    head.extend(names);
    header(text, &head);
    let groups = report.groups(Workload::Puts).into_iter();
    for group in groups.filter(|(_, tasks)| *tasks == 16) {
        let mut row = vec![size(group.0)];
        for contender in Contender::value_variants() {
            let cell = report.cell(Workload::Puts, group, contender.name());
            row.push(figure(cell, |cell| {
                let cpu = time(cell.median(|sample| sample.cpu_us));
                match cell.median_of_some(|sample| sample.written) {
                    Some(written) => format!("{cpu}, {written:.2}"),
                    None => cpu,
                }
            }));
        }
        push_row(text, &row);
    }
}

fn gets(report: &Report, text: &mut String) {
    line(text, "\n### Warm gets");
    line(
        text,
        "MB/s, and in parentheses the ratio to a read of a file on the task's own thread. The last \
         columns are Cenotaph's. Cenotaph verifies its checksums at each get; a read of a file \
         verifies nothing.\n",
    );
    header(
        text,
        &[
            "payload",
            "tasks",
            FILE,
            FILE_BLOCKING,
            "fjall",
            "Cenotaph",
            "÷ spawn_blocking",
            "p50 ÷ file",
            "gets/s",
            "p50",
            "p99",
        ],
    );
    for group in report.groups(Workload::Gets) {
        let cell = |contender: &str| report.cell(Workload::Gets, group, contender);
        let file = cell(FILE);
        let own = cell("Cenotaph");
        let mut row = vec![size(group.0), group.1.to_string()];
        row.push(figure(file, |file| format!("{:.0}", file.mb_per_s())));
        for contender in [FILE_BLOCKING, "fjall", "Cenotaph"] {
            row.push(figure(cell(contender), |cell| speed(cell, file)));
        }
        row.push(ratio(own, cell(FILE_BLOCKING), |cell, file| {
            cell.ratio(file, |sample| sample.ops_per_s)
        }));
        row.push(ratio(own, file, |cell, file| {
            cell.ratio(file, |sample| sample.p50_us)
        }));
        row.push(figure(own, |own| {
            thousands(own.median(|sample| sample.ops_per_s))
        }));
        row.push(figure(own, |own| time(own.median(|sample| sample.p50_us))));
        row.push(figure(own, |own| time(own.median(|sample| sample.p99_us))));
        push_row(text, &row);
    }
    line(
        text,
        "\nProcessor time of the process per get by 4 tasks:\n",
    );
    let readers = [FILE, FILE_BLOCKING, "fjall", "Cenotaph"];
    let mut head = vec!["payload"];
    head.extend(readers);
    header(text, &head);
    let groups = report.groups(Workload::Gets).into_iter();
    for group in groups.filter(|(_, tasks)| *tasks == 4) {
        let mut row = vec![size(group.0)];
        let cells = readers.map(|reader| report.cell(Workload::Gets, group, reader));
        row.extend(cells.map(|cell| figure(cell, |cell| time(cell.median(|one| one.cpu_us)))));
        push_row(text, &row);
    }
}

fn swaps(report: &Report, text: &mut String) {
    line(text, "\n### Durable swaps of one key by 16 tasks\n");
    header(
        text,
        &[
            "contender",
            "swaps/s",
            "÷ fjall",
            "p50",
            "p99",
            "attempts per swap",
            "CPU per swap",
        ],
    );
    for group in report.groups(Workload::Swaps) {
        let cell = |contender: &str| report.cell(Workload::Swaps, group, contender);
        for contender in [FJALL, IF_VERSION, UPDATE] {
            let Some(swaps) = cell(contender) else {
                continue;
            };
            let attempts = swaps.median_of_some(|sample| sample.attempts);
            push_row(
                text,
                &[
                    contender.to_owned(),
                    thousands(swaps.median(|sample| sample.ops_per_s)),
                    ratio(Some(swaps), cell(FJALL), |cell, fjall| {
                        cell.ratio(fjall, |sample| sample.ops_per_s)
                    }),
                    time(swaps.median(|sample| sample.p50_us)),
                    time(swaps.median(|sample| sample.p99_us)),
                    attempts.map_or(String::new(), |attempts| format!("{attempts:.2}")),
                    time(swaps.median(|sample| sample.cpu_us)),
                ],
            );
        }
    }
}

/// Formats the speed of a cell, and its ratio to that of `base`.
fn speed(cell: &Cell, base: Option<&Cell>) -> String {
    let speed = cell.mb_per_s();
    let ratio = base.map(|base| cell.ratio(base, |sample| sample.ops_per_s));
    ratio.map_or_else(
        || format!("{speed:.0}"),
        |ratio| format!("{speed:.0} ({ratio:.2})"),
    )
}

fn figure(cell: Option<&Cell>, format: impl FnOnce(&Cell) -> String) -> String {
    cell.map(format).unwrap_or_default()
}

fn ratio(
    cell: Option<&Cell>,
    other: Option<&Cell>,
    ratio: impl FnOnce(&Cell, &Cell) -> f64,
) -> String {
    let pair = cell.zip(other);
    pair.map_or(String::new(), |(cell, other)| {
        format!("{:.2}", ratio(cell, other))
    })
}

/// Formats a number of bytes that is a power of two.
pub(crate) fn size(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

fn time(us: f64) -> String {
    if us >= 9_950.0 {
        format!("{:.0} ms", us / 1e3)
    } else if us >= 995.0 {
        format!("{:.1} ms", us / 1e3)
    } else {
        format!("{us:.0} µs")
    }
}

fn thousands(number: f64) -> String {
    let number = number.round() as u64;
    if number < 1000 {
        number.to_string()
    } else {
        format!("{},{:03}", number / 1000, number % 1000)
    }
}

fn header(text: &mut String, names: &[&str]) {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    push_row(text, &names);
    line(text, &format!("|{}", "---|".repeat(names.len())));
}

fn push_row(text: &mut String, cells: &[String]) {
    line(text, &format!("| {} |", cells.join(" | ")));
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a string accepts every write");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_rounded_to_what_was_measured() {
        assert_eq!(time(288.4), "288 µs");
        assert_eq!(time(999.0), "1.0 ms");
        assert_eq!(time(12_345.0), "12 ms");
        assert_eq!(thousands(999.4), "999");
        assert_eq!(thousands(28_292.0), "28,292");
        assert_eq!(size(65_536), "64 KiB");
        assert_eq!(size(1 << 20), "1 MiB");
    }
}
