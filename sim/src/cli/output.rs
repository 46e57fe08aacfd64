//! Output to the terminal, and a clock for measurements in real time.

use std::fmt;
use std::io::Write;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Prints a line. Errors are ignored: a closed pipe must not fail the command.
pub(crate) fn line(text: impl fmt::Display) {
    drop(writeln!(std::io::stdout(), "{text}"));
}

/// Prints text without a line break. Errors are ignored.
pub(crate) fn text(text: &str) {
    drop(std::io::stdout().write_all(text.as_bytes()));
}

/// Creates a progress bar. It is drawn only on a terminal.
pub(crate) fn bar(length: u64, label: &'static str) -> ProgressBar {
    let style = "{spinner} {pos}/{len} {msg} {wide_bar} {per_sec} {eta}";
    let style =
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length)
        .with_style(style)
        .with_message(label)
}

/// Creates a spinner for work without a known end. It is drawn only on a terminal.
pub(crate) fn spinner() -> ProgressBar {
    let style = "{spinner} {pos} runs {per_sec} {elapsed} {msg}";
    let style =
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_spinner());
    ProgressBar::new_spinner().with_style(style)
}

/// Stopwatch in real time, for the rates of the simulator itself.
#[derive(Clone, Copy)]
pub(crate) struct Watch(Instant);

#[expect(
    clippy::disallowed_methods,
    reason = "the simulator measures itself, not its worlds"
)]
impl Watch {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}
