//! [`MultipartUpload`]: multipart uploads, which write a large object in parts: in any order, in
//! parallel, over days.
//!
//! - this file: [`Engine::multipart`], which begins an upload, and the handle [`MultipartUpload`]
//! - `part.rs`, `complete.rs`: the operations of an upload
//! - `list.rs`: listings of uploads and parts

mod complete;
mod list;
mod part;

use std::fmt;
use std::future::IntoFuture;

use cenotaph_actors::WriteIntent;
use cenotaph_storage::decide::{FallbackAnswer, Precondition};
use cenotaph_storage::records::Attributes;
use cenotaph_storage::{ObjectId, Result, UploadId};
use futures::future::BoxFuture;

use crate::body::Body;
use crate::engine::{Engine, IntoObjectId};
use crate::observe::{observe, observed, operation_span};
use crate::ops::setters::{attributes_setters, precondition_setters};

pub use complete::Complete;
pub use list::{ListParts, ListUploads};
pub use part::{CopyPart, UploadPart};

impl Engine {
    /// Begins a multipart upload, which writes an object in up to 10,000 parts.
    ///
    /// The parts may arrive in any order and in parallel, from several processes, and across
    /// crashes and reopens. The attributes given here become the attributes of the object when the
    /// upload completes. Until then, readers see the old object, or none. A time to live starts at
    /// the completion.
    ///
    /// An upload that is neither completed nor aborted within its lifetime
    /// ([`MultipartLimits::lifetime`](crate::MultipartLimits::lifetime), 7 days by default) ends,
    /// and its parts are deleted.
    ///
    /// # Errors
    /// - [`Invalid`](crate::ErrorKind::Invalid): the id or the metadata break a rule.
    /// - [`Conflict`](crate::ErrorKind::Conflict): a precondition does not hold. The precondition
    ///   is checked again when the upload completes.
    /// - Otherwise as a small [`put`](Self::put).
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
    /// let upload = engine.multipart("film").content_type("video/mp4").await?;
    /// upload.part(2, "the end").await?;
    /// upload.part(1, "once upon a time .. ").await?;
    /// let written = upload.complete().await?;
    /// let film = engine.get("film").await?.unwrap();
    /// assert_eq!(film.bytes().await?, "once upon a time .. the end");
    /// // A repeated completion, for example after a crash, returns the same result.
    /// assert_eq!(upload.complete().await?, written);
    /// # engine.close().await
    /// # }
    /// ```
    pub fn multipart(&self, id: impl IntoObjectId) -> Initiate {
        Initiate {
            engine: self.clone(),
            id: id.into_object_id(),
            attributes: Attributes::default(),
            precondition: Precondition::None,
        }
    }

    /// Returns the handle of an upload that this or another process began earlier, and that is open
    /// or was completed recently.
    ///
    /// # Errors
    /// - [`Invalid`](crate::ErrorKind::Invalid): the object has no such upload. The upload id is
    ///   forged, belongs to another object, or names an upload that has ended.
    /// - Otherwise as [`head`](Self::head).
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let data = directory.path();
    /// # let engine = cenotaph::Engine::builder(data).open().await?;
    /// let upload = engine.multipart("film").await?;
    /// upload.part(1, "once upon a time .. ").await?;
    /// let noted = upload.upload_id().to_string();
    /// engine.close().await?;
    ///
    /// let engine = cenotaph::Engine::builder(data).open().await?;
    /// let upload = engine.resume("film", &noted).await?;
    /// assert_eq!(upload.parts().await?.parts.len(), 1);
    /// upload.part(2, "the end").await?;
    /// upload.complete().await?;
    /// assert!(engine.resume("another film", &noted).await.is_err());
    /// # engine.close().await
    /// # }
    /// ```
    pub async fn resume(
        &self,
        id: impl IntoObjectId,
        upload_id: impl AsRef<str>,
    ) -> Result<MultipartUpload> {
        let id = id.into_object_id()?;
        self.check_open("resume")?;
        let _within = self.namespaces().begin_on(&id, "resume")?;
        let named = |error: cenotaph_storage::Error| error.with_id(&id);
        let upload_id: UploadId = upload_id.as_ref().parse().map_err(named)?;
        // A read only, so that a read-only engine can resume an upload and list its parts.
        self.reads()
            .find_upload(&id, &upload_id)
            .await
            .map_err(named)?;
        Ok(MultipartUpload {
            engine: self.clone(),
            id,
            upload_id,
        })
    }

    /// Returns the handle of an upload without a check that the upload exists. Each later operation
    /// fails if the object has no such upload.
    ///
    /// This suits a server whose requests name an upload, and which keeps no handle between
    /// requests.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid): the id breaks a rule.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
    /// use cenotaph::{Reason, UploadId};
    ///
    /// let text = engine.multipart("film").await?.upload_id().to_string();
    /// let upload_id: UploadId = text.parse()?;
    /// engine.upload("film", upload_id)?.part(1, "take one").await?;
    /// let other = engine.upload("another film", upload_id)?;
    /// let error = other.part(1, "take one").await.unwrap_err();
    /// assert_eq!(error.reason(), Some(Reason::NoSuchUpload));
    /// # engine.close().await
    /// # }
    /// ```
    pub fn upload(&self, id: impl IntoObjectId, upload_id: UploadId) -> Result<MultipartUpload> {
        Ok(MultipartUpload {
            engine: self.clone(),
            id: id.into_object_id()?,
            upload_id,
        })
    }

