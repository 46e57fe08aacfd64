//! `uploads` and `abort`: what is open of uploads in parts, and how one ends without an object.
//! Deliberately not here: how one is begun, resumed and completed (`parts.rs`).

use cenotaph::{ErrorKind, ObjectId, Upload, UploadId, UploadInfo};
use futures::TryStreamExt;
use serde_json::{Value, json};

use crate::args::{AbortArgs, UploadsArgs};
use crate::failure::Failure;
use crate::human::{self, Align};
use crate::ls::expiration_in_json;
use crate::report::Report;
use crate::retry::retrying;
use crate::store::Store;

/// Uploads on one page.
const PAGE: usize = 1000;

pub(crate) async fn list(
    store: &Store,
    report: &Report,
    options: &UploadsArgs,
) -> Result<(), Failure> {
    let mut after = None;
    loop {
        let mut list = store
            .engine
            .list_uploads(&options.prefix)
            .namespace(store.namespace.clone())
            .limit(PAGE);
        if let Some(after) = after {
            list = list.start_after(after);
        }
        let page = retrying(&store.env, async || list.clone().await).await?;
        let mut shown = Vec::with_capacity(page.uploads.len());
        for info in page.uploads {
            let sum = retrying(&store.env, async || Sum::of(store, &info).await).await?;
            shown.extend(sum.map(|sum| (info, sum)));
        }
        report.text(&show(&shown, report.is_json()))?;
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
}

pub(crate) async fn abort(
    store: &Store,
    report: &Report,
    options: &AbortArgs,
) -> Result<(), Failure> {
    let id = store.id(&options.key)?;
    let upload = named(store, &id, options.upload_id).await?;
    retrying(&store.env, async || upload.abort().await)
        .await
        .map_err(|error| not_open(error, upload.upload_id()))?;
    report.result(
        || json!({ "key": id.key(), "upload_id": options.upload_id, "aborted": true }),
        || format!("{} aborted {}", human::key(id.key()), options.upload_id),
    )
}

/// The upload that the command line names. That there is none is told apart from other failures.
pub(crate) async fn named(
    store: &Store,
    id: &ObjectId,
    upload: UploadId,
) -> Result<Upload, Failure> {
    let found = retrying(&store.env, async || {
        store.engine.resume(id, upload.to_string()).await
    })
    .await;
    found.map_err(|error| not_open(error, upload))
}

/// Why an upload that was named can't be gone on with: it is told apart that there is none, or that
/// it has ended.
pub(crate) fn not_open(error: cenotaph::Error, upload: UploadId) -> Failure {
    match error.kind() {
        ErrorKind::Invalid => Failure::NotFound(format!("{error} upload={upload}")),
        _ => error.into(),
    }
}

/// What there is of an upload.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    parts: u64,
    bytes: u64,
}

impl Sum {
    /// Of this upload; none if it has ended since it was listed.
    async fn of(store: &Store, info: &UploadInfo) -> cenotaph::Result<Option<Self>> {
        let counted = async {
            let upload = store
                .engine
                .resume(&info.id, info.upload_id.to_string())
                .await?;
            let count = |sum: Self, bytes| Self {
                parts: sum.parts + 1,
                bytes: sum.bytes.saturating_add(bytes),
            };
            upload
                .parts()
                .stream()
                .try_fold(Self::default(), async |sum, part| {
                    Ok(count(sum, part.bytes))
                })
                .await
        };
        match counted.await {
            Ok(sum) => Ok(Some(sum)),
            Err(error) if error.kind() == ErrorKind::Invalid => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A page at once, as `ls` shows one.
fn show(uploads: &[(UploadInfo, Sum)], is_json: bool) -> String {
    if is_json {
        return uploads
            .iter()
            .map(|(info, sum)| human::json_line(&in_json(info, *sum)))
            .collect();
    }
    let row = |(info, sum): &(UploadInfo, Sum)| {
        [
            human::counted(sum.parts, "part"),
            human::bytes(sum.bytes),
            format!("begun {}", human::moment(info.initiated)),
            format!("expires {}", human::moment(info.expires_at)),
            info.upload_id.to_string(),
            human::key(info.id.key()),
        ]
    };
    let rows: Vec<_> = uploads.iter().map(row).collect();
    human::table(
        [
            Align::Right,
            Align::Right,
            Align::Left,
            Align::Left,
            Align::Left,
            Align::Left,
        ],
        &rows,
    )
}

fn in_json(info: &UploadInfo, sum: Sum) -> Value {
    json!({
        "key": info.id.key(),
        "namespace": info.id.namespace_str(),
        "upload_id": info.upload_id,
        "initiated_ms": info.initiated.as_millis(),
        "expires_at_ms": info.expires_at.as_millis(),
        "parts": sum.parts,
        "bytes": sum.bytes,
        "content_type": info.attributes.content_type,
        "expiration": expiration_in_json(info.attributes.expiration),
        "custom": info.attributes.custom,
    })
}
