//! Numbers as people read them: bytes, durations, rates, moments; and tables whose columns line up.

use std::fmt::Write;
use std::time::Duration;

use cenotaph::Timestamp;
use serde_json::Value;

const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];

/// `1.5 MiB`.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(crate) fn bytes(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// `12 ms`, `3.45 s`, `2 min 5 s`.
pub(crate) fn duration(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{} ms", duration.as_millis()),
        1..=119 => format!("{:.2} s", duration.as_secs_f64()),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

/// `312.0 MiB/s`; nothing where there is nothing to divide.
pub(crate) fn byte_rate(count: u64, within: Duration) -> String {
    per_second(count, within).map_or_else(String::new, |rate| format!("{}/s", bytes(rate)))
}

/// `5,120 files/s`.
pub(crate) fn rate(count: u64, what: &str, within: Duration) -> String {
    per_second(count, within).map_or_else(String::new, |rate| format!("{} {what}/s", grouped(rate)))
}

fn per_second(count: u64, within: Duration) -> Option<u64> {
    let micros = within.as_micros();
    if count == 0 || micros == 0 {
        return None;
    }
    u64::try_from(u128::from(count) * 1_000_000 / micros).ok()
}

/// `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 file`, `2 files`.
pub(crate) fn counted(number: u64, what: &str) -> String {
    format!(
        "{} {what}{}",
        grouped(number),
        if number == 1 { "" } else { "s" }
    )
}

/// `2026-11-21T07:01:25Z`.
pub(crate) fn moment(moment: Timestamp) -> String {
    let seconds = moment.as_millis() / 1000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years of 365.2425 days that begin in March:
    // http://howardhinnant.github.io/date_algorithms.html
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// A key on one line: control characters are escaped.
pub(crate) fn key(key: &str) -> String {
    let mut text = String::with_capacity(key.len());
    for c in key.chars() {
        if c.is_control() {
            text.extend(c.escape_default());
        } else {
            text.push(c);
        }
    }
    text
}

/// Text of several lines: all control characters but line ends are escaped.
pub(crate) fn lines(text: &str) -> String {
    text.split('\n').map(key).collect::<Vec<_>>().join("\n")
}

/// JSON on one line, and its end. Those control characters are escaped too that JSON lets pass, DEL
/// and 80 to 9f.
pub(crate) fn json_line(value: &Value) -> String {
    let mut line = String::new();
    for c in value.to_string().chars() {
        let _ = if c.is_control() {
            write!(line, "\\u{:04x}", u32::from(c))
        } else {
            write!(line, "{c}")
        };
    }
    line + "\n"
}

/// Which side of its column a cell stands on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// The rows, each column as wide as its widest cell, and no cell with a control character.
pub(crate) fn table<const N: usize>(align: [Align; N], rows: &[[String; N]]) -> String {
    let rows: Vec<[String; N]> = rows
        .iter()
        .map(|row| row.each_ref().map(|cell| key(cell)))
        .collect();
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let gap = if column == 0 { "" } else { "  " };
            let _ = match align[column] {
                Align::Left => write!(line, "{gap}{cell:<width$}", width = widths[column]),
                Align::Right => write!(line, "{gap}{cell:>width$}", width = widths[column]),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(
            [bytes(0), bytes(1023), bytes(1024), bytes(1 << 30)],
            ["0 B", "1023 B", "1.0 KiB", "1.0 GiB"]
        );
        assert_eq!(
            [grouped(0), grouped(999), grouped(1000), grouped(1_234_567)],
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(rate(10, "files", Duration::from_millis(100)), "100 files/s");
        assert_eq!(byte_rate(0, Duration::from_secs(1)), "");
    }

    #[test]
    fn moments_are_calendar_dates() {
        assert_eq!(moment(Timestamp::from_millis(0)), "1970-01-01T00:00:00Z");
        assert_eq!(
            moment(Timestamp::from_millis(951_827_696_000)),
            "2000-02-29T12:34:56Z"
        );
        assert_eq!(
            moment(Timestamp::from_millis(1_735_689_599_999)),
            "2024-12-31T23:59:59Z"
        );
    }

    #[test]
    fn no_control_character_is_left_and_no_other_is_changed() {
        let name = "a\u{1b}[2J\r\n\t\u{7f}\u{9b}ü🗿\\";
        assert_eq!(key(name), r"a\u{1b}[2J\r\n\t\u{7f}\u{9b}ü🗿\");
        assert_eq!(key(&key(name)), key(name));
        assert_eq!(lines("a\nb\r\n"), "a\nb\\r\n");
        let line = json_line(&serde_json::json!({ "key": name }));
        assert!(!line.trim_end().contains(char::is_control), "{line:?}");
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["key"], name);
        assert!(
            !table([Align::Left], &[[name.to_owned()]])
                .trim_end()
                .contains(char::is_control)
        );
    }

    #[test]
    fn columns_line_up() {
        let rows = [
            ["step".to_owned(), "time".to_owned()],
            ["open".to_owned(), "1 ms".to_owned()],
            ["x".to_owned(), "100 ms".to_owned()],
        ];
        assert_eq!(
            table([Align::Left, Align::Right], &rows),
            "step    time\nopen    1 ms\nx     100 ms\n"
        );
    }
}
