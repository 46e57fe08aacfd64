//! Why the tool ends without success: [`Failure`], its exit code, and its one line.
//!
//! Guards that no credential is ever shown: whatever a library says passes [`one_line`], which cuts
//! user, password and query off every URL.

use std::error::Error;
use std::fmt;
use std::io;

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line asks for what can't be.
    Usage(String),
    /// There is no such object.
    NotFound(String),
    /// The object does not stand as it was demanded.
    Conflict(String),
    /// A salvage copied all that can be read, and something is lost.
    Incomplete(String),
    /// It was tried and failed.
    Failed(String),
    /// The reader of standard output has gone.
    BrokenPipe,
    /// A signal to stop.
    Interrupted,
}

impl Failure {
    /// A failure of the operating system.
    pub(crate) fn io(what: impl fmt::Display, error: &io::Error) -> Self {
        Self::Failed(format!("{what}: {}", one_line(error)))
    }

    /// The exit code.
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
                f.write_str("standard output can't be written: its reader has gone")
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

/// The error and what caused it, on one line, without secrets.
pub(crate) fn one_line(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !line.contains(&said) {
            line.push_str(": ");
            line.push_str(&said);
        }
        cause = error.source();
    }
    redact(&line.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Cuts user, password and query off every URL: any of them may hold a secret.
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
    fn no_secret_of_a_url_survives() {
        let said = "sending (https://me:s3cret@host.net/a/b?sig=s3cret&x=1), then s3://k:s3cret@bucket failed at 7:30";
        assert_eq!(
            redact(said),
            "sending (https://host.net/a/b?..), then s3://bucket failed at 7:30"
        );
        assert_eq!(redact("nothing to hide"), "nothing to hide");
    }

    #[test]
    fn a_chain_is_one_line_and_says_nothing_twice() {
        let inner = io::Error::other("disk\n  on fire");
        let error =
            cenotaph::Error::new(cenotaph::ErrorKind::Unavailable, "put", "no").with_source(inner);
        assert_eq!(one_line(&error), "put: unavailable: no: disk on fire");
    }
}
