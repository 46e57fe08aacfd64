//! [`Upload`]: a large object written in parts, in any order, in parallel, over days.
//!
//! Reading order: [`Engine::multipart`], which begins one; [`Upload`], the handle on it; `part.rs`
//! and `complete.rs`, what is asked of the handle; `list.rs`, what there is.

mod complete;
mod list;
mod part;

use std::fmt;
use std::future::IntoFuture;

use cenotaph_actors::Intent;
use cenotaph_storage::decide::Precondition;
use cenotaph_storage::rows::Attributes;
use cenotaph_storage::{ObjectId, Result, UploadId};
use futures::future::BoxFuture;

use crate::body::Body;
use crate::engine::{Engine, IntoObjectId};
use crate::observe::{observe, observed, operation_span};
use crate::setters::{attributes_setters, precondition_setters};

pub use complete::Complete;
pub use list::{ListParts, ListUploads};
pub use part::{CopyPart, UploadPart};

impl Engine {
    /// Begins a multipart upload: an object written in up to 10,000 parts, in any order and in
    /// parallel, by one process or by many, across crashes and reopens. What is stated here is
    /// stated about the object once it is completed; until then readers see the old object, or
    /// none.
    ///
    /// An upload that is neither completed nor aborted within its lifetime
    /// ([`MultipartLimits::lifetime`](crate::MultipartLimits::lifetime), 7 days) is given up, and
    /// its parts are deleted. A time to live begins with the completion.
    ///
    /// # Errors
    /// - [`Invalid`](crate::ErrorKind::Invalid): the id or the metadata break a rule.
    /// - [`Conflict`](crate::ErrorKind::Conflict): a precondition does not hold. It is demanded
    ///   again when the upload is completed.
    /// - otherwise as a small [`put`](Self::put).
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
    /// assert_eq!(engine.get("film").await?.unwrap().bytes().await?, "once upon a time .. the end");
    /// // Completed again, after a crash perhaps, it answers the same.
    /// assert_eq!(upload.complete().await?, written);
    /// # engine.close().await
    /// # }
    /// ```
    pub fn multipart(&self, id: impl IntoObjectId) -> Initiate {
        let (engine, id) = (self.clone(), id.into_object_id());
        Initiate {
            engine,
            id,
            attributes: Attributes::default(),
            precondition: Precondition::None,
        }
    }

    /// Goes on with an upload that was begun earlier, by this process or another: open, or
    /// completed not long ago.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if the object has no such upload: the id is forged,
    /// that of another object's, or of an upload that has ended. Otherwise as [`head`](Self::head).
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
    ) -> Result<Upload> {
        let id = id.into_object_id()?;
        self.check_open("resume")?;
        let _within = self.namespaces().begin_on(&id, "resume")?;
        let named = |error: cenotaph_storage::Error| error.with_id(&id);
        let upload_id: UploadId = upload_id.as_ref().parse().map_err(named)?;
        self.reads()
            .find_upload(&id, &upload_id)
            .await
            .map_err(named)?;
        Ok(Upload {
            engine: self.clone(),
            id,
            upload_id,
        })
    }

    /// The handle on an upload, asking nothing: each step tells by itself if the object has no such
    /// upload. For whoever serves requests that name an upload, and may not keep a handle between
    /// them.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if the id breaks a rule.
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
    /// let error = engine.upload("another film", upload_id)?.part(1, "take one").await.unwrap_err();
    /// assert_eq!(error.reason(), Some(Reason::NoSuchUpload));
    /// # engine.close().await
    /// # }
    /// ```
    pub fn upload(&self, id: impl IntoObjectId, upload_id: UploadId) -> Result<Upload> {
        Ok(Upload {
            engine: self.clone(),
            id: id.into_object_id()?,
            upload_id,
        })
    }

    /// Lists the open uploads to objects whose keys begin with `prefix`, in the order of their
    /// keys, then of their beginnings.
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

/// A multipart upload about to begin: `.await` it. See [`Engine::multipart`].
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

    async fn run(self) -> Result<Upload> {
        let Self {
            engine,
            id,
            attributes,
            precondition,
        } = self;
        let id = id?;
        attributes.validate().map_err(|error| error.with_id(&id))?;
        let within = engine.namespaces().begin_on(&id, "multipart")?;
        let intent = Intent {
            id: id.clone(),
            attributes,
            precondition,
        };
        let upload_id = within.end(engine.tiered().initiate(intent).await)?;
        Ok(Upload {
            engine,
            id,
            upload_id,
        })
    }
}

impl IntoFuture for Initiate {
    type Output = Result<Upload>;
    type IntoFuture = BoxFuture<'static, Result<Upload>>;

