//! The row: the index entry of an object. An object exists if and only if it has a live row.
//!
//! ```text
//! key: namespace 0x00 object key (`types/object_id.rs`)
//! +-----------+--------------------------------------------------------+------------------+
//! | version=2 | postcard: version, operation, metadata, body kind      | embedded payload |
//! | 1 byte    |   body kind 0 = embedded, 1 = separate, 2 = tombstone  | (kind 0 only)    |
//! |           |   followed by the id of the operation that wrote the   |                  |
//! |           |   payload (kind 1), or by the manifest (kind 2)        |                  |
//! | version=3 | the same; body kind 3 = relocated: the manifest of a   |                  |
//! |           |   tombstone, followed by the identity of its payload   |                  |
//! +-----------+--------------------------------------------------------+------------------+
//! ```
//!
//! Only rows whose payload was relocated to another blob tier have version 3, so that earlier builds
//! read all other rows.
//!
//! Rows of older formats are read (`row/older.rs`) and never written.
//!
//! Guards I2 together with `decide/`, which alone creates tombstones. The row contains the
//! operation that committed it: a repeated swap is recognised by this id, and the etag is derived
//! from it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::codec;
use super::manifest::{Manifest, PayloadId};
use super::metadata::Metadata;
use crate::types::{
    Etag, ObjectId, ObjectVersion, OperationId, Result, RevisionId, RevisionKey, Timestamp, Version,
};

mod older;

/// Maximum size of a payload that is embedded in the row, in bytes. Larger inline payloads are in
/// the payload table.
pub const EMBEDDED_BYTES_MAX: usize = 4 * 1024;

const FORMAT: u8 = 2;
/// Format of the rows of relocated payloads.
const RELOCATED: u8 = 3;

/// Index entry of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Number of this committed write of the object.
    pub version: Version,
    /// Operation that committed the row.
    pub operation: OperationId,
    /// Metadata of the object.
    pub metadata: Metadata,
    /// Location of the payload.
    pub body: RowBody,
}

/// Location of the payload of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowBody {
    /// Payload in the row.
    Embedded(Bytes),
    /// Payload in the payload table, under the operation that wrote it: the operation of the row,
    /// or an earlier operation if the row has been amended or renamed since.
    Separate(OperationId),
    /// Payload in the blob tier. The row is a tombstone.
    Tombstone(Manifest),
}

impl Row {
    /// Returns the etag of this committed write.
    pub fn etag(&self) -> Etag {
        Etag::of(&self.operation)
    }

    /// Returns the version and etag that a failed precondition reports.
    pub fn current(&self) -> ObjectVersion {
        ObjectVersion {
            version: self.version,
            etag: self.etag(),
        }
    }

    /// Returns `true` if the object exists at `now`.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.metadata.is_live(now)
    }

    /// Returns the blob keys of the revisions that the row names. `id` is the object of the row.
    pub fn revision_keys(&self, id: &ObjectId) -> Vec<RevisionKey> {
        match &self.body {
            RowBody::Embedded(_) | RowBody::Separate(_) => Vec::new(),
            RowBody::Tombstone(manifest) => manifest.keys(id).collect(),
        }
    }

    /// Returns the keys of the entries in the payload table that the row owns: its payload, or the
    /// block checksums of its revisions.
    pub fn belongings(&self) -> Vec<Bytes> {
        match &self.body {
            RowBody::Embedded(_) => Vec::new(),
            RowBody::Separate(operation) => vec![Bytes::copy_from_slice(operation.as_bytes())],
            RowBody::Tombstone(manifest) => manifest
                .revisions()
                .map(|revision| Bytes::copy_from_slice(revision.as_bytes()))
                .collect(),
        }
    }

    /// Returns the revisions that the row names. Only a tombstone names any.
    pub fn revisions(&self) -> Vec<RevisionId> {
        match &self.body {
            RowBody::Embedded(_) | RowBody::Separate(_) => Vec::new(),
            RowBody::Tombstone(manifest) => manifest.revisions().collect(),
        }
    }

    /// Returns `true` if the row is a tombstone that names this revision.
    pub fn names(&self, revision: RevisionId) -> bool {
        match &self.body {
            RowBody::Embedded(_) | RowBody::Separate(_) => false,
            RowBody::Tombstone(manifest) => manifest.names(revision),
        }
    }

    /// Encodes the row for storage.
    pub fn encode(&self) -> Bytes {
        let (format, body, tail) = match &self.body {
            RowBody::Embedded(payload) => (FORMAT, StoredBody::Embedded, Some(payload)),
            RowBody::Separate(operation) => (FORMAT, StoredBody::Separate(*operation), None),
            RowBody::Tombstone(manifest) => match manifest.relocated() {
                None => (FORMAT, StoredBody::Tombstone(manifest.clone()), None),
                Some(payload) => (
                    RELOCATED,
                    StoredBody::Relocated(manifest.clone(), payload),
                    None,
                ),
            },
        };
        let stored = Stored {
            version: self.version,
            operation: self.operation,
            metadata: self.metadata.clone(),
            body,
        };
        let mut value = codec::encode(format, &stored);
        // The payload is appended without encoding, so that `decode` returns a slice of the value.
        if let Some(payload) = tail {
            value.extend_from_slice(payload);
        }
        value.into()
    }

    /// Decodes a stored row of this or an older format.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) or
    /// [`UnknownFormat`](crate::ErrorKind::UnknownFormat).
    pub fn decode(value: &Bytes) -> Result<Self> {
        let (stored, tail) = match value.first() {
            Some(&older::WITHOUT_EXPIRY) => older::decode_without_expiry(value)?,
            Some(&older::WITHOUT_VERSION) => older::decode_without_version(value)?,
            Some(&FORMAT) => codec::decode_with_tail("row", FORMAT, value)?,
            // Refuses unknown versions and the empty value.
            Some(_) | None => codec::decode_with_tail("row", RELOCATED, value)?,
        };
        Self::of(stored, tail)
    }

    fn of(stored: Stored, tail: Bytes) -> Result<Self> {
        codec::check_version("row", stored.version)?;
        let size = stored.metadata.size;
        // A size that does not match the body would make reads return truncated payloads.
        let body = match stored.body {
            StoredBody::Embedded if tail.len() as u64 == size => RowBody::Embedded(tail),
            StoredBody::Separate(operation) if tail.is_empty() => RowBody::Separate(operation),
            StoredBody::Tombstone(manifest)
                if tail.is_empty() && manifest.bytes() == Some(size) =>
            {
                RowBody::Tombstone(manifest)
            }
            StoredBody::Relocated(manifest, payload)
                if tail.is_empty() && manifest.bytes() == Some(size) =>
            {
                RowBody::Tombstone(manifest.holding(Some(payload)))
            }
            StoredBody::Embedded
            | StoredBody::Separate(_)
            | StoredBody::Tombstone(_)
            | StoredBody::Relocated(..) => {
                return Err(codec::corrupt("row", "size and body do not match"));
            }
        };
        Ok(Self {
            version: stored.version,
            operation: stored.operation,
            metadata: stored.metadata,
            body,
        })
    }
}

/// Stored form of a row without its embedded payload, which follows it.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: Version,
    operation: OperationId,
    metadata: Metadata,
    body: StoredBody,
}

/// Stored form of a [`RowBody`].
#[derive(Serialize, Deserialize)]
enum StoredBody {
    Embedded,
    Separate(OperationId),
    Tombstone(Manifest),
    Relocated(Manifest, PayloadId),
}

#[cfg(test)]
mod tests;
