//! Newtypes of numbers and uuids: versions, epochs, timestamps, etags, and the ids of operations,
//! revisions and stores. Ids that users choose are in `object_id.rs`.

use std::fmt;
use std::str::FromStr;

use super::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::types::{Error, ErrorKind, ObjectId, Result};

/// Per-object counter of committed writes. The first write has version 1, and each write increments
/// it. A version is never reused, not even across delete and re-create.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version(u64);

impl Version {
    /// Version of an object that was never written.
    pub const NONE: Self = Self(0);

    /// Highest version that a stored record may have: a higher version is damage. A writer that
    /// commits a thousand million versions a second needs 292 years to reach it. The successor of
    /// every version that was read exists.
    pub const STORED_MAX: Self = Self(u64::MAX / 2);

    /// Creates a version from its number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the version of the next committed write.
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

/// Incarnation of an engine on its index: a durable counter that every open raises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Epoch(u64);

impl Epoch {
    /// Creates an epoch from its number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Id of a write operation and of the [change](crate::records::Change) that it records. A version 7
/// uuid, so that ids are ordered by time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OperationId(Uuid);

/// Number of a blob tier among the tiers that a store has had. The first tier has number 0. Each
/// tier that the store is moved to has the next number, and a number is never reused.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct TierNumber(u16);

impl TierNumber {
    /// The first blob tier of a store.
    pub const FIRST: Self = Self(0);
    /// Highest number: a revision id has 12 bits for it.
    pub const LAST: Self = Self(0x0fff);

    /// Creates a number. Returns `None` if it is above [`LAST`](Self::LAST).
    pub fn new(number: u16) -> Option<Self> {
        (number <= Self::LAST.0).then_some(Self(number))
    }

    /// Returns the number.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Returns the number of the tier after this one, or `None` if there is none.
    pub fn next(self) -> Option<Self> {
        Self::new(self.0 + 1)
    }
}

impl fmt::Display for TierNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Id of a revision, new for every attempt and never reused (I4). It names the blob tier of the
/// revision.
///
/// ```text
/// first tier    version 7 uuid   48 bits milliseconds | 7 | 12 bits random | 64 bits with 62 random
/// later tiers   version 8 uuid   48 bits milliseconds | 8 | 12 bits tier   | 64 bits with 62 random
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RevisionId(Uuid);

/// Id of a store: 128 random bits that are generated when its index is created and never change.
///
/// The marker in the blob tier contains the same id, so that an index is not opened with the blobs
/// of another store (I11).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StoreId(Uuid);

/// Id of a blob tier after the first of its store: 128 random bits. Its marker contains the id, so
/// that the tiers of a store are not confused with each other (I11).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TierId(Uuid);

macro_rules! uuid_word {
    ($name:ident) => {
        impl $name {
            /// Creates the id from a uuid.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// Returns the uuid.
            pub const fn as_uuid(&self) -> &Uuid {
                &self.0
            }

            /// Returns the 16 bytes of the id, which the index uses as a key.
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// Creates the id from its bytes. Returns `None` if there are not 16 bytes.
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
uuid_word!(TierId);

/// Content of the marker of a blob tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierMark {
    /// Store to which the tier belongs.
    pub store: StoreId,
    /// Id of the tier; `None` for the first tier of a store.
    pub tier: Option<TierId>,
}

impl From<StoreId> for TierMark {
    fn from(store: StoreId) -> Self {
        Self { store, tier: None }
    }
}

impl fmt::Display for TierMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tier {
            None => write!(f, "{}", self.store),
            Some(tier) => write!(f, "{}/{tier}", self.store),
        }
    }
}

impl OperationId {
    /// Returns this id, marked as that of a move from a fallback. The mark is the version of the
    /// uuid: 8 instead of 7. The order by time is kept.
    #[must_use]
    pub fn of_move(self) -> Self {
        let mut bytes = self.0.into_bytes();
        bytes[6] = bytes[6] & 0x0f | 0x80;
        Self(Uuid::from_bytes(bytes))
    }

