//! Put of a file in one piece, and of a body of unknown length.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use cenotaph::{Body, ObjectId, PutResult};
use tokio::io::{AsyncRead, ReadBuf};

use crate::store::OpenStore;
use crate::transfer::output::blocking;
use crate::transfer::put_options::{PutError, PutOptions};
use crate::transfer::retry::retrying;
use crate::ui::report::Bar;

/// Largest file, in bytes, that is read at once. Larger files are streamed.
const WHOLE_BYTES_MAX: u64 = 1024 * 1024;

/// A regular file with its expected size.
#[derive(Clone, Debug)]
pub(crate) struct SourceFile {
    /// Path of the file.
    pub(crate) path: PathBuf,
    /// Size in bytes. A file of another size at the time of the read is an error.
    pub(crate) bytes: u64,
}

/// Puts a body in one piece.
pub(crate) async fn put_body(
    store: &OpenStore,
    id: &ObjectId,
    body: Body,
    put_options: &PutOptions,
) -> cenotaph::Result<PutResult> {
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
    store: &OpenStore,
    id: &ObjectId,
    file: &SourceFile,
    put_options: &PutOptions,
    bar: &Bar,
) -> Result<PutResult, PutError> {
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
    store: &OpenStore,
    id: &ObjectId,
    file: &SourceFile,
    put_options: &PutOptions,
    bar: &Bar,
    counted: &Arc<AtomicU64>,
) -> Result<PutResult, PutError> {
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
            let reader = CountingReader {
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
async fn read_whole(store: &OpenStore, file: &SourceFile) -> Result<Whole, PutError> {
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
pub(crate) struct CountingReader<R> {
    reader: R,
    bar: Bar,
    counted: Arc<AtomicU64>,
}

impl<R> CountingReader<R> {
    /// Wraps a reader.
    pub(crate) fn new(reader: R, bar: &Bar) -> Self {
        Self {
            reader,
            bar: bar.clone(),
            counted: Arc::default(),
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for CountingReader<R> {
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
