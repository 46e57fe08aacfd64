//! Listings of multipart uploads: the open ones of a namespace, and the parts of one.
//!
//! A page is read from one snapshot, so that it shows one state (I7). Deliberately not here:
//! listings of objects (`list.rs`), and what may become of an upload (`swap/session.rs`).

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::id::{KEY_BYTES_MAX, Namespace, ObjectId};
use crate::index::{PartialPage, Range, Snapshot, Table, UnreadableRange};
use crate::list::OnDamage;
use crate::multipart::{PartEtag, PartNumber, UploadId, no_such_upload};
use crate::read::Reads;
use crate::rows::{
    Attributes, Filed, Part, Phase, Session, part_key, parts_prefix, read_part_key,
    read_session_key, session_key, session_prefix,
};
use crate::word::Timestamp;

/// Most sessions that one scan brings.
const CHUNK_SESSIONS_MAX: usize = 256;
/// Most scans for one page: uploads that ended lately are passed over, and there may be many of
/// them.
const SCANS_MAX: usize = 16;

/// Which uploads to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadsRequest {
    /// Of which namespace.
    pub namespace: Namespace,
    /// Only to keys that begin with this. To all of them if it is empty.
    pub prefix: String,
    /// Only what comes after this one, in the order of keys, then of beginnings.
    pub start_after: Option<UploadMarker>,
    /// Most uploads in the page, 1 to
    /// [`ReadLimits::list_page_max`](crate::ReadLimits::list_page_max).
    pub limit: usize,
    /// Behaviour where a file of the index is damaged.
    pub on_damage: OnDamage,
}

/// The parts of an upload to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartsRequest {
    /// Only parts with a higher number than this.
    pub start_after: Option<PartNumber>,
    /// Most parts in the page, 1 to
    /// [`ReadLimits::list_page_max`](crate::ReadLimits::list_page_max).
    pub limit: usize,
    /// Behaviour where a file of the index is damaged.
    pub on_damage: OnDamage,
}

/// Where in a listing of uploads a page ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadMarker {
    /// The object's key.
    pub key: String,
    /// The upload.
    pub upload_id: UploadId,
}

/// An upload that takes parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadInfo {
    /// The object.
    pub id: ObjectId,
    /// The upload.
    pub upload_id: UploadId,
    /// When it was begun.
    pub initiated: Timestamp,
    /// When it will be given up if it is not completed.
    pub expires_at: Timestamp,
    /// What the object will be said to be.
    pub attributes: Attributes,
}

impl UploadMarker {
    fn decode(session_key: &[u8]) -> Result<Self> {
        let (id, upload_id) = read_session_key(session_key)?;
        Ok(Self {
            key: id.key().to_owned(),
            upload_id,
        })
    }
}

/// Some uploads, in the order of keys, then of beginnings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadPage {
    /// The uploads.
    pub uploads: Vec<UploadInfo>,
    /// The `start_after` that gives the next page. None if there are no more uploads. A page may be
    /// shorter than asked for, or empty, and still have a next one: uploads that ended lately are
    /// passed over, so many for one page and no more.
    pub next: Option<UploadMarker>,
    /// Keys of the index that could not be read, and whose uploads are not in the page. Always
    /// empty unless the listing [steps over](OnDamage::StepOver) them.
    pub unreadable: Vec<UnreadableRange>,
}

/// A part of an open upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartInfo {
    /// Its number.
    pub number: PartNumber,
    /// The hash of its bytes.
    pub etag: PartEtag,
    /// Its length in bytes.
    pub bytes: u64,
    /// When it was uploaded.
    pub uploaded: Timestamp,
}

/// Some parts, in the order of their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartPage {
    /// The parts.
    pub parts: Vec<PartInfo>,
    /// The `start_after` that gives the next page: the number where this one ends. None if there
    /// are no more parts; otherwise the listing was truncated.
    pub next: Option<PartNumber>,
    /// Keys of the index that could not be read, and whose parts are not in the page. Always empty
    /// unless the listing [steps over](OnDamage::StepOver) them.
    pub unreadable: Vec<UnreadableRange>,
}

