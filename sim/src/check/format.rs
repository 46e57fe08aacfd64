//! Second decoders of stored values, written from the drawings in `storage/src/records/` and not
//! from its code.
//!
//! The checkers must not rely on the engine's own decoders. So a format that differs from its
//! drawing is detected here.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

mod uploads;

pub(crate) use uploads::*;

/// Custom attribute with the number of the write of the workload.
pub(crate) const WRITE: &str = "cenotaph-sim:write";

/// Custom attribute with the number of the change of metadata.
pub(crate) const AMEND: &str = "cenotaph-sim:amend";
/// Custom attribute with the version that an update read, or 0 if there was no object.
pub(crate) const SAW: &str = "cenotaph-sim:saw";

/// Prefix of the keys of readers' pins in the meta table.
pub(crate) const PINS: &[u8] = b"pin\0";

/// Decodes the key of a reader's pin: `pin 0x00 | revision | epoch u64 big endian`.
pub(crate) fn reader_pin(key: &[u8]) -> Option<(Uuid, u64)> {
    let (revision, epoch) = key.strip_prefix(PINS)?.split_at_checked(16)?;
    let epoch = epoch.try_into().ok()?;
    Some((Uuid::from_slice(revision).ok()?, u64::from_be_bytes(epoch)))
}

/// Row of an object: `version=2 | postcard | embedded payload`, or `version=3 | postcard` if its
/// payload was relocated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) version: u64,
    pub(crate) operation: Uuid,
    pub(crate) size: u64,
    /// xxh3 of the whole payload.
    pub(crate) checksum: Option<u64>,
    pub(crate) created: u64,
    pub(crate) modified: u64,
    pub(crate) expires_at: Option<u64>,
    pub(crate) expiration: Expiration,
    /// Number of the write of the workload, if the row names it.
    pub(crate) write: Option<u64>,
    /// Number of the last change of metadata.
    pub(crate) amend: Option<u64>,
    /// Version that the update which wrote the row had read.
    pub(crate) saw: Option<u64>,
    pub(crate) body: Body,
    /// Identity of a relocated payload: the first revision of its write.
    pub(crate) relocated: Option<Uuid>,
}

/// Place of a row's payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// In the row itself.
    Embedded(Bytes),
    /// In the payload table, under the operation that wrote it.
    Separate(Uuid),
    /// In the blob tier.
    Tombstone(Manifest),
}

/// Ordered list of the blobs of a tombstone.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) extents: Vec<Extent>,
    /// Row key of the object under whose name the blobs are stored, if the object was renamed.
    pub(crate) written_as: Option<Vec<u8>>,
}

/// Rule by which an object expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Expiration {
    Manual,
    TimeToLive(Duration),
    TimeToIdle(Duration),
}

/// Blob in a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Extent {
    pub(crate) revision: Uuid,
    pub(crate) bytes: u64,
    /// xxh3 of the whole blob.
    pub(crate) checksum: u64,
}

/// Postcard part of a row.
#[derive(Deserialize)]
struct Head {
    version: u64,
    operation: Uuid,
    size: u64,
    checksum: Option<u64>,
    created: u64,
    modified: u64,
    expires_at: Option<u64>,
    _texts: [Option<String>; 4],
    custom: BTreeMap<String, String>,
    expiration: Expiration,
    body: Kind,
}

/// Place of the payload, as stored in the row.
#[derive(Deserialize)]
enum Kind {
    Embedded,
    Separate(Uuid),
    Tombstone(Manifest),
    Relocated(Manifest, Uuid),
}

impl Row {
    /// Returns the revisions that the row names, in order.
    pub(crate) fn revisions(&self) -> Vec<Uuid> {
        match &self.body {
            Body::Embedded(_) | Body::Separate(_) => Vec::new(),
            Body::Tombstone(manifest) => manifest
                .extents
                .iter()
                .map(|extent| extent.revision)
                .collect(),
        }
    }

