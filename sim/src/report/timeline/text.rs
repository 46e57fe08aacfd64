//! The timeline as text: a line for each event, in order.
//!
//! ```text
//! time   step   inc.   lane   mark   event   detail
//! ```
//!
//! The column `inc.` is the number of the incarnation. The mark shows the kind of the event
//! ([`mark`]). A detail never breaks its line.

use std::fmt::Write;
use std::time::Duration;

use crate::trace::{EventKind, Trace, TraceEvent};

/// Width of a separator in characters.
const LINE_CHARS: usize = 120;
/// Maximum width of the column of events in characters. A longer event shifts its detail to the
/// right.
const EVENT_CHARS_MAX: usize = 26;
const LEGEND: &str = "=> calls   <= answers   ## durable   ~~ blob tier   !! fault   \
                      XX violation   ** world   .. step\n";

/// Widths of the columns in characters.
struct Columns {
    lane: usize,
    event: usize,
}

/// Renders a trace as text.
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

/// Returns the widths of the columns.
fn columns(trace: &Trace) -> Columns {
    // Widths are in characters, as format strings pad by characters.
    let lane = trace
        .lanes()
        .map(|lane| trace.lane_name(lane).chars().count())
        .max();
    let event = trace
        .events()
        .iter()
        .map(|event| event.what.chars().count())
        .max();
    Columns {
        lane: lane.unwrap_or(0),
        event: event.unwrap_or(0).min(EVENT_CHARS_MAX),
    }
}

/// Writes the names of the columns.
fn head(out: &mut String, columns: &Columns) {
    let lane_width = columns.lane;
    let event_width = columns.event;
    put(
        out,
        format_args!(
            "{:>12} {:>6} {:>4}  {:<lane_width$}     {:<event_width$}  detail",
            "time", "step", "inc.", "lane", "event"
        ),
    );
}

/// Writes the line before an incarnation.
fn separator(out: &mut String, life: u32) {
    put(
        out,
        format_args!("{:─<LINE_CHARS$}", format!("──── incarnation {life} ")),
    );
}

/// Writes an event.
fn line(out: &mut String, trace: &Trace, event: &TraceEvent, columns: &Columns) {
    let lane_width = columns.lane;
    let event_width = columns.event;
    put(
        out,
        format_args!(
            "{:>12} {:>6} {:>4}  {:<lane_width$}  {} {:<event_width$}  {}",
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

/// Writes a line without trailing spaces, which an event without detail has.
fn put(out: &mut String, line: std::fmt::Arguments<'_>) {
    write!(out, "{line}").expect("writing to a string never fails");
    out.truncate(out.trim_end_matches(' ').len());
    out.push('\n');
}

/// Returns the mark of a kind of events: two characters that are easy to scan for.
const fn mark(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Step => "..",
        EventKind::Call => "=>",
        EventKind::Answer => "<=",
        EventKind::Commit => "##",
        EventKind::Effect => "~~",
        EventKind::Fault => "!!",
        EventKind::World => "**",
        EventKind::Violation => "XX",
    }
}

/// Formats virtual time in seconds. Milliseconds are truncated and never rounded up.
fn time(at: Duration) -> String {
    format!("{}.{:03} s", at.as_secs(), at.subsec_millis())
}

/// Escapes characters that would break the line or move the cursor.
fn on_one_line(text: &str) -> String {
    // The line and paragraph separators are not control characters.
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
    use crate::report::timeline::sample;

    #[test]
    fn a_trace_has_a_line_for_each_event() {
        let expected = "\
=> calls   <= answers   ## durable   ~~ blob tier   !! fault   XX violation   ** world   .. step
        time   step inc.  lane          event               detail
──── incarnation 1 ─────────────────────────────────────────────────────────────────────────────────────────────────────
     0.000 s      0    1  world      ** incarnation begins  1
     0.001 s      1    1  shard 1    .. task starts
     1.023 s      2    1  client 0   => calls               put hot/1
     1.023 s      3    1  index      ## durable             hot/1 = version 1
     1.024 s      4    1  client 0   <= receives            Applied
     1.025 s      5    1  shard 1    !! fault: crash        at index sync
     1.025 s      5    1  world      ** incarnation ends    crashed
──── incarnation 2 ─────────────────────────────────────────────────────────────────────────────────────────────────────
     1.025 s      5    2  world      ** incarnation begins  2
     1.025 s      5    2  client 10  ~~ blob deleted        blobs/1
     1.025 s      5    2  client 2   XX I2                  a row names it
";
        assert_eq!(text(&sample::crash()), expected);
    }

    #[test]
    fn equal_traces_make_equal_texts() {
        assert_eq!(text(&sample::crash()), text(&sample::crash()));
    }

    #[test]
    fn a_detail_stays_on_its_line() {
        let mut trace = Trace::new();
        trace.push(Duration::ZERO, 0, EventKind::World, "note", || {
            "a\nb\r\u{1b}[2Jc\u{2028}é".to_owned()
        });
        let text = text(&trace);
        assert!(
            text.ends_with("note  a\\nb\\r\\u{1b}[2Jc\\u{2028}é\n"),
            "{text}"
        );
    }

    #[test]
    fn an_empty_trace_has_legend_and_head_only() {
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
