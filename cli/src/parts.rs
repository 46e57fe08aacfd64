//! A large file, put as an upload in parts: several at once, and resumable however it ends.
//!
//! 1. Open the file, and note its length and time.
//! 2. Begin an upload, or find the one to go on with and which of its parts are the file's. Say its
//!    id.
//! 3. Send what is missing, `parallel` parts at once, each read at its own offset.
//! 4. Ask the file whether it has changed. If so: an error.
//! 5. Complete with exactly the parts of this file; what else there was of the upload is deleted.
//!
//! A failure anywhere leaves the upload open, and nothing of it is ever aborted here: what has
//! taken hours to send is given up by whoever says `abort`, or at the end of its lifetime. What
//! fails or is interrupted says how to go on.

mod cut;
mod file;
mod resume;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cenotaph::{Body, ErrorKind, Limits, ObjectId, PartEtag, Upload, Written};
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};

use crate::args::{PartsArgs, Resume};
use crate::failure::Failure;
use crate::human;
use crate::report::{Bar, Report};
use crate::retry::retrying;
use crate::stated::{PutError, Stated, tell};
use crate::store::Store;
use cut::{Cut, PART_BYTES};
use file::Opened;
use resume::{Found, Search, There};

/// A file of more bytes is put in parts although nothing says so.
pub(crate) const OVER_BYTES: u64 = 256 * 1024 * 1024;

/// Parts at once unless told.
const PARALLEL: usize = 4;

/// What is put, and where.
pub(crate) struct InParts<'a> {
    pub(crate) store: &'a Store,
    pub(crate) report: &'a Report,
    pub(crate) id: &'a ObjectId,
    pub(crate) path: &'a Path,
    pub(crate) stated: &'a Stated,
    pub(crate) options: PartsArgs,
}

/// An upload that has begun.
struct Begun {
    upload: Upload,
    cut: Cut,
    there: BTreeMap<u32, PartEtag>,
    is_resumed: bool,
}