impl Reads {
    /// Whether the object has this upload, open or completed.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if it has not, or it was aborted.
    pub async fn find_upload(&self, id: &ObjectId, upload: &UploadId) -> Result<()> {
        let mut session = self.session(&*self.index().snapshot()?, id, upload).await;
        if session.is_err() {
            // It may have been completed in time, and not be durable yet.
            self.let_settle().await;
            session = self.session(&*self.index().snapshot()?, id, upload).await;
        }
        let session = session?;
        match session.phase {
            Phase::Open | Phase::Completed { .. } => Ok(()),
            Phase::Aborted => session.check_open(),
        }
    }

    /// One page of the open uploads of a namespace.
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
            let marker = session_key(&ObjectId::new(&namespace, &key)?, &upload_id);
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

    /// One page of the parts of an open upload.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the object has no such upload or it has ended; otherwise as
    /// [`list`](Self::list).
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
        let (mut entries, mut unreadable, mut rest) = (Vec::new(), Vec::new(), Some(range));
        while let Some(range) = rest.filter(|_| entries.len() <= limit) {
            let page = snapshot.scan_over(Table::Sessions, range).await?;
            entries.extend(page.entries);
            unreadable.extend(noted(page.unreadable, on_damage)?);
            rest = page.rest;
        }
        let is_truncated = entries.len() > limit;
        entries.truncate(limit);
        if let Some((last, _)) = entries.last().filter(|_| is_truncated) {
            unreadable.retain(|range| range.from <= *last);
        }
        let (mut parts, mut last) = (Vec::new(), None);
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

    async fn session(
        &self,
        snapshot: &dyn Snapshot,
        id: &ObjectId,
        upload: &UploadId,
    ) -> Result<Session> {
        let value = snapshot
            .get(Table::Sessions, &session_key(id, upload))
            .await?;
        let session = value.map(|value| Session::decode(&value)).transpose()?;
        session
            .filter(|session| session.is_live(self.now()))
            .ok_or_else(no_such_upload)
    }

    /// Whether a page may be so long.
    pub(crate) fn check_limit(&self, limit: usize) -> Result<()> {
        let most = self.limits().list_page_max;
        if limit == 0 || limit > most {
            let message = format!("the limit must be 1 to {most}: limit={limit}");
            return Err(Error::new(ErrorKind::Invalid, "list", message));
        }
        Ok(())
    }
}

/// One page of the open uploads within a range of keys.
async fn uploads_page(
    snapshot: &dyn Snapshot,
    mut range: Range,
    limit: usize,
    on_damage: OnDamage,
    now: Timestamp,
) -> Result<UploadPage> {
    let (mut uploads, mut unreadable, mut last) = (Vec::new(), Vec::new(), None);
    let mut scans = 0;
    let end = loop {
        let PartialPage {
            entries,
            unreadable: gap,
            rest,
        } = snapshot.scan_over(Table::Sessions, range).await?;
        for (key, value) in entries {
            uploads.extend(open_upload(&key, &value, now)?);
            last = Some(key);
        }
        unreadable.extend(noted(gap, on_damage)?);
        scans += 1;
        if uploads.len() > limit {
            uploads.truncate(limit);
            break uploads
                .last()
                .map(|upload| session_key(&upload.id, &upload.upload_id));
        }
        match rest {
            None => break None,
            // A page ends behind a key: without one it goes on.
            Some(_) if scans >= SCANS_MAX && last.is_some() => break last,
            Some(rest) => range = rest,
        }
    };
    if let Some(end) = &end {
        // The next page meets the others, and reports them.
        unreadable.retain(|range| range.from <= *end);
    }
    let next = end.map(|key| UploadMarker::decode(&key)).transpose()?;
    Ok(UploadPage {
        uploads,
        next,
        unreadable,
    })
}

/// The range, unless the listing fails there.
fn noted(
    unreadable: Option<UnreadableRange>,
    on_damage: OnDamage,
) -> Result<Option<UnreadableRange>> {
    match (unreadable, on_damage) {
        (Some(range), OnDamage::Fail) => Err(range.into_error("list")),
        (unreadable, OnDamage::Fail | OnDamage::StepOver) => Ok(unreadable),
    }
}

/// The upload, if it is open.
fn open_upload(key: &[u8], value: &Bytes, now: Timestamp) -> Result<Option<UploadInfo>> {
    let (id, upload_id) = read_session_key(key)?;
    let session = Session::decode(value).map_err(|error| error.with_id(&id))?;
    let is_open = session.phase == Phase::Open && session.is_live(now);
    let Session {
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

/// A part, unless it was lost.
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
