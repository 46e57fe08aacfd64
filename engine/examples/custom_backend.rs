//! Chooses the blob tier by configuration: S3 if the environment names a bucket, else a directory.
//!
//! | variable | meaning |
//! |---|---|
//! | `CENOTAPH_S3_BUCKET` | the bucket; without it, the file system is used |
//! | `CENOTAPH_S3_ENDPOINT`, `CENOTAPH_S3_REGION` | as the server needs them; the region is `us-east-1` if unset |
//! | `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` | credentials, read by OpenDAL |

#![expect(clippy::print_stdout, reason = "an example prints the choice")]

use std::env::var;
use std::path::Path;
use std::time::Duration;

use cenotaph::{Engine, Env, Operator};
use opendal::layers::{RetryLayer, TimeoutLayer};
use opendal::services::{Fs, S3};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let blobs = blob_tier(directory.path())?;
    let engine = Engine::builder(directory.path().join("index"))
        .blobs(blobs.clone())
        .open()
        .await?;
    let video = vec![7; 5_000_000];
    engine.put("videos/cat", video.clone()).await?;
    let object = engine.get("videos/cat").await?.expect("was just put");
    assert_eq!(object.bytes().await?, video);
    let blobs_in_tier = blobs.list_with("").recursive(true).await?;
    assert!(blobs_in_tier.iter().any(|blob| blob.metadata().is_file()));
    engine.delete("videos/cat").await?;
    assert_eq!(engine.settle().await?, 0, "the blob is deleted");
    engine.close().await?;
    // Only because the store is temporary: a blob tier belongs to its index.
    Ok(blobs.delete_with("/").recursive(true).await?)
}

/// Creates the operator. A store needs a tier of its own, so the root is new in every run.
fn blob_tier(directory: &Path) -> Result<Operator, Box<dyn std::error::Error>> {
    let Ok(bucket) = var("CENOTAPH_S3_BUCKET") else {
        println!("CENOTAPH_S3_BUCKET is not set: large objects are kept in the file system");
        let root = directory.join("blobs");
        return Ok(Operator::new(Fs::default().root(&root.to_string_lossy()))?);
    };
    let root = format!("cenotaph-example-{:016x}", Env::real()?.random_u64());
    println!("large objects are kept in S3: bucket={bucket} root={root}");
    let region = var("CENOTAPH_S3_REGION").unwrap_or_else(|_| "us-east-1".to_owned());
    let mut service = S3::default().bucket(&bucket).root(&root).region(&region);
    if let Ok(endpoint) = var("CENOTAPH_S3_ENDPOINT") {
        service = service.endpoint(&endpoint);
    }
    // OpenDAL's HTTP client for all services of the process.
    opendal::install_default();
    // The time limit is inside of the retries, so that it applies to a single attempt.
    Ok(Operator::new(service)?
        .layer(TimeoutLayer::new().with_io_timeout(Duration::from_secs(120)))
        .layer(RetryLayer::new().with_jitter()))
}
