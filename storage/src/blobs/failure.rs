//! What OpenDAL's errors mean to us, in one place.
//!
//! Guards I10: an error of the blob tier is never taken for an outcome. It says that the call could
//! not be done now; some of it may have happened all the same, which is what the change and the
//! sweeper are for. Deliberately not here: what to do about it.

use std::io;

use crate::error::{Error, ErrorKind, Reason};
use crate::id::ObjectId;
use crate::word::RevisionKey;

/// What an OpenDAL error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// There is no such blob.
    Gone,
    /// The blob ends before the range that was asked for.
    TooShort,
    /// Anything else.
    Other,
}

/// What this error is about.
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
        // OpenDAL may add kinds; none of them can mean more than "not done now".
        _ => Cause::Other,
    }
}

/// "The blob tier could not do it": [`ErrorKind::Unavailable`], which keeps OpenDAL's error as the
/// source.
pub(super) fn unavailable(
    operation: &'static str,
    object: &ObjectId,
    error: opendal::Error,
) -> Error {
    failed(operation, error).with_id(object)
}

/// The same, where no one object is concerned.
pub(super) fn failed(operation: &'static str, error: opendal::Error) -> Error {
    if is_out_of_space(&error) {
        return no_space(operation).with_source(error);
    }
    let message = format!("the blob tier failed: cause={}", error.kind());
    Error::new(ErrorKind::Unavailable, operation, message).with_source(error)
}

/// The same for an error of the operating system.
pub(super) fn failed_on_disk(operation: &'static str, error: io::Error) -> Error {
    if is_full(&error) {
        return no_space(operation).with_source(error);
    }
    let message = format!("the blob tier failed: cause={}", error.kind());
    Error::new(ErrorKind::Unavailable, operation, message).with_source(error)
}

fn no_space(operation: &'static str) -> Error {
    let message =
        "no space: the disk of the blob tier is full: delete objects, or free space on it";
    Error::new(ErrorKind::Unavailable, operation, message).with_reason(Reason::NoSpace)
}

fn is_out_of_space(error: &opendal::Error) -> bool {
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

/// "What is stored is not what was written": [`ErrorKind::Corrupt`].
pub(super) fn corrupt(key: &RevisionKey, what: &str) -> Error {
    let message = format!("the blob is damaged: {what} revision={}", key.revision);
    Error::new(ErrorKind::Corrupt, "read", message).with_id(&key.object)
}
