//! The small words of the vocabulary: versions, epochs, moments, and the ids of operations and
//! revisions.
//!
//! Newtypes, so that no bare number or uuid crosses a module border. Deliberately not here: the ids
//! that users choose (`id.rs`) and the values that are stored (`rows/`).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};
use crate::id::ObjectId;

/// Per-object counter of committed writes: 1 for the first, one more for each, never reused, not
/// even across delete and re-create.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version(u64);

impl Version {
    /// "Never written": what stands before the first version.
    pub const NONE: Self = Self(0);

    /// The highest version that a stored record may have: a higher one is damage. A writer that
    /// commits a thousand million versions a second needs 292 years to reach it, and the next
    /// version of every version that was read exists.
    pub const STORED_MAX: Self = Self(u64::MAX / 2);

    /// The version with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The version of the next committed write.
    #[must_use]
    pub fn next(self) -> Self {
        Self(
            self.0
                .checked_add(1)
                .expect("an object is not written 2^64 times"),
        )
    }
}

impl From<u64> for Version {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One incarnation of the engine on its index: a durable counter, raised at every open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Epoch(u64);

impl Epoch {
    /// The epoch with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// A moment, in milliseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The moment so many milliseconds after 1970-01-01 UTC.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since 1970-01-01 UTC.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// This much later; the end of time if it lies beyond.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Names one write operation, and the [change](crate::rows::Change) it records. A version 7 uuid:
/// later ones order later.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OperationId(Uuid);

/// Names one revision. A version 7 uuid, fresh for every attempt, never reused (I4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RevisionId(Uuid);

/// Names one store: 128 random bits, drawn when its index is created and never changed. The blob
/// tier carries the same id in its marker, so that no index is opened over the blobs of another
/// (I11).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StoreId(Uuid);

macro_rules! uuid_word {
    ($name:ident) => {
        impl $name {
            /// Wraps a uuid.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The uuid.
            pub const fn as_uuid(&self) -> &Uuid {
                &self.0
            }

            /// Its 16 bytes: the key under which the index files what belongs to it.
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// From such a key; none if it does not have 16 bytes.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                Uuid::from_slice(bytes).ok().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}
uuid_word!(OperationId);
uuid_word!(RevisionId);
uuid_word!(StoreId);

impl RevisionId {
    /// When it was made, which is before its blob was begun; none if it does not say so.
    pub fn born(&self) -> Option<Timestamp> {
        let at = self.0.get_timestamp()?;
        let (seconds, nanos) = at.to_unix();
        Some(Timestamp(
            seconds
                .saturating_mul(1000)
                .saturating_add(u64::from(nanos) / 1_000_000),
        ))
    }
}

/// One immutable blob, by the object it was written for and its [`RevisionId`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RevisionKey {
    /// The object whose bytes it holds.
    pub object: ObjectId,
    /// Which of its revisions.
    pub revision: RevisionId,
}

impl fmt::Display for RevisionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.object, self.revision)
    }
}

/// The opaque public spelling of one committed write: unique for each, equal only to itself.
///
/// It is written and read as text, 32 hexadecimal digits today; do not take it apart.
///
/// ```
/// # use cenotaph_storage::{Etag, OperationId};
/// let etag = Etag::of(&OperationId::from_uuid(uuid::Uuid::from_u128(7)));
/// assert_eq!(etag.to_string(), "00000000000000000000000000000007");
/// assert_eq!(etag.to_string().parse::<Etag>().unwrap(), etag);
/// assert!("no etag of ours".parse::<Etag>().is_err());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Etag(Uuid);

impl Etag {
    /// The etag of the write that this operation committed.
    pub fn of(operation: &OperationId) -> Self {
        Self(operation.0)
    }

    /// The operation that committed the write.
    pub const fn operation(self) -> OperationId {
        OperationId(self.0)
    }
}

impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.simple())
    }
}

impl fmt::Debug for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Etag {
    type Err = Error;

    /// # Errors
    /// [`ErrorKind::Invalid`] if no etag is spelled so.
    fn from_str(text: &str) -> Result<Self> {
        let uuid = Uuid::try_parse(text)
            .ok()
            .filter(|uuid| uuid.simple().to_string() == text);
        uuid.map(Self).ok_or_else(|| {
            Error::new(
                ErrorKind::Invalid,
                "etag",
                format!("no etag is spelled so: text={text:?}"),
            )
        })
    }
}

impl From<Etag> for String {
    fn from(etag: Etag) -> Self {
        etag.to_string()
    }
}

impl TryFrom<String> for Etag {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

/// Which committed write of an object stands now: what a lost precondition is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Current {
    /// Its version.
    pub version: Version,
    /// Its etag.
    pub etag: Etag,
}
