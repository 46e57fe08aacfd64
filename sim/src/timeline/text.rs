//! A trace on a terminal: one line for each event, in the order in which they happened.
//!
//! ```text
//! time   step   life   who   mark   what   more
//! ```
//!
//! The mark is what the eye scans for: [`mark`]. Whatever a detail holds, it stays on its line.

use std::fmt::Write;
use std::time::Duration;

use crate::trace::{Event, Kind, Trace};

/// A separator reaches this far, in characters.
const LINE_CHARS: usize = 120;
/// A longer `what` pushes its detail to the right.
const WHAT_CHARS_MAX: usize = 26;
const LEGEND: &str = "=> calls   <= answers   ## durable   ~~ blob tier   !! fault   XX violation   ** world   .. step\n";

/// How wide the columns are, in characters.
struct Columns {
    who: usize,
    what: usize,
}

/// All that happened, for a person to read.
pub(crate) fn text(trace: &Trace) -> String {
    let columns = columns(trace);
    let mut out = LEGEND.to_owned();
    head(&mut out, &columns);
    let mut life = 0;
    for event in trace.events() {
        if event.life != life {
            life = event.life;
            separator(&mut out, life);
        }
        line(&mut out, trace, event, &columns);
    }
    out
}

fn columns(trace: &Trace) -> Columns {
    let who = trace
        .lanes()
        .map(|lane| trace.lane_name(lane).chars().count())
        .max();
    let what = trace
        .events()
        .iter()
        .map(|event| event.what.chars().count())
        .max();
    Columns {
        who: who.unwrap_or(0),
        what: what.unwrap_or(0).min(WHAT_CHARS_MAX),
    }
}

fn head(out: &mut String, columns: &Columns) {
    let (who, what) = (columns.who, columns.what);
    put(
        out,
        format_args!(
            "{:>12} {:>6} {:>4}  {:<who$}     {:<what$}  more",
            "time", "step", "life", "who", "what"
        ),
    );
}

fn separator(out: &mut String, life: u32) {
    put(
        out,
        format_args!("{:─<LINE_CHARS$}", format!("──── life {life} ")),
    );
}

fn line(out: &mut String, trace: &Trace, event: &Event, columns: &Columns) {
    let (who, what) = (columns.who, columns.what);
    put(
        out,
        format_args!(
            "{:>12} {:>6} {:>4}  {:<who$}  {} {:<what$}  {}",
            time(event.at),
            event.step,
            event.life,
            on_one_line(trace.lane_name(event.lane)),
            mark(event.kind),
            event.what,
            on_one_line(&event.detail),
        ),
    );
}

/// Adds a line, without the spaces that an empty detail leaves at its end.
fn put(out: &mut String, line: std::fmt::Arguments<'_>) {
    write!(out, "{line}").expect("a string takes whatever is written");
    out.truncate(out.trim_end_matches(' ').len());
    out.push('\n');
}

/// Two characters, so that the eye finds what it looks for.
const fn mark(kind: Kind) -> &'static str {
    match kind {
        Kind::Step => "..",
        Kind::Call => "=>",
        Kind::Answer => "<=",
        Kind::Commit => "##",
        Kind::Effect => "~~",
        Kind::Fault => "!!",
        Kind::World => "**",
        Kind::Violation => "XX",
    }
}

/// Virtual time, in seconds. By integers: nothing is rounded.
fn time(at: Duration) -> String {
    format!("{}.{:03} s", at.as_secs(), at.subsec_millis())
}

/// Whatever would break the line, or move the cursor, is spelled out.
fn on_one_line(text: &str) -> String {
    let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if breaks(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::sample;

    #[test]
    fn a_trace_reads_line_by_line() {
        let expected = "\
=> calls   <= answers   ## durable   ~~ blob tier   !! fault   XX violation   ** world   .. step
        time   step life  who           what           more
──── life 1 ────────────────────────────────────────────────────────────────────────────────────────────────────────────
     0.000 s      0    1  world      ** a life begins  1
     0.001 s      1    1  shard 1    .. task begins
     1.023 s      2    1  client 0   => asks           put hot/1
     1.023 s      3    1  index      ## durable        hot/1 = version 1
     1.024 s      4    1  client 0   <= hears          Applied
     1.025 s      5    1  shard 1    !! fault: crash   at index sync
     1.025 s      5    1  world      ** the life ends  it crashed
──── life 2 ────────────────────────────────────────────────────────────────────────────────────────────────────────────
     1.025 s      5    2  world      ** a life begins  2
     1.025 s      5    2  client 10  ~~ blob deleted   blobs/1
     1.025 s      5    2  client 2   XX I2             a row names it
";
        assert_eq!(text(&sample::crash()), expected);
    }

    #[test]
    fn a_trace_reads_the_same_each_time() {
        assert_eq!(text(&sample::crash()), text(&sample::crash()));
    }

    #[test]
    fn a_detail_stays_on_its_line() {
        let mut trace = Trace::new();
        trace.push(
            Duration::ZERO,
            0,
            Kind::World,
            "note",
            "a\nb\r\u{1b}[2Jc\u{2028}é".to_owned(),
        );
        let text = text(&trace);
        assert!(
            text.ends_with("note  a\\nb\\r\\u{1b}[2Jc\\u{2028}é\n"),
            "{text}"
        );
    }

    #[test]
    fn nothing_reads_as_nothing() {
        assert_eq!(
            text(&Trace::new()).lines().count(),
            2,
            "the legend and the head"
        );
    }

    #[test]
    fn time_is_not_rounded() {
        assert_eq!(time(Duration::from_micros(3_599_999_999)), "3599.999 s");
    }
}
