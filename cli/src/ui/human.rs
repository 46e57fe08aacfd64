//! Formatting of output for people: bytes, durations, rates, dates, keys and tables.

use std::fmt::Write;
use std::time::Duration;

use cenotaph::Timestamp;
use serde_json::Value;

const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];

/// Formats a number of bytes: `1.5 MiB`.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(crate) fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    // 1023.95 and above would be rounded to `1024.0`.
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

/// Formats a duration: `12 ms`, `3.45 s`, `2 min 5 s`.
pub(crate) fn duration(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{} ms", duration.as_millis()),
        1..=119 => format!("{:.2} s", duration.as_secs_f64()),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

/// Formats a rate of bytes: `312.0 MiB/s`. Empty if the count or the time is 0.
pub(crate) fn byte_rate(count: u64, within: Duration) -> String {
    per_second(count, within).map_or_else(String::new, |rate| format!("{}/s", bytes(rate)))
}

/// Formats a rate of items: `5,120 files/s`. Empty if the count or the time is 0.
pub(crate) fn rate(count: u64, noun: &str, within: Duration) -> String {
    per_second(count, within).map_or_else(String::new, |rate| format!("{} {noun}/s", grouped(rate)))
}

fn per_second(count: u64, within: Duration) -> Option<u64> {
    let micros = within.as_micros();
    if count == 0 || micros == 0 {
        return None;
    }
    u64::try_from(u128::from(count) * 1_000_000 / micros).ok()
}

/// Formats a number with groups of three digits: `1,234,567`.
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

/// Formats a count with its noun: `1 file`, `2 files`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    format!(
        "{} {noun}{}",
        grouped(number),
        if number == 1 { "" } else { "s" }
    )
}

/// Formats a timestamp in UTC: `2026-11-21T07:01:25Z`.
pub(crate) fn moment(moment: Timestamp) -> String {
    let seconds = moment.as_millis() / 1000;
    let days = seconds / 86_400;
    let second = seconds % 86_400;
    // The algorithm `civil_from_days` of http://howardhinnant.github.io/date_algorithms.html. Its
    // years begin in March, so that the leap day is the last day of a year. 719,468 days lie
    // between 0000-03-01 and 1970-01-01; an era has 400 years, which are 146,097 days.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
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
    let hour = second / 3600;
    let minute = second / 60 % 60;
    let second = second % 60;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Escapes the control characters of a key or a line. The result is a single line.
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

/// Escapes the control characters of a text except its line ends.
pub(crate) fn lines(text: &str) -> String {
    text.split('\n').map(key).collect::<Vec<_>>().join("\n")
}

/// Formats a value as a line of JSON, with its line end and without control characters.
pub(crate) fn json_line(value: &Value) -> String {
    let mut line = String::new();
    for c in value.to_string().chars() {
        // JSON permits DEL and U+0080 to U+009F in strings; terminals interpret some of them.
        let _ = if c.is_control() {
            write!(line, "\\u{:04x}", u32::from(c))
        } else {
            write!(line, "{c}")
        };
    }
    line + "\n"
}

/// Alignment of a column.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Left-aligned, for text.
    Left,
    /// Right-aligned, for numbers.
    Right,
}

/// Formats rows as a table. Each column is as wide as its widest cell; control characters of cells
/// are escaped.
pub(crate) fn table<const N: usize>(align: [Align; N], rows: &[[String; N]]) -> String {
    // Escaped before the widths are computed: an escape is longer than its character.
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
        // The padding of the last column is no output.
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_units_and_groups() {
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
    fn timestamps_are_calendar_dates() {
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
    fn only_control_characters_are_escaped() {
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
    fn table_columns_are_aligned() {
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
