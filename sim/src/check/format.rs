//! What is stored, read a second time: decoders written from the drawings in `storage/src/rows/`, not from its code.
//!
//! The checkers must not believe the engine's own reading of its rows. So each value has a second reader here, and a
//! format that drifts from its drawing is found.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

/// The custom attribute in which a workload says which of its writes this is.
pub(crate) const WRITE: &str = "cenotaph-sim:write";

/// A row: `version=1 | postcard | embedded payload`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) version: u64,
    pub(crate) operation: Uuid,
    pub(crate) size: u64,
    /// Over the whole payload.
    pub(crate) checksum: Option<u64>,
    pub(crate) created: u64,
    pub(crate) modified: u64,
    /// Which write of the workload it is, if it says so.
    pub(crate) write: Option<u64>,
    pub(crate) body: Body,
}

/// Where a row's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Embedded(Vec<u8>),
    Separate,
    Tombstone(Vec<Extent>),
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Extent {
    pub(crate) revision: Uuid,
    pub(crate) bytes: u64,
    _checksum: u64,
}

#[derive(Deserialize)]
struct Head {
    version: u64,
    operation: Uuid,
    size: u64,
    checksum: Option<u64>,
    created: u64,
    modified: u64,
    _texts: [Option<String>; 4],
    custom: BTreeMap<String, String>,
    body: Kind,
}

#[derive(Deserialize)]
enum Kind {
    Embedded,
    Separate,
    Tombstone(Vec<Extent>),
}

impl Row {
    pub(crate) fn revisions(&self) -> Vec<Uuid> {
        match &self.body {
            Body::Embedded(_) | Body::Separate => Vec::new(),
            Body::Tombstone(extents) => extents.iter().map(|extent| extent.revision).collect(),
        }
    }

    /// The public spelling of the operation.
    pub(crate) fn etag(&self) -> String {
        self.operation.simple().to_string()
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let (head, tail) = postcard::take_from_bytes::<Head>(versioned(value)?).ok()?;
        let body = match head.body {
            Kind::Embedded => Body::Embedded(tail.to_vec()),
            Kind::Separate if tail.is_empty() => Body::Separate,
            Kind::Tombstone(extents) if tail.is_empty() => Body::Tombstone(extents),
            Kind::Separate | Kind::Tombstone(_) => return None,
        };
        let write = head.custom.get(WRITE).and_then(|text| text.parse().ok());
        let Head { version, operation, size, checksum, created, modified, .. } = head;
        Some(Self { version, operation, size, checksum, created, modified, write, body })
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

/// A change, an orphan, or a floor (a `u64`).
pub(crate) fn decode<T: DeserializeOwned>(value: &[u8]) -> Option<T> {
    match postcard::take_from_bytes(versioned(value)?) {
        Ok((decoded, [])) => Some(decoded),
        Ok(_) | Err(_) => None,
    }
}

fn versioned(value: &[u8]) -> Option<&[u8]> {
    match value {
        [1, body @ ..] => Some(body),
        _ => None,
    }
}

/// The revision whose blob lies at a path: `.../name@uuid`.
pub(crate) fn revision_of_path(path: &str) -> Option<Uuid> {
    Uuid::try_parse(path.rsplit_once('@')?.1).ok()
}

/// The key of an object's version floor.
pub(crate) fn floor_key(object: &[u8]) -> Vec<u8> {
    [b"floor\0", object].concat()
}
