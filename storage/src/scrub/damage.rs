//! The kinds of damage that a scrub reports, with their meaning and repair: [`Damage`].
//!
//! Guards that no report contains the id of an open upload, because its holder may write the
//! object. The start time distinguishes several uploads to the same object.

use std::fmt;

use bytes::Bytes;
use serde::{Serialize, Serializer};
use uuid::{Uuid, Variant};

use crate::index::{Table, UnreadableRange};
use crate::types::ObjectId;
use crate::types::PartNumber;
use crate::types::{RevisionId, Timestamp};

mod text;

/// A damage in the index or in the blob tier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "damage", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Damage {
    /// A dangling tombstone: a row names a blob that does not exist. Reads of the object fail. The
    /// object is given up only on request: the blob may be in a backup, or the configured blob tier
    /// may be the wrong one.
    MissingBlob {
        /// Affected object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
        /// Affected revision.
        revision: RevisionId,
    },
    /// The bytes of a blob differ from the bytes written. The object is given up only on request.
    CorruptBlob {
        /// Affected object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
        /// Affected revision.
        revision: RevisionId,
        /// Description of the damage.
        why: String,
    },
    /// A blob cannot be read at present. Its state is unknown.
    UnreadableBlob {
        /// Affected object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
        /// Affected revision.
        revision: RevisionId,
        /// Error of the read.
        why: String,
    },
    /// The block checksums of an intact blob are lost or damaged. They are computed again from its
    /// bytes, which match the checksum of the blob.
    MissingChecksums {
        /// Affected object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
        /// Affected revision.
        revision: RevisionId,
    },
    /// The bytes of a blob are intact, but the trailer that names their object is damaged: without
    /// the index the object of the blob is unknown. Never repaired: write or copy the object again.
    DamagedTrailer {
        /// Affected object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
        /// Affected revision.
        revision: RevisionId,
    },
    /// The bytes of an inline object are missing in the index. The object is given up only on
    /// request.
    MissingPayload {
        /// Affected object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
    },
    /// The bytes of an inline object differ from the bytes written. The object is given up only on
    /// request.
    CorruptPayload {
        /// Affected object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
    },
    /// A row is damaged, or its key is not the key of an object. The row is given up only on
    /// request.
    BrokenRow {
        /// Key of the row.
        key: RawKey,
        /// Description of the damage.
        why: String,
    },
    /// A range of keys of the index cannot be read, because a file of the index is damaged. The
    /// entries in the range are lost or hidden, and the next compaction of the file ends all
    /// writes. Never repaired: salvage the store into a new one.
    UnreadableRange {
        /// Table of the index.
        #[serde(serialize_with = "table_name")]
        table: Table,
        /// First key of the range. Empty for the start of the table.
        from: RawKey,
        /// First key behind the range, or `None` for the end of the table.
        to: Option<RawKey>,
        /// Error of the index.
        why: String,
    },
    /// An entry in an unknown format, possibly written by a later build. Never repaired.
    UnknownFormat {
        /// Table of the index.
        #[serde(serialize_with = "table_name")]
        table: Table,
        /// Key of the entry.
        key: RawKey,
    },
    /// An object with a deadline has no expiry entry, so that it would never be removed. Repaired.
    RowWithoutExpiry {
        /// Affected object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
        /// Deadline of the object or upload.
        deadline: Timestamp,
    },
    /// The object of an expiry entry is absent or has a different deadline. Repaired.
    ExpiryWithoutRow {
        /// Affected object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
        /// Deadline of the expiry entry.
        deadline: Timestamp,
    },
    /// No row and no part names a payload, or the block checksums of a revision. Repaired.
    PayloadWithoutRow {
        /// Key of the entry.
        key: RawKey,
    },
    /// An upload record is damaged: its upload can be neither completed nor aborted. Given up only
    /// on request: the upload and its parts are removed.
    BrokenSession {
        /// Affected object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
        /// Start time of the upload.
        begun: Timestamp,
        /// Description of the damage.
        why: String,
    },
    /// The entry of a part of an open upload is damaged: the upload can be neither completed nor
    /// aborted. The part is given up only on request: the upload then continues, and the part must
    /// be uploaded again.
    BrokenPart {
        /// Affected object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
        /// Start time of the upload.
        begun: Timestamp,
        /// Number of the part.
        part: PartNumber,
        /// Description of the damage.
        why: String,
    },
    /// A part of an open upload names a blob that does not exist. Like a dangling tombstone, the
    /// part is given up only on request: the upload then continues, and the part must be uploaded
    /// again.
    MissingPart {
        /// Affected object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
        /// Start time of the upload.
        begun: Timestamp,
        /// Number of the part.
        part: PartNumber,
        /// Affected revision.
        revision: RevisionId,
    },
    /// The bytes of a part of an open upload differ from the bytes written. The part is given up
    /// only on request: the upload then continues, and the part must be uploaded again.
    CorruptPart {
        /// Affected object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
        /// Start time of the upload.
        begun: Timestamp,
        /// Number of the part.
        part: PartNumber,
        /// Affected revision.
        revision: RevisionId,
        /// Description of the damage.
        why: String,
    },
    /// A part belongs to an upload that is not open. Repaired: its entry is removed. A payload or
    /// blob that only this part named is found separately, as a payload without a row or an unknown
    /// blob.
    PartWithoutSession {
        /// Key of the entry.
        key: RawKey,
    },
    /// An upload has no expiry entry, so that it would never be given up or forgotten. Repaired.
    SessionWithoutExpiry {
        /// Affected object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
        /// Start time of the upload.
        begun: Timestamp,
        /// Deadline of the object or upload.
        deadline: Timestamp,
    },
    /// The upload of an expiry entry is unknown or has a different deadline. Repaired.
    ExpiryWithoutSession {
        /// Affected object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
        /// Start time of the upload.
        begun: Timestamp,
        /// Deadline of the expiry entry.
        deadline: Timestamp,
    },
    /// An object has both a row and a stored last version. Repaired.
    FloorBesideRow {
        /// Affected object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
    },
    /// An entry outside the rows table is damaged. Repaired by its removal: the data that it
    /// described is found by other means. An entry of the sessions table that is neither an upload
    /// record nor a part is given up only on request: it may hold the bytes of a part.
    BrokenEntry {
        /// Table of the index.
        #[serde(serialize_with = "table_name")]
        table: Table,
        /// Key of the entry.
        key: RawKey,
    },
    /// No row, part, change or orphan names a blob of this store. Repaired: the blob becomes an
    /// orphan.
    UnknownBlob {
        /// Object that the blob was written for.
        #[serde(serialize_with = "named")]
        object: ObjectId,
        /// Affected revision.
        revision: RevisionId,
        /// Length of the blob in bytes.
        bytes: u64,
    },
    /// A file in the blob tier that is not a blob of this store, or a blob that no entry names and
    /// whose object is unknown, because its name is long and its trailer is damaged. Never
    /// repaired.
    ForeignBlob {
        /// Path in the blob tier.
        path: String,
    },
}

