//! What is stored, read a second time: decoders written from the drawings in `storage/src/rows/`,
//! not from its code.
//!
//! The checkers must not believe the engine's own reading of its rows. So each value has a second
//! reader here, and a format that drifts from its drawing is found.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

/// The custom attribute in which a workload says which of its writes this is.
pub(crate) const WRITE: &str = "cenotaph-sim:write";

/// The custom attribute in which a change of metadata says which one it is.
pub(crate) const AMEND: &str = "cenotaph-sim:amend";
/// The custom attribute in which an update says which version it read; 0 if there was no object.
pub(crate) const SAW: &str = "cenotaph-sim:saw";

/// A row: `version=2 | postcard | embedded payload`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) version: u64,
    pub(crate) operation: Uuid,
    pub(crate) size: u64,
    /// Over the whole payload.
    pub(crate) checksum: Option<u64>,
    pub(crate) created: u64,
    pub(crate) modified: u64,
    pub(crate) expires_at: Option<u64>,
    pub(crate) expiration: Expiration,
    /// Which write of the workload it is, if it says so.
    pub(crate) write: Option<u64>,
    /// Which change of metadata was the last.
    pub(crate) amend: Option<u64>,
    /// Which version the update read that wrote it.
    pub(crate) saw: Option<u64>,
    pub(crate) body: Body,
}

/// Where a row's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Embedded(Vec<u8>),
    /// Beside the row, under the operation that wrote it.
    Separate(Uuid),
    Tombstone(Manifest),
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) extents: Vec<Extent>,
    /// The row's key of the object under whose name the blobs lie, if it was renamed.
    pub(crate) written_as: Option<Vec<u8>>,
}

/// When an object expires by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Expiration {
    Manual,
    TimeToLive(Duration),
    TimeToIdle(Duration),
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Extent {
    pub(crate) revision: Uuid,
    pub(crate) bytes: u64,
    /// Over all of it.
    pub(crate) checksum: u64,
}

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

#[derive(Deserialize)]
enum Kind {
    Embedded,
    Separate(Uuid),
    Tombstone(Manifest),
}

impl Row {
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

    /// Those that hold some of these bytes.
    pub(crate) fn revisions_of(&self, range: &Range<u64>) -> Vec<Uuid> {
        let Body::Tombstone(manifest) = &self.body else {
            return Vec::new();
        };
        let mut end = 0;
        let mut of_range = Vec::new();
        for extent in &manifest.extents {
            let start = end;
            end += extent.bytes;
            if start < range.end && range.start < end {
                of_range.push(extent.revision);
            }
        }
        of_range
    }

    /// Whether the object exists at this time of day.
    pub(crate) fn is_live(&self, now_ms: u64) -> bool {
        self.expires_at.is_none_or(|deadline| now_ms < deadline)
    }

    /// The public spelling of the operation.
    pub(crate) fn etag(&self) -> String {
        self.operation.simple().to_string()
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let (head, tail) = postcard::take_from_bytes::<Head>(versioned(value, 2)?).ok()?;
        let body = match head.body {
            Kind::Embedded => Body::Embedded(tail.to_vec()),
            Kind::Separate(operation) if tail.is_empty() => Body::Separate(operation),
            Kind::Tombstone(manifest) if tail.is_empty() => Body::Tombstone(manifest),
            Kind::Separate(_) | Kind::Tombstone(_) => return None,
        };
        let number = |name: &str| head.custom.get(name).and_then(|text| text.parse().ok());
        let (write, amend, saw) = (number(WRITE), number(AMEND), number(SAW));
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
            write,
            amend,
            saw,
            body,
        })
    }
}

/// A change: `version=1 | postcard: epoch, started, object, revisions`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Change {
    pub(crate) epoch: u64,
    _started: u64,
    /// The row's key.
    pub(crate) object: Vec<u8>,
    pub(crate) revisions: Vec<Uuid>,
}

/// An orphan: `version=1 | postcard: object, since, not_before, attempts, landing`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Orphan {
    pub(crate) object: Vec<u8>,
    _since: u64,
    _not_before: u64,
    pub(crate) attempts: u32,
    pub(crate) landing: Landing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Landing {
    Landed,
    MayLand,
}

/// A change, an orphan, a session, a part, or a floor (a `u64`).
pub(crate) fn decode<T: DeserializeOwned>(value: &[u8]) -> Option<T> {
    match postcard::take_from_bytes(versioned(value, 1)?) {
        Ok((decoded, [])) => Some(decoded),
        Ok(_) | Err(_) => None,
    }
}

fn versioned(value: &[u8], version: u8) -> Option<&[u8]> {
    match value {
        [found, body @ ..] if *found == version => Some(body),
        _ => None,
    }
}

/// The revision whose blob lies at a path: `.../name@uuid`.
pub(crate) fn revision_of_path(path: &str) -> Option<Uuid> {
    Uuid::try_parse(path.rsplit_once('@')?.1).ok()
}

