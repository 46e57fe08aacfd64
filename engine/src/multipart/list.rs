//! [`ListUploads`] and [`ListParts`]: the builders of listings of uploads and parts.

use std::future::IntoFuture;

use cenotaph_storage::{
    Namespace, OnDamage, PartInfo, PartNumber, PartPage, PartsRequest, Result, UploadInfo,
    UploadMarker, UploadPage, UploadsRequest,
};
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use super::MultipartUpload;
use crate::engine::Engine;
use crate::observe::{observed, operation_span};
use crate::ops::pages::{ListedPage, default_limit, stream_pages};
use crate::ops::setters::page_setters;

/// Builder of a listing of uploads. `.await` it for a single page, or [`stream`](Self::stream) all
/// uploads. See [`Engine::list_uploads`].
#[derive(Clone, Debug)]
#[must_use = "a listing does nothing until it is awaited or streamed"]
pub struct ListUploads {
    engine: Engine,
    request: UploadsRequest,
}

impl ListUploads {
    pub(super) fn new(engine: Engine, prefix: String) -> Self {
        let limit = default_limit(&engine);
        let namespace = Namespace::default_namespace();
        let on_damage = OnDamage::default();
        Self {
            engine,
            request: UploadsRequest {
                namespace,
                prefix,
                start_after: None,
                limit,
                on_damage,
            },
        }
    }

    /// Lists `namespace` instead of the default namespace.
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        self.request.namespace = namespace;
        self
    }

    /// Begins after this marker, which is the `next` of an earlier page.
    pub fn start_after(mut self, marker: UploadMarker) -> Self {
        self.request.start_after = Some(marker);
        self
    }

    page_setters!();

    /// Returns all uploads as a stream that reads page by page, as
    /// [`List::stream`](crate::List::stream).
    pub fn stream(self) -> BoxStream<'static, Result<UploadInfo>> {
        stream_pages(self.step_over_damage(), |list| async move {
            let page = list.clone().await?;
            Ok(ListedPage {
                entries: page.uploads,
                unreadable: page.unreadable,
                rest: page.next.map(|next| list.start_after(next)),
            })
        })
    }
}

impl IntoFuture for ListUploads {
    type Output = Result<UploadPage>;
    type IntoFuture = BoxFuture<'static, Result<UploadPage>>;

    fn into_future(self) -> Self::IntoFuture {
        let span = operation_span!("list_uploads", prefix = self.request.prefix);
        let engine = self.engine.clone();
        observed(engine, "list_uploads", span, async move {
            self.engine.check_open("list_uploads")?;
            let _permit = self
                .engine
                .namespaces()
                .begin(&self.request.namespace, "list_uploads")?;
            self.engine.reads().uploads(self.request).await
        })
    }
}

/// Builder of a listing of parts. `.await` it for a single page, or [`stream`](Self::stream) all
/// parts. See [`MultipartUpload::parts`].
#[derive(Clone, Debug)]
#[must_use = "a listing does nothing until it is awaited or streamed"]
pub struct ListParts {
    upload: MultipartUpload,
    request: PartsRequest,
}

impl ListParts {
    pub(super) fn new(upload: MultipartUpload) -> Self {
        let limit = default_limit(&upload.engine);
        Self {
            upload,
            request: PartsRequest {
                start_after: None,
                limit,
                on_damage: OnDamage::default(),
            },
        }
    }

    /// Begins after this number, which is the `next` of an earlier page.
    pub fn start_after(mut self, number: PartNumber) -> Self {
        self.request.start_after = Some(number);
        self
    }

    page_setters!();

    /// Returns all parts as a stream that reads page by page, as
    /// [`List::stream`](crate::List::stream).
    pub fn stream(self) -> BoxStream<'static, Result<PartInfo>> {
        stream_pages(self.step_over_damage(), |list| async move {
            let page = list.clone().await?;
            Ok(ListedPage {
                entries: page.parts,
                unreadable: page.unreadable,
                rest: page.next.map(|next| list.start_after(next)),
            })
        })
    }
}

impl IntoFuture for ListParts {
    type Output = Result<PartPage>;
    type IntoFuture = BoxFuture<'static, Result<PartPage>>;

    fn into_future(self) -> Self::IntoFuture {
        let MultipartUpload {
            engine,
            id,
            upload_id,
        } = self.upload;
        let span = operation_span!("list_parts", object = %id);
        observed(engine.clone(), "list_parts", span, async move {
            engine.check_open("list_parts")?;
            let _permit = engine.namespaces().begin_on(&id, "list_parts")?;
            let page = engine.reads().parts(&id, &upload_id, self.request).await;
            page.map_err(|error| error.with_id(&id))
        })
    }
}