    fn into_future(self) -> Self::IntoFuture {
        let span = operation_span!(
            "multipart",
            object = self.id.as_ref().ok().map(tracing::field::display)
        );
        let engine = self.engine.clone();
        observed(engine, "multipart", span, self.run())
    }
}

/// A multipart upload: [begun](Engine::multipart) or [resumed](Engine::resume). A cheap clone of
/// one handle on it, which may be used by many tasks at once. Dropping it ends nothing.
#[derive(Clone)]
pub struct Upload {
    engine: Engine,
    id: ObjectId,
    upload_id: UploadId,
}

impl Upload {
    /// The object that it will be.
    pub fn id(&self) -> &ObjectId {
        &self.id
    }

    /// What it is [resumed](Engine::resume) by. Whoever knows it, and may call the engine, may
    /// write the object.
    pub fn upload_id(&self) -> UploadId {
        self.upload_id
    }

    /// Uploads the part with this number, 1 to 10,000. Parts may come in any order and in parallel,
    /// and numbers may have gaps. When it returns, the part is durable. One that was uploaded under
    /// this number before is replaced.
    ///
    /// A part may be empty, and as long as
    /// [`MultipartLimits::part_bytes_max`](crate::MultipartLimits::part_bytes_max). Dropping the
    /// future cancels it while its payload is streaming; later the part may still be there.
    ///
    /// # Errors
    /// - [`Invalid`](crate::ErrorKind::Invalid): the number is out of bounds, the part is too long,
    ///   or the upload has ended. Nothing of the part is kept.
    /// - [`Source`](crate::ErrorKind::Source): your stream failed, or is not what was declared
    ///   about it. An earlier part of this number is still there.
    /// - otherwise as a large [`put`](Engine::put).
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
    /// let error = upload.part(2, "hellO").checksum(Digest::crc32c_of(b"hello")).await.unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Source);
    /// # engine.close().await
    /// # }
    /// ```
    pub fn part(&self, number: u32, body: impl Into<Body>) -> UploadPart {
        UploadPart::new(self.clone(), number, body.into())
    }

    /// Makes a part of an object, or of a range of it, as one read of it finds it. The bytes are
    /// copied within the engine, through the blob tier: every blob belongs to one object
    /// (docs/adr/0008 tells why). None if there is no such object.
    ///
    /// # Errors
    /// As [`get`](Engine::get) of the one and [`part`](Self::part) of the other.
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
    /// assert_eq!(engine.get("film").await?.unwrap().bytes().await?, "once upon a time .. the end");
    /// # engine.close().await
    /// # }
    /// ```
    pub fn part_copy(&self, number: u32, from: impl IntoObjectId) -> CopyPart {
        CopyPart::new(self.clone(), number, from.into_object_id())
    }

    /// Lists the parts that are uploaded, in the order of their numbers.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if the upload has ended, or the limit is out of
    /// bounds; otherwise as [`list`](Engine::list).
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

    /// Makes the object of the parts: in one commit, without moving a byte, however many and large
    /// they are. All of them, unless they are [listed](Complete::part). Parts that are not listed
    /// are deleted.
    ///
    /// It is idempotent: completed again with the same parts, by a caller who did not hear the
    /// answer or by two at once, it answers with the first outcome, for as long as that is
    /// remembered ([`MultipartLimits::kept_for`](crate::MultipartLimits::kept_for), 24 hours).
    ///
    /// A completion is superseded, as a large put would be, if the object's tombstone is replaced
    /// or deleted by another write while it is under way; the upload has then ended, and nothing of
    /// it is kept. With a precondition that is [`Conflict`](crate::ErrorKind::Conflict) instead,
    /// and the upload goes on. A superseded write has no version and no etag: whoever must give its
    /// client one gives that of the object as it stands.
    ///
    /// # Errors
    /// [`Error::reason`](crate::Error::reason) tells programs exactly what was refused, and which
    /// part.
    /// - [`Invalid`](crate::ErrorKind::Invalid): no parts; numbers that do not ascend; a part that
    ///   is not there, has another etag, is too small, or was [lost](Engine::scrub) and not
    ///   uploaded again, which the message names; too many bytes together; the upload was aborted,
    ///   or completed with other parts. An open upload goes on as it was.
    /// - [`Conflict`](crate::ErrorKind::Conflict): a precondition of the beginning or of this call
    ///   does not hold. The upload goes on as it was.
    /// - otherwise as a small [`put`](Engine::put).
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

    /// Gives the upload up: its parts are deleted, and nothing can be added to it any more. A part
    /// that is being uploaded leaves nothing behind. Aborting again does nothing.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if the upload was completed, or is not known any
    /// more; otherwise as [`delete`](Engine::delete).
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

impl fmt::Debug for Upload {
    /// Without the upload id, which is a secret between the caller and whoever it trusts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
