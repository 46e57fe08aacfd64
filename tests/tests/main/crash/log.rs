//! Protocol of a victim: a line before each operation and a line after each answer.
//!
//! A line is a single `write` of less than `PIPE_BUF` bytes to a pipe: it arrives whole or not at
//! all, whenever its writer is killed. Lines arrive in the order of their writes, so an operation
//! whose `Begin` follows the `Ack` of another began after that acknowledgement.

use std::fmt;
use std::io::Write;

use cenotaph::Version;
use serde::{Deserialize, Serialize};

/// Number of an operation, unique in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Number(pub(crate) u64);

/// Kind of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Action {
    /// Puts the content of its number, `bytes` bytes long.
    Put { bytes: usize },
    /// Deletes the object.
    Delete,
}

/// Acknowledged result of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The put committed this version.
    Applied { version: Version },
    /// The put was superseded.
    Superseded,
    /// The object is absent.
    Deleted,
}

/// A line of the protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Line {
    /// The engine is about to be opened.
    Opening,
    /// The engine is open.
    Open { took_us: u64 },
    /// An operation is about to begin.
    Begin {
        number: Number,
        key: String,
        action: Action,
    },
    /// The operation was acknowledged.
    Ack { number: Number, answer: Answer },
    /// Collections of the payload log have copied this many bytes since the last such line.
    Collected { copied_bytes: u64 },
}

impl Line {
    /// Prints the line. Panics if the pipe is closed, which ends the victim.
    pub(crate) fn print(&self) {
        let line = format!("\n{}\n", serde_json::to_string(self).unwrap());
        std::io::stdout()
            .lock()
            .write_all(line.as_bytes())
            .expect("the test reads the pipe");
    }

    /// Parses a line, or returns `None` if the test harness printed it.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let line = line.trim();
        let ours = line.starts_with(['{', '"']);
        ours.then(|| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("torn line: {error}: {line}"))
        })
    }
}

impl fmt::Display for Number {
    /// Prints the incarnation of the engine and the sequence number in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 >> 32, self.0 & u64::from(u32::MAX))
    }
}
