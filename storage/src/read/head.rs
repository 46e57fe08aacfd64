//! The head of an object: its id, version, etag and metadata, without its bytes.

use crate::records::{Metadata, Row};
use crate::types::ObjectId;
use crate::types::{Error, ErrorKind, Result};
use crate::types::{Etag, Version};

/// An object without its bytes: its id, version, etag and metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Id of the object.
    pub id: ObjectId,
    /// Version of the object: the number of the committed write.
    pub version: Version,
    /// Opaque name of the committed write.
    pub etag: Etag,
    /// Size, checksum, times and attributes of the object.
    pub metadata: Metadata,
}

impl ObjectMeta {
    pub(super) fn of(id: ObjectId, row: Row) -> Self {
        Self {
            id,
            version: row.version,
            etag: row.etag(),
            metadata: row.metadata,
        }
    }

    /// Creates the head from an entry of the row table.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if the key is not an object id.
    pub(crate) fn decode(key: &[u8], row: Row) -> Result<Self> {
        let id = ObjectId::decode(key).map_err(|error| {
            Error::new(
                ErrorKind::Corrupt,
                "read",
                "the key of a row is not an object id",
            )
            .with_source(error)
        })?;
        Ok(Self::of(id, row))
    }
}
