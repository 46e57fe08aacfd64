//! Whose blobs these are: reading, writing and checking the marker, and the place of a local tier.
//!
//! ```text
//! remote   check_owner = the marker names this store
//! local    check_owner = the root's path still names the directory that is held open, and its marker names this store
//!          check_place = the first half of it: two calls of the operating system, before each blob is begun
//!          make_durable: the finished blob lies in the directory that is held open, whatever its path names by now
//! ```
//!
//! Guards I11, and I9 where a directory is moved or unmounted under an open engine. Deliberately
//! not here: what an opening makes of a marker (`ownership.rs`).

use std::sync::PoisonError;

use futures::TryStreamExt;

use super::failure::{self, Cause};
use super::marker::{self, MARKER_PATH};
use super::{BlobTier, FoundBlob, found};
use crate::error::{Error, ErrorKind, Reason, Result};
use crate::planted::Bug;
use crate::word::StoreId;

/// Entries of a blob tier that are listed to find out whose it is.
const SAMPLE: usize = 1000;
/// What a file system makes in its own root, and lets nobody read.
const OF_FILE_SYSTEM: &str = "lost+found/";

/// What lies at the place of the marker.
#[derive(Clone, Debug)]
pub enum Marker {
    /// Nothing.
    Absent,
    /// The marker of this store.
    Of(StoreId),
    /// Something that can't be read as a marker, and why.
    Unreadable(Vec<u8>, Error),
}

/// What else lies in a blob tier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// True if the marker is among it.
    pub has_marker: bool,
    /// Some of the other files, at most 1,000.
    pub sample: Vec<FoundBlob>,
}

impl BlobTier {
    /// Reads the marker.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the blob tier can't be read now.
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

    /// Writes the marker of this store, whatever lies there, durably. Reads it back: a tier that is
    /// written to by two new stores at once belongs to one of them.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the blob tier fails or another store's marker is there by now:
    /// the marker may be written or not.
    pub async fn write_marker(&self, id: StoreId) -> Result<()> {
        let (operator, bytes) = (self.operator().clone(), marker::encode(id));
        let length = bytes.len() as u64;
        let write = async move { operator.write(MARKER_PATH, bytes).await };
        // On fs, OpenDAL syncs the file on the thread that polls it.
        self.create_local(MARKER_PATH).await?;
        let written = if self.is_local() {
            self.env().offload(write).await?
        } else {
            write.await
        };
        written.map_err(|error| failure::failed("open", error))?;
        self.make_durable(MARKER_PATH, length).await?;
        match self.read_marker().await? {
            Marker::Of(found) if found == id => Ok(()),
            found => Err(not_ours(id, &found, &self.place())),
        }
    }

    /// Looks at what lies in the tier.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the blob tier can't be listed now.
    pub async fn contents(&self) -> Result<Contents> {
        self.sample()
            .await
            .map_err(|error| failure::failed("open", error))
    }

    async fn sample(&self) -> Result<Contents, opendal::Error> {
        let mut contents = Contents::default();
        // Directory by directory where there are some: one of them may not be ours to look into.
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

    /// From now on this is the tier of this store, and is checked to be.
    pub(crate) fn belongs_to(&self, id: StoreId) {
        // Set once, by the one opening.
        let _ = self.0.owner.set(id);
    }

    /// Checks that the tier is there and belongs to this store, before it is believed that a blob
    /// is not there. That it is not is remembered until the next check: see
    /// [`trouble`](Self::trouble).
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if it is not (reason [`Reason::BlobTier`]), or can't be read now.
    pub async fn check_owner(&self) -> Result<()> {
        let found = self.find_owner().await;
        match &found {
            Ok(()) => self.note(None),
            Err(error) if error.reason() == Some(Reason::BlobTier) => {
                self.note(Some(error.clone()));
            }
            // Nothing was found out.
            Err(_) => {}
        }
        found
    }

    /// The same, and nothing is remembered.
    pub(crate) async fn find_owner(&self) -> Result<()> {
        let Some(&id) = self.0.owner.get() else {
            return Ok(());
        };
        if self.env().planted(Bug::NotFoundIsDeleted) {
            return Ok(());
        }
        self.place_is_ours().await?;
        match self.read_marker().await? {
            Marker::Of(found) if found == id => Ok(()),
            found => Err(not_ours(id, &found, &self.place())),
        }
    }

    /// Why the blob tier was not this store's when it was last checked; none if it was.
    pub fn trouble(&self) -> Option<Error> {
        self.0
            .trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Checks that a local tier is where it was opened. Cheap: no file is read.
    pub(super) async fn check_place(&self) -> Result<()> {
        let found = self.place_is_ours().await;
        if let Err(error) = found.as_ref()
            && error.reason() == Some(Reason::BlobTier)
        {
            self.note(Some(error.clone()));
        }
        found
    }

    /// Makes the name of a finished file durable, and makes sure that the file is in this tier.
    pub(super) async fn make_durable(&self, path: &str, bytes: u64) -> Result<()> {
        let Some(directories) = self.directories() else {
            return Ok(());
        };
        if let Err(error) = directories.sync_file_entry(path).await {
            // A directory that is not there may be in another one of the same name.
            self.check_place().await?;
            return Err(error);
        }
        if directories.contains(path, bytes).await? {
            return Ok(());
        }
        self.check_place().await?;
        let message = format!(
            "the file is not where it was written: path={path} bytes={bytes} tier={}",
            self.place()
        );
        Err(Error::new(ErrorKind::Unavailable, "write", message))
    }

    async fn place_is_ours(&self) -> Result<()> {
        match self.directories() {
            Some(directories) if !directories.is_in_place().await? => {
                let message = format!(
                    "the directory of the blob tier was moved or replaced while the store was open; put it back, or \
                     open the store where it is now: tier={}",
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
                tracing::error!(%error, "the blob tier is not this store's, or is not there");
            }
            (Some(_), None) => tracing::info!("the blob tier is there again"),
            (None, None) | (Some(_), Some(_)) => {}
        }
        *noted = trouble;
    }

    /// Where the tier is, for a message: scheme, bucket and root, which hold no secret.
    pub(crate) fn place(&self) -> String {
        let info = self.operator().info();
        let (scheme, name) = (info.scheme(), info.name());
        match self.directories() {
            Some(directories) => directories.root().display().to_string(),
            None => format!("{scheme}://{name}{}", info.root()),
        }
    }
}

/// What is at the place of the marker is not the marker of this store.
pub(crate) fn not_ours(expected: StoreId, found: &Marker, place: &str) -> Error {
    let found = match found {
        Marker::Absent => "none".to_owned(),
        Marker::Of(other) => other.to_string(),
        Marker::Unreadable(_, error) => format!("({error})"),
    };
    let message = format!(
        "the blob tier does not belong to this store: expected={expected} found={found} tier={place}"
    );
    Error::new(ErrorKind::Unavailable, "check", message).with_reason(Reason::BlobTier)
}
