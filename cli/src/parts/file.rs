//! The file that is uploaded in parts: [`Opened`], read at offsets by many at once, and asked at
//! the end whether it is still what it was.

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

use crate::output::blocking;
use crate::report::Bar;

/// Bytes read at once.
const READ_BYTES: usize = 1024 * 1024;

/// A regular file, held open: all its parts are of one file, whatever becomes of its name. A cheap
/// clone.
#[derive(Clone)]
pub(crate) struct Opened {
    env: Env,
    file: Arc<File>,
    state: State,
}

/// What tells that a file has changed.
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

impl Opened {
    /// Opens it, and notes how it stands.
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

    /// How long it was.
    pub(crate) fn bytes(&self) -> u64 {
        self.state.bytes
    }

    /// Returns whether there are bytes behind its length: it grows, or it is a file of /proc, whose
    /// size is no length.
    pub(crate) async fn is_longer(&self) -> io::Result<bool> {
        let (file, end) = (Arc::clone(&self.file), self.state.bytes);
        blocking(&self.env, move || {
            Ok(!read_chunk(&file, &(end..end.saturating_add(1)))?.is_empty())
        })
        .await
    }

    /// Whether it has another length or time by now.
    pub(crate) async fn has_changed(&self) -> io::Result<bool> {
        let (file, state) = (Arc::clone(&self.file), self.state);
        blocking(&self.env, move || Ok(State::of(&file.metadata()?) != state)).await
    }

    /// These bytes of it, which move the bar and are counted. Fewer, if the file has become
    /// shorter.
    pub(crate) fn stream(
        &self,
        range: Range<u64>,
        bar: &Bar,
        counted: &Arc<AtomicU64>,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        let start = (self.clone(), range, bar.clone(), Arc::clone(counted));
        futures::stream::try_unfold(start, |(opened, rest, bar, counted)| async move {
            let (file, next) = (Arc::clone(&opened.file), rest.clone());
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

    /// The etag that a part of these bytes has. As they are read they move the bar.
    pub(crate) async fn etag(&self, range: Range<u64>, bar: &Bar) -> io::Result<PartEtag> {
        let (file, bar) = (Arc::clone(&self.file), bar.clone());
        blocking(&self.env, move || {
            hash(&file, range, |bytes| bar.add(bytes))
        })
        .await
    }
}

/// The etag of these bytes, or of as many as there are: as [`PartEtag::of`], of which no more than
/// a chunk is in memory.
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

/// The first of these bytes; empty at the end of them, or of the file.
fn read_chunk(file: &File, range: &Range<u64>) -> io::Result<Bytes> {
    let most = usize::try_from(range.end.saturating_sub(range.start))
        .unwrap_or(READ_BYTES)
        .min(READ_BYTES);
    let mut chunk = vec![0; most];
    loop {
        match read_at(file, &mut chunk, range.start) {
            Ok(bytes) => chunk.truncate(bytes),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        return Ok(chunk.into());
    }
}

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
    use crate::report::Report;
    use futures::TryStreamExt;
    use std::io::Write;

    fn bytes() -> Vec<u8> {
        (0..=250).cycle().take(3 * READ_BYTES + 5).collect()
    }

    async fn written(bytes: &[u8]) -> (tempfile::NamedTempFile, Opened, Bar) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let env = Env::real().unwrap();
        let opened = Opened::open(&env, file.path()).await.unwrap();
        (
            file,
            opened,
            Report::new(&env, false, true).unwrap().bar("put", None),
        )
    }

    #[tokio::test]
    async fn any_range_is_read_and_hashed_as_it_stands() {
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
            let (wide, counted) = (range.start as u64..range.end as u64, Arc::default());
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
        assert!(read.concat() == bytes[5..], "as much as there is");
    }

    #[tokio::test]
    async fn a_change_of_the_file_is_noticed_and_one_of_its_name_is_not_one() {
        let (file, opened, _bar) = written(b"bytes").await;
        assert!(!opened.has_changed().await.unwrap());
        let beside = file.path().with_extension("beside");
        std::fs::write(&beside, b"another file").unwrap();
        std::fs::rename(&beside, file.path()).unwrap();
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
