//! Output of the tool: results on standard output, progress bars and messages on standard error.
//!
//! Invariants, which hold because all output passes through [`Report`]: progress bars and lines
//! never mix, a closed pipe is an error and not a panic, `--json` prints nothing but JSON, and no
//! control character of a name reaches the terminal.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cenotaph::Env;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::ui::failure::Failure;
use crate::ui::human;
use crate::ui::standard::{Interrupt, Stdout};

/// Writer of results, messages and progress bars.
pub(crate) struct Report {
    json: bool,
    stdout: Stdout,
    bars: MultiProgress,
    is_visible: bool,
    advice: Mutex<Option<String>>,
}

impl Report {
    /// Creates the report. `json` prints results as JSON lines; `quiet` hides progress bars.
    ///
    /// # Errors
    /// [`Failure::Failed`] if standard output can't be used.
    pub(crate) fn new(env: &Env, json: bool, quiet: bool) -> Result<Self, Failure> {
        let is_visible = !quiet && io::stderr().is_terminal();
        let target = if is_visible {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bars = MultiProgress::with_draw_target(target);
        Ok(Self {
            json,
            stdout: Stdout::start(env)?,
            bars,
            is_visible,
            advice: Mutex::default(),
        })
    }

    /// Returns the handle that ends writes to standard output.
    pub(crate) fn interrupt(&self) -> Interrupt {
        self.stdout.interrupt()
    }

    /// Returns whether results are printed as JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Returns whether progress bars are visible. Totals are counted only in this case.
    pub(crate) fn shows_progress(&self) -> bool {
        self.is_visible
    }

    /// Prints a result for scripts: a line of JSON, flushed.
    pub(crate) fn json(&self, value: &Value) -> Result<(), Failure> {
        self.text(&human::json_line(value))
    }

    /// Prints a result for people, of any number of lines.
    pub(crate) fn text(&self, text: &str) -> Result<(), Failure> {
        self.bars.suspend(|| self.bytes(human::lines(text).into()))
    }

    /// Prints a result as JSON or as text. `text` is a single line without its line end.
    pub(crate) fn result(
        &self,
        value: impl FnOnce() -> Value,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        if self.json {
            self.json(&value())
        } else {
            self.text(&(human::key(&text()) + "\n"))
        }
    }

    /// Prints bytes of an object, unchanged.
    pub(crate) fn bytes(&self, bytes: Bytes) -> Result<(), Failure> {
        self.stdout.write(bytes)
    }

    /// Prints a message of one line on standard error.
    pub(crate) fn note(&self, message: &str) {
        self.bars.suspend(|| {
            // A closed standard error must not stop the command.
            let _ = writeln!(io::stderr().lock(), "cenotaph: {}", human::key(message));
        });
    }

    /// Sets the advice that follows the error message if the command fails; `None` removes it.
    pub(crate) fn advise(&self, advice: Option<String>) {
        *self.advice.lock().unwrap_or_else(PoisonError::into_inner) = advice;
    }

    /// Creates a progress bar over this number of bytes, or a spinner if the total is unknown.
    pub(crate) fn bar(&self, label: &'static str, total_bytes: Option<u64>) -> Bar {
        let bar = total_bytes.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        // All bars share a draw target. A hidden target keeps invisible bars from drawing.
        let bar = self.bars.add(bar);
        if self.is_visible {
            bar.set_style(style(total_bytes.is_some()));
            bar.set_prefix(label);
            // The rate and the spinner also move while no bytes arrive.
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Bar {
            bar,
            items: Arc::default(),
            items_total: None,
            noun: "files",
        }
    }

    /// Prints the error and the advice of a failed command, and returns the exit code.
    pub(crate) fn end(&self, result: Result<(), Failure>) -> ExitCode {
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                let advice = self
                    .advice
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take();
                match (&failure, advice) {
                    // Interrupted commands without advice of their own can be repeated as they are.
                    (Failure::Interrupted, None) => {
                        self.note(&format!("{failure}; run it again to resume"));
                    }
                    (_, Some(advice)) => self.note(&format!("{failure}; {advice}")),
                    (_, None) => self.note(&failure.to_string()),
                }
                ExitCode::from(failure.code())
            }
        }
    }
}

/// Prints the error of a start that failed before a [`Report`] existed, and returns the exit code.
pub(crate) fn end_without_report(failure: &Failure) -> ExitCode {
    let _ = writeln!(
        io::stderr().lock(),
        "cenotaph: {}",
        human::key(&failure.to_string())
    );
    ExitCode::from(failure.code())
}

/// Returns the style of a bar with or without a known total.
fn style(is_bounded: bool) -> ProgressStyle {
    let template = if is_bounded {
        "{prefix:>9} [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec} {msg} eta {eta}"
    } else {
        "{prefix:>9} {spinner} {bytes} {binary_bytes_per_sec} {msg}"
    };
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

/// Progress bar of a long operation. Cheap to clone; removed by [`end`](Self::end) or by the drop
/// of the last clone.
#[derive(Clone)]
pub(crate) struct Bar {
    bar: ProgressBar,
    items: Arc<AtomicU64>,
    items_total: Option<u64>,
    noun: &'static str,
}

impl Bar {
    /// Counts files, too; `total` is their number if known.
    pub(crate) fn of_files(mut self, total: Option<u64>) -> Self {
        self.items_total = total;
        self
    }

    /// Counts parts, too.
    pub(crate) fn of_parts(mut self, total: u64) -> Self {
        self.noun = "parts";
        self.items_total = Some(total);
        self
    }

    /// Adds processed bytes.
    pub(crate) fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// Subtracts the bytes of a failed attempt.
    pub(crate) fn take_back(&self, bytes: u64) {
        self.bar.dec(bytes);
    }

    /// Starts with the bytes and items of an earlier run.
    pub(crate) fn begin_with(&self, bytes: u64, items: u64) {
        self.bar.set_position(bytes);
        // The earlier bytes took no time in this run: they must not count for the speed.
        self.bar.reset_eta();
        self.items.store(items, Ordering::Relaxed);
    }

    /// Adds a file or a part.
    pub(crate) fn item_done(&self) {
        let done = self.items.fetch_add(1, Ordering::Relaxed) + 1;
        if !self.bar.is_hidden() {
            self.bar.set_message(match self.items_total {
                Some(total) => format!("{done}/{total} {}", self.noun),
                None => format!("{done} {}", self.noun),
            });
        }
    }

    /// Sets the number of processed bytes and objects. `total_bytes` is `None` if unknown.
    pub(crate) fn at(
        &self,
        bytes: u64,
        total_bytes: Option<u64>,
        objects: u64,
        objects_total: u64,
    ) {
        if self.bar.is_hidden() {
            return;
        }
        if total_bytes != self.bar.length() {
            self.bar.set_style(style(total_bytes.is_some()));
            total_bytes.inspect(|&total| self.bar.set_length(total));
        }
        self.bar.set_position(bytes);
        self.bar
            .set_message(format!("{objects}/{objects_total} objects"));
    }

    /// Sets the message next to the bar.
    pub(crate) fn set_message(&self, message: String) {
        self.bar.set_message(message);
    }

    /// Removes the bar.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        // `items` is shared by all clones, so a count of 1 means that this is the last clone.
        if Arc::strong_count(&self.items) == 1 {
            self.bar.finish_and_clear();
        }
    }
}
