//! The blob tier (long-term tier): immutable blobs in any OpenDAL service, one per revision.
//!
//! Reading order: [`BlobTier`] here, [`path`] (where a blob lies) and [`trailer`] (what follows its
//! bytes), [`BlobWriter`] and [`BlobReader`], [`directories`] (durable names on `fs`), `failure`
//! (what OpenDAL's errors mean). This is the only room that calls OpenDAL.
//!
//! Guards I2 (a finished blob is durable), I4 (written once) and "never wrong bytes". An error or a
//! condition of the blob tier is never taken for an outcome (I10). Deliberately not here: changes,
//! orphans, pins, retries and time limits: a blob tier knows revisions and nothing about rows.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use opendal::Operator;
use serde::{Deserialize, Serialize};

use crate::checksum::BLOCK_BYTES;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::modes::Modes;
use crate::word::{RevisionId, RevisionKey, StoreId};

mod assembly;
pub mod directories;
mod failure;
pub mod marker;
mod name;
mod owner;
pub mod path;
mod reader;
mod room;
pub mod trailer;
mod writer;

#[cfg(test)]
mod directories_tests;
#[cfg(test)]
mod long_name_tests;
#[cfg(test)]
mod path_tests;
#[cfg(test)]
mod tests;

use directories::Directories;
use failure::Cause;
pub use name::{BlobName, object_of_blob};
pub use owner::{Contents, Marker};
use path::PATH_BYTES_MAX;
pub use reader::BlobReader;
pub use room::Room;
use room::{Claim, SharedRoom};
pub use writer::{BlobWriter, FinishedBlob};

/// Blocks that go to the `fs` service in one write.
const LOCAL_UNIT_BLOCKS: usize = 4;
/// Longest path that the operating system takes, root and all.
const LOCAL_PATH_BYTES_MAX: usize = if cfg!(target_os = "linux") {
    4095
} else {
    1023
};
/// Longest key that S3, GCS and Azure take, root and all.
const REMOTE_PATH_BYTES_MAX: usize = 1024;
const _: () =
    assert!(PATH_BYTES_MAX < LOCAL_PATH_BYTES_MAX && PATH_BYTES_MAX < REMOTE_PATH_BYTES_MAX);

/// How blobs are written to services other than `fs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BlobOptions {
    /// Bytes per request of an upload; at least one block of 1 MiB. S3 allows 10,000 requests per
    /// upload, so that the default of 8 MiB bounds a blob there to 78 GiB. Not used on `fs`, which
    /// writes 4 MiB at a time.
    pub chunk_bytes: usize,
    /// Requests of one upload under way at a time, at least 1. Not used on `fs`, where more than
    /// one gains nothing.
    pub concurrent: usize,
    /// Permission bits of the directories and files of a tier on `fs`, where they are created. The
    /// directory of an operator of your own is created by OpenDAL when the operator is made, with
    /// the bits that the umask leaves it.
    pub modes: Modes,
}

impl Default for BlobOptions {
    fn default() -> Self {
        Self {
            chunk_bytes: 8 * BLOCK_BYTES,
            concurrent: 4,
            modes: Modes::default(),
        }
    }
}

/// What a listing finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundBlob {
    /// Where it lies, relative to the root.
    pub path: String,
    /// The revision whose blob it is; none if no revision's blob lies there.
    pub revision: Option<RevisionId>,
    /// Its length, with its trailer if it has one; none if the service does not tell.
    pub bytes: Option<u64>,
}

/// The blob tier. Cheap to clone.
#[derive(Clone)]
pub struct BlobTier(Arc<Inner>);

struct Inner {
    operator: Operator,
    env: Env,
    options: BlobOptions,
    /// On `fs` only.
    directories: Option<Directories>,
    /// The store whose blobs these are, once that has been checked.
    owner: OnceLock<StoreId>,
    /// Why the tier was not the store's when it was last checked; none if it was.
    trouble: Mutex<Option<Error>>,
    /// Only where the blobs share a disk with the index.
    room: OnceLock<SharedRoom>,
}

