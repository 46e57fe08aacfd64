//! `uploads`: lists open uploads in parts.

use cenotaph::{ErrorKind, UploadInfo};
use futures::TryStreamExt;
use serde_json::{Value, json};

use crate::args::UploadsArgs;
use crate::commands::ls::expiration_in_json;
use crate::store::OpenStore;
use crate::transfer::retry::retrying;
use crate::ui::failure::Failure;
use crate::ui::human::{self, Align};
use crate::ui::report::Report;

/// Number of uploads per page.
const PAGE: usize = 1000;

/// Runs `uploads`.
pub(crate) async fn run(
    store: &OpenStore,
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
            // The list has no sums, so the parts of each upload are listed.
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

/// Number and bytes of the stored parts of an upload.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    parts: u64,
    bytes: u64,
}

impl Sum {
    /// Sums the parts of an upload, or returns `None` if the upload has ended since it was listed.
    async fn of(store: &OpenStore, info: &UploadInfo) -> cenotaph::Result<Option<Self>> {
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
            // The upload was completed or aborted since the page was read.
            Err(error) if error.kind() == ErrorKind::Invalid => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Formats a page.
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

/// Returns an upload for scripts.
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
