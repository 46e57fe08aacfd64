//! `get`: streams an object to standard output or to a file.

use std::path::Path;

use cenotaph::{ByteRange, Object};

use crate::args::GetArgs;
use crate::store::OpenStore;
use crate::transfer::file_metadata::FileMetadata;
use crate::transfer::output::{ExistingTarget, Output};
use crate::transfer::retry::retrying;
use crate::ui::failure::Failure;
use crate::ui::report::Report;
use crate::ui::standard;

/// Runs `get`.
pub(crate) async fn run(
    store: &OpenStore,
    report: &Report,
    options: GetArgs,
) -> Result<(), Failure> {
    let id = store.id(&options.key)?;
    let file = options
        .output
        .as_deref()
        .filter(|path| *path != Path::new("-"));
    // Before the read: bytes written to a closed output would be lost without an error.
    if file.is_none() {
        standard::require_output()?;
    }
    let range = options.range.unwrap_or(ByteRange::Full);
    // Only the start of the read is retried: bytes that were printed can't be taken back.
    let found = retrying(&store.env, async || {
        store.engine.get(&id).range(range).await
    })
    .await?;
    let Some(object) = found else {
        return Err(Failure::NotFound(format!("no such object: key={id}")));
    };
    match file {
        Some(path) => to_file(store, report, object, path).await,
        None => to_stdout(report, object).await,
    }
}

/// Prints the bytes of an object.
async fn to_stdout(report: &Report, mut object: Object) -> Result<(), Failure> {
    while let Some(chunk) = object.chunk().await? {
        report.bytes(chunk)?;
    }
    Ok(())
}

/// Writes the bytes of an object to the file at `path`.
async fn to_file(
    store: &OpenStore,
    report: &Report,
    mut object: Object,
    path: &Path,
) -> Result<(), Failure> {
    let failed = |error| {
        Failure::io(
            format!("the file can't be written: path={}", path.display()),
            &error,
        )
    };
    let range = object.range();
    let bar = report.bar("get", Some(range.end - range.start));
    let mut output = Output::to(&store.env, path).await.map_err(failed)?;
    while let Some(chunk) = object.chunk().await? {
        let bytes = chunk.len() as u64;
        output = output.write(&store.env, chunk).await.map_err(failed)?;
        bar.add(bytes);
    }
    output
        .finish(&store.env, FileMetadata::default(), ExistingTarget::Replace)
        .await
        .map_err(failed)
}
