//! The row: the index entry of an object, and the only thing that makes it exist.
//!
//! ```text
//! +-----------+--------------------------------------------------------+------------------+
//! | version=2 | postcard: version, operation, metadata, body kind      | embedded payload |
//! | 1 byte    |   body kind 0 = embedded, 1 = separate, 2 = tombstone  | (kind 0 only)    |
//! |           |   followed by the id of the operation that wrote the   |                  |
//! |           |   payload (kind 1), or by the manifest (kind 2)        |                  |
//! +-----------+--------------------------------------------------------+------------------+
//! ```
//!
//! Rows of older formats are read (`row/older.rs`) and never written.
//!
//! Guards I2 together with `swap.rs`: nothing else makes a tombstone. The last committing operation
//! is in the row, which makes a repeated swap recognisable and is the source of the etag.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::codec;
use super::manifest::Manifest;
use super::metadata::Metadata;
use crate::error::Result;
use crate::id::ObjectId;
use crate::word::{Current, Etag, OperationId, RevisionId, RevisionKey, Timestamp, Version};

mod older;

/// Longest payload that stays in the row itself, in bytes. Longer inline payloads lie in the
/// payload table.
pub const EMBEDDED_BYTES_MAX: usize = 4 * 1024;

const FORMAT: u8 = 2;

/// The index entry of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Which committed write of the object this is.
    pub version: Version,
    /// The operation that committed it.
    pub operation: OperationId,
    /// Everything known about the object without its bytes.
    pub metadata: Metadata,
    /// Where the bytes are.
    pub body: Body,
}

/// Where the bytes of an object are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// In the row.
    Embedded(Bytes),
    /// In the payload table, under the operation that wrote it: the row's own, or an earlier one if
    /// the row has been amended or renamed since.
    Separate(OperationId),
    /// In the blob tier: this row is a tombstone.
    Tombstone(Manifest),
}

impl Row {
    /// The public spelling of this committed write.
    pub fn etag(&self) -> Etag {
        Etag::of(&self.operation)
    }

    /// What a lost precondition is told.
    pub fn current(&self) -> Current {
        Current {
            version: self.version,
            etag: self.etag(),
        }
    }

    /// Whether the object exists at `now`.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.metadata.is_live(now)
    }

    /// The keys under which the blob tier knows the revisions it names, if it is the row of `id`.
    pub fn revision_keys(&self, id: &ObjectId) -> Vec<RevisionKey> {
        match &self.body {
            Body::Embedded(_) | Body::Separate(_) => Vec::new(),
            Body::Tombstone(manifest) => manifest.keys(id).collect(),
        }
    }

    /// The keys of what belongs to it in the payload table: its payload, or the block checksums of
    /// its revisions.
    pub fn belongings(&self) -> Vec<Bytes> {
        match &self.body {
            Body::Embedded(_) => Vec::new(),
            Body::Separate(operation) => vec![Bytes::copy_from_slice(operation.as_bytes())],
            Body::Tombstone(manifest) => manifest
                .revisions()
                .map(|revision| Bytes::copy_from_slice(revision.as_bytes()))
                .collect(),
        }
    }

    /// The revisions it names: none unless it is a tombstone.
    pub fn revisions(&self) -> Vec<RevisionId> {
        match &self.body {
            Body::Embedded(_) | Body::Separate(_) => Vec::new(),
            Body::Tombstone(manifest) => manifest.revisions().collect(),
        }
    }

    /// Whether it is a tombstone that names this revision.
    pub fn names(&self, revision: RevisionId) -> bool {
        match &self.body {
            Body::Embedded(_) | Body::Separate(_) => false,
            Body::Tombstone(manifest) => manifest.names(revision),
        }
    }

    /// As stored.
    pub fn encode(&self) -> Bytes {
        let (body, tail) = match &self.body {
            Body::Embedded(payload) => (StoredBody::Embedded, Some(payload)),
            Body::Separate(operation) => (StoredBody::Separate(*operation), None),
            Body::Tombstone(manifest) => (StoredBody::Tombstone(manifest.clone()), None),
        };
        let stored = Stored {
            version: self.version,
            operation: self.operation,
            metadata: self.metadata.clone(),
            body,
        };
        let mut value = codec::encode(FORMAT, &stored);
        if let Some(payload) = tail {
            value.extend_from_slice(payload);
        }
        value.into()
    }

    /// From what is stored, in this or an older format.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) or
    /// [`UnknownFormat`](crate::ErrorKind::UnknownFormat).
    pub fn decode(value: &Bytes) -> Result<Self> {
        let (stored, tail) = match value.first() {
            Some(&older::WITHOUT_EXPIRY) => older::decode_without_expiry(value)?,
            Some(&older::WITHOUT_VERSION) => older::decode_without_version(value)?,
            Some(_) | None => codec::decode_with_tail("row", FORMAT, value)?,
        };
        Self::of(stored, tail)
    }

    fn of(stored: Stored, tail: Bytes) -> Result<Self> {
        codec::check_version("row", stored.version)?;
        let size = stored.metadata.size;
        let body = match stored.body {
            StoredBody::Embedded if tail.len() as u64 == size => Body::Embedded(tail),
            StoredBody::Separate(operation) if tail.is_empty() => Body::Separate(operation),
            StoredBody::Tombstone(manifest)
                if tail.is_empty() && manifest.bytes() == Some(size) =>
            {
                Body::Tombstone(manifest)
            }
            StoredBody::Embedded | StoredBody::Separate(_) | StoredBody::Tombstone(_) => {
                return Err(codec::corrupt("row", "its size and its body disagree"));
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

/// A row but for its embedded payload.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: Version,
    operation: OperationId,
    metadata: Metadata,
    body: StoredBody,
}

#[derive(Serialize, Deserialize)]
enum StoredBody {
    Embedded,
    Separate(OperationId),
    Tombstone(Manifest),
}

#[cfg(test)]
#[path = "row_tests.rs"]
mod tests;
