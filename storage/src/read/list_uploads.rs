//! Lists the open multipart uploads of a namespace, and the parts of an upload.
//!
//! A page is read from a single snapshot, so it shows a consistent state (I7).

use bytes::Bytes;

use crate::index::{PartialPage, Range, Snapshot, Table, UnreadableRange};
use crate::read::Reads;
use crate::read::list::OnDamage;
use crate::records::{
    Attributes, Filed, Part, UploadPhase, UploadRecord, decode_upload_record_key, part_key,
    parts_prefix, read_part_key, session_prefix, upload_record_key,
};
use crate::types::{
    Error, ErrorKind, KEY_BYTES_MAX, Namespace, ObjectId, PartEtag, PartNumber, Result, Timestamp,
    UploadId, no_such_upload,
};

/// Most upload records that a scan reads.
const CHUNK_SESSIONS_MAX: usize = 256;
/// Most scans for a page. Records of uploads that have ended are skipped, and there may be many of
/// them.
const SCANS_MAX: usize = 16;

/// Parameters of a page of open uploads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadsRequest {
    /// Namespace to list.
    pub namespace: Namespace,
    /// Prefix of the keys whose uploads are listed; all keys if it is empty.
    pub prefix: String,
    /// Lower bound, exclusive, in the order of keys, then of start times.
    pub start_after: Option<UploadMarker>,
    /// Most uploads in the page, 1 to
    /// [`ReadLimits::list_page_max`](crate::ReadLimits::list_page_max).
    pub limit: usize,
    /// Behavior if a file of the index is damaged.
    pub on_damage: OnDamage,
}

/// Parameters of a page of the parts of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartsRequest {
    /// Lower bound of the part numbers, exclusive.
    pub start_after: Option<PartNumber>,
    /// Most parts in the page, 1 to
    /// [`ReadLimits::list_page_max`](crate::ReadLimits::list_page_max).
    pub limit: usize,
    /// Behavior if a file of the index is damaged.
    pub on_damage: OnDamage,
}

/// Position in a listing of uploads, at which a page ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadMarker {
    /// Key of the object.
    pub key: String,
    /// Id of the upload.
    pub upload_id: UploadId,
}

/// An open upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadInfo {
    /// Id of the object.
    pub id: ObjectId,
    /// Id of the upload.
    pub upload_id: UploadId,
    /// Time at which the upload was started.
    pub initiated: Timestamp,
    /// Time at which the upload expires if it is not completed.
    pub expires_at: Timestamp,
    /// Attributes that the object will have.
    pub attributes: Attributes,
}

impl UploadMarker {
    fn decode(upload_record_key: &[u8]) -> Result<Self> {
        let (id, upload_id) = decode_upload_record_key(upload_record_key)?;
        Ok(Self {
            key: id.key().to_owned(),
            upload_id,
        })
    }
}

/// A page of open uploads, in the order of keys, then of start times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadPage {
    /// Uploads of the page.
    pub uploads: Vec<UploadInfo>,
    /// Value of `start_after` for the next page; `None` on the last page. A page may have fewer
    /// uploads than its limit, or none, and still have a next page: a page skips a limited number
    /// of uploads that have ended.
    pub next: Option<UploadMarker>,
    /// Ranges of keys of the index that could not be read; their uploads are missing in the page.
    /// Always empty unless the listing [steps over](OnDamage::StepOver) them.
    pub unreadable: Vec<UnreadableRange>,
}

/// A part of an open upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartInfo {
    /// Number of the part.
    pub number: PartNumber,
    /// Hash of the bytes.
    pub etag: PartEtag,
    /// Length in bytes.
    pub bytes: u64,
    /// Time at which the part was uploaded.
    pub uploaded: Timestamp,
}

/// A page of parts, in the order of their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartPage {
    /// Parts of the page.
    pub parts: Vec<PartInfo>,
    /// Value of `start_after` for the next page: the number of the last part that was read. `None`
    /// on the last page.
    pub next: Option<PartNumber>,
    /// Ranges of keys of the index that could not be read; their parts are missing in the page.
    /// Always empty unless the listing [steps over](OnDamage::StepOver) them.
    pub unreadable: Vec<UnreadableRange>,
}