/// The entry of the meta table that names the store: `version=1 | postcard: id, tier`.
pub(crate) const STORE: &[u8] = b"store";

/// The store that a marker names: `CENOTAPH | version=1 | id, 16 bytes | xxh3, little endian`.
pub(crate) fn store_of_marker(marker: &[u8]) -> Option<Uuid> {
    let rest = marker.strip_prefix(b"CENOTAPH\x01")?;
    let sum = xxh3_64(marker.get(..25)?).to_le_bytes();
    (rest.len() == 24 && rest[16..] == sum).then(|| Uuid::from_slice(&rest[..16]).ok())?
}

/// The key of an object's version floor.
pub(crate) fn floor_key(object: &[u8]) -> Vec<u8> {
    [b"floor\0", object].concat()
}

/// An expiry entry, `deadline in ms, u64 big endian | the row's key`: its value is the version
/// alone.
pub(crate) fn expiry_key(deadline_ms: u64, object: &[u8]) -> Vec<u8> {
    [&deadline_ms.to_be_bytes()[..], object].concat()
}

/// An upload's session: `version=1 | postcard: initiated, expires_at, attributes, precondition,
/// phase`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Session {
    pub(crate) initiated: u64,
    pub(crate) expires_at: u64,
    pub(crate) attributes: Attributes,
    pub(crate) precondition: Precondition,
    pub(crate) phase: Phase,
}

impl Session {
    /// Whether anybody knows it at this time of day.
    pub(crate) fn is_live(&self, now_ms: u64) -> bool {
        now_ms < self.expires_at
    }

    pub(crate) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// The number of the call that began it, if it says so.
    pub(crate) fn of(&self) -> Option<u64> {
        self.attributes
            .custom
            .get(WRITE)
            .and_then(|text| text.parse().ok())
    }
}

/// What is stated about an object, as a session keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Attributes {
    texts: [Option<String>; 4],
    custom: BTreeMap<String, String>,
    expiration: Expiration,
}

impl Attributes {
    /// Whether nothing is stated.
    pub(crate) fn is_empty(&self) -> bool {
        self.texts.iter().all(Option::is_none)
            && self.custom.is_empty()
            && self.expiration == Expiration::Manual
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Precondition {
    None,
    Absent,
    Version(u64),
    Etag(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Phase {
    Open,
    Completed {
        /// SHA-256 over the numbers and etags, big endian.
        parts: [u8; 32],
        written: Written,
    },
    Aborted,
}

/// What came of a completion.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Written {
    pub(crate) outcome: Outcome,
    pub(crate) version: Option<u64>,
    pub(crate) etag: Option<String>,
    pub(crate) created: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Outcome {
    Applied,
    Superseded,
}

/// A part: `version=1 | postcard: extent, etag, uploaded`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Part {
    pub(crate) extent: Extent,
    pub(crate) etag: u128,
    _uploaded: u64,
}

/// Bytes of an upload id.
const UPLOAD_BYTES: usize = 22;

/// What a key of the session table names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SessionKey {
    /// `0x00 | the row's key, each 0x00 followed by 0xff | 0x00 | upload id`.
    Session { object: Vec<u8>, upload: Vec<u8> },
    /// `0x01 | upload id | number, u16 big endian`.
    Part { upload: Vec<u8>, number: u16 },
}

impl SessionKey {
    pub(crate) fn read(key: &[u8]) -> Option<Self> {
        match key {
            [0, rest @ ..] => {
                let (object, upload) =
                    rest.split_at_checked(rest.len().checked_sub(UPLOAD_BYTES)?)?;
                let escaped = object.strip_suffix(&[0])?;
                let mut object = Vec::new();
                let mut bytes = escaped.iter();
                while let Some(&byte) = bytes.next() {
                    if byte == 0 && bytes.next() != Some(&0xff) {
                        return None;
                    }
                    object.push(byte);
                }
                Some(Self::Session {
                    object,
                    upload: upload.to_vec(),
                })
            }
            [1, rest @ ..] => {
                let (upload, number) = rest.split_at_checked(UPLOAD_BYTES)?;
                let number = u16::from_be_bytes(number.try_into().ok()?);
                (1..=10_000).contains(&number).then(|| Self::Part {
                    upload: upload.to_vec(),
                    number,
                })
            }
            [] | [_, ..] => None,
        }
    }
}

/// Where the session of an upload lies.
pub(crate) fn session_key(object: &[u8], upload: &[u8]) -> Vec<u8> {
    let escaped = object
        .iter()
        .flat_map(|&byte| if byte == 0 { vec![0, 0xff] } else { vec![byte] });
    std::iter::once(0)
        .chain(escaped)
        .chain([0])
        .chain(upload.iter().copied())
        .collect()
}
