//! The blob tier (long-term tier): immutable blobs in any OpenDAL service, one per revision.
//!
//! Reading order: [`BlobTier`] in this file, [`BlobTiers`] (all tiers of a store), [`path`] (names of blobs), [`trailer`] (the object id
//! behind the bytes of a blob), [`BlobWriter`] and [`BlobReader`], [`directories`] (durable
//! directory entries on `fs`), `failure` (conversion of OpenDAL's errors). No other module calls
//! OpenDAL.
//!
//! Guards I2 (a finished blob is durable), I4 (a blob is written once), I10 (an error of the blob
//! tier is never taken for an outcome) and "never wrong bytes". The blob tier handles revisions
//! only: changes, orphans, pins, retries and time limits are the callers' concern.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use opendal::Operator;
use serde::{Deserialize, Serialize};

use crate::env::Env;
use crate::modes::Modes;
use crate::types::{BLOCK_BYTES, Error, ErrorKind, Result, RevisionId, RevisionKey, TierMark};

mod assembly;
pub mod directories;
mod failure;
pub mod foreign;
pub mod marker;
mod name;
mod owner;
pub mod path;
mod reader;
mod room;
mod tiers;
pub mod trailer;
mod writer;

#[cfg(test)]
mod tests;

use directories::Directories;
use failure::Cause;
pub use name::{BlobName, object_of_blob};
pub use owner::{Contents, Marker};
use path::PATH_BYTES_MAX;
pub use reader::BlobReader;
pub use room::Room;
use room::{RoomClaim, SharedRoom};
pub use tiers::BlobTiers;
pub use writer::{BlobWriter, FinishedBlob};

/// Number of blocks that one write to the `fs` service contains.
const LOCAL_UNIT_BLOCKS: usize = 4;
/// Longest path that the operating system accepts, in bytes, including the root.
// PATH_MAX without the terminating NUL: 4096 on Linux, 1024 on macOS and BSD.
const LOCAL_PATH_BYTES_MAX: usize = if cfg!(target_os = "linux") {
    4095
} else {
    1023
};
/// Longest key that S3, GCS and Azure accept, in bytes, including the root.
const REMOTE_PATH_BYTES_MAX: usize = 1024;
const _: () =
    assert!(PATH_BYTES_MAX < LOCAL_PATH_BYTES_MAX && PATH_BYTES_MAX < REMOTE_PATH_BYTES_MAX);

/// Settings for writing blobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BlobOptions {
    /// Bytes per request of an upload; at least 1 MiB (a block). S3 allows 10,000 requests per
    /// upload, so the default of 8 MiB limits a blob there to 78 GiB. Not used on `fs`, where each
    /// write has 4 MiB.
    pub chunk_bytes: usize,
    /// Concurrent requests of an upload, at least 1. Not used on `fs`, where concurrent writes are
    /// not faster.
    pub concurrent: usize,
    /// Permission bits of the directories and files that are created in a tier on `fs`. If the
    /// caller supplies the operator, OpenDAL creates its root directory, with the default bits
    /// minus the umask.
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

/// An entry of a listing of the blob tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundBlob {
    /// Path of the blob, relative to the root.
    pub path: String,
    /// Revision to which the blob belongs; `None` if the path is not a revision's path.
    pub revision: Option<RevisionId>,
    /// Length of the blob in bytes, including its trailer; `None` if the service does not report
    /// lengths in listings.
    pub bytes: Option<u64>,
}

/// Handle of the blob tier. Cheap to clone.
#[derive(Clone)]
pub struct BlobTier(Arc<Inner>);

struct Inner {
    operator: Operator,
    env: Env,
    options: BlobOptions,
    /// Directories of the root; `None` unless the service is `fs`.
    directories: Option<Directories>,
    /// Mark of the tier; empty until the ownership check has passed.
    owner: OnceLock<TierMark>,
    /// Error of the last ownership check; `None` if the check passed.
    trouble: Mutex<Option<Error>>,
    /// Free-space check; set only if the blobs share a disk with the index.
    room: OnceLock<SharedRoom>,
}

/// Returns an operator on a local directory. Creates a missing directory, accessible to its owner
/// only.
///
/// # Errors
/// [`ErrorKind::Unavailable`] if the directory can't be made, [`ErrorKind::Invalid`] if its path is
/// not UTF-8.
pub fn local(root: &Path) -> Result<Operator> {
    local_new(root, Modes::default())
}

/// Returns an operator on a local directory, as [`local`] does. Creates a missing directory with
/// these modes.
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
        // OpenDAL would create the directory with the default modes.
        modes
            .create_dir_all(root)
            .map_err(|error| failure::failed_on_disk("open", error))?;
    }
    // `atomic_write_dir` is not set: OpenDAL renames without syncing the directory. An atomic
    // rename is not needed, because each path is used once and no row names it before the blob is
    // finished.
    Operator::new(opendal::services::Fs::default().root(text))
        .map_err(|error| failure::failed("open", error))
}

/// Returns an operator on an empty tier in memory. It replaces a missing directory that must not be
/// created.
///
/// # Errors
/// [`ErrorKind::Unavailable`] if OpenDAL cannot build the operator, which has not been observed.
pub(crate) fn nothing() -> Result<Operator> {
    Operator::new(opendal::services::Memory::default())
        .map_err(|error| failure::failed("open", error))
}