    /// Returns true if the row names any of these revisions.
    pub(crate) fn names_any_of(&self, revisions: &[Uuid]) -> bool {
        self.revisions()
            .iter()
            .any(|named| revisions.contains(named))
    }

    /// Returns the revisions that hold any of these bytes. A read does not open the blob of an empty
    /// part.
    pub(crate) fn revisions_of(&self, range: &Range<u64>) -> Vec<Uuid> {
        let Body::Tombstone(manifest) = &self.body else {
            return Vec::new();
        };
        let mut end = 0;
        let mut of_range = Vec::new();
        for extent in &manifest.extents {
            let start = end;
            end += extent.bytes;
            if start < range.end && range.start < end && extent.bytes > 0 {
                of_range.push(extent.revision);
            }
        }
        of_range
    }

    /// Returns true if the object exists at this time of day.
    pub(crate) fn is_live(&self, now_ms: u64) -> bool {
        self.expires_at.is_none_or(|deadline| now_ms < deadline)
    }

    /// Returns the public form of the operation.
    pub(crate) fn etag(&self) -> String {
        if self.version == 0 {
            // An object that only the fallback has.
            return String::new();
        }
        self.operation.simple().to_string()
    }

    /// Decodes a row. Returns `None` if the value does not match the drawing.
    pub(crate) fn decode(value: &Bytes) -> Option<Self> {
        let is_relocated = value.first() == Some(&3);
        let version = if is_relocated { 3 } else { 2 };
        let (head, tail) = postcard::take_from_bytes::<Head>(versioned(value, version)?).ok()?;
        let mut relocated = None;
        let body = match head.body {
            Kind::Embedded if !is_relocated => Body::Embedded(value.slice_ref(tail)),
            // Only an embedded payload follows the head.
            Kind::Separate(operation) if tail.is_empty() && !is_relocated => {
                Body::Separate(operation)
            }
            Kind::Tombstone(manifest) if tail.is_empty() && !is_relocated => {
                Body::Tombstone(manifest)
            }
            Kind::Relocated(manifest, payload) if tail.is_empty() && is_relocated => {
                relocated = Some(payload);
                Body::Tombstone(manifest)
            }
            _ => return None,
        };
        let number = |name: &str| head.custom.get(name).and_then(|text| text.parse().ok());
        let Head {
            version,
            operation,
            size,
            checksum,
            created,
            modified,
            expires_at,
            expiration,
            ..
        } = head;
        Some(Self {
            version,
            operation,
            size,
            checksum,
            created,
            modified,
            expires_at,
            expiration,
            write: number(WRITE),
            amend: number(AMEND),
            saw: number(SAW),
            body,
            relocated,
        })
    }
}

/// Change: `version=1 | postcard: epoch, started, object, revisions`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Change {
    pub(crate) epoch: u64,
    _started: u64,
    /// The row's key.
    pub(crate) object: Vec<u8>,
    pub(crate) revisions: Vec<Uuid>,
}

/// Orphan: `version=1 | postcard: object, since, not_before, attempts, landing`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Orphan {
    /// Row key of the object.
    pub(crate) object: Vec<u8>,
    _since: u64,
    _not_before: u64,
    pub(crate) attempts: u32,
    pub(crate) landing: Landing,
}

/// State of an orphan's blob: finished, or perhaps still under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Landing {
    Landed,
    MayLand,
}

/// Last version of a deleted object: `version=2 | postcard: version, deleted`, or `version=1 |
/// postcard: version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LastVersion {
    pub(crate) version: u64,
    pub(crate) deleted_ms: Option<u64>,
}

impl LastVersion {
    /// Decodes a last version.
    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let (version, deleted_ms) = match versioned(value, 2) {
            Some(body) => match postcard::take_from_bytes::<(u64, u64)>(body) {
                Ok(((version, deleted), [])) => (version, Some(deleted)),
                Ok(_) | Err(_) => return None,
            },
            None => (decode(value)?, None),
        };
        Some(Self {
            version,
            deleted_ms,
        })
    }
}