/// An operator on a local directory, which is created if it is not there, for its owner only.
///
/// # Errors
/// [`ErrorKind::Unavailable`] if the directory can't be made, [`ErrorKind::Invalid`] if its path is
/// not UTF-8.
pub fn local(root: &Path) -> Result<Operator> {
    local_new(root, Modes::default())
}

/// As [`local`], where a directory that is not there gets other modes.
///
/// # Errors
/// As [`local`].
pub(crate) fn local_new(root: &Path, modes: Modes) -> Result<Operator> {
    let Some(text) = root.to_str() else {
        return Err(Error::new(
            ErrorKind::Invalid,
            "open",
            format!("the path is not UTF-8: path={}", root.display()),
        ));
    };
    if !root.exists() {
        // OpenDAL would create it with other modes.
        modes
            .create_dir_all(root)
            .map_err(|error| failure::failed_on_disk("open", error))?;
    }
    // No `atomic_write_dir`: it renames without syncing the directory. Our paths are unique and
    // unnamed until finished.
    Operator::new(opendal::services::Fs::default().root(text))
        .map_err(|error| failure::failed("open", error))
}

/// An operator on an empty tier in memory, in place of a directory that is not there and must not
/// be made.
///
/// # Errors
/// [`ErrorKind::Unavailable`], in theory.
pub(crate) fn nothing() -> Result<Operator> {
    Operator::new(opendal::services::Memory::default())
        .map_err(|error| failure::failed("open", error))
}

/// The number of the file system that holds this path; none if nothing is there.
#[cfg(unix)]
fn device(path: &Path) -> Option<u64> {
    path.metadata()
        .ok()
        .map(|metadata| std::os::unix::fs::MetadataExt::dev(&metadata))
}

#[cfg(not(unix))]
fn device(_: &Path) -> Option<u64> {
    None
}

impl BlobTier {
    /// The blobs under the operator's root. Nothing else should be there.
    pub fn new(operator: Operator, env: Env, mut options: BlobOptions) -> Self {
        let info = operator.info();
        let directories = (info.scheme() == "fs")
            .then(|| Directories::new(PathBuf::from(info.root()), env.clone()));
        options.chunk_bytes = options.chunk_bytes.max(BLOCK_BYTES);
        options.concurrent = options.concurrent.max(1);
        let (owner, trouble, room) = (OnceLock::new(), Mutex::default(), OnceLock::new());
        Self(Arc::new(Inner {
            operator,
            env,
            options,
            directories,
            owner,
            trouble,
            room,
        }))
    }

    /// From now on the blobs are on a disk that others need too: before each write `room` is asked,
    /// and its error ends the write. The first call counts.
    pub fn share_disk(&self, room: Room) {
        // A second room would be the same disk's.
        let _ = self.0.room.set(SharedRoom::new(room));
    }

    /// Returns whether the blobs share a disk with the index.
    pub fn shares_disk(&self) -> bool {
        self.0.room.get().is_some()
    }

    /// Returns whether the blobs are files on the file system that holds `path`.
    pub fn is_on_disk_of(&self, path: &Path) -> bool {
        let info = self.0.operator.info();
        let device = |path: &Path| path.ancestors().find_map(device);
        self.is_local()
            && device(Path::new(&info.root())).is_some_and(|found| device(path) == Some(found))
    }

    /// The operator underneath.
    pub fn operator(&self) -> &Operator {
        &self.0.operator
    }

    /// Whether the blobs are files of this machine: the scheme is `fs`.
    pub fn is_local(&self) -> bool {
        self.0.directories.is_some()
    }

