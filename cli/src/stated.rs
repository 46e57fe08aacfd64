//! What is stated about an object that is put, why it was not, and what is said when it was: the
//! same for a put in one piece and one in parts.
//!
//! Deliberately not here: putting it (`put.rs`, `parts.rs`).

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use cenotaph::{Attributes, ErrorKind, Expiration, ObjectId, Outcome, Precondition, Written};
use serde_json::{Value, json};

use crate::failure::{Failure, one_line};
use crate::human;
use crate::report::Report;
use crate::retry::Retryable;

/// What is stated about an object.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stated {
    /// Its media type.
    pub(crate) content_type: Option<String>,
    /// Its custom entries.
    pub(crate) custom: BTreeMap<String, String>,
    /// When it stops existing by itself.
    pub(crate) expiration: Expiration,
    /// How it must stand.
    pub(crate) precondition: Precondition,
}

impl Stated {
    /// The same as the engine says it, but for how it must stand.
    pub(crate) fn attributes(&self) -> Attributes {
        let Self {
            content_type,
            custom,
            expiration,
            precondition: _,
        } = self.clone();
        Attributes {
            content_type,
            custom,
            expiration,
            ..Attributes::default()
        }
    }
}

/// Why a file was not put.
#[derive(Debug)]
pub(crate) enum PutError {
    /// It can't be read.
    File(io::Error),
    /// It has not as many bytes as it was said to have.
    Changed,
    /// The store could not take it.
    Store(cenotaph::Error),
}

impl PutError {
    /// One line that says so; whose file it is, the caller says.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::File(error) => format!("the file can't be read: {}", one_line(error)),
            Self::Changed => "the file changed while it was read".to_owned(),
            Self::Store(error) => one_line(error),
        }
    }

    /// Why the tool ends; a condition that does not hold is told apart.
    pub(crate) fn failure(self, path: &Path) -> Failure {
        match self {
            Self::Store(error) if matches!(error.kind(), ErrorKind::Conflict { .. }) => {
                error.into()
            }
            Self::File(_) | Self::Changed | Self::Store(_) => {
                Failure::Failed(format!("{}: path={}", self.message(), path.display()))
            }
        }
    }

    /// Whether the file may be another one by now, so that looking at it again is worth it.
    pub(crate) fn is_of_source(&self) -> bool {
        match self {
            Self::Changed => true,
            Self::File(_) => false,
            Self::Store(error) => error.kind() == ErrorKind::Source,
        }
    }
}

impl Retryable for PutError {
    fn attempts_max(&self) -> u32 {
        match self {
            Self::Store(error) => error.attempts_max(),
            Self::File(_) | Self::Changed => 1,
        }
    }
}

/// Says what was written, and for scripts this too.
pub(crate) fn tell(
    report: &Report,
    id: &ObjectId,
    written: &Written,
    mut more: Value,
) -> Result<(), Failure> {
    let version = written.version.map(cenotaph::Version::get);
    report.result(
        || {
            more["key"] = json!(id.key());
            more["version"] = json!(version);
            more["etag"] = json!(written.etag);
            more["created"] = json!(written.created);
            more["superseded"] = json!(written.outcome == Outcome::Superseded);
            more
        },
        || match version {
            Some(version) => format!("{} version {version}", human::key(id.key())),
            None => format!("{} superseded", human::key(id.key())),
        },
    )
}
