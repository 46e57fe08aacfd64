//! What the tool says, and where: results on standard output, progress and messages on standard
//! error.
//!
//! Everything that is printed passes here, so that bars and lines never mix, nothing panics when a
//! reader has gone, `--json` means JSON alone, and no control character of a name reaches a
//! terminal. Deliberately not here: how numbers look (`human.rs`).

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cenotaph::Env;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::failure::Failure;
use crate::human;
use crate::standard::{Interrupt, Stdout};

/// Where results and messages go.
pub(crate) struct Report {
    json: bool,
    stdout: Stdout,
    bars: MultiProgress,
    is_visible: bool,
    advice: Mutex<Option<String>>,
}

impl Report {
    /// `json`: results as JSON lines. `quiet`: no bars.
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

    /// Whether results are JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether anybody sees progress: what it needs is counted only then.
    pub(crate) fn shows_progress(&self) -> bool {
        self.is_visible
    }

    /// A result for scripts: one line of JSON, flushed.
    pub(crate) fn json(&self, value: &Value) -> Result<(), Failure> {
        self.text(&human::json_line(value))
    }

    /// A result for people, of any number of lines.
    pub(crate) fn text(&self, text: &str) -> Result<(), Failure> {
        self.bars.suspend(|| self.bytes(human::lines(text).into()))
    }

    /// A result in one of the two forms; `text` is one line, and gets its end here.
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

    /// Bytes of an object.
    pub(crate) fn bytes(&self, bytes: Bytes) -> Result<(), Failure> {
        self.stdout.write(bytes)
    }

    /// A message of one line on standard error. That it can't be written is no reason to stop.
    pub(crate) fn note(&self, message: &str) {
        self.bars.suspend(|| {
            let _ = writeln!(io::stderr().lock(), "cenotaph: {}", human::key(message));
        });
    }

    /// What to do, from now on, if the command ends without success: said behind the reason.
    pub(crate) fn advise(&self, advice: Option<String>) {
        *self.advice.lock().unwrap_or_else(PoisonError::into_inner) = advice;
    }

    /// A bar over so many bytes, if anybody sees it.
    pub(crate) fn bar(&self, what: &'static str, total_bytes: Option<u64>) -> Bar {
        let bar = total_bytes.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        // Drawn by all bars' common target, which is hidden if nobody sees it.
        let bar = self.bars.add(bar);
        if self.is_visible {
            bar.set_style(style(total_bytes.is_some()));
            bar.set_prefix(what);
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Bar {
            bar,
            items: Arc::default(),
            items_total: None,
            noun: "files",
        }
    }

    /// Says how it ended, and with which code.
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

/// Says why the tool ends before anything was begun, and with which code.
pub(crate) fn end_without_report(failure: &Failure) -> ExitCode {
    let _ = writeln!(
        io::stderr().lock(),
        "cenotaph: {}",
        human::key(&failure.to_string())
    );
    ExitCode::from(failure.code())
}

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

/// Progress of one long work. Cheap to clone; vanishes with [`end`](Self::end) or its last clone.
#[derive(Clone)]
pub(crate) struct Bar {
    bar: ProgressBar,
    items: Arc<AtomicU64>,
    items_total: Option<u64>,
    noun: &'static str,
}

impl Bar {
    /// The same bar, which counts files too.
    pub(crate) fn of_files(mut self, total: Option<u64>) -> Self {
        self.items_total = total;
        self
    }

    /// The same bar, which counts parts too.
    pub(crate) fn of_parts(mut self, total: u64) -> Self {
        (self.noun, self.items_total) = ("parts", Some(total));
        self
    }

    /// So many bytes more.
    pub(crate) fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// So many bytes were counted in vain.
    pub(crate) fn take_back(&self, bytes: u64) {
        self.bar.dec(bytes);
    }

    /// So much was done before: it counts, but not for how fast it goes.
    pub(crate) fn begin_with(&self, bytes: u64, items: u64) {
        self.bar.set_position(bytes);
        self.bar.reset_eta();
        self.items.store(items, Ordering::Relaxed);
    }

    /// One file more, or one part.
    pub(crate) fn one_done(&self) {
        let done = self.items.fetch_add(1, Ordering::Relaxed) + 1;
        if !self.bar.is_hidden() {
            self.bar.set_message(match self.items_total {
                Some(total) => format!("{done}/{total} {}", self.noun),
                None => format!("{done} {}", self.noun),
            });
        }
    }

    /// So much has been looked at: bytes, of so many if that is known, and objects.
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

    /// Says this beside what it shows.
    pub(crate) fn say(&self, message: String) {
        self.bar.set_message(message);
    }

    /// Takes the bar away.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if Arc::strong_count(&self.items) == 1 {
            self.bar.finish_and_clear();
        }
    }
}
