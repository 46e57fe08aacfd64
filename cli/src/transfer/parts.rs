//! Put of a large file as an upload in parts: concurrent and resumable.
//!
//! 1. Open the file, and note its length and modification time.
//! 2. Begin an upload, or find the upload to resume and its parts that match the file. Print its
//!    id.
//! 3. Send the missing parts, `parallel` at once, each read at its own offset.
//! 4. Check length and modification time of the file again. A change is an error.
//! 5. Complete the upload with exactly the parts of this file. Its other parts are deleted.
//!
//! Invariant: a failure at any step leaves the upload open, because its parts may have taken hours
//! to send. Only `abort` and the end of the upload's lifetime discard it. The error message names
//! the commands that resume and discard it.

mod cut;
mod file;
mod resume;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cenotaph::{Body, ErrorKind, Limits, MultipartUpload, ObjectId, PartEtag, PutResult};
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};

use crate::args::{PartsArgs, Resume};
use crate::store::OpenStore;
use crate::transfer::put_options::{PutError, PutOptions, print_written};
use crate::transfer::retry::retrying;
use crate::ui::failure::Failure;
use crate::ui::human;
use crate::ui::report::{Bar, Report};
use cut::{PART_BYTES, PartSplit};
use file::OpenedFile;
use resume::{ResumableUpload, ResumeSearch, There};

/// Largest file, in bytes, that is put in one piece by default.
pub(crate) const OVER_BYTES: u64 = 256 * 1024 * 1024;

/// Default number of parts that are sent at once.
const PARALLEL: usize = 4;

/// Put of a file in parts.
pub(crate) struct InParts<'a> {
    pub(crate) store: &'a OpenStore,
    pub(crate) report: &'a Report,
    pub(crate) id: &'a ObjectId,
    pub(crate) path: &'a Path,
    pub(crate) put_options: &'a PutOptions,
    pub(crate) options: PartsArgs,
}

/// A new or resumed upload.
struct Begun {
    upload: MultipartUpload,
    cut: PartSplit,
    /// Parts that are stored already and match the file.
    there: BTreeMap<u32, PartEtag>,
    is_resumed: bool,
}

