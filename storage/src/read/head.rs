//! The head of an object: its id, version, etag and metadata, without its bytes.

use crate::fallback::FallbackMeta;
use crate::records::{Metadata, Row};
use crate::types::{Error, ErrorKind, Etag, ObjectId, ObjectVersion, Result, Version};

/// An object without its bytes: its id, version, etag and metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Id of the object.
    pub id: ObjectId,
    /// Version of the object: the number of the committed write. `None` if only the fallback of
    /// the store has the object.
    pub version: Option<Version>,
    /// Opaque name of the committed write. `None` as for the version.
    pub etag: Option<Etag>,
    /// Size, checksum, times and attributes of the object.
    pub metadata: Metadata,
}

impl ObjectMeta {
    pub(super) fn of(id: ObjectId, row: Row) -> Self {
        Self {
            id,
            version: Some(row.version),
            etag: Some(row.etag()),
            metadata: row.metadata,
        }
    }

    /// Creates the head of an object that only the fallback has. Versions and etags of a fallback
    /// are never those of this store.
    pub(super) fn of_fallback(id: ObjectId, meta: FallbackMeta) -> Self {
        Self {
            id,
            version: None,
            etag: None,
            metadata: meta.into_metadata(),
        }
    }

    /// Returns the version and etag of the object, `None` if only the fallback has it.
    pub fn current(&self) -> Option<ObjectVersion> {
        let version = self.version?;
        self.etag.map(|etag| ObjectVersion { version, etag })
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