    /// Most bytes of memory that one upload holds, its caller's own chunk and the trailer aside.
    pub fn upload_buffer_bytes(&self, expected: Option<u64>) -> usize {
        let BlobOptions {
            chunk_bytes,
            concurrent,
            ..
        } = self.0.options;
        // On fs OpenDAL keeps one unit back while the next one is assembled.
        let units = if self.is_local() {
            2 * LOCAL_UNIT_BLOCKS * BLOCK_BYTES
        } else {
            chunk_bytes.saturating_mul(concurrent.saturating_add(2))
        };
        let most = units.saturating_add(BLOCK_BYTES);
        let whole = expected.map(|bytes| {
            bytes
                .div_ceil(BLOCK_BYTES as u64)
                .saturating_mul(BLOCK_BYTES as u64)
        });
        whole
            .and_then(|bytes| usize::try_from(bytes).ok())
            .map_or(most, |bytes| bytes.min(most))
    }

    /// Checks that the service takes the paths of blobs under the operator's root. All have the
    /// same limit, so that this depends on no object. Ask before a change is recorded.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the root is too long.
    pub fn check_root(&self) -> Result<()> {
        let bytes_max = self.path_bytes_max() - PATH_BYTES_MAX;
        let bytes = self.root_bytes();
        if bytes > bytes_max {
            let message =
                format!("the root of the blob tier is too long: bytes={bytes} max={bytes_max}");
            return Err(Error::new(ErrorKind::Invalid, "write", message));
        }
        Ok(())
    }

    fn path_bytes_max(&self) -> usize {
        path_bytes_max(self.0.operator.info().scheme())
    }

    /// Bytes in front of a path.
    fn root_bytes(&self) -> usize {
        self.0.operator.info().root().len() + "/".len()
    }

    /// Returns the path at which an earlier build may have put this revision's blob, or `None` if
    /// that is no other path, or too long for the service.
    fn older_path(&self, key: &RevisionKey) -> Option<String> {
        path::older_path(key).filter(|path| self.root_bytes() + path.len() <= self.path_bytes_max())
    }

    /// Writes a revision's blob. Nothing happens in the blob tier before the first write.
    pub fn writer(&self, key: &RevisionKey) -> BlobWriter {
        BlobWriter::new(self.clone(), key.clone())
    }

    /// Reads a revision's blob. Nothing happens in the blob tier before the first read.
    pub fn reader(&self, key: &RevisionKey) -> BlobReader {
        BlobReader::new(self.clone(), key.clone())
    }

    /// Returns the length of a revision's blob without its trailer, or `None` if the blob is not
    /// there.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the blob tier fails.
    pub async fn stat(&self, key: &RevisionKey) -> Result<Option<u64>> {
        let failed = |error| failure::unavailable("stat", &key.object, error);
        if let Some(bytes) = self.stat_at(&path::path(key)).await.map_err(failed)? {
            return Ok(Some(bytes.saturating_sub(trailer::length(&key.object))));
        }
        match self.older_path(key) {
            Some(older) => self.stat_at(&older).await.map_err(failed),
            None => Ok(None),
        }
    }