impl InParts<'_> {
    /// Puts the file.
    ///
    /// # Errors
    /// [`Failure::Failed`] if the file is too large, can't be read, or changes during the upload,
    /// or if the store fails; [`Failure::Conflict`] if the precondition does not hold;
    /// [`Failure::NotFound`] if the upload to resume does not exist.
    pub(crate) async fn put(&self) -> Result<(), Failure> {
        let unreadable = |error| PutError::File(error).failure(self.path);
        let file = OpenedFile::open(&self.store.env, self.path)
            .await
            .map_err(unreadable)?;
        let path = self.path.display();
        let bytes = file.bytes();
        let max = Limits::default().payload_bytes_max;
        if bytes > max {
            return Err(Failure::Failed(format!(
                "the file is too large: bytes={bytes} max={max} path={path}"
            )));
        }
        // The offsets of the parts are computed from the size, so the size must be the length.
        if file.is_longer().await.map_err(unreadable)? {
            let why = "the file has more bytes than its size says, and can't be put in parts";
            return Err(Failure::Failed(format!("{why}: size={bytes} path={path}")));
        }
        let begun = self.begin(&file).await?;
        self.print_begun(&begun)?;
        let sent = self.send_missing(&begun, &file).await?;
        // After the last part was read: a change at any time before it is seen.
        if file.has_changed().await.map_err(unreadable)? {
            return Err(PutError::Changed.failure(self.path));
        }
        let Begun {
            upload,
            cut,
            there,
            is_resumed,
        } = begun;
        let stored_before = there.len();
        let sent_now = sent.len();
        let mut parts = there;
        parts.extend(sent);
        let written = self.complete(&upload, &parts).await?;
        // The upload no longer exists, so a later failure must not advise to resume it.
        self.report.advise(None);
        if is_resumed && !self.report.is_json() {
            let all = human::counted(cut.parts().into(), "part");
            self.report.text(&format!(
                "{stored_before} of {all} were already stored, sent {sent_now}\n"
            ))?;
        }
        let about_parts = json!({
            "event": "summary",
            "upload_id": upload.upload_id(),
            "parts": cut.parts(),
            "there": stored_before,
            "sent": sent_now,
        });
        print_written(self.report, self.id, &written, about_parts)
    }

    /// Returns the number of parts that are sent at once.
    fn parallel(&self) -> usize {
        self.options.parallel.unwrap_or(PARALLEL)
    }

    /// Begins an upload, or finds the upload to resume.
    async fn begin(&self, file: &OpenedFile) -> Result<Begun, Failure> {
        let attributes = self.put_options.attributes();
        let search = ResumeSearch {
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
        let fresh_cut =
            || PartSplit::new(file.bytes(), self.options.part_size.unwrap_or(PART_BYTES));
        if let Some(ResumableUpload {
            upload,
            there: There { cut, parts },
        }) = found
        {
            return Ok(Begun {
                upload,
                cut: cut.unwrap_or_else(fresh_cut),
                there: parts,
                is_resumed: true,
            });
        }
        let begin = async || {
            self.store
                .engine
                .multipart(self.id)
                .attributes(attributes.clone())
                .precondition(self.put_options.precondition)
                .await
        };
        let upload = retrying(&self.store.env, begin).await?;
        Ok(Begun {
            upload,
            cut: fresh_cut(),
            there: BTreeMap::new(),
            is_resumed: false,
        })
    }

    /// Prints the id of the upload, and sets the advice for a failure of the rest.
    fn print_begun(&self, begun: &Begun) -> Result<(), Failure> {
        let Begun {
            upload,
            cut,
            there,
            is_resumed,
        } = begun;
        let upload_id = upload.upload_id();
        let key = human::key(self.id.key());
        self.report.advise(Some(format!(
            "the upload stays open: repeat the command with --resume={upload_id} to resume it, \
             or run `abort {key} {upload_id}` to discard it"
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
                "upload {upload_id}: resumed, {} of {parts} are already stored",
                there.len()
            ),
            false => format!(
                "upload {upload_id}: {parts} of {}",
                human::bytes(cut.part_bytes())
            ),
        });
        Ok(())
    }

    /// Sends the parts that are not stored. Returns their etags.
    async fn send_missing(
        &self,
        begun: &Begun,
        file: &OpenedFile,
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
        // The first failure drops the other sends. The parts that are already stored stay.
        let sent = futures::stream::iter(missing)
            .map(send)
            .buffer_unordered(self.parallel())
            .try_collect()
            .await;
        bar.end();
        sent
    }

    /// Sends a part. Transient errors are retried.
    async fn send(
        &self,
        upload: &MultipartUpload,
        cut: PartSplit,
        number: u32,
        file: &OpenedFile,
        bar: &Bar,
    ) -> Result<(u32, PartEtag), Failure> {
        let range = cut.range(number);
        let bytes = range.end - range.start;
        let sent = retrying(&self.store.env, async || {
            let counted = Arc::new(AtomicU64::new(0));
            let body = Body::stream(file.stream(range.clone(), bar, &counted));
            // With the length the engine refuses a part that is cut short by a shrunk file.
            let result = upload.part(number, body).length(bytes).await;
            if result.is_err() {
                bar.take_back(counted.load(Ordering::Relaxed));
            }
            result
        });
        let etag = match sent.await {
            Ok(part) => part.etag,
            // A short part is an error of the source. Its cause is the change of the file, which is
            // the better message.
            Err(error)
                if error.kind() == ErrorKind::Source
                    && file.has_changed().await.unwrap_or(false) =>
            {
                return Err(PutError::Changed.failure(self.path));
            }
            Err(error) => return Err(PutError::Store(error).failure(self.path)),
        };
        bar.item_done();
        if self.report.is_json() {
            self.event(&json!({
                "event": "part",
                "number": number,
                "bytes": bytes,
                "etag": etag.to_string(),
            }))?;
        }
        Ok((number, etag))
    }

    /// Prints an event for scripts.
    fn event(&self, event: &Value) -> Result<(), Failure> {
        match self.report.json(event) {
            // A reader that has closed the pipe must not end an upload of hours.
            Err(Failure::BrokenPipe) => Ok(()),
            result => result,
        }
    }

    /// Completes the upload with exactly these parts.
    async fn complete(
        &self,
        upload: &MultipartUpload,
        parts: &BTreeMap<u32, PartEtag>,
    ) -> Result<PutResult, Failure> {
        let parts = || parts.iter().map(|(number, etag)| (*number, *etag));
        let complete = async || {
            upload
                .complete()
                .parts(parts())
                .precondition(self.put_options.precondition)
                .await
        };
        // Safe to retry: a repeated completion returns the result of the first.
        Ok(retrying(&self.store.env, complete).await?)
    }
}
