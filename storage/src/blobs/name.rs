//! Derives the object of a blob from the blob tier alone, without the index: [`BlobName`].
//!
//! ```text
//! path contains the whole name     object id from the path                         no read
//! path contains its beginning      object id from the trailer, if the path of      a read of at
//!                                  that id equals the path of the blob             most 3.3 KB
//! ```
//!
//! Guards the promise that a blob identifies its object. A trailer is accepted only if it is
//! intact and the path of its id is the path of the blob.

use super::failure::{self, Cause};
use super::trailer::{self, TRAILER_BYTES_MAX};
use super::{BlobTier, FoundBlob, path};
use crate::types::ObjectId;
use crate::types::Result;
use crate::types::RevisionKey;

/// The name of a blob, derived from its path or its trailer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobName {
    /// The blob of this revision.
    Of(RevisionKey),
    /// Not derivable: the path is not a revision's path, the blob was never finished, or its
    /// trailer is damaged.
    Unknown,
    /// The blob no longer exists.
    Gone,
}

/// Returns the object of a blob, and the length of the trailer at its end in bytes. `path` is
/// relative to the root of the blob tier. `tail` is the last [`TRAILER_BYTES_MAX`] bytes of the
/// blob, or the whole blob if it is shorter. Returns `None` if path and tail do not name an object.
///
/// ```
/// use cenotaph_storage::blobs::object_of_blob;
///
/// let path = "7f/photos!holidays%2f2026.jpg@0198c5a2-1f00-7abc-8def-00000000007f";
/// let (object, trailer_bytes) = object_of_blob(path, b"").unwrap();
/// assert_eq!(object.namespace_str(), "photos");
/// assert_eq!(object.key(), "holidays/2026.jpg");
/// assert_eq!(trailer_bytes, 0);
/// ```
pub fn object_of_blob(path: &str, tail: &[u8]) -> Option<(ObjectId, u64)> {
    if let Ok(key) = path::from_path(path) {
        return Some((key.object, 0));
    }
    let revision = path::revision_at(path)?;
    let object = trailer::decode(tail, revision)?;
    let key = RevisionKey { object, revision };
    // The checksum of a trailer does not cover the path. A blob that was moved to the path of
    // another object must not be named.
    (path::path(&key) == path).then(|| {
        let trailer_bytes = trailer::length(&key.object);
        (key.object, trailer_bytes)
    })
}

impl BlobTier {
    /// Returns the name of a listed blob.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) if the blob tier fails.
    pub async fn name_of(&self, found: &FoundBlob) -> Result<BlobName> {
        let Some(revision) = found.revision else {
            return Ok(BlobName::Unknown);
        };
        if let Ok(key) = path::from_path(&found.path) {
            return Ok(BlobName::Of(key));
        }
        let tail = match self.tail(found).await {
            Ok(tail) => tail,
            Err(error) => match failure::cause(&error) {
                Cause::Gone => return Ok(BlobName::Gone),
                Cause::TooShort => return Ok(BlobName::Unknown),
                Cause::Other => return Err(failure::failed("read", error)),
            },
        };
        let object = object_of_blob(&found.path, &tail);
        Ok(object.map_or(BlobName::Unknown, |(object, _)| {
            BlobName::Of(RevisionKey { object, revision })
        }))
    }

    /// Returns whether the name of an existing blob of this revision can be derived. A blob at its
    /// older path has the whole name in its path. A blob that no longer exists counts as named.
    ///
    /// # Errors
    /// As [`name_of`](Self::name_of).
    pub async fn tells_name(&self, key: &RevisionKey) -> Result<bool> {
        if !path::is_long(&key.object) {
            return Ok(true);
        }
        let blob = FoundBlob {
            path: path::path(key),
            revision: Some(key.revision),
            bytes: None,
        };
        Ok(
            match self
                .name_of(&blob)
                .await
                .map_err(|error| error.with_id(&key.object))?
            {
                BlobName::Of(_) | BlobName::Gone => true,
                BlobName::Unknown => false,
            },
        )
    }

    /// Reads the last [`TRAILER_BYTES_MAX`] bytes of a blob.
    async fn tail(&self, found: &FoundBlob) -> opendal::Result<Vec<u8>> {
        let bytes = match found.bytes {
            Some(bytes) => bytes,
            None => self.operator().stat(&found.path).await?.content_length(),
        };
        let start = bytes.saturating_sub(TRAILER_BYTES_MAX as u64);
        Ok(self
            .operator()
            .read_with(&found.path)
            .range(start..bytes)
            .await?
            .to_vec())
    }
}