    /// Lists the open uploads to objects whose keys begin with `prefix`, in the order of the keys,
    /// then of the times at which the uploads began.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
    /// engine.multipart("films/1").await?;
    /// engine.multipart("films/2").await?.abort().await?;
    /// let page = engine.list_uploads("films/").await?;
    /// assert_eq!(page.uploads.len(), 1);
    /// assert_eq!(page.uploads[0].id.key(), "films/1");
    /// # engine.close().await
    /// # }
    /// ```
    pub fn list_uploads(&self, prefix: impl Into<String>) -> ListUploads {
        ListUploads::new(self.clone(), prefix.into())
    }
}

/// Builder of a multipart upload. `.await` it to begin the upload. See [`Engine::multipart`].
#[derive(Debug)]
#[must_use = "no upload begins until it is awaited"]
pub struct Initiate {
    engine: Engine,
    id: Result<ObjectId>,
    attributes: Attributes,
    precondition: Precondition,
}

impl Initiate {
    attributes_setters!();
    precondition_setters!();

    async fn run(self) -> Result<MultipartUpload> {
        let Self {
            engine,
            id,
            attributes,
            precondition,
        } = self;
        let id = id?;
        // Invalid attributes fail now, and not after all parts have been uploaded.
        attributes.validate().map_err(|error| error.with_id(&id))?;
        let within = engine.namespaces().begin_on(&id, "multipart")?;
        let intent = WriteIntent {
            id: id.clone(),
            attributes,
            precondition,
            answer: FallbackAnswer::NotAsked,
        };
        let upload_id = within.end(engine.tiered().initiate(intent).await)?;
        Ok(MultipartUpload {
            engine,
            id,
            upload_id,
        })
    }
}

impl IntoFuture for Initiate {
    type Output = Result<MultipartUpload>;
    type IntoFuture = BoxFuture<'static, Result<MultipartUpload>>;

    fn into_future(self) -> Self::IntoFuture {
        let span = operation_span!(
            "multipart",
            object = self.id.as_ref().ok().map(tracing::field::display)
        );
        let engine = self.engine.clone();
        observed(engine, "multipart", span, self.run())
    }
}

/// Handle of a multipart upload that was [begun](Engine::multipart) or [resumed](Engine::resume).
///
/// Cloning is cheap, and many tasks may use the handle at once. Dropping it does not end the
/// upload.
#[derive(Clone)]
pub struct MultipartUpload {
    engine: Engine,
    id: ObjectId,
    upload_id: UploadId,
}

impl MultipartUpload {
    /// Returns the id of the object that the upload writes.
    pub fn id(&self) -> &ObjectId {
        &self.id
    }

    /// Returns the upload id, for [`Engine::resume`]. Treat it as a secret: a caller of the engine
    /// who has it can write the object.
    pub fn upload_id(&self) -> UploadId {
        self.upload_id
    }

    /// Uploads the part with this number. When the call returns, the part is durable.
    ///
    /// Numbers are 1 to 10,000 and may have gaps. Parts may arrive in any order and in parallel. A
    /// part replaces an earlier part of the same number. A part may be empty, and has at most
    /// [`MultipartLimits::part_bytes_max`](crate::MultipartLimits::part_bytes_max) bytes. Dropping
    /// the future cancels the part while its payload is streaming; after that, the part may still
    /// become durable.
    ///
    /// # Errors
    /// - [`Invalid`](crate::ErrorKind::Invalid): the number is out of bounds, the part is too long,
    ///   or the upload has ended. Nothing of the part is stored.
    /// - [`Source`](crate::ErrorKind::Source): the caller's stream failed, or does not match its
    ///   declared length or checksum. An earlier part of the same number is kept.
    /// - Otherwise as a large [`put`](Engine::put).
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
    /// use cenotaph::{Digest, ErrorKind, PartEtag};
    ///
    /// let upload = engine.multipart("film").await?;
    /// let part = upload.part(1, "hello").length(5).checksum(Digest::md5_of(b"hello")).await?;
    /// assert_eq!(part.etag, PartEtag::of(b"hello"));
    /// let damaged = upload.part(2, "hellO").checksum(Digest::crc32c_of(b"hello"));
    /// let error = damaged.await.unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Source);
    /// # engine.close().await
    /// # }
    /// ```
    pub fn part(&self, number: u32, body: impl Into<Body>) -> UploadPart {
        UploadPart::new(self.clone(), number, body.into())
    }

