//! Reads, writes and checks the marker of a blob tier, and checks the place of a local tier.
//!
//! ```text
//! remote   check_owner    the marker names this store
//! local    check_owner    the root's path names the directory that is held open,
//!                         and its marker names this store
//!          check_place    the root's path names the directory that is held open:
//!                         two system calls, before each blob is begun
//!          make_durable   the finished blob is in the directory that is held open,
//!                         even if the root's path names another directory by now
//! ```
//!
//! Guards I11, and I9 if a directory is moved or unmounted under an open engine. `ownership.rs`
//! decides whether a store may be opened with a marker.

use std::sync::PoisonError;

use futures::TryStreamExt;

use super::failure::{self, Cause};
use super::marker::{self, MARKER_PATH};
use super::{BlobTier, FoundBlob, found};
use crate::types::{Error, ErrorKind, Reason, Result, TierMark};

/// Most entries of a blob tier that are listed to find the store to which it belongs.
const SAMPLE: usize = 1000;
/// Directory that some file systems create in their root, readable for root only.
const OF_FILE_SYSTEM: &str = "lost+found/";

/// The object at [`MARKER_PATH`].
#[derive(Clone, Debug)]
pub enum Marker {
    /// No object exists there.
    Absent,
    /// An intact marker with this mark.
    Of(TierMark),
    /// Bytes that are not a valid marker, and the decoding error.
    Unreadable(Vec<u8>, Error),
}

/// Files in a blob tier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// True if the marker was listed.
    pub has_marker: bool,
    /// Sample of the other files, at most 1,000.
    pub sample: Vec<FoundBlob>,
}

impl BlobTier {
    /// Reads the marker.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the blob tier cannot be read now.
    pub async fn read_marker(&self) -> Result<Marker> {
        match self.operator().read(MARKER_PATH).await {
            Ok(found) => {
                let found = found.to_vec();
                Ok(marker::decode(&found)
                    .map_or_else(|error| Marker::Unreadable(found, error), Marker::Of))
            }
            Err(error) => match failure::cause(&error) {
                Cause::Gone => Ok(Marker::Absent),
                Cause::TooShort | Cause::Other => Err(failure::failed("open", error)),
            },
        }
    }

    /// Writes the marker durably, replacing an existing object. Then reads it back:
    /// of two new stores that write to a tier at the same time, only one may own it.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the blob tier fails or the marker of another store is read
    /// back. The marker of this store may or may not be written then.
    pub async fn write_marker(&self, mark: TierMark) -> Result<()> {
        let operator = self.operator().clone();
        let bytes = marker::encode(mark);
        let length = bytes.len() as u64;
        let write = async move { operator.write(MARKER_PATH, bytes).await };
        // On fs, OpenDAL syncs the file on the thread that polls this future, which would block a
        // worker of the runtime.
        self.create_local(MARKER_PATH).await?;
        let written = if self.is_local() {
            self.env().offload(write).await?
        } else {
            write.await
        };
        written.map_err(|error| failure::failed("open", error))?;
        self.make_durable(MARKER_PATH, length).await?;
        match self.read_marker().await? {
            Marker::Of(found) if found == mark => Ok(()),
            found => Err(not_ours(mark, &found, &self.place())),
        }
    }

    /// Deletes the marker of a tier that the store has released.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the blob tier fails.
    pub async fn delete_marker(&self) -> Result<()> {
        let deleted = self.operator().delete(MARKER_PATH).await;
        deleted.map_err(|error| failure::failed("migrate", error))
    }

    /// Lists a sample of the files in the tier.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the blob tier cannot be listed now.
    pub async fn contents(&self) -> Result<Contents> {
        self.sample()
            .await
            .map_err(|error| failure::failed("open", error))
    }

    async fn sample(&self) -> Result<Contents, opendal::Error> {
        let mut contents = Contents::default();
        // Directory by directory on fs, because a recursive listing fails at a directory that may
        // not be read (`lost+found`).
        let mut directories = vec!["/".to_owned()];
        while let Some(directory) = directories.pop() {
            let recursive = !self.is_local();
            let mut lister = self
                .operator()
                .lister_with(&directory)
                .recursive(recursive)
                .await?;
            while let Some(entry) = lister.try_next().await? {
                if entry.metadata().is_dir() {
                    let is_another = entry.path() != directory && entry.path() != OF_FILE_SYSTEM;
                    directories.extend((!recursive && is_another).then(|| entry.path().to_owned()));
                } else if entry.path() == MARKER_PATH {
                    contents.has_marker = true;
                } else if contents.sample.len() < SAMPLE {
                    contents.sample.extend(found(entry));
                } else {
                    return Ok(contents);
                }
            }
        }
        Ok(contents)
    }

