//! [`Failure`], the error of the tool: its exit code and its message of one line.
//!
//! Invariant: no message contains a credential. The text of every library error passes
//! [`one_line`], which removes user, password and query from every URL.

use std::error::Error;
use std::fmt;
use std::io;

/// Error of a command.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line is invalid.
    Usage(String),
    /// The object or upload does not exist.
    NotFound(String),
    /// The precondition does not hold.
    Conflict(String),
    /// A salvage copied everything readable, and something is lost.
    Incomplete(String),
    /// The command failed.
    Failed(String),
    /// The reader of standard output has closed the pipe.
    BrokenPipe,
    /// A signal stopped the command.
    Interrupted,
}

impl Failure {
    /// Returns a failure of the operating system, with a message that begins with `context`.
    pub(crate) fn io(context: impl fmt::Display, error: &io::Error) -> Self {
        Self::Failed(format!("{context}: {}", one_line(error)))
    }

    /// Returns the exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Failed(_) | Self::BrokenPipe | Self::Interrupted => 1,
            Self::Usage(_) => 2,
            Self::NotFound(_) => 3,
            Self::Conflict(_) => 4,
            Self::Incomplete(_) => 5,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message)
            | Self::NotFound(message)
            | Self::Conflict(message)
            | Self::Incomplete(message)
            | Self::Failed(message) => f.write_str(message),
            Self::BrokenPipe => {
                f.write_str("standard output can't be written: the reader has closed the pipe")
            }
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl From<cenotaph::Error> for Failure {
    fn from(error: cenotaph::Error) -> Self {
        match error.kind() {
            cenotaph::ErrorKind::Conflict { .. } => Self::Conflict(one_line(&error)),
            _ => Self::Failed(one_line(&error)),
        }
    }
}

/// Formats an error and its causes as a single line without secrets.
pub(crate) fn one_line(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        // Some libraries repeat the message of the cause in their own.
        if !line.contains(&message) {
            line.push_str(": ");
            line.push_str(&message);
        }
        cause = error.source();
    }
    redact(&line.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Removes user, password and query from every URL: each may contain a secret.
fn redact(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, url) = rest.split_at(at + "://".len());
        clean.push_str(before);
        let end = url
            .find(|c: char| c.is_whitespace() || "\"'`<>(){},".contains(c))
            .unwrap_or(url.len());
        let (url, after) = url.split_at(end);
        // A fragment may contain the rest of a query whose value was not escaped.
        let (place, query) = match url.find(['?', '#']) {
            Some(query) => (&url[..query], "?.."),
            None => (url, ""),
        };
        let (authority, path) = place.split_at(place.find('/').unwrap_or(place.len()));
        clean.push_str(
            authority
                .rsplit_once('@')
                .map_or(authority, |(_secret, host)| host),
        );
        clean.push_str(path);
        clean.push_str(query);
        rest = after;
    }
    clean.push_str(rest);
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_urls_are_removed() {
        let message = "sending (https://me:s3cret@host.net/a/b?sig=s3cret&x=1), \
            then s3://k:s3cret@bucket failed at 7:30";
        assert_eq!(
            redact(message),
            "sending (https://host.net/a/b?..), then s3://bucket failed at 7:30"
        );
        assert_eq!(redact("nothing to hide"), "nothing to hide");
    }

    #[test]
    fn causes_are_on_one_line_without_repetition() {
        let inner = io::Error::other("disk\n  on fire");
        let error =
            cenotaph::Error::new(cenotaph::ErrorKind::Unavailable, "put", "no").with_source(inner);
        assert_eq!(one_line(&error), "put: unavailable: no: disk on fire");
    }
}