impl Reads {
    /// Checks that the object has this upload, open or completed.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the object has no such upload, or the upload was aborted;
    /// otherwise the errors of the index.
    pub async fn find_upload(&self, id: &ObjectId, upload: &UploadId) -> Result<()> {
        let mut session = self.session(&*self.index().snapshot()?, id, upload).await;
        if session.is_err() {
            // The upload may have been completed in time by a batch that is not durable yet. So the
            // record is read again after all submitted batches are durable.
            self.let_settle().await;
            session = self.session(&*self.index().snapshot()?, id, upload).await;
        }
        let session = session?;
        match session.phase {
            UploadPhase::Open | UploadPhase::Completed { .. } => Ok(()),
            UploadPhase::Aborted => session.check_open(),
        }
    }

    /// Returns a page of the open uploads of a namespace.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn uploads(&self, request: UploadsRequest) -> Result<UploadPage> {
        let UploadsRequest {
            namespace,
            prefix,
            start_after,
            limit,
            on_damage,
        } = request;
        self.check_limit(limit)?;
        // No key can match, and the encoded prefix would exceed the limit of an id.
        if prefix.len() > KEY_BYTES_MAX {
            return Ok(UploadPage {
                uploads: Vec::new(),
                next: None,
                unreadable: Vec::new(),
            });
        }
        let below = session_prefix(&[namespace.encoded_prefix(), prefix.into_bytes()].concat());
        let mut range = Range::prefix(&below, CHUNK_SESSIONS_MAX);
        if let Some(UploadMarker { key, upload_id }) = start_after {
            let marker = upload_record_key(&ObjectId::new(&namespace, &key)?, &upload_id);
            // A marker before the prefix excludes nothing.
            if marker[..] > below[..] {
                range = range.after(marker);
            }
        }
        uploads_page(
            &*self.index().snapshot()?,
            range,
            limit,
            on_damage,
            self.now(),
        )
        .await
    }

    /// Returns a page of the parts of an open upload.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the object has no such upload or the upload has ended; otherwise
    /// as [`list`](Self::list).
    pub async fn parts(
        &self,
        id: &ObjectId,
        upload: &UploadId,
        request: PartsRequest,
    ) -> Result<PartPage> {
        let PartsRequest {
            start_after,
            limit,
            on_damage,
        } = request;
        self.check_limit(limit)?;
        let snapshot = self.index().snapshot()?;
        self.session(&*snapshot, id, upload).await?.check_open()?;
        let mut range = Range::prefix(&parts_prefix(upload), limit.saturating_add(1));
        if let Some(number) = start_after {
            range = range.after(part_key(upload, number));
        }
        // An entry more than the limit is read, to find out if there is a next page.
        let mut entries = Vec::new();
        let mut unreadable = Vec::new();
        let mut rest = Some(range);
        while let Some(range) = rest.filter(|_| entries.len() <= limit) {
            let page = snapshot.scan_over(Table::Uploads, range).await?;
            entries.extend(page.entries);
            unreadable.extend(checked(page.unreadable, on_damage)?);
            rest = page.rest;
        }
        let is_truncated = entries.len() > limit;
        entries.truncate(limit);
        if let Some((last, _)) = entries.last().filter(|_| is_truncated) {
            // Ranges behind the last entry are reported by the next page.
            unreadable.retain(|range| range.from <= *last);
        }
        let mut parts = Vec::new();
        let mut last = None;
        for entry in &entries {
            let (number, info) = part_info(entry)?;
            last = Some(number);
            parts.extend(info);
        }
        Ok(PartPage {
            parts,
            next: last.filter(|_| is_truncated),
            unreadable,
        })
    }

    /// Returns the live record of an upload.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if there is no record, or it has expired; otherwise the errors of the
    /// index.
    async fn session(
        &self,
        snapshot: &dyn Snapshot,
        id: &ObjectId,
        upload: &UploadId,
    ) -> Result<UploadRecord> {
        let value = snapshot
            .get(Table::Uploads, &upload_record_key(id, upload))
            .await?;
        let session = value
            .map(|value| UploadRecord::decode(&value))
            .transpose()?;
        session
            .filter(|session| session.is_live(self.now()))
            .ok_or_else(no_such_upload)
    }

    /// Checks the limit of a page.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the limit is 0 or too high.
    pub(crate) fn check_limit(&self, limit: usize) -> Result<()> {
        let most = self.limits().list_page_max;
        if limit == 0 || limit > most {
            let message = format!("the limit must be 1 to {most}: limit={limit}");
            return Err(Error::new(ErrorKind::Invalid, "list", message));
        }
        Ok(())
    }
}

