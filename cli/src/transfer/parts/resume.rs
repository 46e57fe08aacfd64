//! [`ResumeSearch`] for the upload that a put resumes, and for its parts that match the file.
//!
//! Invariant: a stored part is reused only if its etag is that of the bytes of the file at its
//! place. The size of the parts is derived from the stored parts, not from the options of the
//! command.

use std::collections::BTreeMap;
use std::future::ready;
use std::io;

use cenotaph::{Attributes, MultipartUpload, ObjectId, PartEtag, PartInfo, UploadId, UploadInfo};
use futures::{Stream, StreamExt, TryStreamExt};

use super::cut::PartSplit;
use super::file::OpenedFile;
use crate::store::OpenStore;
use crate::transfer::open_upload::{open_upload, upload_failure};
use crate::transfer::put_options::PutError;
use crate::transfer::retry::retrying;
use crate::ui::failure::Failure;
use crate::ui::report::Report;

/// Upload to resume.
pub(crate) struct ResumableUpload {
    /// Handle of the upload.
    pub(crate) upload: MultipartUpload,
    /// Parts of the file that the upload has.
    pub(crate) there: There,
}

/// Parts of a file that an upload has.
pub(crate) struct There {
    /// Division of the file, or `None` if no part determines it.
    pub(crate) cut: Option<PartSplit>,
    /// Parts with the bytes of the file at their places.
    pub(crate) parts: BTreeMap<u32, PartEtag>,
}

/// Search for an upload to resume.
pub(crate) struct ResumeSearch<'a> {
    /// Store with the uploads.
    pub(crate) store: &'a OpenStore,
    /// Report for the progress of the checks.
    pub(crate) report: &'a Report,
    /// Object of the upload.
    pub(crate) id: &'a ObjectId,
    /// Attributes of the command line: the default, or those of the upload.
    pub(crate) attributes: &'a Attributes,
    /// File to upload.
    pub(crate) file: &'a OpenedFile,
    /// Number of parts that are read at once.
    pub(crate) parallel: usize,
}

impl ResumeSearch<'_> {
    /// Returns the upload of this id with its parts that match the file.
    ///
    /// # Errors
    /// [`Failure::NotFound`] if the upload is not open. [`Failure::Usage`] if the command line has
    /// other attributes than the upload.
    pub(crate) async fn named(&self, upload_id: UploadId) -> Result<ResumableUpload, Failure> {
        let upload = open_upload(self.store, self.id, upload_id).await?;
        let parts = self.parts(&upload).await?;
        // The handle does not return the attributes of the upload; the list does.
        let info = self
            .open_uploads()
            .await?
            .into_iter()
            .find(|info| info.upload_id == upload_id);
        if info.is_some_and(|info| !self.has_matching_attributes(&info)) {
            let message = format!(
                "the upload was begun with other metadata; omit the metadata options: \
                 upload={upload_id}"
            );
            return Err(Failure::Usage(message));
        }
        // The division with the most matching parts saves the most bytes.
        let mut best = There {
            cut: None,
            parts: BTreeMap::new(),
        };
        for cut in PartSplit::likely(self.file.bytes(), &parts) {
            let same = self
                .checked(cut, &parts)
                .try_filter_map(|(part, is_same)| ready(Ok(is_same.then_some(part))));
            let there = There {
                cut: Some(cut),
                parts: by_number(&same.try_collect::<Vec<_>>().await?),
            };
            if there.parts.len() > best.parts.len() {
                best = there;
            }
            // All parts match: no other division can be better.
            if best.parts.len() == parts.len() {
                break;
            }
        }
        Ok(ResumableUpload {
            upload,
            there: best,
        })
    }

    /// Returns the newest open upload all of whose parts match the file. Uploads with parts precede
    /// those without.
    pub(crate) async fn newest(&self) -> Result<Option<ResumableUpload>, Failure> {
        let mut without_parts = None;
        for info in self
            .open_uploads()
            .await?
            .iter()
            .rev()
            .filter(|info| self.has_matching_attributes(info))
        {
            let upload = open_upload(self.store, self.id, info.upload_id).await?;
            let parts = self.parts(&upload).await?;
            // Only a fallback: an older upload with matching parts saves more.
            if parts.is_empty() {
                let there = There {
                    cut: None,
                    parts: BTreeMap::new(),
                };
                without_parts.get_or_insert(ResumableUpload { upload, there });
                continue;
            }
            for cut in PartSplit::likely(self.file.bytes(), &parts) {
                // Lengths first: they rule out most other files without a read.
                if parts.iter().all(|part| cut.has(part))
                    && self
                        .checked(cut, &parts)
                        .try_all(|(_, is_same)| ready(is_same))
                        .await?
                {
                    return Ok(Some(ResumableUpload {
                        upload,
                        there: There {
                            cut: Some(cut),
                            parts: by_number(&parts),
                        },
                    }));
                }
            }
        }
        Ok(without_parts)
    }

    /// Returns the parts that this division contains, each with the result of the comparison with
    /// the file.
    fn checked(
        &self,
        cut: PartSplit,
        parts: &[PartInfo],
    ) -> impl Stream<Item = Result<(PartInfo, bool), Failure>> {
        let parts: Vec<PartInfo> = parts.iter().filter(|part| cut.has(part)).copied().collect();
        let bar = self
            .report
            .bar("check", Some(parts.iter().map(|part| part.bytes).sum()));
        let check = move |part: PartInfo| {
            let file = self.file.clone();
            let bar = bar.clone();
            let range = cut.range(part.number.into());
            async move { Ok((part, file.etag(range, &bar).await? == part.etag)) }
        };
        let unreadable = |error: io::Error| Failure::Failed(PutError::File(error).message());
        futures::stream::iter(parts)
            .map(check)
            .buffer_unordered(self.parallel)
            .map_err(unreadable)
    }

    /// Lists the parts of an upload.
    async fn parts(&self, upload: &MultipartUpload) -> Result<Vec<PartInfo>, Failure> {
        let parts = retrying(&self.store.env, async || {
            upload.parts().stream().try_collect().await
        })
        .await;
        parts.map_err(|error| upload_failure(error, upload.upload_id()))
    }

    /// Lists the open uploads of the object, oldest first.
    async fn open_uploads(&self) -> Result<Vec<UploadInfo>, Failure> {
        let list = async || {
            let all = self
                .store
                .engine
                .list_uploads(self.id.key())
                .namespace(self.store.namespace.clone())
                .stream();
            // The key is used as a prefix. In the order of keys its own uploads precede those of
            // longer keys.
            all.try_take_while(|info| ready(Ok(info.id == *self.id)))
                .try_collect()
                .await
        };
        Ok(retrying(&self.store.env, list).await?)
    }

    /// Returns whether the command line has no attributes, or those of the upload.
    fn has_matching_attributes(&self, info: &UploadInfo) -> bool {
        *self.attributes == Attributes::default() || *self.attributes == info.attributes
    }
}

/// Returns the etags of parts by part number.
fn by_number(parts: &[PartInfo]) -> BTreeMap<u32, PartEtag> {
    parts
        .iter()
        .map(|part| (part.number.into(), part.etag))
        .collect()
}
