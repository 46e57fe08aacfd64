//! The error type of Cenotaph: [`Error`], [`ErrorKind`] and [`Reason`].
//!
//! The kind determines the action of the caller. It does not identify the library that failed: the
//! error of the library is the source. An absent object is `Ok(None)`, and a write without a
//! precondition that loses a race is an outcome; both are not errors.
//!
//! Guards I10: [`ErrorKind::Indeterminate`] is used only where the process cannot determine whether
//! a write has committed.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use crate::types::ObjectId;
use crate::types::ObjectVersion;
use crate::types::PartNumber;

/// Result of the fallible calls of Cenotaph.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Kind of an [`Error`], by the action that it requires of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The argument breaks a documented rule. Nothing was started. Change the call.
    Invalid,
    /// The precondition does not hold for the present version of the object. Nothing was committed.
    /// Read the object again and decide anew.
    Conflict {
        /// Version and etag of the object. `None` if it is absent.
        current: Option<ObjectVersion>,
    },
    /// A configured limit is reached. Nothing was started. Back off, then call again.
    Overloaded,
    /// The namespace is disabled. Nothing was started. Call again after it is enabled.
    Disabled,
    /// The store cannot serve the call at present. Nothing was committed. The call may be repeated.
    Unavailable,
    /// The write may or may not have been committed. Read the object before deciding.
    Indeterminate,
    /// The requested range is outside of the object.
    RangeNotSatisfiable {
        /// Size of the object in bytes.
        total: u64,
    },
    /// The payload stream of the caller failed or does not match its declared length or checksum,
    /// or the update function of the caller failed. Nothing was committed.
    Source,
    /// Stored bytes do not match their checksum or are missing, or a stored value can't be decoded.
    /// No wrong bytes were returned.
    Corrupt,
    /// A stored value has a format version that this build does not support. Use a newer build.
    UnknownFormat,
    /// The index is in use by another engine, in this or another process. Close that engine first.
    AlreadyOpen,
    /// The engine has been closed. Open it again.
    Closed,
}

impl ErrorKind {
    /// Returns the displayed name of the kind.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Conflict { .. } => "conflict",
            Self::Overloaded => "overloaded",
            Self::Disabled => "disabled",
            Self::Unavailable => "unavailable",
            Self::Indeterminate => "indeterminate",
            Self::RangeNotSatisfiable { .. } => "range not satisfiable",
            Self::Source => "source",
            Self::Corrupt => "corrupt",
            Self::UnknownFormat => "unknown format",
            Self::AlreadyOpen => "already open",
            Self::Closed => "closed",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Detailed reason of some errors of writes, uploads, payloads and reads.
///
/// A gateway can map each reason to an error code of its own protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The object has no such upload: the upload never existed, or its record has expired.
    NoSuchUpload,
    /// The upload was completed.
    UploadCompleted,
    /// The upload was aborted.
    UploadAborted,
    /// The upload was completed with a different list of parts.
    OtherParts,
    /// The completion lists no part.
    NoParts,
    /// The parts are not listed in ascending order at this part.
    PartOrder(PartNumber),
    /// The upload has no part with this number.
    NoSuchPart(PartNumber),
    /// This part has another etag than listed.
    PartEtag(PartNumber),
    /// This part is smaller than the minimum and is not the last part.
    PartTooSmall(PartNumber),
    /// The parts up to this part exceed the maximum size of an object.
    PartsTooLarge(PartNumber),
    /// This part was lost and a scrub gave it up. Upload it again.
    PartLost(PartNumber),
    /// The payload does not have the declared checksum.
    Checksum,
    /// The payload does not have the declared length.
    Length,
    /// The disk has no space for the write. Deletes are still accepted.
    NoSpace,
    /// The row of the object names a blob that is not in the blob tier. The kind is
    /// [`ErrorKind::Corrupt`].
    MissingBlob {
        /// Version and etag of the object.
        current: ObjectVersion,
    },
    /// The blob tier is not present, or does not belong to this store. This may be temporary, for
    /// example a share that is not mounted.
    BlobTier,
    /// The engine is open for reads only, and the call is a write. The kind is
    /// [`ErrorKind::Invalid`].
    ReadOnly,
}

/// Error of a call: a [kind](ErrorKind), the operation, the object if any, a message, and the
/// underlying source.
///
/// Cloning is cheap: a failed commit answers all writes of its batch with the same error.
///
/// ```
/// use cenotaph_storage::{Error, ErrorKind};
///
/// let error = Error::new(ErrorKind::Overloaded, "put", "too many uploads at once");
/// assert!(error.is_retryable());
/// assert_eq!(error.to_string(), "put: overloaded: too many uploads at once");
/// ```
// Boxed, so that a `Result` stays small.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    operation: &'static str,
    id: Option<ObjectId>,
    reason: Option<Reason>,
    message: String,
    // Shared, because the errors of libraries cannot be cloned.
    source: Option<Arc<dyn StdError + Send + Sync + 'static>>,
}

impl Error {
    /// Creates an error of `kind` in `operation`.
    pub fn new(kind: ErrorKind, operation: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            operation,
            id: None,
            reason: None,
            message: message.into(),
            source: None,
        }))
    }

    /// Adds the object that the error concerns.
    #[must_use]
    pub fn with_id(mut self, id: &ObjectId) -> Self {
        self.0.id = Some(id.clone());
        self
    }

    /// Adds a detailed reason.
    #[must_use]
    pub fn with_reason(mut self, reason: Reason) -> Self {
        self.0.reason = Some(reason);
        self
    }

    /// Adds the underlying error.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn StdError + Send + Sync + 'static>>,
    ) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// Returns the kind, which determines the action of the caller.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the detailed reason, if any.
    pub fn reason(&self) -> Option<Reason> {
        self.0.reason
    }

    /// Returns the operation that failed, for example `put`.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// Returns the object that the error concerns, if any.
    pub fn id(&self) -> Option<&ObjectId> {
        self.0.id.as_ref()
    }

    /// Returns `true` if the call may be repeated unchanged: nothing was committed, and the cause
    /// may be temporary.
    pub fn is_retryable(&self) -> bool {
        // Not `Indeterminate`: the write may have been committed, and would be committed twice. Not
        // `Conflict`: the same precondition fails again.
        matches!(self.0.kind, ErrorKind::Overloaded | ErrorKind::Unavailable)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}: {}",
            self.0.operation, self.0.kind, self.0.message
        )?;
        match &self.0.id {
            Some(id) => write!(f, " object={id}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    /// Formats the error with all its sources: `unwrap` and logs then show the cause.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0
            .source
            .as_ref()
            .map(|source| &**source as &(dyn StdError + 'static))
    }
}
