//! The timeline as an HTML page: a self-contained file with a lane for each actor, client and task.
//!
//! ```text
//! page.html   frame with placeholders for the other files and the trace
//! page.css    style
//! model.js    state: events, filters, search
//! view.js     drawing of the visible rows
//! keys.js     events of keyboard and mouse
//! ```
//!
//! A trace contains arbitrary text: object keys, errors, notes. The text is never markup: the
//! scripts set it as text, and [`quote`] escapes it so that it cannot end its element.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::faults::Fault;
use crate::trace::{Lane, Trace, TraceEvent};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPTS: &str = concat!(
    include_str!("model.js"),
    include_str!("view.js"),
    include_str!("keys.js")
);

/// Renders a trace as a page with this title.
pub(crate) fn html(title: &str, trace: &Trace) -> String {
    fill(&[
        ("{{title}}", &escaped(title)),
        ("{{style}}", STYLE),
        ("{{trace}}", &json(trace)),
        ("{{scripts}}", SCRIPTS),
    ])
}

/// Replaces each placeholder of the page by its text, in order. Inserted text is not searched
/// again, because it may contain a placeholder.
fn fill(texts: &[(&str, &str)]) -> String {
    let mut out =
        String::with_capacity(texts.iter().map(|(_, text)| text.len()).sum::<usize>() + PAGE.len());
    let mut rest = PAGE;
    for (place, text) in texts {
        let (before, after) = rest
            .split_once(place)
            .expect("the page has all placeholders in this order");
        out.push_str(before);
        out.push_str(text);
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Returns the data of the page. An event is `[microseconds, step, incarnation, lane, kind, event,
/// detail]`.
fn json(trace: &Trace) -> String {
    let lanes = columns(trace);
    let numbers: BTreeMap<Lane, usize> = lanes
        .iter()
        .enumerate()
        .map(|(number, &lane)| (lane, number))
        .collect();
    let mut out = String::from("{\"crash\":");
    quote(&mut out, Fault::Crash.name());
    out.push_str(",\"lanes\":[");
    list(&mut out, &lanes, |out, &lane| {
        quote(out, trace.lane_name(lane));
    });
    out.push_str("],\"events\":[\n");
    list(&mut out, trace.events(), |out, event| {
        row(out, event, numbers[&event.lane]);
    });
    out.push_str("]}");
    out
}

/// Writes the items with commas between them.
fn list<T>(out: &mut String, items: &[T], mut write: impl FnMut(&mut String, &T)) {
    for (number, item) in items.iter().enumerate() {
        if number > 0 {
            out.push(',');
        }
        write(out, item);
    }
}

/// Writes an event.
fn row(out: &mut String, event: &TraceEvent, lane: usize) {
    let TraceEvent {
        at,
        step,
        life,
        kind,
        what,
        detail,
        ..
    } = event;
    write!(out, "[{},{step},{life},{lane},", at.as_micros())
        .expect("writing to a string never fails");
    for text in [kind.name(), what] {
        quote(out, text);
        out.push(',');
    }
    quote(out, detail);
    out.push_str("]\n");
}

/// Returns the lanes from left to right: families in the order of their first event, and `shard 2`
/// before `shard 10`.
fn columns(trace: &Trace) -> Vec<Lane> {
    let mut families = BTreeMap::new();
    let mut lanes: Vec<_> = trace
        .lanes()
        .map(|lane| {
            let (family, number) = family(trace.lane_name(lane));
            // Families are numbered by their first lane.
            let next = families.len();
            (*families.entry(family).or_insert(next), number, lane)
        })
        .collect();
    // Sorts by family, then by number.
    lanes.sort();
    lanes.into_iter().map(|(_, _, lane)| lane).collect()
}

/// Splits the name of a lane: `shard 10` is number 10 of the family `shard`.
fn family(name: &str) -> (&str, Option<u64>) {
    match name
        .rsplit_once(' ')
        .map(|(family, number)| (family, number.parse()))
    {
        Some((family, Ok(number))) => (family, Some(number)),
        Some((_, Err(_))) | None => (name, None),
    }
}

/// Writes a JSON string that is safe within a script element. It contains neither `<` nor a line
/// separator, which old browsers do not accept in a string.
fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\u{feff}' => spell(out, c),
            // Also those that JSON allows, such as DEL.
            c if c.is_control() => spell(out, c),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Writes a character as an escape such as `\u003c`. All characters that need it have at most four
/// digits.
fn spell(out: &mut String, c: char) {
    write!(out, "\\u{:04x}", u32::from(c)).expect("writing to a string never fails");
}

/// Escapes text for the inside of an element.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::report::timeline::sample;
    use crate::trace::EventKind;

    const HOSTILE: &str = "</script><script>alert(1)</script><!-- \"'&amp; \\u2028 \
                           \u{2028}\u{2029}\u{0}\u{7f}\n {{trace}} 💣";

    fn hostile() -> Trace {
        let mut trace = sample::lanes(&["<b>lane</b>"]);
        trace.push(Duration::ZERO, 0, EventKind::World, "note", || {
            HOSTILE.to_owned()
        });
        trace
    }

    fn quoted(text: &str) -> String {
        let mut out = String::new();
        quote(&mut out, text);
        out
    }

    #[test]
    fn hostile_text_stays_text() {
        let page = html(HOSTILE, &hostile());
        assert_eq!(
            page.matches("<script").count(),
            PAGE.matches("<script").count(),
            "no element is opened"
        );
        assert_eq!(
            page.matches("</script").count(),
            PAGE.matches("</script").count(),
            "no element is closed"
        );
        assert_eq!(page.matches("<!--").count(), PAGE.matches("<!--").count());
        assert!(
            !page.contains("<b>")
                && !json(&hostile()).contains(['<', '\u{2028}', '\u{2029}', '\u{0}', '\u{7f}'])
        );
        assert!(page.contains("<title>&lt;/script&gt;&lt;script&gt;alert(1)"));
        assert!(
            page.contains("{{trace}} 💣</title>"),
            "inserted text is not searched for placeholders"
        );
    }

    #[test]
    fn strings_are_json() {
        assert_eq!(quoted("a\"b\\c/d"), r#""a\"b\\c/d""#);
        assert_eq!(
            quoted("\n\t\u{0}\u{1f}\u{7f}\u{9f}"),
            r#""\u000a\u0009\u0000\u001f\u007f\u009f""#
        );
        assert_eq!(
            quoted("</script>&\u{2028}\u{2029}\u{feff}"),
            r#""\u003c/script\u003e\u0026\u2028\u2029\ufeff""#
        );
        assert_eq!(quoted("grüße 💣"), "\"grüße 💣\"");
    }

    #[test]
    fn every_lane_has_its_column() {
        let trace = sample::lanes(&["shard 10", "client 1", "index", "shard 2", "client 0"]);
        assert!(
            json(&trace).contains(
                r#""lanes":["world","shard 2","shard 10","client 0","client 1","index"]"#
            )
        );
        let page = html("a title", &trace);
        for lane in trace.lanes() {
            assert!(page.contains(&quoted(trace.lane_name(lane))));
        }
    }

    #[test]
    fn an_event_has_the_number_of_its_lane() {
        let json = json(&sample::crash());
        assert!(
            json.starts_with("{\"crash\":\"fault: crash\",\"lanes\":[\"world\",\"shard 1\","),
            "{json}"
        );
        assert!(
            json.contains("[1025000,5,1,1,\"FAULT\",\"fault: crash\",\"at index sync\"]\n"),
            "{json}"
        );
    }

    #[test]
    fn equal_traces_make_equal_pages() {
        assert_eq!(
            html("a title", &sample::crash()),
            html("a title", &sample::crash())
        );
    }

    #[test]
    fn the_page_loads_nothing() {
        let page = html("a title", &sample::crash());
        assert!(
            page.contains("default-src 'none'"),
            "the policy of the page forbids loading"
        );
        for outside in ["http:", "https:", "src=\"", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
