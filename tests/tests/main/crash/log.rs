//! What a victim says: one line for each thing that it is about to do, and one for each answer that
//! it got.
//!
//! A line is one `write` to a pipe, of less than `PIPE_BUF` bytes: it is there as a whole or not at
//! all, whenever its writer is killed. Lines stand in the order in which they were written, so that
//! an operation whose `Begin` stands behind another one's `Ack` did begin after that
//! acknowledgement. Deliberately not here: what follows from it (`model.rs`).

use std::fmt;
use std::io::Write;

use cenotaph::Version;
use serde::{Deserialize, Serialize};

/// Names one operation, once in the life of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Number(pub(super) u64);

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Action {
    /// Puts the content of its number, so many bytes long.
    Put { bytes: usize },
    /// Deletes.
    Delete,
}

/// How it was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The put committed this version.
    Applied { version: Version },
    /// The put counts as overwritten.
    Superseded,
    /// The object is absent.
    Deleted,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Line {
    /// The engine is about to be opened.
    Opening,
    /// It is open.
    Open { took_us: u64 },
    /// An operation is about to begin.
    Begin {
        number: Number,
        key: String,
        action: Action,
    },
    /// It was acknowledged.
    Ack { number: Number, answer: Answer },
}

impl Line {
    /// Says it. Fails if nobody listens any more, which ends the victim.
    pub(super) fn say(&self) {
        let line = format!("\n{}\n", serde_json::to_string(self).unwrap());
        std::io::stdout()
            .lock()
            .write_all(line.as_bytes())
            .expect("somebody listens");
    }

    /// The line, unless it is one of the test harness.
    pub(super) fn heard(line: &str) -> Option<Self> {
        let line = line.trim();
        let ours = line.starts_with(['{', '"']);
        ours.then(|| {
            serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("a torn line: {error}: {line}"))
        })
    }
}

impl fmt::Display for Number {
    /// The incarnation of the engine, and the place in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 >> 32, self.0 & u64::from(u32::MAX))
    }
}