    /// Returns whether the operation moved an object from a fallback into the store.
    pub fn is_move(&self) -> bool {
        self.0.get_version_num() == 8
    }
}

impl RevisionId {
    /// Returns this id, as that of a revision in this blob tier.
    #[must_use]
    pub fn in_tier(self, tier: TierNumber) -> Self {
        if tier == TierNumber::FIRST {
            return self;
        }
        let mut bytes = self.0.into_bytes();
        let [high, low] = tier.0.to_be_bytes();
        bytes[6] = 0x80 | high;
        bytes[7] = low;
        Self(Uuid::from_bytes(bytes))
    }

    /// Returns the blob tier of the revision.
    pub fn tier(&self) -> TierNumber {
        let bytes = self.0.as_bytes();
        match self.0.get_version_num() {
            8 => TierNumber(u16::from_be_bytes([bytes[6] & 0x0f, bytes[7]])),
            _ => TierNumber::FIRST,
        }
    }

    /// Returns the time at which the id was generated, which is before the upload of its blob
    /// started. Returns `None` if the uuid contains no time.
    pub fn born(&self) -> Option<Timestamp> {
        let version = self.0.get_version_num();
        let [a, b, c, d, e, f, ..] = *self.0.as_bytes();
        (version == 7 || version == 8)
            .then(|| Timestamp::from_millis(u64::from_be_bytes([0, 0, a, b, c, d, e, f])))
    }
}

/// Key of an immutable blob: the object that it was written for and its [`RevisionId`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RevisionKey {
    /// Object whose bytes the blob holds.
    pub object: ObjectId,
    /// Revision of the object.
    pub revision: RevisionId,
}

impl fmt::Display for RevisionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.object, self.revision)
    }
}

/// Opaque name of a committed write. Every committed write has a unique etag.
///
/// The text form has 32 hexadecimal digits at present. Do not parse it.
///
/// ```
/// # use cenotaph_storage::{Etag, OperationId};
/// let etag = Etag::of(&OperationId::from_uuid(uuid::Uuid::from_u128(7)));
/// assert_eq!(etag.to_string(), "00000000000000000000000000000007");
/// assert_eq!(etag.to_string().parse::<Etag>().unwrap(), etag);
/// assert!("not an etag".parse::<Etag>().is_err());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Etag(Uuid);

impl Etag {
    /// Returns the etag of the write that this operation committed.
    pub fn of(operation: &OperationId) -> Self {
        Self(operation.0)
    }

    /// Returns the operation that committed the write.
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
    /// [`ErrorKind::Invalid`] if the text is not the text form of an etag.
    fn from_str(text: &str) -> Result<Self> {
        // The library accepts several forms of a uuid. An etag has only one, so that etags can be
        // compared as text.
        let uuid = Uuid::try_parse(text)
            .ok()
            .filter(|uuid| uuid.simple().to_string() == text);
        uuid.map(Self).ok_or_else(|| {
            Error::new(
                ErrorKind::Invalid,
                "etag",
                format!("invalid etag: text={text:?}"),
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

/// Present version of an object, as reported by a failed precondition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectVersion {
    /// Version of the last committed write.
    pub version: Version,
    /// Etag of the last committed write.
    pub etag: Etag,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revision_id_names_its_tier_and_its_birth() {
        let uuid = Uuid::parse_str("0197b1a2-c3d4-7abc-8def-0123456789ab").unwrap();
        let first = RevisionId::from_uuid(uuid);
        let born = Some(Timestamp::from_millis(0x0197_b1a2_c3d4));
        assert_eq!((first.tier(), first.born()), (TierNumber::FIRST, born));
        assert_eq!(first.in_tier(TierNumber::FIRST), first);
        for number in [1, 2, 255, 256, TierNumber::LAST.get()] {
            let tier = TierNumber::new(number).unwrap();
            let later = first.in_tier(tier);
            assert_eq!((later.tier(), later.born()), (tier, born));
            assert_eq!(later.as_bytes()[8..], first.as_bytes()[8..]);
        }
        assert_eq!(
            first.in_tier(TierNumber(0x0123)).to_string(),
            "0197b1a2-c3d4-8123-8def-0123456789ab"
        );
        assert_eq!(TierNumber::LAST.next(), None);
        assert_eq!(TierNumber::new(0x1000), None);
        let random = RevisionId::from_uuid(Uuid::from_u128(9));
        assert_eq!((random.tier(), random.born()), (TierNumber::FIRST, None));
    }
}