impl InParts<'_> {
    /// Puts it.
    pub(crate) async fn put(&self) -> Result<(), Failure> {
        let unreadable = |error| PutError::File(error).failure(self.path);
        let file = Opened::open(&self.store.env, self.path)
            .await
            .map_err(unreadable)?;
        let most = Limits::default().payload_bytes_max;
        if file.bytes() > most {
            let (bytes, path) = (file.bytes(), self.path.display());
            return Err(Failure::Failed(format!(
                "the file is too large: bytes={bytes} max={most} path={path}"
            )));
        }
        if file.is_longer().await.map_err(unreadable)? {
            let (bytes, path) = (file.bytes(), self.path.display());
            let why = "the file has more bytes than its size says, and can't be put in parts";
            return Err(Failure::Failed(format!("{why}: size={bytes} path={path}")));
        }
        let begun = self.begin(&file).await?;
        self.say_begun(&begun)?;
        let sent = self.send_missing(&begun, &file).await?;
        if file.has_changed().await.map_err(unreadable)? {
            return Err(PutError::Changed.failure(self.path));
        }
        let Begun {
            upload,
            cut,
            there,
            is_resumed,
        } = begun;
        let (there_before, sent_now) = (there.len(), sent.len());
        let mut parts = there;
        parts.extend(sent);
        let written = self.complete(&upload, &parts).await?;
        self.report.advise(None);
        if is_resumed && !self.report.is_json() {
            let all = human::counted(cut.parts().into(), "part");
            self.report.text(&format!(
                "{there_before} of {all} were there already, sent {sent_now}\n"
            ))?;
        }
        let about_parts = json!({
            "event": "summary",
            "upload_id": upload.upload_id(),
            "parts": cut.parts(),
            "there": there_before,
            "sent": sent_now,
        });
        tell(self.report, self.id, &written, about_parts)
    }

    fn parallel(&self) -> usize {
        self.options.parallel.unwrap_or(PARALLEL)
    }

    /// Begins an upload, or finds the one to go on with.
    async fn begin(&self, file: &Opened) -> Result<Begun, Failure> {
        let attributes = self.stated.attributes();
        let search = Search {
            store: self.store,
            report: self.report,
            id: self.id,
            attributes: &attributes,
            file,
            parallel: self.parallel(),
        };
        let found = match self.options.resume() {
            Resume::No => None,
            Resume::Newest => search.newest().await?,
            Resume::Named(upload_id) => Some(search.named(upload_id).await?),
        };
        let afresh = || Cut::new(file.bytes(), self.options.part_size.unwrap_or(PART_BYTES));
        if let Some(Found {
            upload,
            there: There { cut, parts },
        }) = found
        {
            return Ok(Begun {
                upload,
                cut: cut.unwrap_or_else(afresh),
                there: parts,
                is_resumed: true,
            });
        }
        let (engine, precondition) = (&self.store.engine, self.stated.precondition);
        let begin = async || {
            engine
                .multipart(self.id)
                .attributes(attributes.clone())
                .precondition(precondition)
                .await
        };
        let upload = retrying(&self.store.env, begin).await?;
        Ok(Begun {
            upload,
            cut: afresh(),
            there: BTreeMap::new(),
            is_resumed: false,
        })
    }

    /// Says the id at once, and what to do with it if the rest fails.
    fn say_begun(&self, begun: &Begun) -> Result<(), Failure> {
        let Begun {
            upload,
            cut,
            there,
            is_resumed,
        } = begun;
        let (upload_id, key) = (upload.upload_id(), human::key(self.id.key()));
        self.report.advise(Some(format!(
            "the upload stays open: the same command with --resume={upload_id} goes on with it, `abort {key} {upload_id}` gives it up"
        )));
        if self.report.is_json() {
            return self.event(&json!({
                "event": "upload",
                "key": self.id.key(),
                "upload_id": upload_id,
                "resumed": is_resumed,
                "bytes": cut.file_bytes(),
                "part_bytes": cut.part_bytes(),
                "parts": cut.parts(),
                "there": there.len(),
            }));
        }
        let parts = human::counted(cut.parts().into(), "part");
        self.report.note(&match is_resumed {
            true => format!(
                "upload {upload_id}: resumed, {} of {parts} are there",
                there.len()
            ),
            false => format!(
                "upload {upload_id}: {parts} of {}",
                human::bytes(cut.part_bytes())
            ),
        });
        Ok(())
    }

    /// Sends the parts that are not there.
    async fn send_missing(
        &self,
        begun: &Begun,
        file: &Opened,
    ) -> Result<BTreeMap<u32, PartEtag>, Failure> {
        let Begun {
            upload, cut, there, ..
        } = begun;
        let bar = self
            .report
            .bar("put", Some(cut.file_bytes()))
            .of_parts(cut.parts().into());
        let lengths = there
            .keys()
            .map(|number| cut.range(*number))
            .map(|range| range.end - range.start);
        bar.begin_with(lengths.sum(), there.len() as u64);
        let missing = (1..=cut.parts()).filter(|number| !there.contains_key(number));
        let send = |number| self.send(upload, *cut, number, file, &bar);
        let sent = futures::stream::iter(missing)
            .map(send)
            .buffer_unordered(self.parallel())
            .try_collect()
            .await;
        bar.end();
        sent
    }

    /// Sends a part. Tries again while the store asks for it.
    async fn send(
        &self,
        upload: &Upload,
        cut: Cut,
        number: u32,
        file: &Opened,
        bar: &Bar,
    ) -> Result<(u32, PartEtag), Failure> {
        let range = cut.range(number);
        let bytes = range.end - range.start;
        let sent = retrying(&self.store.env, async || {
            let counted = Arc::new(AtomicU64::new(0));
            let body = Body::stream(file.stream(range.clone(), bar, &counted));
            let result = upload.part(number, body).length(bytes).await;
            if result.is_err() {
                bar.take_back(counted.load(Ordering::Relaxed));
            }
            result
        });
        let etag = match sent.await {
            Ok(part) => part.etag,
            Err(error)
                if error.kind() == ErrorKind::Source
                    && file.has_changed().await.unwrap_or(false) =>
            {
                return Err(PutError::Changed.failure(self.path));
            }
            Err(error) => return Err(PutError::Store(error).failure(self.path)),
        };
        bar.one_done();
        if self.report.is_json() {
            self.event(&json!({ "event": "part", "number": number, "bytes": bytes, "etag": etag.to_string() }))?;
        }
        Ok((number, etag))
    }

    /// What has happened, for scripts. That nobody reads it any more does not end an upload.
    fn event(&self, event: &Value) -> Result<(), Failure> {
        match self.report.json(event) {
            Err(Failure::BrokenPipe) => Ok(()),
            result => result,
        }
    }

    /// Makes the object of exactly these parts. It may be asked again: a completion answers the
    /// same twice.
    async fn complete(
        &self,
        upload: &Upload,
        parts: &BTreeMap<u32, PartEtag>,
    ) -> Result<Written, Failure> {
        let parts = || parts.iter().map(|(number, etag)| (*number, *etag));
        let complete = async || {
            upload
                .complete()
                .parts(parts())
                .precondition(self.stated.precondition)
                .await
        };
        Ok(retrying(&self.store.env, complete).await?)
    }
}