/// Base version: `version=1 | postcard: version, undated since`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct BaseVersion {
    pub(crate) version: u64,
    pub(crate) undated_since: u64,
}

/// Decodes a change, an orphan, an upload record, a part, or a base version.
pub(crate) fn decode<T: DeserializeOwned>(value: &[u8]) -> Option<T> {
    match postcard::take_from_bytes(versioned(value, 1)?) {
        Ok((decoded, [])) => Some(decoded),
        Ok(_) | Err(_) => None,
    }
}

/// Returns the value without its version byte, if that is the expected version.
fn versioned(value: &[u8], version: u8) -> Option<&[u8]> {
    match value {
        [found, body @ ..] if *found == version => Some(body),
        _ => None,
    }
}

/// Returns the revision whose blob has this path: `.../name@uuid`.
pub(crate) fn revision_of_path(path: &str) -> Option<Uuid> {
    Uuid::try_parse(path.rsplit_once('@')?.1).ok()
}

/// Key of the store record in the meta table.
pub(crate) const STORE: &[u8] = b"store";

/// Blob tier of a store: its number and its id, which the first one does not have.
pub(crate) type Tier = (u16, Option<Uuid>);

/// Store record: `version=1 | postcard: id, state of the tier`, or, after a move to another tier,
/// `version=2 | postcard: id, current tier, older tiers, next tier and its place`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Store {
    pub(crate) id: Uuid,
    pub(crate) is_claimed: bool,
    pub(crate) current: Tier,
    pub(crate) older: Vec<Tier>,
    /// Tier that is being added.
    pub(crate) next: Option<Tier>,
}

impl Store {
    /// Decodes a store record.
    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        if let Some(body) = versioned(value, 2) {
            type Body = (Uuid, Tier, Vec<Tier>, Option<(Tier, String)>);
            let ((id, current, older, next), rest) =
                postcard::take_from_bytes::<Body>(body).ok()?;
            return rest.is_empty().then_some(Self {
                id,
                is_claimed: true,
                current,
                older,
                next: next.map(|(tier, _)| tier),
            });
        }
        let (id, state) = decode::<(Uuid, u32)>(value)?;
        // 0 is an unclaimed tier, 1 a claimed tier.
        (state <= 1).then_some(Self {
            id,
            is_claimed: state == 1,
            current: (0, None),
            older: Vec::new(),
            next: None,
        })
    }
}

/// Returns the store id and the tier id of a marker: `CENOTAPH | version | store id, 16 bytes | tier
/// id, 16 bytes | xxh3, little endian`. That of the first tier has version 1 and no tier id.
pub(crate) fn ids_of_marker(marker: &[u8]) -> Option<(Uuid, Option<Uuid>)> {
    let ids = match marker.strip_prefix(b"CENOTAPH")?.first()? {
        1 => 1,
        2 => 2,
        _ => return None,
    };
    let end = 9 + 16 * ids;
    let sum = xxh3_64(marker.get(..end)?).to_le_bytes();
    // The ids and the checksum, and nothing after them.
    let id = |at: usize| Uuid::from_slice(marker.get(at..at + 16)?).ok();
    (marker[end..] == sum).then(|| Some((id(9)?, if ids == 2 { Some(id(25)?) } else { None })))?
}

/// Prefix of the keys of last versions in the meta table: `floor 0x00 | row key`.
pub(crate) const LAST_VERSIONS: &[u8] = b"floor\0";

/// Key of the base version in the meta table.
pub(crate) const BASE: &[u8] = b"base";

/// Returns the key of an expiry entry: `deadline in ms, u64 big endian | row key`. Its value is the
/// version byte alone.
pub(crate) fn expiry_key(deadline_ms: u64, object: &[u8]) -> Vec<u8> {
    [&deadline_ms.to_be_bytes()[..], object].concat()
}
