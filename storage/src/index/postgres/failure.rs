//! Errors of the server, and their meaning for a transaction.

use tokio_postgres::error::{Severity, SqlState};

use crate::types::{Error, ErrorKind};

/// Meaning of an error for the transaction that received it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The connection is gone. A commit that was sent may have happened.
    Lost,
    /// The server has rolled the transaction back, and the next attempt may succeed.
    RolledBack,
    /// The server has rolled the transaction back, and would do so again.
    Refused,
}

/// Returns the meaning of an error.
pub(super) fn failure(error: &tokio_postgres::Error) -> Failure {
    let Some(answer) = error.as_db_error() else {
        // Not from the server: of the socket, or of the protocol.
        return Failure::Lost;
    };
    // The server ends the connection, or all of them. Its last words may have been a commit.
    if let Some(Severity::Fatal | Severity::Panic) = answer.parsed_severity() {
        return Failure::Lost;
    }
    let code = answer.code();
    if [
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::QUERY_CANCELED,
        // A statement after the one that failed, whose answer came first.
        SqlState::IN_FAILED_SQL_TRANSACTION,
        // The token of the transaction: its outcome was asked for before.
        SqlState::UNIQUE_VIOLATION,
    ]
    .contains(code)
    {
        return Failure::RolledBack;
    }
    // 08: connection; 25P03, 25P04: the server has closed a connection that was idle for too long;
    // 57: intervention, such as a shutdown; 40003: the outcome is unknown; 25006: the server is
    // read-only, as a standby is; 55000: not in the state, as a server that recovers.
    let lost = ["08", "57", "40003", "25P03", "25P04", "25006", "55000"];
    if lost.iter().any(|prefix| code.code().starts_with(prefix)) {
        return Failure::Lost;
    }
    Failure::Refused
}

/// Creates an error for a failed request.
pub(super) fn unavailable(
    operation: &'static str,
    message: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::new(ErrorKind::Unavailable, operation, message).with_source(source)
}

/// Creates the error of a request that the server did not answer.
pub(super) fn overdue(operation: &'static str) -> Error {
    let message = "the shared index did not answer in time";
    Error::new(ErrorKind::Unavailable, operation, message)
}

/// Creates the error of calls after a close.
pub(super) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "close", "the index was closed before")
}

/// Creates the error of a member that was declared dead.
pub(super) fn declared_dead() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "commit",
        "another member has declared this one dead: reopen the store",
    )
}
