//! `put`: writes an object from a file, a pipe or standard input. A large file is put in parts.

use std::path::{Path, PathBuf};

use cenotaph::Body;
use serde_json::json;

use crate::args::PutArgs;
use crate::store::OpenStore;
use crate::transfer::parts::{self, InParts};
use crate::transfer::put_file::{CountingReader, SourceFile, put_body, put_file};
use crate::transfer::put_options::{PutError, PutOptions, print_written};
use crate::ui::failure::Failure;
use crate::ui::report::Report;
use crate::ui::standard;

/// Runs `put`.
pub(crate) async fn run(
    store: &OpenStore,
    report: &Report,
    options: PutArgs,
) -> Result<(), Failure> {
    let id = &store.id(&options.key)?;
    let put_options = &PutOptions {
        content_type: options.content_type,
        custom: options.meta.into_iter().collect(),
        expiration: options.expiration.policy().unwrap_or_default(),
        precondition: options.condition.precondition(),
    };
    let input = Input::of(options.file.as_deref()).await?;
    match &input {
        // The options force parts for a small file. A large file needs no option.
        Input::File(file) if options.parts.is_given() || file.bytes > parts::OVER_BYTES => {
            let path = &file.path;
            return InParts {
                store,
                report,
                id,
                path,
                put_options,
                options: options.parts,
            }
            .put()
            .await;
        }
        Input::Pipe(_) | Input::Stdin if options.parts.is_given() => {
            let message =
                "only a regular file can be put in parts (--parallel, --part-size, --resume)";
            return Err(Failure::Usage(message.to_owned()));
        }
        Input::File(_) | Input::Pipe(_) | Input::Stdin => {}
    }
    let bar = report.bar("put", None);
    let written = match input {
        Input::File(file) => put_file(store, id, &file, put_options, &bar)
            .await
            .map_err(|error| error.failure(&file.path))?,
        Input::Pipe(path) => {
            let pipe = tokio::fs::File::open(&path)
                .await
                .map_err(|error| PutError::File(error).failure(&path))?;
            // Not retried: the bytes of a pipe can be read only once.
            let body = Body::reader(CountingReader::new(pipe, &bar));
            put_body(store, id, body, put_options).await?
        }
        Input::Stdin => {
            let body = Body::reader(CountingReader::new(tokio::io::stdin(), &bar));
            put_body(store, id, body, put_options).await?
        }
    };
    bar.end();
    print_written(report, id, &written, json!({}))
}

/// Source of the bytes of a put.
enum Input {
    /// A regular file.
    File(SourceFile),
    /// A device or a pipe, of unknown length.
    Pipe(PathBuf),
    /// Standard input.
    Stdin,
}

impl Input {
    /// Returns the input at `path`; standard input if the path is absent or `-`.
    async fn of(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path.filter(|path| *path != Path::new("-")) else {
            standard::require_input()?;
            return Ok(Self::Stdin);
        };
        let metadata = tokio::fs::metadata(path)
            .await
            .map_err(|error| PutError::File(error).failure(path))?;
        let path = path.to_owned();
        Ok(if metadata.is_file() {
            Self::File(SourceFile {
                path,
                bytes: metadata.len(),
            })
        } else {
            Self::Pipe(path)
        })
    }
}
