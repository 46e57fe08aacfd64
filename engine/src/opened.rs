//! [`Opened`]: what a read of an object finds, as
//! [`Config::missing_blob`](crate::Config::missing_blob) has it.
//!
//! Every read goes through here, so that a missing blob is the same to all of them.

use cenotaph_storage::planted::Bug;
use cenotaph_storage::{ByteRange, Current, ObjectId, OpenObject, Reason, Result};

use crate::config::MissingBlob;
use crate::engine::Engine;

/// What a read of an object finds.
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once")]
pub(crate) enum Opened {
    /// The object.
    Object(OpenObject),
    /// There is none.
    Absent,
    /// There is one, whose blob is gone: it reads as absent.
    Dangling(Current),
}

impl Opened {
    /// The object, if one can be read.
    pub(crate) fn object(self) -> Option<OpenObject> {
        match self {
            Self::Object(open) => Some(open),
            Self::Absent | Self::Dangling(_) => None,
        }
    }
}

impl Engine {
    /// Opens an object.
    pub(crate) async fn open_object(&self, id: &ObjectId, range: ByteRange) -> Result<Opened> {
        let error = match self.reads().open(id, range).await {
            Ok(open) => return Ok(open.map_or(Opened::Absent, Opened::Object)),
            Err(error) => error,
        };
        match (error.reason(), self.config().missing_blob) {
            (Some(Reason::MissingBlob { .. }), _)
                if self.env().planted(Bug::MissingBlobIsAbsent) =>
            {
                Ok(Opened::Absent)
            }
            (Some(Reason::MissingBlob { current }), MissingBlob::Absent) => {
                // Of a tier that is away nothing is known.
                self.tiered()
                    .check_blobs()
                    .await
                    .map_err(|error| error.with_id(id))?;
                Ok(Opened::Dangling(current))
            }
            (_, MissingBlob::Corrupt | MissingBlob::Absent) => Err(error),
        }
    }
}
