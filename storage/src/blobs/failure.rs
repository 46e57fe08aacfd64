//! Converts errors of OpenDAL and of the operating system into errors of this crate.
//!
//! Guards I10: an error of the blob tier is never taken for an outcome. It means that the call was
//! not completed. A part of the call may have taken effect, which the change and the sweeper clean
//! up.

use std::io;

use crate::types::ObjectId;
use crate::types::RevisionKey;
use crate::types::{Error, ErrorKind, Reason};

/// Cause of an OpenDAL error, as far as callers distinguish it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The blob does not exist.
    Gone,
    /// The blob ends before the requested range.
    TooShort,
    /// Any other error.
    Other,
}

/// Returns the cause of an error.
pub(super) fn cause(error: &opendal::Error) -> Cause {
    use opendal::ErrorKind as Kind;
    match error.kind() {
        Kind::NotFound => Cause::Gone,
        Kind::RangeNotSatisfied => Cause::TooShort,
        Kind::Unexpected
        | Kind::Unsupported
        | Kind::ConfigInvalid
        | Kind::PermissionDenied
        | Kind::IsADirectory
        | Kind::NotADirectory
        | Kind::AlreadyExists
        | Kind::RateLimited
        | Kind::IsSameFile
        | Kind::ConditionNotMatch
        | Kind::Conflict => Cause::Other,
        // OpenDAL's enum is non-exhaustive. A new kind means "not completed", as those above do.
        _ => Cause::Other,
    }
}

/// Returns [`ErrorKind::Unavailable`] for a failed call that concerns an object. OpenDAL's error is
/// the source.
pub(super) fn unavailable(
    operation: &'static str,
    object: &ObjectId,
    error: opendal::Error,
) -> Error {
    failed(operation, error).with_id(object)
}

/// Returns [`ErrorKind::Unavailable`] for a failed call that concerns no particular object.
pub(super) fn failed(operation: &'static str, error: opendal::Error) -> Error {
    if is_out_of_space(&error) {
        return no_space(operation).with_source(error);
    }
    let message = format!("the blob tier failed: cause={}", error.kind());
    Error::new(ErrorKind::Unavailable, operation, message).with_source(error)
}

/// Returns [`ErrorKind::Unavailable`] for an error of the operating system.
pub(super) fn failed_on_disk(operation: &'static str, error: io::Error) -> Error {
    if is_full(&error) {
        return no_space(operation).with_source(error);
    }
    let message = format!("the blob tier failed: cause={}", error.kind());
    Error::new(ErrorKind::Unavailable, operation, message).with_source(error)
}

fn no_space(operation: &'static str) -> Error {
    let message =
        "no space on the disk of the blob tier: delete objects, or free space on the disk";
    Error::new(ErrorKind::Unavailable, operation, message).with_reason(Reason::NoSpace)
}

fn is_out_of_space(error: &opendal::Error) -> bool {
    // OpenDAL wraps the error of the operating system, at a depth that depends on the service.
    let first: &(dyn std::error::Error + 'static) = error;
    let mut causes = std::iter::successors(Some(first), |cause| cause.source());
    causes.any(|cause| cause.downcast_ref::<io::Error>().is_some_and(is_full))
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Returns [`ErrorKind::Corrupt`] for a blob that does not contain the bytes that were written.
pub(super) fn corrupt(key: &RevisionKey, cause: &str) -> Error {
    let message = format!("the blob is damaged: {cause} revision={}", key.revision);
    Error::new(ErrorKind::Corrupt, "read", message).with_id(&key.object)
}