/// Reads a page of the open uploads within a range of keys.
async fn uploads_page(
    snapshot: &dyn Snapshot,
    mut range: Range,
    limit: usize,
    on_damage: OnDamage,
    now: Timestamp,
) -> Result<UploadPage> {
    let mut uploads = Vec::new();
    let mut unreadable = Vec::new();
    let mut last = None;
    let mut scans = 0;
    let end = loop {
        let PartialPage {
            entries,
            unreadable: gap,
            rest,
        } = snapshot.scan_over(Table::Uploads, range).await?;
        for (key, value) in entries {
            uploads.extend(open_upload(&key, &value, now)?);
            last = Some(key);
        }
        unreadable.extend(checked(gap, on_damage)?);
        scans += 1;
        if uploads.len() > limit {
            uploads.truncate(limit);
            break uploads
                .last()
                .map(|upload| upload_record_key(&upload.id, &upload.upload_id));
        }
        match rest {
            None => break None,
            // A page ends behind a key that was read. Without such a key the scan continues.
            Some(_) if scans >= SCANS_MAX && last.is_some() => break last,
            Some(rest) => range = rest,
        }
    };
    if let Some(end) = &end {
        // Ranges behind the last key are reported by the next page.
        unreadable.retain(|range| range.from <= *end);
    }
    let next = end.map(|key| UploadMarker::decode(&key)).transpose()?;
    Ok(UploadPage {
        uploads,
        next,
        unreadable,
    })
}

/// Returns the unreadable range, or its error if [`OnDamage::Fail`] is set.
fn checked(
    unreadable: Option<UnreadableRange>,
    on_damage: OnDamage,
) -> Result<Option<UnreadableRange>> {
    match (unreadable, on_damage) {
        (Some(range), OnDamage::Fail) => Err(range.into_error("list")),
        (unreadable, OnDamage::Fail | OnDamage::StepOver) => Ok(unreadable),
    }
}

/// Decodes an upload record. Returns `None` if the upload is not open.
fn open_upload(key: &[u8], value: &Bytes, now: Timestamp) -> Result<Option<UploadInfo>> {
    let (id, upload_id) = decode_upload_record_key(key)?;
    let session = UploadRecord::decode(value).map_err(|error| error.with_id(&id))?;
    let is_open = session.phase == UploadPhase::Open && session.is_live(now);
    let UploadRecord {
        initiated,
        expires_at,
        attributes,
        ..
    } = session;
    Ok(is_open.then_some(UploadInfo {
        id,
        upload_id,
        initiated,
        expires_at,
        attributes,
    }))
}

/// Decodes an entry of a part: its number, and the part unless it was lost.
fn part_info((key, value): &(Bytes, Bytes)) -> Result<(PartNumber, Option<PartInfo>)> {
    let (_, number) = read_part_key(key)?;
    let info = |Part {
                    extent,
                    etag,
                    uploaded,
                }: Part| PartInfo {
        number,
        etag,
        bytes: extent.bytes,
        uploaded,
    };
    Ok((number, Filed::decode(value)?.part().map(info)))
}
