//! Access to an open upload by its id, for commands that resume or abort it.

use cenotaph::{ErrorKind, MultipartUpload, ObjectId, UploadId};

use crate::store::OpenStore;
use crate::transfer::retry::retrying;
use crate::ui::failure::Failure;

/// Returns the open upload of this id.
///
/// # Errors
/// [`Failure::NotFound`] if the object has no such upload, or if the upload has ended.
pub(crate) async fn open_upload(
    store: &OpenStore,
    id: &ObjectId,
    upload: UploadId,
) -> Result<MultipartUpload, Failure> {
    let found = retrying(&store.env, async || {
        store.engine.resume(id, upload.to_string()).await
    })
    .await;
    found.map_err(|error| upload_failure(error, upload))
}

/// Converts the error of a call on an upload. An absent or ended upload is [`Failure::NotFound`].
pub(crate) fn upload_failure(error: cenotaph::Error, upload: UploadId) -> Failure {
    match error.kind() {
        // The id was parsed before, so it is valid: the engine knows no such open upload.
        ErrorKind::Invalid => Failure::NotFound(format!("{error} upload={upload}")),
        _ => error.into(),
    }
}
