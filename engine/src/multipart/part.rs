//! [`UploadPart`] and [`CopyPart`]: the builders of parts, from a payload or from an object.

use std::future::IntoFuture;

use cenotaph_actors::{PartIntent, UploadedPart};
use cenotaph_storage::decide::Precondition;
use cenotaph_storage::{
    ByteRange, Digest, Error, ErrorKind, Etag, ObjectId, PartNumber, Result, Version,
};
use futures::future::BoxFuture;

use super::MultipartUpload;
use crate::body::Body;
use crate::observe::{counted, observed, operation_span};
use crate::ops::copy::read_error_of;
use crate::ops::get::Object;

/// Builder of an upload of a part. `.await` it to upload the part. See [`MultipartUpload::part`].
#[derive(Debug)]
#[must_use = "nothing is uploaded until it is awaited"]
pub struct UploadPart {
    upload: MultipartUpload,
    number: u32,
    body: Body,
    declared: Vec<Digest>,
}

impl UploadPart {
    pub(super) fn new(upload: MultipartUpload, number: u32, body: Body) -> Self {
        Self {
            upload,
            number,
            body,
            declared: Vec::new(),
        }
    }

    /// Declares the length of the part in bytes, as [`Body::promise`].
    pub fn length(mut self, bytes: u64) -> Self {
        self.body = self.body.promise(bytes);
        self
    }

    /// Declares a checksum of the part. If the payload has another checksum, the upload fails with
    /// [`Source`](ErrorKind::Source), and nothing of it is stored. Several checksums of different
    /// algorithms may be declared.
    pub fn checksum(mut self, declared: Digest) -> Self {
        self.declared.push(declared);
        self
    }

    async fn run(self) -> Result<UploadedPart> {
        let Self {
            upload:
                MultipartUpload {
                    engine,
                    id,
                    upload_id,
                },
            number,
            body,
            declared,
        } = self;
        let number = PartNumber::new(number).map_err(|error| error.with_id(&id))?;
        let within = engine.namespaces().begin_on(&id, "part")?;
        let part = PartIntent {
            id,
            upload: upload_id,
            number,
            declared,
        };
        // A part is never inline, so there is no peek.
        let source = body.watched(engine.tiered()).into_source();
        let (source, _) = counted(within.paced(source));
        within.end(engine.tiered().upload_part(part, source).await)
    }
}

impl IntoFuture for UploadPart {
    type Output = Result<UploadedPart>;
    type IntoFuture = BoxFuture<'static, Result<UploadedPart>>;

    fn into_future(self) -> Self::IntoFuture {
        let span = operation_span!("part", object = %self.upload.id, number = self.number);
        let engine = self.upload.engine.clone();
        observed(engine, "part", span, self.run())
    }
}

/// Builder of a part that is copied from an object. `.await` it to copy. See
/// [`MultipartUpload::part_copy`].
#[derive(Debug)]
#[must_use = "nothing is copied until it is awaited"]
pub struct CopyPart {
    upload: MultipartUpload,
    number: u32,
    from: Result<ObjectId>,
    range: ByteRange,
    source: Precondition,
}

impl CopyPart {
    pub(super) fn new(upload: MultipartUpload, number: u32, from: Result<ObjectId>) -> Self {
        Self {
            upload,
            number,
            from,
            range: ByteRange::Full,
            source: Precondition::None,
        }
    }

    /// Copies only a range of the object. See [`Get::range`](crate::Get::range).
    pub fn range(mut self, range: impl Into<ByteRange>) -> Self {
        self.range = range.into();
        self
    }

    /// Copies only if the source object has this version. Otherwise the copy fails with
    /// [`Conflict`](ErrorKind::Conflict).
    pub fn if_source_version(mut self, version: impl Into<Version>) -> Self {
        self.source = Precondition::Version(version.into());
        self
    }

    /// Copies only if the source object has this etag. Otherwise the copy fails with
    /// [`Conflict`](ErrorKind::Conflict).
    pub fn if_source_etag(mut self, etag: Etag) -> Self {
        self.source = Precondition::Etag(etag);
        self
    }

    async fn run(self) -> Result<Option<UploadedPart>> {
        let Self {
            upload,
            number,
            from,
            range,
            source,
        } = self;
        let engine = &upload.engine;
        let from = from?;
        // Everything that can be refused is refused before the source is opened.
        PartNumber::new(number).map_err(|error| error.with_id(&upload.id))?;
        engine.check_open("part_copy")?;
        engine.check_writable("part_copy")?;
        let permit = engine.namespaces().begin_on(&from, "part_copy")?;
        let open = engine.open_object(&from, range).await?.object();
        let object = open.map(|open| Object::new(open, permit)).transpose()?;
        let current = object.as_ref().and_then(Object::current);
        if !source.holds(current) {
            let message = "the source does not satisfy the precondition; nothing was uploaded";
            return Err(
                Error::new(ErrorKind::Conflict { current }, "part_copy", message).with_id(&from),
            );
        }
        let Some(object) = object else {
            return Ok(None);
        };
        let bytes = object.range().end - object.range().start;
        let body = match object.is_in_memory() {
            true => Body::from(object.bytes().await?),
            false => Body::of_read(object.stream(), bytes),
        };
        UploadPart::new(upload, number, body)
            .await
            .map(Some)
            .map_err(read_error_of)
    }
}

impl IntoFuture for CopyPart {
    type Output = Result<Option<UploadedPart>>;
    type IntoFuture = BoxFuture<'static, Result<Option<UploadedPart>>>;

    fn into_future(self) -> Self::IntoFuture {
        let span = operation_span!("part_copy", object = %self.upload.id, number = self.number);
        let engine = self.upload.engine.clone();
        observed(engine, "part_copy", span, self.run())
    }
}
