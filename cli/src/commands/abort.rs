//! `abort`: discards an open upload and deletes its parts.

use serde_json::json;

use crate::args::AbortArgs;
use crate::store::OpenStore;
use crate::transfer::open_upload::{open_upload, upload_failure};
use crate::transfer::retry::retrying;
use crate::ui::failure::Failure;
use crate::ui::human;
use crate::ui::report::Report;

/// Runs `abort`.
pub(crate) async fn run(
    store: &OpenStore,
    report: &Report,
    options: &AbortArgs,
) -> Result<(), Failure> {
    let id = store.id(&options.key)?;
    let upload = open_upload(store, &id, options.upload_id).await?;
    retrying(&store.env, async || upload.abort().await)
        .await
        .map_err(|error| upload_failure(error, upload.upload_id()))?;
    report.result(
        || json!({ "key": id.key(), "upload_id": options.upload_id, "aborted": true }),
        || format!("{} aborted {}", human::key(id.key()), options.upload_id),
    )
}
