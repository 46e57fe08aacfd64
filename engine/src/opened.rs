//! [`OpenedObject`]: the result of opening an object, with the setting
//! [`Config::missing_blob`](crate::Config::missing_blob) applied.
//!
//! Invariant: every read of an object's bytes uses [`Engine::open_object`], so that all of them
//! treat a missing blob alike.

use cenotaph_storage::{ByteRange, ObjectId, ObjectVersion, OpenObject, Reason, Result};

use crate::config::MissingBlob;
use crate::engine::Engine;

/// Result of opening an object.
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once")]
pub(crate) enum OpenedObject {
    /// The object exists and is open.
    Object(OpenObject),
    /// The object has no live row.
    Absent,
    /// The object has a row, but its blob is missing. It reads as absent.
    Dangling(ObjectVersion),
}

impl OpenedObject {
    /// Returns the open object, if there is one.
    pub(crate) fn object(self) -> Option<OpenObject> {
        match self {
            Self::Object(open) => Some(open),
            Self::Absent | Self::Dangling(_) => None,
        }
    }
}

impl Engine {
    /// Opens an object.
    pub(crate) async fn open_object(
        &self,
        id: &ObjectId,
        range: ByteRange,
    ) -> Result<OpenedObject> {
        let error = match self.reads().open(id, range).await {
            Ok(open) => return Ok(open.map_or(OpenedObject::Absent, OpenedObject::Object)),
            Err(error) => error,
        };
        match (error.reason(), self.config().missing_blob) {
            (Some(Reason::MissingBlob { current }), MissingBlob::Absent) => {
                // A blob counts as missing only if the tier itself is present. While the tier is
                // unmounted, every blob is missing, and no object may read as absent.
                Box::pin(self.tiered().check_blobs())
                    .await
                    .map_err(|error| error.with_id(id))?;
                Ok(OpenedObject::Dangling(current))
            }
            (_, MissingBlob::Corrupt | MissingBlob::Absent) => Err(error),
        }
    }
}