/// Returns the device number of the file system that contains this path, or `None` if the path
/// does not exist.
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
    /// Creates a blob tier under the operator's root. The root should contain nothing else.
    pub fn new(operator: Operator, env: Env, mut options: BlobOptions) -> Self {
        let info = operator.info();
        let directories = (info.scheme() == "fs")
            .then(|| Directories::new(PathBuf::from(info.root()), env.clone()));
        options.chunk_bytes = options.chunk_bytes.max(BLOCK_BYTES);
        options.concurrent = options.concurrent.max(1);
        Self(Arc::new(Inner {
            operator,
            env,
            options,
            directories,
            owner: OnceLock::new(),
            trouble: Mutex::default(),
            room: OnceLock::new(),
        }))
    }

    /// Declares that the blobs share their disk with the index. From then on `room` is called
    /// before each write, and an error of `room` fails the write. Calls after the first have no
    /// effect.
    pub fn share_disk(&self, room: Room) {
        // Ignoring a second room is correct: it would check the same disk.
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

    /// Returns the operator of the blob tier.
    pub fn operator(&self) -> &Operator {
        &self.0.operator
    }

    /// Returns whether the blobs are local files, that is, whether the scheme is `fs`.
    pub fn is_local(&self) -> bool {
        self.0.directories.is_some()
    }

    /// Returns the most bytes of memory that an upload of `expected` bytes holds, not counting the
    /// caller's chunk and the trailer.
    pub fn upload_buffer_bytes(&self, expected: Option<u64>) -> usize {
        let BlobOptions {
            chunk_bytes,
            concurrent,
            ..
        } = self.0.options;
        // On fs, OpenDAL buffers a unit while the next unit is assembled, hence 2.
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

    /// Checks that the service accepts blob paths under the operator's root. All blob paths have
    /// the same maximum length, so the result does not depend on the object. Callers check this
    /// before they record a change.
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

    /// Returns the number of bytes that the root adds to a path.
    fn root_bytes(&self) -> usize {
        self.0.operator.info().root().len() + "/".len()
    }

    /// Returns the path at which an earlier build may have written this revision's blob. `None` if
    /// that path equals the present path or is too long for the service.
    fn older_path(&self, key: &RevisionKey) -> Option<String> {
        path::older_path(key).filter(|path| self.root_bytes() + path.len() <= self.path_bytes_max())
    }

    /// Returns a writer for a revision's blob. The blob tier is not accessed before the first
    /// write.
    pub fn writer(&self, key: &RevisionKey) -> BlobWriter {
        BlobWriter::new(self.clone(), key.clone())
    }

    /// Returns a reader of a revision's blob. The blob tier is not accessed before the first read.
    pub fn reader(&self, key: &RevisionKey) -> BlobReader {
        BlobReader::new(self.clone(), key.clone())
    }

    /// Returns the length of a revision's blob in bytes without its trailer, or `None` if the blob
    /// does not exist.
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

    /// Deletes a revision's blob. Deleting a missing blob succeeds. On `fs` a power cut may undo
    /// the deletion until [`settle_deletes`](Self::settle_deletes) returns.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the blob tier fails. The blob may or may not exist then.
    pub async fn delete(&self, key: &RevisionKey) -> Result<()> {
        // Both paths are deleted: a service does not report whether the first blob existed.
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

    /// Makes the deletions of these revisions' blobs durable. On `fs` it also checks that the
    /// deletions happened in this tier, and removes empty directories that earlier builds created
    /// for long names.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if a directory cannot be synced, or a blob still exists.
    pub async fn settle_deletes(&self, keys: &[RevisionKey]) -> Result<()> {
        // Deletions in a remote service are durable when they return.
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

    /// Lists all blobs in no particular order, without the marker. A blob that is created or
    /// deleted during the listing may be missing or included. The stream ends after an error, which
    /// is [`ErrorKind::Unavailable`].
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

    /// Returns the number of blocks that are passed to OpenDAL in one write.
    fn unit_blocks(&self) -> usize {
        if self.is_local() {
            LOCAL_UNIT_BLOCKS
        } else {
            1
        }
    }

    /// Claims room for a write. Returns `None` if the blobs do not share a disk with the index.
    fn claim(&self, bytes: usize) -> Result<Option<RoomClaim>> {
        self.0
            .room
            .get()
            .map(|room| room.claim(bytes as u64))
            .transpose()
    }

    /// Creates a file and its directories on `fs`. OpenDAL would create them with the default
    /// modes.
    async fn create_local(&self, path: &str) -> Result<()> {
        match self.directories() {
            Some(directories) => directories.create_file(path, self.0.options.modes).await,
            None => Ok(()),
        }
    }

    async fn open_writer(&self, key: &RevisionKey) -> Result<opendal::Writer> {
        self.check_root()
            .map_err(|error| error.with_id(&key.object))?;
        // OpenDAL creates missing directories of a file. This check prevents that at a path from
        // which the tier was moved or unmounted.
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

/// Returns the longest path that a service accepts, in bytes, including the root.
fn path_bytes_max(scheme: &str) -> usize {
    match scheme {
        "memory" => usize::MAX,
        "fs" => LOCAL_PATH_BYTES_MAX,
        _ => REMOTE_PATH_BYTES_MAX,
    }
}

/// Converts an entry of a listing. Returns `None` for a directory.
fn found(entry: opendal::Entry) -> Option<FoundBlob> {
    let (path, metadata) = entry.into_parts();
    let bytes = metadata.is_file().then(|| metadata.content_length());
    (!metadata.is_dir()).then(|| FoundBlob {
        revision: path::revision_at(&path),
        path,
        bytes,
    })
}
