//! [`compare`], which compares every byte of an object with a file, in pieces.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use bytes::Bytes;
use cenotaph::{Env, ObjectId};

use crate::store::OpenStore;
use crate::transfer::retry::{Retryable, retrying};
use crate::ui::failure::one_line;
use crate::ui::report::Bar;

/// Number of bytes per read of the file.
const PIECE_BYTES: usize = 1024 * 1024;

/// Result of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// All bytes are equal.
    Same,
    /// The lengths differ.
    Size { object: u64, file: u64 },
    /// Offset of the first byte that differs.
    Byte(u64),
    /// The object does not exist.
    Missing,
    /// The file does not exist, or is no regular file.
    NoFile,
}

/// Error of a comparison.
#[derive(Debug)]
pub(crate) enum Unreadable {
    /// The object can't be read.
    Object(cenotaph::Error),
    /// The file can't be read.
    File(io::Error),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object(error) => f.write_str(&one_line(error)),
            Self::File(error) => write!(f, "the file can't be read: {}", one_line(error)),
        }
    }
}

impl From<cenotaph::Error> for Unreadable {
    fn from(error: cenotaph::Error) -> Self {
        Self::Object(error)
    }
}

impl Retryable for Unreadable {
    fn attempts_max(&self) -> u32 {
        match self {
            Self::Object(error) => error.attempts_max(),
            Self::File(_) => 1,
        }
    }
}

/// Compares an object with a file. Transient errors of the store are retried.
pub(crate) async fn compare(
    store: &OpenStore,
    id: &ObjectId,
    path: &Path,
    bar: &Bar,
) -> Result<Comparison, Unreadable> {
    retrying(&store.env, async || {
        let mut counted = 0;
        let result = compare_once(store, id, path, bar, &mut counted).await;
        // The next attempt reads the object from its start again.
        if result.is_err() {
            bar.take_back(counted);
        }
        result
    })
    .await
}

/// Makes a single attempt at a comparison, and adds the compared bytes to `counted`.
async fn compare_once(
    store: &OpenStore,
    id: &ObjectId,
    path: &Path,
    bar: &Bar,
    counted: &mut u64,
) -> Result<Comparison, Unreadable> {
    let Some(mut object) = store.engine.get(id).await? else {
        return Ok(Comparison::Missing);
    };
    let size = object.metadata().size;
    let Some(mut file) = FileReader::open(&store.env, path).await? else {
        return Ok(Comparison::NoFile);
    };
    if file.is_sized && file.bytes != size {
        return Ok(Comparison::Size {
            object: size,
            file: file.bytes,
        });
    }
    while let Some(chunk) = object.chunk().await? {
        let bytes = chunk.len() as u64;
        let (reader, differs) = file.differs(&store.env, chunk).await?;
        file = reader;
        if let Some(at) = differs {
            return Ok(Comparison::Byte(at));
        }
        *counted += bytes;
        bar.add(bytes);
    }
    // A file without a size may be longer than the object. For other files the sizes were compared.
    if !file.is_sized && !file.has_ended(&store.env).await? {
        return Ok(Comparison::Byte(size));
    }
    // The stream of the object may end before its size: the byte counts decide.
    Ok(if file.at == size {
        Comparison::Same
    } else {
        Comparison::Size {
            object: file.at,
            file: size,
        }
    })
}

/// Open file of a comparison. Reads run on threads for blocking calls.
struct FileReader {
    file: File,
    /// Size of the file.
    bytes: u64,
    /// True if the size is the length. Files of /proc have bytes although their size is 0.
    is_sized: bool,
    /// Number of bytes that have been read.
    at: u64,
}

impl FileReader {
    /// Opens a file, or returns `None` if there is no regular file at `path`.
    async fn open(env: &Env, path: &Path) -> Result<Option<Self>, Unreadable> {
        let path = path.to_owned();
        let open = move || {
            // A link is not followed, because an import skips links. Opening a pipe would block
            // until a writer appears.
            if !std::fs::symlink_metadata(&path)?.is_file() {
                return Ok(None);
            }
            let file = File::open(&path)?;
            let bytes = file.metadata()?.len();
            let is_sized = bytes > 0 || (&file).read(&mut [0])? == 0;
            // Opened again after the probe, which has consumed a byte.
            let file = if is_sized { file } else { File::open(&path)? };
            Ok::<_, io::Error>(Some(Self {
                file,
                bytes,
                is_sized,
                at: 0,
            }))
        };
        match env.blocking(open).await? {
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                Ok(None)
            }
            opened => opened.map_err(Unreadable::File),
        }
    }

    /// Returns whether all bytes have been read.
    async fn has_ended(&self, env: &Env) -> Result<bool, Unreadable> {
        let file = self.file.try_clone().map_err(Unreadable::File)?;
        let look = move || Ok::<_, io::Error>((&file).read(&mut [0])? == 0);
        env.blocking(look).await?.map_err(Unreadable::File)
    }

    /// Reads as many bytes as `expected` has. Returns the offset of the first byte that differs, if
    /// any.
    async fn differs(
        mut self,
        env: &Env,
        expected: Bytes,
    ) -> Result<(Self, Option<u64>), Unreadable> {
        let look = move || {
            let mut piece = vec![0; expected.len().min(PIECE_BYTES)];
            for expected in expected.chunks(PIECE_BYTES) {
                let piece = &mut piece[..expected.len()];
                match self.file.read_exact(piece) {
                    Ok(()) => {}
                    // The file has shrunk. The offset is that of the unread piece: the place in the
                    // piece is unknown.
                    Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                        let at = self.at;
                        return Ok((self, Some(at)));
                    }
                    Err(error) => return Err(error),
                }
                if piece != expected {
                    let same = piece
                        .iter()
                        .zip(expected)
                        .take_while(|(left, right)| left == right)
                        .count();
                    let at = self.at + same as u64;
                    return Ok((self, Some(at)));
                }
                self.at += expected.len() as u64;
            }
            Ok((self, None))
        };
        env.blocking(look).await?.map_err(Unreadable::File)
    }
}
