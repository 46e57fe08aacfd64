//! [`Complete`]: the builder of a completion.

use std::future::IntoFuture;

use cenotaph_storage::decide::{Precondition, PutResult, Selection};
use cenotaph_storage::{PartEtag, PartNumber, Result};
use futures::future::BoxFuture;

use super::MultipartUpload;
use crate::observe::{observed, operation_span};
use crate::ops::setters::precondition_setters;

/// Builder of a completion. `.await` it to complete the upload. See [`MultipartUpload::complete`].
#[derive(Debug)]
#[must_use = "nothing is completed until it is awaited"]
pub struct Complete {
    upload: MultipartUpload,
    parts: Option<Vec<(u32, PartEtag)>>,
    precondition: Precondition,
}

impl Complete {
    pub(super) fn new(upload: MultipartUpload) -> Self {
        Self {
            upload,
            parts: None,
            precondition: Precondition::None,
        }
    }

    /// Adds a part to the list of parts, with the etag that [`MultipartUpload::part`] returned.
    ///
    /// Parts are listed in ascending order. The completion deletes parts that are not listed.
    /// Without a list, all parts become the object.
    pub fn part(mut self, number: u32, etag: PartEtag) -> Self {
        self.parts.get_or_insert_default().push((number, etag));
        self
    }

    /// Sets the list of parts. See [`part`](Self::part).
    pub fn parts(mut self, parts: impl IntoIterator<Item = (u32, PartEtag)>) -> Self {
        self.parts = Some(parts.into_iter().collect());
        self
    }

    precondition_setters!();

    async fn run(self) -> Result<PutResult> {
        let Self {
            upload:
                MultipartUpload {
                    engine,
                    id,
                    upload_id,
                },
            parts,
            precondition,
        } = self;
        // The order of the list is checked by the shard, together with the parts that exist.
        let numbered = |(number, etag)| PartNumber::new(number).map(|number| (number, etag));
        let parts = match parts {
            Some(parts) => {
                let listed: Result<_> = parts.into_iter().map(numbered).collect();
                Selection::Listed(listed.map_err(|error| error.with_id(&id))?)
            }
            None => Selection::All,
        };
        let within = engine.namespaces().begin_on(&id, "complete")?;
        within.end(
            engine
                .tiered()
                .complete(&id, upload_id, parts, precondition)
                .await,
        )
    }
}

impl IntoFuture for Complete {
    type Output = Result<PutResult>;
    type IntoFuture = BoxFuture<'static, Result<PutResult>>;

    fn into_future(self) -> Self::IntoFuture {
        let span = operation_span!("complete", object = %self.upload.id);
        let engine = self.upload.engine.clone();
        observed(engine, "complete", span, self.run())
    }
}
