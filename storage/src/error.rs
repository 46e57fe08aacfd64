//! The one error of Cenotaph.
//!
//! Holds [`Error`] and [`ErrorKind`]. A kind says what the caller must do next, never which library
//! failed; the library's own error is kept as the source. Guards I10: [`ErrorKind::Indeterminate`]
//! is used only where the process cannot know whether a write committed. Deliberately not here:
//! absence (an absent object is `Ok(None)`) and a write without a precondition that lost a race (an
//! outcome, not an error).

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use crate::id::ObjectId;
use crate::multipart::PartNumber;
use crate::word::Current;

/// What every fallible call of Cenotaph returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller must do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The argument breaks a documented rule. Nothing was started; change the call.
    Invalid,
    /// The precondition does not hold: the object stands otherwise. Nothing was committed; read it
    /// afresh and decide anew.
    Conflict {
        /// How it stands; none if there is no such object.
        current: Option<Current>,
    },
    /// A configured limit is reached. Nothing was started; back off, then call again.
    Overloaded,
    /// The namespace is switched off. Nothing was started; the call may be repeated once it is
    /// switched on.
    Disabled,
    /// The store could not do it now. Nothing was committed; the call may be repeated.
    Unavailable,
    /// The write may have been committed, and this process cannot know. Read the object before
    /// deciding.
    Indeterminate,
    /// The requested range lies outside of the object.
    RangeNotSatisfiable {
        /// Size of the object in bytes.
        total: u64,
    },
    /// The caller's own stream failed or did not keep its word, or its own function failed. Nothing
    /// was committed.
    Source,
    /// Stored bytes do not match their checksum or are missing, or a stored value can't be decoded.
    /// No wrong bytes were returned.
    Corrupt,
    /// A stored value was written by a format version that this build does not know. Use a newer
    /// build.
    UnknownFormat,
    /// The index is in use by another engine, in this process or another. Close that one first.
    AlreadyOpen,
    /// The engine has been closed. Open it again.
    Closed,
}

impl ErrorKind {
    /// Its name, as it is displayed.
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

/// More exactly why a write, an upload or a payload was refused, or an object can't be read, for a
/// program that must tell its own clients: a gateway that speaks another protocol has a code for
/// each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The object has no such upload: it never had, or it ended so long ago that nobody knows.
    NoSuchUpload,
    /// The upload was completed.
    UploadCompleted,
    /// The upload was aborted.
    UploadAborted,
    /// The upload was completed, with other parts.
    OtherParts,
    /// A completion needs a part.
    NoParts,
    /// This part is not listed in ascending order.
    PartOrder(PartNumber),
    /// There is no such part.
    NoSuchPart(PartNumber),
    /// This part has another etag.
    PartEtag(PartNumber),
    /// This part is too small, and not the last one.
    PartTooSmall(PartNumber),
    /// With this part they are too large together.
    PartsTooLarge(PartNumber),
    /// This part was lost, and a scrub gave it up: upload it again.
    PartLost(PartNumber),
    /// The payload does not have the checksum that was declared.
    Checksum,
    /// The payload does not have the length that was declared.
    Length,
    /// The disk has no room for the write. Deletes are still taken.
    NoSpace,
    /// The object's row names a blob that is not in the blob tier. The kind is
    /// [`ErrorKind::Corrupt`].
    MissingBlob {
        /// How the object stands.
        current: Current,
    },
    /// The blob tier is not there, or does not belong to this store. It may come back.
    BlobTier,
    /// The engine was opened for reads only, and the call would have written. The kind is
    /// [`ErrorKind::Invalid`].
    ReadOnly,
}

/// Why a call failed: a [kind](ErrorKind), the operation, the object where there is one, and the
/// underlying source.
///
/// Cheap to clone, so that one failed commit can answer all the writes it carried.
///
/// ```
/// use cenotaph_storage::{Error, ErrorKind};
///
/// let error = Error::new(ErrorKind::Overloaded, "put", "too many uploads at once");
/// assert!(error.is_retryable());
/// assert_eq!(error.to_string(), "put: overloaded: too many uploads at once");
/// ```
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    operation: &'static str,
    id: Option<ObjectId>,
    reason: Option<Reason>,
    message: String,
    source: Option<Arc<dyn StdError + Send + Sync + 'static>>,
}

impl Error {
    /// An error of `kind`, met by `operation`.
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

    /// The same error, naming the object it happened to.
    #[must_use]
    pub fn with_id(mut self, id: &ObjectId) -> Self {
        self.0.id = Some(id.clone());
        self
    }

    /// The same error, saying more exactly why.
    #[must_use]
    pub fn with_reason(mut self, reason: Reason) -> Self {
        self.0.reason = Some(reason);
        self
    }

    /// The same error, keeping what caused it.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn StdError + Send + Sync + 'static>>,
    ) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// What the caller must do.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// More exactly why, where a write, an upload or a payload was refused or a blob is missing.
    pub fn reason(&self) -> Option<Reason> {
        self.0.reason
    }

    /// The operation that met the error, such as `put`.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// The object it happened to, if it happened to one.
    pub fn id(&self) -> Option<&ObjectId> {
        self.0.id.as_ref()
    }

    /// Whether the same call may simply be made again: nothing of it was committed, and the cause
    /// may pass.
    pub fn is_retryable(&self) -> bool {
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
