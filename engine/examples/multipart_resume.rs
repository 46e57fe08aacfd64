//! Uploads a file in parts, stops in the middle, and resumes in a new engine, as after a crash.
//! Parts that are already stored are compared by their hash and not sent again.

use std::collections::BTreeMap;

use cenotaph::{Engine, Error, MultipartUpload, PartEtag};
use futures::{StreamExt, TryStreamExt, stream};

const PART_BYTES: usize = 1_000_000;
const PARTS_AT_ONCE: usize = 4;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let file: Vec<u8> = (0u8..100).cycle().take(5_500_000).collect();

    // The first process sends two of six parts, one of them from an older state of the file.
    let engine = Engine::builder(directory.path()).open().await?;
    let upload = engine
        .multipart("backup")
        .content_type("application/x-tar")
        .await?;
    upload.part(5, file[4_000_000..5_000_000].to_vec()).await?;
    upload.part(2, "outdated").await?;
    engine.close().await?;

    // The second process finds the upload by its key. An id that was written down works too.
    let engine = Engine::builder(directory.path()).open().await?;
    let uploads = engine.list_uploads("backup").await?.uploads;
    let upload = engine
        .resume("backup", uploads[0].upload_id.to_string())
        .await?;
    assert!(
        engine.head("backup").await?.is_none(),
        "an open upload is no object"
    );
    assert_eq!(send_missing_parts(&upload, &file).await?, 5);
    upload.complete().await?;

    let object = engine.get("backup").await?.expect("was just completed");
    assert_eq!(
        object.metadata().attributes.content_type.as_deref(),
        Some("application/x-tar")
    );
    assert_eq!(object.bytes().await?, file);
    assert!(engine.list_uploads("").await?.uploads.is_empty());
    Ok(engine.close().await?)
}

/// Sends the parts that are missing or differ, several at once, and returns their number.
async fn send_missing_parts(upload: &MultipartUpload, file: &[u8]) -> Result<usize, Error> {
    let stored: BTreeMap<u32, PartEtag> = upload
        .parts()
        .stream()
        .map_ok(|part| (part.number.into(), part.etag))
        .try_collect()
        .await?;
    let missing: Vec<_> = (1..)
        .zip(file.chunks(PART_BYTES))
        .filter(|(number, bytes)| stored.get(number) != Some(&PartEtag::of(bytes)))
        .collect();
    let sent = missing.len();
    stream::iter(missing)
        .map(|(number, bytes)| async move { upload.part(number, bytes.to_vec()).await })
        .buffer_unordered(PARTS_AT_ONCE)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    Ok(sent)
}
