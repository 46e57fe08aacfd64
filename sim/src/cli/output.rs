//! What is printed, and the watch that measures how long things take.

use std::fmt;
use std::io::Write;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Prints a line. Nobody listening is no failure.
pub(crate) fn line(text: impl fmt::Display) {
    drop(writeln!(std::io::stdout(), "{text}"));
}

/// Prints as it is.
pub(crate) fn text(text: &str) {
    drop(std::io::stdout().write_all(text.as_bytes()));
}

/// A bar on the terminal, if there is one.
pub(crate) fn bar(length: u64, what: &'static str) -> ProgressBar {
    let style = "{spinner} {pos}/{len} {msg} {wide_bar} {per_sec} {eta}";
    let style =
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length)
        .with_style(style)
        .with_message(what)
}

/// A spinner on the terminal, if there is one, for what has no end.
pub(crate) fn spinner() -> ProgressBar {
    let style = "{spinner} {pos} runs {per_sec} {elapsed} {msg}";
    let style =
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_spinner());
    ProgressBar::new_spinner().with_style(style)
}

/// Real time: the simulator measures itself, not its worlds.
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