    /// Uploads a part with the bytes of an object, or of a range of it. Returns `None` if the
    /// object is absent.
    ///
    /// The part contains bytes of a single version of the object. The engine copies the bytes
    /// through the blob tier, so that every blob belongs to exactly one object (docs/adr/0008).
    ///
    /// # Errors
    /// As [`get`](Engine::get) for the source and as [`part`](Self::part) for the part.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
    /// engine.put("opening", "once upon a time .. and so on").await?;
    /// let upload = engine.multipart("film").await?;
    /// upload.part_copy(1, "opening").range(..20).await?.expect("it is there");
    /// upload.part(2, "the end").await?;
    /// upload.complete().await?;
    /// let film = engine.get("film").await?.unwrap();
    /// assert_eq!(film.bytes().await?, "once upon a time .. the end");
    /// # engine.close().await
    /// # }
    /// ```
    pub fn part_copy(&self, number: u32, from: impl IntoObjectId) -> CopyPart {
        CopyPart::new(self.clone(), number, from.into_object_id())
    }

    /// Lists the uploaded parts in the order of their numbers.
    ///
    /// # Errors
    /// - [`Invalid`](crate::ErrorKind::Invalid): the upload has ended, or the limit is out of
    ///   bounds.
    /// - Otherwise as [`list`](Engine::list).
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
    /// let upload = engine.multipart("film").await?;
    /// for number in [3, 1, 2] {
    ///     upload.part(number, "x").await?;
    /// }
    /// let page = upload.parts().limit(2).await?;
    /// assert_eq!(page.next.map(|last| last.get()), Some(2), "it is truncated");
    /// let rest = upload.parts().start_after(page.next.unwrap()).await?;
    /// assert_eq!((rest.parts.len(), rest.next), (1, None));
    /// # engine.close().await
    /// # }
    /// ```
    pub fn parts(&self) -> ListParts {
        ListParts::new(self.clone())
    }

    /// Completes the upload: its parts become the object in a single commit that moves no bytes,
    /// regardless of their number and size.
    ///
    /// By default the object consists of all parts. If parts are [listed](Complete::part), the
    /// object consists of these parts, and the other parts are deleted.
    ///
    /// A completion is idempotent. A repeated or concurrent completion with the same parts returns
    /// the first outcome, for as long as the engine keeps it
    /// ([`MultipartLimits::kept_for`](crate::MultipartLimits::kept_for), 24 hours by default).
    ///
    /// A completion is superseded, like a large put, if another write replaces or deletes the
    /// object's tombstone while the completion is in progress. The upload has then ended, and none
    /// of its parts are kept. With a precondition, the result is
    /// [`Conflict`](crate::ErrorKind::Conflict) instead, and the upload remains open. A superseded
    /// write has no version and no etag; a server that must return an etag to its client returns
    /// the etag of the current object.
    ///
    /// # Errors
    /// [`Error::reason`](crate::Error::reason) identifies the refusal, and the part if there is
    /// one.
    /// - [`Invalid`](crate::ErrorKind::Invalid): there are no parts; the numbers do not ascend; a
    ///   part does not exist, has another etag, is too small, or was [lost](Engine::scrub) and not
    ///   uploaded again (the message names the part); the parts are too large together; the upload
    ///   was aborted; or it was completed with other parts. An open upload remains unchanged.
    /// - [`Conflict`](crate::ErrorKind::Conflict): a precondition of [`Engine::multipart`] or of
    ///   this call does not hold. The upload remains open.
    /// - Otherwise as a small [`put`](Engine::put).
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
    /// let upload = engine.multipart("film").await?;
    /// let first = upload.part(1, "take one").await?;
    /// upload.part(2, "take two").await?;
    /// upload.complete().part(1, first.etag).if_absent().await?;
    /// assert_eq!(engine.get("film").await?.unwrap().bytes().await?, "take one");
    /// # engine.close().await
    /// # }
    /// ```
    pub fn complete(&self) -> Complete {
        Complete::new(self.clone())
    }

    /// Aborts the upload. Its parts are deleted, and no part can be added.
    ///
    /// A part that is being uploaded leaves nothing behind. Aborting again does nothing.
    ///
    /// # Errors
    /// - [`Invalid`](crate::ErrorKind::Invalid): the upload was completed, or is no longer known.
    /// - Otherwise as [`delete`](Engine::delete).
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
    /// let upload = engine.multipart("film").await?;
    /// upload.part(1, "a bad take").await?;
    /// upload.abort().await?;
    /// assert!(upload.part(2, "another").await.is_err());
    /// assert!(engine.head("film").await?.is_none());
    /// # engine.close().await
    /// # }
    /// ```
    pub async fn abort(&self) -> Result<()> {
        let abort = async {
            let within = self.engine.namespaces().begin_on(&self.id, "abort")?;
            within.end(self.engine.tiered().abort(&self.id, self.upload_id).await)
        };
        observe(
            &self.engine,
            "abort",
            operation_span!("abort", object = %self.id),
            abort,
        )
        .await
    }
}

impl fmt::Debug for MultipartUpload {
    /// Omits the upload id, because it is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MultipartUpload")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
