//! `put`, which decides how (a large file goes by `parts.rs`), and what `import` shares with it:
//! [`put_file`], one file into the store.

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
use crate::stated::{PutError, Stated, tell};
use crate::store::Store;

/// Files up to this size are read in one go.
const WHOLE_BYTES_MAX: u64 = 1024 * 1024;

pub(crate) async fn run(store: &Store, report: &Report, options: PutArgs) -> Result<(), Failure> {
    let id = &store.id(&options.key)?;
    let stated = &Stated {
        content_type: options.content_type,
        custom: options.meta.into_iter().collect(),
        expiration: options.expiration.stated().unwrap_or_default(),
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
                stated,
                options: options.parts,
            }
            .put()
            .await;
        }
        Input::Pipe(_) | Input::Stdin if options.parts.is_given() => {
            let message = "only a regular file is put in parts (--parallel, --part-size, --resume)";
            return Err(Failure::Usage(message.to_owned()));
        }
        Input::File(_) | Input::Pipe(_) | Input::Stdin => {}
    }
    let bar = report.bar("put", None);
    let written = match input {
        Input::File(file) => put_file(store, id, &file, stated, &bar)
            .await
            .map_err(|error| error.failure(&file.path))?,
        Input::Pipe(path) => {
            let pipe = tokio::fs::File::open(&path)
                .await
                .map_err(|error| PutError::File(error).failure(&path))?;
            put_body(store, id, Body::reader(Counted::new(pipe, &bar)), stated).await?
        }
        Input::Stdin => {
            put_body(
                store,
                id,
                Body::reader(Counted::new(tokio::io::stdin(), &bar)),
                stated,
            )
            .await?
        }
    };
    bar.end();
    tell(report, id, &written, json!({}))
}

/// What is put.
enum Input {
    File(Source),
    /// A file that is no regular one: its length is not known.
    Pipe(PathBuf),
    Stdin,
}

impl Input {
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

/// A regular file, and how long it is said to be.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Its size; that it has another by the time it is read is an error.
    pub(crate) bytes: u64,
}

async fn put_body(
    store: &Store,
    id: &ObjectId,
    body: Body,
    stated: &Stated,
) -> cenotaph::Result<Written> {
    store
        .engine
        .put(id, body)
        .attributes(stated.attributes())
        .precondition(stated.precondition)
        .await
}

/// Puts a file: a small one read whole, a large one streamed. Tries again while the store asks for
/// it.
pub(crate) async fn put_file(
    store: &Store,
    id: &ObjectId,
    file: &Source,
    stated: &Stated,
    bar: &Bar,
) -> Result<Written, PutError> {
    retrying(&store.env, async || {
        let counted = Arc::new(AtomicU64::new(0));
        let result = put_once(store, id, file, stated, bar, &counted).await;
        if result.is_err() {
            bar.take_back(counted.load(Ordering::Relaxed));
        }
        result
    })
    .await
}

async fn put_once(
    store: &Store,
    id: &ObjectId,
    file: &Source,
    stated: &Stated,
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
            if whole == Whole::Longer {
                body.promise(file.bytes)
            } else {
                body
            }
        }
    };
    put_body(store, id, body, stated)
        .await
        .map_err(PutError::Store)
}

/// The outcome of reading a file in one go.
#[derive(PartialEq, Eq)]
enum Whole {
    /// All of it.
    All(Vec<u8>),
    /// More than is read in one go.
    Longer,
    /// The same, of a file whose size says nothing about its length.
    Unsized,
    /// It has another size by now.
    Changed,
}

/// Reads a small file. One that has more or fewer bytes than its size says, and still has that
/// size, is not a changed one: the sizes of files in /proc and /sys are not their lengths.
async fn read_whole(store: &Store, file: &Source) -> Result<Whole, PutError> {
    let (path, bytes) = (file.path.clone(), file.bytes);
    let read = move || {
        let mut whole = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0).saturating_add(1));
        let opened = std::fs::File::open(path)?;
        io::Read::read_to_end(
            &mut io::Read::take(&opened, WHOLE_BYTES_MAX + 1),
            &mut whole,
        )?;
        let read = whole.len() as u64;
        Ok(match read == bytes || opened.metadata()?.len() == bytes {
            false => Whole::Changed,
            true if read > WHOLE_BYTES_MAX => Whole::Unsized,
            true => Whole::All(whole),
        })
    };
    blocking(&store.env, read).await.map_err(PutError::File)
}

/// A reader whose bytes move a bar.
struct Counted<R> {
    reader: R,
    bar: Bar,
    counted: Arc<AtomicU64>,
}

impl<R> Counted<R> {
    fn new(reader: R, bar: &Bar) -> Self {
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