    /// Records that the tier belongs to this store. Ownership checks have an effect from then on.
    pub(crate) fn belongs_to(&self, mark: TierMark) {
        // Ignoring a second mark is correct: a tier handle belongs to a single opening.
        let _ = self.0.owner.set(mark);
    }

    /// Checks that the tier exists and belongs to this store. Callers check this before they accept
    /// that a blob does not exist. A failed check is recorded until the next check: see
    /// [`trouble`](Self::trouble).
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] with reason [`Reason::BlobTier`] if the tier is missing or
    /// belongs to another store, and without that reason if it cannot be read now.
    pub async fn check_owner(&self) -> Result<()> {
        let found = self.find_owner().await;
        match &found {
            Ok(()) => self.note(None),
            Err(error) if error.reason() == Some(Reason::BlobTier) => {
                self.note(Some(error.clone()));
            }
            // The tier could not be read, so the state of the last check is kept.
            Err(_) => {}
        }
        found
    }

    /// Checks the owner as [`check_owner`](Self::check_owner) does, without recording the result.
    pub(crate) async fn find_owner(&self) -> Result<()> {
        let Some(&mark) = self.0.owner.get() else {
            return Ok(());
        };
        self.place_is_ours().await?;
        match self.read_marker().await? {
            Marker::Of(found) if found == mark => Ok(()),
            found => Err(not_ours(mark, &found, &self.place())),
        }
    }

    /// Returns the error of the last ownership check, or `None` if the check passed.
    pub fn trouble(&self) -> Option<Error> {
        self.0
            .trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Checks that the root of a local tier still names the directory that was opened. Cheap: reads
    /// no file.
    pub(super) async fn check_place(&self) -> Result<()> {
        let found = self.place_is_ours().await;
        if let Err(error) = found.as_ref()
            && error.reason() == Some(Reason::BlobTier)
        {
            self.note(Some(error.clone()));
        }
        found
    }

    /// Makes the directory entries of a finished file durable, and checks that the file is in this
    /// tier.
    pub(super) async fn make_durable(&self, path: &str, bytes: u64) -> Result<()> {
        let Some(directories) = self.directories() else {
            return Ok(());
        };
        if let Err(error) = directories.sync_file_entry(path).await {
            // If the root was moved or replaced, that is the better error: the directory may be
            // missing because OpenDAL created it under the new root.
            self.check_place().await?;
            return Err(error);
        }
        if directories.contains(path, bytes).await? {
            return Ok(());
        }
        self.check_place().await?;
        let message = format!(
            "a finished file is missing in the blob tier: path={path} bytes={bytes} tier={}",
            self.place()
        );
        Err(Error::new(ErrorKind::Unavailable, "write", message))
    }

    async fn place_is_ours(&self) -> Result<()> {
        match self.directories() {
            Some(directories) if !directories.is_in_place().await? => {
                let message = format!(
                    "the directory of the blob tier was moved or replaced while the store was \
                     open; put it back, or open the store with its present path: tier={}",
                    self.place()
                );
                Err(Error::new(ErrorKind::Unavailable, "check", message)
                    .with_reason(Reason::BlobTier))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn note(&self, trouble: Option<Error>) {
        let mut noted = self
            .0
            .trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match (&*noted, &trouble) {
            (None, Some(error)) => {
                tracing::error!(%error, "the blob tier is missing or belongs to another store");
            }
            (Some(_), None) => tracing::info!("the blob tier is available again"),
            (None, None) | (Some(_), Some(_)) => {}
        }
        *noted = trouble;
    }

    /// Returns the location of the tier for a message: scheme, bucket and root. None of them is
    /// secret.
    pub fn place(&self) -> String {
        let info = self.operator().info();
        match self.directories() {
            Some(directories) => directories.root().display().to_string(),
            None => format!("{}://{}{}", info.scheme(), info.name(), info.root()),
        }
    }
}

/// Returns the error for a tier whose marker is not the marker of this store.
pub(crate) fn not_ours(expected: TierMark, found: &Marker, place: &str) -> Error {
    let found = match found {
        Marker::Absent => "none".to_owned(),
        Marker::Of(other) => other.to_string(),
        Marker::Unreadable(_, error) => format!("({error})"),
    };
    let message = format!(
        "the blob tier does not belong to this store: expected={expected} found={found} \
         tier={place}"
    );
    Error::new(ErrorKind::Unavailable, "check", message).with_reason(Reason::BlobTier)
}
