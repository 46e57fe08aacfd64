//! [`OpenedFile`], a file that is uploaded in parts: concurrent reads at offsets, and detection of
//! changes.

use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use cenotaph::{Env, PartEtag};
use futures::Stream;
use xxhash_rust::xxh3::Xxh3Default;

use crate::transfer::output::blocking;
use crate::ui::report::Bar;

/// Number of bytes per read.
const READ_BYTES: usize = 1024 * 1024;

/// An open regular file. All parts are read from the same file, even if its path is replaced. Cheap
/// to clone.
#[derive(Clone)]
pub(crate) struct OpenedFile {
    env: Env,
    file: Arc<File>,
    state: State,
}

/// Length and modification time, which reveal a change of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    bytes: u64,
    modified: Option<SystemTime>,
}

impl State {
    fn of(metadata: &Metadata) -> Self {
        Self {
            bytes: metadata.len(),
            modified: metadata.modified().ok(),
        }
    }
}

impl OpenedFile {
    /// Opens a file, and notes its length and modification time.
    pub(crate) async fn open(env: &Env, path: &Path) -> io::Result<Self> {
        let path = PathBuf::from(path);
        let open = move || {
            let file = File::open(path)?;
            let state = State::of(&file.metadata()?);
            Ok((Arc::new(file), state))
        };
        let (file, state) = blocking(env, open).await?;
        Ok(Self {
            env: env.clone(),
            file,
            state,
        })
    }

    /// Returns the length at the open, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.state.bytes
    }

    /// Returns whether the file has bytes after its length: it is growing, or it is a file of
    /// /proc, whose size is not its length.
    pub(crate) async fn is_longer(&self) -> io::Result<bool> {
        let file = Arc::clone(&self.file);
        let end = self.state.bytes;
        blocking(&self.env, move || {
            Ok(!read_chunk(&file, &(end..end.saturating_add(1)))?.is_empty())
        })
        .await
    }

    /// Returns whether length or modification time have changed since the open.
    pub(crate) async fn has_changed(&self) -> io::Result<bool> {
        let file = Arc::clone(&self.file);
        let state = self.state;
        blocking(&self.env, move || Ok(State::of(&file.metadata()?) != state)).await
    }

    /// Streams a range of the file. The bytes advance the bar and are added to `counted`. The
    /// stream is shorter than the range if the file has shrunk.
    pub(crate) fn stream(
        &self,
        range: Range<u64>,
        bar: &Bar,
        counted: &Arc<AtomicU64>,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        let start = (self.clone(), range, bar.clone(), Arc::clone(counted));
        futures::stream::try_unfold(start, |(opened, rest, bar, counted)| async move {
            let file = Arc::clone(&opened.file);
            let next = rest.clone();
            let chunk = blocking(&opened.env, move || read_chunk(&file, &next)).await?;
            let bytes = chunk.len() as u64;
            bar.add(bytes);
            counted.fetch_add(bytes, Ordering::Relaxed);
            Ok(
                (bytes > 0)
                    .then_some((chunk, (opened, rest.start + bytes..rest.end, bar, counted))),
            )
        })
    }

    /// Computes the etag of a part with this range of bytes. The bytes advance the bar.
    pub(crate) async fn etag(&self, range: Range<u64>, bar: &Bar) -> io::Result<PartEtag> {
        let file = Arc::clone(&self.file);
        let bar = bar.clone();
        blocking(&self.env, move || {
            hash(&file, range, |bytes| bar.add(bytes))
        })
        .await
    }
}

/// Computes the etag of a range, or of its existing bytes if the file is shorter. Equal to
/// [`PartEtag::of`], but with a single chunk in memory.
fn hash(file: &File, mut rest: Range<u64>, mut progress: impl FnMut(u64)) -> io::Result<PartEtag> {
    let mut hasher = Xxh3Default::new();
    loop {
        let chunk = read_chunk(file, &rest)?;
        if chunk.is_empty() {
            return Ok(PartEtag::new(hasher.digest128()));
        }
        hasher.update(&chunk);
        rest.start += chunk.len() as u64;
        progress(chunk.len() as u64);
    }
}

/// Reads the first bytes of a range, at most [`READ_BYTES`]. Empty if the range is empty or begins
/// at the end of the file.
fn read_chunk(file: &File, range: &Range<u64>) -> io::Result<Bytes> {
    let most = usize::try_from(range.end.saturating_sub(range.start))
        .unwrap_or(READ_BYTES)
        .min(READ_BYTES);
    let mut chunk = vec![0; most];
    loop {
        match read_at(file, &mut chunk, range.start) {
            // A short read is passed on as it is: the next call reads the rest.
            Ok(bytes) => chunk.truncate(bytes),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        return Ok(chunk.into());
    }
}

// Reads at an offset, because the concurrent reads of parts must not share a file position.
#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, at)
}

#[cfg(windows)]
fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::report::Report;
    use futures::TryStreamExt;
    use std::io::Write;

    fn bytes() -> Vec<u8> {
        (0..=250).cycle().take(3 * READ_BYTES + 5).collect()
    }

    async fn written(bytes: &[u8]) -> (tempfile::NamedTempFile, OpenedFile, Bar) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let env = Env::real().unwrap();
        let opened = OpenedFile::open(&env, file.path()).await.unwrap();
        (
            file,
            opened,
            Report::new(&env, false, true).unwrap().bar("put", None),
        )
    }

    #[tokio::test]
    async fn any_range_is_streamed_and_hashed() {
        let bytes = bytes();
        let (_file, opened, bar) = written(&bytes).await;
        let chunk = READ_BYTES;
        for range in [
            0..bytes.len(),
            1..2,
            7..7,
            chunk - 1..chunk + 1,
            chunk..2 * chunk,
            5..2 * chunk + 5,
        ] {
            let wide = range.start as u64..range.end as u64;
            let counted = Arc::default();
            let read: Vec<Bytes> = opened
                .stream(wide.clone(), &bar, &counted)
                .try_collect()
                .await
                .unwrap();
            assert!(read.concat() == bytes[range.clone()], "{range:?}");
            assert_eq!(counted.load(Ordering::Relaxed), range.len() as u64);
            assert_eq!(
                opened.etag(wide, &bar).await.unwrap(),
                PartEtag::of(&bytes[range.clone()]),
                "{range:?}"
            );
        }
        let beyond = bytes.len() as u64 + 10;
        let read: Vec<Bytes> = opened
            .stream(5..beyond, &bar, &Arc::default())
            .try_collect()
            .await
            .unwrap();
        assert!(read.concat() == bytes[5..], "up to the end of the file");
    }

    #[tokio::test]
    async fn changes_of_the_file_are_detected_not_of_its_path() {
        let (file, opened, _bar) = written(b"bytes").await;
        assert!(!opened.has_changed().await.unwrap());
        let other = file.path().with_extension("other");
        std::fs::write(&other, b"another file").unwrap();
        std::fs::rename(&other, file.path()).unwrap();
        assert!(!opened.has_changed().await.unwrap());

        let (mut file, opened, _bar) = written(b"bytes").await;
        file.write_all(b"more").unwrap();
        assert!(opened.has_changed().await.unwrap());
        let (file, opened, _bar) = written(b"bytes").await;
        let later = opened.state.modified.unwrap() + std::time::Duration::from_millis(1);
        file.as_file().set_modified(later).unwrap();
        assert!(opened.has_changed().await.unwrap());
    }
}