    async fn stat_at(&self, path: &str) -> opendal::Result<Option<u64>> {
        match self.0.operator.stat(path).await {
            Ok(found) => Ok(found.is_file().then(|| found.content_length())),
            Err(error) if failure::cause(&error) == Cause::Gone => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes a revision's blob; a missing one is deleted already. On `fs` a power cut may undo it
    /// until [`settle_deletes`](Self::settle_deletes).
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the blob tier fails: the blob may be there or not.
    pub async fn delete(&self, key: &RevisionKey) -> Result<()> {
        // Both: a service does not say whether there was something to delete.
        for path in [Some(path::path(key)), self.older_path(key)]
            .into_iter()
            .flatten()
        {
            match self.0.operator.delete(&path).await {
                Ok(()) => {}
                Err(error) if failure::cause(&error) == Cause::Gone => {}
                Err(error) => return Err(failure::unavailable("delete", &key.object, error)),
            }
        }
        Ok(())
    }

    /// Makes the deletes of these revisions' blobs durable, and on `fs` makes sure that they took
    /// place in this tier. Removes the directories of long names there, which earlier builds made,
    /// once they are empty.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if a directory can't be synced, or a blob is still there.
    pub async fn settle_deletes(&self, keys: &[RevisionKey]) -> Result<()> {
        let Some(directories) = self.directories() else {
            return Ok(());
        };
        let mut paths: Vec<String> = keys.iter().map(path::path).collect();
        let older: Vec<String> = keys.iter().filter_map(|key| self.older_path(key)).collect();
        directories.remove_emptied(&older).await?;
        directories.sync_removed(&paths).await?;
        paths.extend(older);
        directories.check_removed(paths).await
    }

    /// Every blob, in no particular order, the marker left out. Blobs that appear or vanish
    /// meanwhile may be in it or not. It ends after an error, which is [`ErrorKind::Unavailable`].
    pub fn list(&self) -> BoxStream<'static, Result<FoundBlob>> {
        let operator = self.0.operator.clone();
        let lister = async move { operator.lister_with("/").recursive(true).await };
        stream::once(lister)
            .try_flatten()
            .map_err(|error| failure::failed("list", error))
            .try_filter_map(|entry| async move {
                Ok(found(entry).filter(|blob| blob.path != marker::MARKER_PATH))
            })
            .boxed()
    }

    fn directories(&self) -> Option<&Directories> {
        self.0.directories.as_ref()
    }

    fn env(&self) -> &Env {
        &self.0.env
    }

    /// Blocks that are handed to OpenDAL at a time.
    fn unit_blocks(&self) -> usize {
        if self.is_local() {
            LOCAL_UNIT_BLOCKS
        } else {
            1
        }
    }

    /// Claims room for a write; none if the disk is no matter.
    fn claim(&self, bytes: usize) -> Result<Option<Claim>> {
        self.0
            .room
            .get()
            .map(|room| room.claim(bytes as u64))
            .transpose()
    }

    /// Creates a file and its directories, on `fs`: OpenDAL would give them other modes.
    async fn create_local(&self, path: &str) -> Result<()> {
        match self.directories() {
            Some(directories) => directories.create_file(path, self.0.options.modes).await,
            None => Ok(()),
        }
    }

    async fn open_writer(&self, key: &RevisionKey) -> Result<opendal::Writer> {
        self.check_root()
            .map_err(|error| error.with_id(&key.object))?;
        // OpenDAL makes the directories of a file: not where the tier has been.
        self.check_place()
            .await
            .map_err(|error| error.with_id(&key.object))?;
        if let Some(directories) = self.directories() {
            directories
                .make_fan_out(self.0.options.modes)
                .await
                .map_err(|error| error.with_id(&key.object))?;
        }
        let path = path::path(key);
        let opened = if self.is_local() {
            self.create_local(&path)
                .await
                .map_err(|error| error.with_id(&key.object))?;
            self.0.operator.writer_with(&path).await
        } else {
            let BlobOptions {
                chunk_bytes,
                concurrent,
                ..
            } = self.0.options;
            self.0
                .operator
                .writer_with(&path)
                .chunk(chunk_bytes)
                .concurrent(concurrent)
                .await
        };
        opened.map_err(|error| failure::unavailable("write", &key.object, error))
    }
}

/// Longest path that a service takes, root and all.
fn path_bytes_max(scheme: &str) -> usize {
    match scheme {
        "memory" => usize::MAX,
        "fs" => LOCAL_PATH_BYTES_MAX,
        _ => REMOTE_PATH_BYTES_MAX,
    }
}

/// An entry of a listing; none if it is a directory.
fn found(entry: opendal::Entry) -> Option<FoundBlob> {
    let (path, metadata) = entry.into_parts();
    let bytes = metadata.is_file().then(|| metadata.content_length());
    (!metadata.is_dir()).then(|| FoundBlob {
        revision: path::revision_at(&path),
        path,
        bytes,
    })
}
