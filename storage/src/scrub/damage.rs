//! What may be wrong: [`Damage`], each kind with what it means and which repair it has.
//!
//! The id of an upload that is open is not told, for whoever knows it may write its object: of
//! several uploads to one object the moment at which they began tells which. Deliberately not here:
//! what can be done about it (`finding.rs`).

use std::fmt;

use bytes::Bytes;
use serde::{Serialize, Serializer};
use uuid::{Uuid, Variant};

use crate::id::ObjectId;
use crate::index::{Table, UnreadableRange};
use crate::multipart::PartNumber;
use crate::word::{RevisionId, Timestamp};

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "damage", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Damage {
    /// A dangling tombstone: its row names a blob that is not there. Reads of the object fail.
    /// Given up on request only: the blob may be in a backup, or the blob tier may be the wrong
    /// one.
    MissingBlob {
        /// The object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
        /// The revision.
        revision: RevisionId,
    },
    /// A blob's bytes are not those that were written. Given up on request only.
    CorruptBlob {
        /// The object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
        /// The revision.
        revision: RevisionId,
        /// What is wrong with it.
        why: String,
    },
    /// A blob could not be read now. Nothing is known about it.
    UnreadableBlob {
        /// The object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
        /// The revision.
        revision: RevisionId,
        /// Why not.
        why: String,
    },
    /// The block checksums of an intact blob are lost or damaged. Repaired from its bytes, which
    /// match the checksum of the whole.
    MissingChecksums {
        /// The object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
        /// The revision.
        revision: RevisionId,
    },
    /// The bytes of a blob are what was written, and the trailer that names their object is
    /// damaged: without the index the blob does not tell whose it is. Never repaired: write or copy
    /// the object anew.
    DamagedTrailer {
        /// The object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
        /// The revision.
        revision: RevisionId,
    },
    /// The bytes of an inline object are not in the index. Given up on request only.
    MissingPayload {
        /// The object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
    },
    /// The bytes of an inline object are not those that were written. Given up on request only.
    CorruptPayload {
        /// The object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
    },
    /// A row is damaged, or its key is no object's. Given up on request only.
    BrokenRow {
        /// Its key.
        key: RawKey,
        /// What is wrong with it.
        why: String,
    },
    /// A range of keys of the index can't be read: a file of it is damaged. The entries in the
    /// range are lost or hidden, and the next compaction of the file ends all writing. Never
    /// repaired: salvage the store into a new one.
    UnreadableRange {
        /// The table.
        #[serde(serialize_with = "table_name")]
        table: Table,
        /// The first key of the range. Empty for the beginning of the table.
        from: RawKey,
        /// The first key behind the range. None for the end of the table.
        to: Option<RawKey>,
        /// The error of the index.
        why: String,
    },
    /// Something was written in a format that this build does not know, by a later one perhaps.
    /// Never repaired.
    UnknownFormat {
        /// The table.
        #[serde(serialize_with = "table_name")]
        table: Table,
        /// The key.
        key: RawKey,
    },
    /// An object has a deadline, and no entry that has it removed then. Repaired.
    RowWithoutExpiry {
        /// The object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
        /// Its deadline.
        deadline: Timestamp,
    },
    /// An expiry entry whose object is absent or has another deadline. Repaired.
    ExpiryWithoutRow {
        /// The object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
        /// The deadline of the entry.
        deadline: Timestamp,
    },
    /// A payload, or the block checksums of a revision, that no row and no part names. Repaired.
    PayloadWithoutRow {
        /// Its key.
        key: RawKey,
    },
    /// A session is damaged: its upload can be neither completed nor aborted. Given up on request
    /// only: the upload ends, and its parts with it.
    BrokenSession {
        /// The object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
        /// When the upload began.
        begun: Timestamp,
        /// What is wrong with it.
        why: String,
    },
    /// The entry of a part of an open upload is damaged: the upload can be neither completed nor
    /// aborted. Given up on request only: the upload then goes on, and the part must be uploaded
    /// again.
    BrokenPart {
        /// The object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
        /// When the upload began.
        begun: Timestamp,
        /// Which part.
        part: PartNumber,
        /// What is wrong with it.
        why: String,
    },
    /// A part of an open upload names a blob that is not there. Given up on request only, as a
    /// dangling tombstone: the upload then goes on, and the part must be uploaded again.
    MissingPart {
        /// The object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
        /// When the upload began.
        begun: Timestamp,
        /// Which part.
        part: PartNumber,
        /// The revision.
        revision: RevisionId,
    },
    /// The bytes of a part of an open upload are not those that were written. Given up on request
    /// only: the upload then goes on, and the part must be uploaded again.
    CorruptPart {
        /// The object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
        /// When the upload began.
        begun: Timestamp,
        /// Which part.
        part: PartNumber,
        /// The revision.
        revision: RevisionId,
        /// What is wrong with it.
        why: String,
    },
    /// A part of an upload that is not open. Repaired: its entry is removed. What it named and
    /// nothing else does is found by itself, as a payload without its row and an unknown blob.
    PartWithoutSession {
        /// Its key.
        key: RawKey,
    },
    /// An upload has no entry that has it given up, or forgotten, at its deadline. Repaired.
    SessionWithoutExpiry {
        /// The object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
        /// When the upload began.
        begun: Timestamp,
        /// Its deadline.
        deadline: Timestamp,
    },
    /// An expiry entry whose upload is not known or has another deadline. Repaired.
    ExpiryWithoutSession {
        /// The object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
        /// When the upload began.
        begun: Timestamp,
        /// The deadline of the entry.
        deadline: Timestamp,
    },
    /// A version floor beside a row. Repaired.
    FloorBesideRow {
        /// The object.
        #[serde(serialize_with = "named")]
        object: ObjectId,
    },
    /// An entry of another table than the rows' is damaged. Repaired: what it was about is found by
    /// other means. But one of the session table whose key is that of no session and no part is
    /// given up on request only: it may hold a part's bytes.
    BrokenEntry {
        /// The table.
        #[serde(serialize_with = "table_name")]
        table: Table,
        /// The key.
        key: RawKey,
    },
    /// A blob of ours that no row, no part, no change and no orphan names. Repaired: it becomes an
    /// orphan.
    UnknownBlob {
        /// The object that it was written for.
        #[serde(serialize_with = "named")]
        object: ObjectId,
        /// The revision.
        revision: RevisionId,
        /// Its length.
        bytes: u64,
    },
    /// Something in the blob tier that is no blob of ours, or does not tell whose: a blob that
    /// nothing names, whose name is long and whose trailer is damaged. Never repaired: somebody put
    /// it there.
    ForeignBlob {
        /// Where it lies.
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

impl Damage {
    /// Its name, as in the JSON form.
    pub fn name(&self) -> &'static str {
        match self {
            Self::MissingBlob { .. } => "missing-blob",
            Self::CorruptBlob { .. } => "corrupt-blob",
            Self::UnreadableBlob { .. } => "unreadable-blob",
            Self::MissingChecksums { .. } => "missing-checksums",
            Self::DamagedTrailer { .. } => "damaged-trailer",
            Self::MissingPayload { .. } => "missing-payload",
            Self::CorruptPayload { .. } => "corrupt-payload",
            Self::BrokenRow { .. } => "broken-row",
            Self::UnreadableRange { .. } => "unreadable-range",
            Self::UnknownFormat { .. } => "unknown-format",
            Self::RowWithoutExpiry { .. } => "row-without-expiry",
            Self::ExpiryWithoutRow { .. } => "expiry-without-row",
            Self::PayloadWithoutRow { .. } => "payload-without-row",
            Self::BrokenSession { .. } => "broken-session",
            Self::BrokenPart { .. } => "broken-part",
            Self::MissingPart { .. } => "missing-part",
            Self::CorruptPart { .. } => "corrupt-part",
            Self::PartWithoutSession { .. } => "part-without-session",
            Self::SessionWithoutExpiry { .. } => "session-without-expiry",
            Self::ExpiryWithoutSession { .. } => "expiry-without-session",
            Self::FloorBesideRow { .. } => "floor-beside-row",
            Self::BrokenEntry { .. } => "broken-entry",
            Self::UnknownBlob { .. } => "unknown-blob",
            Self::ForeignBlob { .. } => "foreign-blob",
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.name())?;
        match self {
            Self::MissingBlob { object, revision }
            | Self::MissingChecksums { object, revision }
            | Self::DamagedTrailer { object, revision }
            | Self::UnknownBlob {
                object, revision, ..
            } => write!(f, "object={object} revision={revision}"),
            Self::CorruptBlob {
                object,
                revision,
                why,
            }
            | Self::UnreadableBlob {
                object,
                revision,
                why,
            } => {
                write!(f, "object={object} revision={revision}: {why}")
            }
            Self::MissingPayload { object }
            | Self::CorruptPayload { object }
            | Self::FloorBesideRow { object }
            | Self::RowWithoutExpiry { object, .. }
            | Self::ExpiryWithoutRow { object, .. } => write!(f, "object={object}"),
            Self::BrokenRow { key, why } => write!(f, "key={key}: {why}"),
            Self::UnreadableRange {
                table,
                from,
                to,
                why,
            } => {
                let to = to
                    .as_ref()
                    .map_or("the end".to_owned(), ToString::to_string);
                write!(f, "table={} from={from} to={to}: {why}", table.name())
            }
            Self::UnknownFormat { table, key } | Self::BrokenEntry { table, key } => {
                write!(f, "table={} key={key}", table.name())
            }
            Self::BrokenSession { object, begun, why } => {
                write!(f, "object={object} begun_ms={}: {why}", begun.as_millis())
            }
            Self::BrokenPart {
                object,
                begun,
                part,
                why,
            } => {
                write!(
                    f,
                    "object={object} begun_ms={} part={part}: {why}",
                    begun.as_millis()
                )
            }
            Self::MissingPart {
                object,
                begun,
                part,
                revision,
            } => {
                write!(
                    f,
                    "object={object} begun_ms={} part={part} revision={revision}",
                    begun.as_millis()
                )
            }
            Self::CorruptPart {
                object,
                begun,
                part,
                revision,
                why,
            } => {
                write!(
                    f,
                    "object={object} begun_ms={} part={part} revision={revision}: {why}",
                    begun.as_millis()
                )
            }
            Self::SessionWithoutExpiry { object, begun, .. }
            | Self::ExpiryWithoutSession { object, begun, .. } => {
                write!(f, "object={object} begun_ms={}", begun.as_millis())
            }
            Self::PayloadWithoutRow { key } | Self::PartWithoutSession { key } => {
                write!(f, "key={key}")
            }
            Self::ForeignBlob { path } => write!(f, "path={path:?}"),
        }
    }
}

/// A key as it stands in the index, which may be no key that we would write.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RawKey(pub Bytes);

impl fmt::Display for RawKey {
    /// A version 7 uuid as such, all else as text with escapes.
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

/// For scripts: a key may hold anything, so that no one string names an object.
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
    use crate::scrub::{Fate, Finding};

    #[test]
    fn damage_is_named_alike_for_people_and_for_scripts() {
        let object = ObjectId::try_from("a/b").unwrap();
        let damage = Damage::CorruptPayload { object };
        let finding = Finding {
            damage: damage.clone(),
            fate: Fate::Left,
        };
        let json = serde_json::to_value(&finding).unwrap();
        let expected = serde_json::json!({
            "damage": "corrupt-payload", "object": { "namespace": "default", "key": "a/b" }, "fate": "left"
        });
        assert_eq!(json, expected);
        assert_eq!(damage.to_string(), "corrupt-payload: object=a/b");
    }

    #[test]
    fn damage_to_an_upload_tells_when_it_began_and_not_its_id() {
        let (object, part) = (
            ObjectId::try_from("a/b").unwrap(),
            PartNumber::new(7).unwrap(),
        );
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
            "damage": "broken-part", "object": { "namespace": "default", "key": "a/b" }, "begun": 1000, "part": 7,
            "why": "no part"
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn a_raw_key_is_readable_whatever_it_is() {
        let uuid = "0198c5a2-1f00-7abc-8def-00000000007f";
        let key = |bytes: &[u8]| RawKey(Bytes::copy_from_slice(bytes)).to_string();
        assert_eq!(key(Uuid::try_parse(uuid).unwrap().as_bytes()), uuid);
        assert_eq!(key(b"default\0abcdefgh"), r"default\x00abcdefgh");
        assert_eq!(key(b"default\0\xff"), r"default\x00\xff");
    }
}
