//! `put`: writes an object from a file, a pipe or standard input. A large file is put in parts.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use cenotaph::{Body, ObjectId, Written};
use serde_json::json;
use tokio::io::{AsyncRead, ReadBuf};

use crate::args::PutArgs;
use crate::failure::Failure;
use crate::output::blocking;
use crate::parts::{self, InParts};
use crate::report::{Bar, Report};
use crate::retry::retrying;
use crate::standard;
use crate::stated::{PutError, Stated, print_written};
use crate::store::Store;

/// Largest file, in bytes, that is read at once. Larger files are streamed.
const WHOLE_BYTES_MAX: u64 = 1024 * 1024;

/// Runs `put`.
pub(crate) async fn run(store: &Store, report: &Report, options: PutArgs) -> Result<(), Failure> {
    let id = &store.id(&options.key)?;
    let put_options = &Stated {
        content_type: options.content_type,
        custom: options.meta.into_iter().collect(),
        expiration: options.expiration.policy().unwrap_or_default(),
        precondition: options.condition.precondition(),
    };
    let input = Input::of(options.file.as_deref()).await?;
    match &input {
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
            let body = Body::reader(Counted::new(pipe, &bar));
            put_body(store, id, body, put_options).await?
        }
        Input::Stdin => {
            let body = Body::reader(Counted::new(tokio::io::stdin(), &bar));
            put_body(store, id, body, put_options).await?
        }
    };
    bar.end();
    print_written(report, id, &written, json!({}))
}

/// Source of the bytes of a put.
enum Input {
    /// A regular file.
    File(Source),
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
            Self::File(Source {
                path,
                bytes: metadata.len(),
            })
        } else {
            Self::Pipe(path)
        })
    }
}

/// A regular file with its expected size.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Path of the file.
    pub(crate) path: PathBuf,
    /// Size in bytes. A file of another size at the time of the read is an error.
    pub(crate) bytes: u64,
}

/// Puts a body in one piece.
pub(crate) async fn put_body(
    store: &Store,
    id: &ObjectId,
    body: Body,
    put_options: &Stated,
) -> cenotaph::Result<Written> {
    store
        .engine
        .put(id, body)
        .attributes(put_options.attributes())
        .precondition(put_options.precondition)
        .await
}

/// Puts a file in one piece. A small file is read at once, a large file is streamed. Transient
/// errors are retried.
pub(crate) async fn put_file(
    store: &Store,
    id: &ObjectId,
    file: &Source,
    put_options: &Stated,
    bar: &Bar,
) -> Result<Written, PutError> {
    retrying(&store.env, async || {
        // Bytes of this attempt. If it fails, the bar must lose them: the next attempt reads the
        // file again.
        let counted = Arc::new(AtomicU64::new(0));
        let result = put_once(store, id, file, put_options, bar, &counted).await;
        if result.is_err() {
            bar.take_back(counted.load(Ordering::Relaxed));
        }
        result
    })
    .await
}

/// Makes a single attempt to put a file.
async fn put_once(
    store: &Store,
    id: &ObjectId,
    file: &Source,
    put_options: &Stated,
    bar: &Bar,
    counted: &Arc<AtomicU64>,
) -> Result<Written, PutError> {
    let whole = if file.bytes <= WHOLE_BYTES_MAX {
        read_whole(store, file).await?
    } else {
        Whole::Longer
    };
    let body = match whole {
        Whole::All(bytes) => {
            counted.store(bytes.len() as u64, Ordering::Relaxed);
            bar.add(bytes.len() as u64);
            Body::from(bytes)
        }
        Whole::Changed => return Err(PutError::Changed),
        Whole::Longer | Whole::Unsized => {
            let opened = tokio::fs::File::open(&file.path)
                .await
                .map_err(PutError::File)?;
            let reader = Counted {
                reader: opened,
                bar: bar.clone(),
                counted: Arc::clone(counted),
            };
            let body = Body::reader(reader);
            // With a promised length the engine fails the put if the file changes its length. The
            // size of a file in /proc or /sys is no length, and can't be promised.
            if whole == Whole::Longer {
                body.promise(file.bytes)
            } else {
                body
            }
        }
    };
    put_body(store, id, body, put_options)
        .await
        .map_err(PutError::Store)
}

/// Result of reading a file at once.
#[derive(PartialEq, Eq)]
enum Whole {
    /// All bytes of the file.
    All(Vec<u8>),
    /// The file is larger than [`WHOLE_BYTES_MAX`].
    Longer,
    /// The file is longer than [`WHOLE_BYTES_MAX`], and its size is not its length.
    Unsized,
    /// The size of the file has changed.
    Changed,
}

/// Reads a small file at once.
async fn read_whole(store: &Store, file: &Source) -> Result<Whole, PutError> {
    let path = file.path.clone();
    let bytes = file.bytes;
    let read = move || {
        // A spare byte, so that the last read, which returns 0, does not grow the buffer.
        let mut whole = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0).saturating_add(1));
        let opened = std::fs::File::open(path)?;
        io::Read::read_to_end(
            &mut io::Read::take(&opened, WHOLE_BYTES_MAX + 1),
            &mut whole,
        )?;
        let read = whole.len() as u64;
        // More or fewer bytes with an unchanged size are no change: the sizes of files in /proc and
        // /sys are not their lengths.
        Ok(match read == bytes || opened.metadata()?.len() == bytes {
            false => Whole::Changed,
            true if read > WHOLE_BYTES_MAX => Whole::Unsized,
            true => Whole::All(whole),
        })
    };
    blocking(&store.env, read).await.map_err(PutError::File)
}

/// Reader that counts its bytes and advances a progress bar.
pub(crate) struct Counted<R> {
    reader: R,
    bar: Bar,
    counted: Arc<AtomicU64>,
}

impl<R> Counted<R> {
    /// Wraps a reader.
    pub(crate) fn new(reader: R, bar: &Bar) -> Self {
        Self {
            reader,
            bar: bar.clone(),
            counted: Arc::default(),
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Counted<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.reader).poll_read(context, buffer);
        let bytes = (buffer.filled().len() - before) as u64;
        self.counted.fetch_add(bytes, Ordering::Relaxed);
        self.bar.add(bytes);
        result
    }
}
