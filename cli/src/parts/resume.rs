//! Which upload a put goes on with, and what of it is there already: [`named`] and [`newest`].
//!
//! What is there is believed to be the file's only where its etag is that of the file's own bytes.
//! How long parts are is taken from the parts themselves, not from today's options.

use std::collections::BTreeMap;
use std::future::ready;
use std::io;

use cenotaph::{Attributes, ObjectId, PartEtag, PartInfo, Upload, UploadId, UploadInfo};
use futures::{Stream, StreamExt, TryStreamExt};

use super::cut::Cut;
use super::file::Opened;
use crate::failure::Failure;
use crate::report::Report;
use crate::retry::retrying;
use crate::stated::PutError;
use crate::store::Store;
use crate::uploads;

/// An upload to go on with.
pub(crate) struct Found {
    /// The handle on it.
    pub(crate) upload: Upload,
    /// What of the file it has, and how the file is cut.
    pub(crate) there: There,
}

/// What of a file an upload has.
pub(crate) struct There {
    /// How the file is cut; none if no part tells.
    pub(crate) cut: Option<Cut>,
    /// The parts that hold what the file holds in their place.
    pub(crate) parts: BTreeMap<u32, PartEtag>,
}

/// Where to look for an upload, and for what.
pub(crate) struct Search<'a> {
    pub(crate) store: &'a Store,
    pub(crate) report: &'a Report,
    /// The object that it is to be.
    pub(crate) id: &'a ObjectId,
    /// What is stated about it; nothing, or what was stated when the upload began.
    pub(crate) attributes: &'a Attributes,
    pub(crate) file: &'a Opened,
    /// Parts that are read at once.
    pub(crate) parallel: usize,
}

impl Search<'_> {
    /// This upload, whatever it has.
    pub(crate) async fn named(&self, upload_id: UploadId) -> Result<Found, Failure> {
        let upload = uploads::named(self.store, self.id, upload_id).await?;
        let parts = self.parts(&upload).await?;
        let info = self
            .open_uploads()
            .await?
            .into_iter()
            .find(|info| info.upload_id == upload_id);
        if info.is_some_and(|info| !self.states_the_same(&info)) {
            let message = format!(
                "the upload was begun with other metadata; leave it out: upload={upload_id}"
            );
            return Err(Failure::Usage(message));
        }
        let mut best = There {
            cut: None,
            parts: BTreeMap::new(),
        };
        for cut in Cut::likely(self.file.bytes(), &parts) {
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
            if best.parts.len() == parts.len() {
                break;
            }
        }
        Ok(Found {
            upload,
            there: best,
        })
    }

    /// The newest open upload all of whose parts are the file's; one that has parts, if there is
    /// one.
    pub(crate) async fn newest(&self) -> Result<Option<Found>, Failure> {
        let mut without_parts = None;
        for info in self
            .open_uploads()
            .await?
            .iter()
            .rev()
            .filter(|info| self.states_the_same(info))
        {
            let upload = uploads::named(self.store, self.id, info.upload_id).await?;
            let parts = self.parts(&upload).await?;
            if parts.is_empty() {
                let there = There {
                    cut: None,
                    parts: BTreeMap::new(),
                };
                without_parts.get_or_insert(Found { upload, there });
                continue;
            }
            for cut in Cut::likely(self.file.bytes(), &parts) {
                if parts.iter().all(|part| cut.has(part))
                    && self
                        .checked(cut, &parts)
                        .try_all(|(_, is_same)| ready(is_same))
                        .await?
                {
                    return Ok(Some(Found {
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

    /// The parts that this cut has, and whether they hold what the file holds there.
    fn checked(
        &self,
        cut: Cut,
        parts: &[PartInfo],
    ) -> impl Stream<Item = Result<(PartInfo, bool), Failure>> {
        let parts: Vec<PartInfo> = parts.iter().filter(|part| cut.has(part)).copied().collect();
        let bar = self
            .report
            .bar("check", Some(parts.iter().map(|part| part.bytes).sum()));
        let check = move |part: PartInfo| {
            let (file, bar, range) = (
                self.file.clone(),
                bar.clone(),
                cut.range(part.number.into()),
            );
            async move { Ok((part, file.etag(range, &bar).await? == part.etag)) }
        };
        let unreadable = |error: io::Error| Failure::Failed(PutError::File(error).message());
        futures::stream::iter(parts)
            .map(check)
            .buffer_unordered(self.parallel)
            .map_err(unreadable)
    }

    async fn parts(&self, upload: &Upload) -> Result<Vec<PartInfo>, Failure> {
        let parts = retrying(&self.store.env, async || {
            upload.parts().stream().try_collect().await
        })
        .await;
        parts.map_err(|error| uploads::not_open(error, upload.upload_id()))
    }

    /// The open uploads to the object, as they were begun. Listed in the order of keys, they come
    /// before those to longer ones.
    async fn open_uploads(&self) -> Result<Vec<UploadInfo>, Failure> {
        let list = async || {
            let all = self
                .store
                .engine
                .list_uploads(self.id.key())
                .namespace(self.store.namespace.clone())
                .stream();
            all.try_take_while(|info| ready(Ok(info.id == *self.id)))
                .try_collect()
                .await
        };
        Ok(retrying(&self.store.env, list).await?)
    }

    fn states_the_same(&self, info: &UploadInfo) -> bool {
        *self.attributes == Attributes::default() || *self.attributes == info.attributes
    }
}

fn by_number(parts: &[PartInfo]) -> BTreeMap<u32, PartEtag> {
    parts
        .iter()
        .map(|part| (part.number.into(), part.etag))
        .collect()
}
