//! Options, errors and output that a put in one piece and a put in parts share.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use cenotaph::{
    Attributes, ErrorKind, Expiration, ObjectId, Precondition, PutResult, WriteOutcome,
};
use serde_json::{Value, json};

use crate::transfer::retry::Retryable;
use crate::ui::failure::{Failure, one_line};
use crate::ui::human;
use crate::ui::report::Report;

/// Attributes and precondition of a put.
#[derive(Clone, Debug, Default)]
pub(crate) struct PutOptions {
    /// Media type.
    pub(crate) content_type: Option<String>,
    /// Custom entries.
    pub(crate) custom: BTreeMap<String, String>,
    /// Expiration policy.
    pub(crate) expiration: Expiration,
    /// Precondition of the write.
    pub(crate) precondition: Precondition,
}

impl PutOptions {
    /// Returns the attributes for the engine.
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

/// Error of the put of a file.
#[derive(Debug)]
pub(crate) enum PutError {
    /// The file can't be read.
    File(io::Error),
    /// The file has another length than at the start.
    Changed,
    /// The store refused the object.
    Store(cenotaph::Error),
}

impl PutError {
    /// Returns a message of one line, without the path of the file.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::File(error) => format!("the file can't be read: {}", one_line(error)),
            Self::Changed => "the file changed while it was read".to_owned(),
            Self::Store(error) => one_line(error),
        }
    }

    /// Converts the error to a [`Failure`] that names the file.
    pub(crate) fn failure(self, path: &Path) -> Failure {
        match self {
            // A failed precondition has an exit code of its own, and is not the fault of the file.
            Self::Store(error) if matches!(error.kind(), ErrorKind::Conflict { .. }) => {
                error.into()
            }
            Self::File(_) | Self::Changed | Self::Store(_) => {
                Failure::Failed(format!("{}: path={}", self.message(), path.display()))
            }
        }
    }

    /// Returns whether the file may have changed, so that another attempt with fresh metadata may
    /// succeed.
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
            // The same call would read the same file.
            Self::File(_) | Self::Changed => 1,
        }
    }
}

/// Prints the result of a put. `fields` are additional fields of the JSON object.
pub(crate) fn print_written(
    report: &Report,
    id: &ObjectId,
    written: &PutResult,
    mut fields: Value,
) -> Result<(), Failure> {
    let version = written.version.map(cenotaph::Version::get);
    report.result(
        || {
            fields["key"] = json!(id.key());
            fields["version"] = json!(version);
            fields["etag"] = json!(written.etag);
            fields["created"] = json!(written.created);
            fields["superseded"] = json!(written.outcome == WriteOutcome::Superseded);
            fields
        },
        || match version {
            Some(version) => format!("{} version {version}", human::key(id.key())),
            None => format!("{} superseded", human::key(id.key())),
        },
    )
}