impl From<UnreadableRange> for Damage {
    fn from(range: UnreadableRange) -> Self {
        let UnreadableRange {
            table,
            from,
            to,
            why,
        } = range;
        Self::UnreadableRange {
            table,
            from: RawKey(from),
            to: to.map(RawKey),
            why,
        }
    }
}

/// A key of the index in its stored form, which may be a key that this store never writes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RawKey(pub Bytes);

impl fmt::Display for RawKey {
    /// Formats a version 7 UUID as a UUID, and every other key as text with escapes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Uuid::from_slice(&self.0) {
            Ok(uuid) if uuid.get_version_num() == 7 && uuid.get_variant() == Variant::RFC4122 => {
                write!(f, "{uuid}")
            }
            Ok(_) | Err(_) => write!(f, "{}", self.0.escape_ascii()),
        }
    }
}

impl fmt::Debug for RawKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for RawKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Serializes an object id as namespace and key: a key may contain any character, so a single
/// string would be ambiguous.
fn named<S: Serializer>(id: &ObjectId, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Name<'a> {
        namespace: &'a str,
        key: &'a str,
    }
    Name {
        namespace: id.namespace_str(),
        key: id.key(),
    }
    .serialize(serializer)
}

fn table_name<S: Serializer>(table: &Table, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(table.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scrub::{Finding, RepairOutcome};

    #[test]
    fn text_and_json_use_the_same_damage_name() {
        let object = ObjectId::try_from("a/b").unwrap();
        let damage = Damage::CorruptPayload { object };
        let finding = Finding {
            damage: damage.clone(),
            fate: RepairOutcome::Left,
        };
        let json = serde_json::to_value(&finding).unwrap();
        let expected = serde_json::json!({
            "damage": "corrupt-payload",
            "object": { "namespace": "default", "key": "a/b" },
            "fate": "left"
        });
        assert_eq!(json, expected);
        assert_eq!(damage.to_string(), "corrupt-payload: object=a/b");
    }

    #[test]
    fn upload_damage_names_its_start_time_and_not_its_id() {
        let object = ObjectId::try_from("a/b").unwrap();
        let part = PartNumber::new(7).unwrap();
        let begun = Timestamp::from_millis(1000);
        let damage = Damage::BrokenPart {
            object,
            begun,
            part,
            why: "no part".into(),
        };
        assert_eq!(
            damage.to_string(),
            "broken-part: object=a/b begun_ms=1000 part=7: no part"
        );
        let json = serde_json::to_value(&damage).unwrap();
        let expected = serde_json::json!({
            "damage": "broken-part",
            "object": { "namespace": "default", "key": "a/b" },
            "begun": 1000,
            "part": 7,
            "why": "no part"
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn any_raw_key_is_readable() {
        let uuid = "0198c5a2-1f00-7abc-8def-00000000007f";
        let key = |bytes: &[u8]| RawKey(Bytes::copy_from_slice(bytes)).to_string();
        assert_eq!(key(Uuid::try_parse(uuid).unwrap().as_bytes()), uuid);
        assert_eq!(key(b"default\0abcdefgh"), r"default\x00abcdefgh");
        assert_eq!(key(b"default\0\xff"), r"default\x00\xff");
    }
}
