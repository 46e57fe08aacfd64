//! Listings of multipart uploads: the open ones of a namespace, and the parts of one.
//!
//! A page is read from one snapshot, so that it shows one state (I7). Deliberately not here: listings of objects (`list.rs`), and
//! what may become of an upload (`swap/session.rs`).

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::id::{KEY_BYTES_MAX, Namespace, ObjectId};
use crate::index::{Range, Snapshot, Table};
use crate::multipart::{PartEtag, PartNumber, UploadId, no_such_upload};
use crate::read::Reads;
use crate::rows::{
    Attributes, Filed, Part, Phase, Session, part_key, parts_prefix, read_part_key, read_session_key, session_key,
    session_prefix,
};
use crate::word::Timestamp;

/// Most sessions that one scan brings.
const CHUNK_SESSIONS_MAX: usize = 256;

/// Which uploads to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadsRequest {
    /// Of which namespace.
    pub namespace: Namespace,
    /// Only to keys that begin with this. To all of them if it is empty.
    pub prefix: String,
    /// Only what comes after this one, in the order of keys, then of beginnings.
    pub start_after: Option<UploadMarker>,
    /// Most uploads in the page, 1 to [`ReadLimits::list_page_max`](crate::ReadLimits::list_page_max).
    pub limit: usize,
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

/// Some uploads, in the order of keys, then of beginnings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadPage {
    /// The uploads.
    pub uploads: Vec<UploadInfo>,
    /// The `start_after` that gives the next page. None if there are no more uploads.
    pub next: Option<UploadMarker>,
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
    /// The `start_after` that gives the next page: the number where this one ends. None if there are no more parts; otherwise the
    /// listing was truncated.
    pub next: Option<PartNumber>,
}

impl Reads {
    /// Whether the object has this upload, open or completed.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if it has not, or it was aborted.
    pub async fn find_upload(&self, id: &ObjectId, upload: &UploadId) -> Result<()> {
        match self.session(&*self.index().snapshot()?, id, upload).await?.phase {
            Phase::Open | Phase::Completed { .. } => Ok(()),
            Phase::Aborted => Err(ended("aborted")),
        }
    }

    /// One page of the open uploads of a namespace.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn uploads(&self, request: UploadsRequest) -> Result<UploadPage> {
        let UploadsRequest { namespace, prefix, start_after, limit } = request;
        self.check_limit(limit)?;
        let mut uploads = Vec::new();
        if prefix.len() > KEY_BYTES_MAX {
            return Ok(UploadPage { uploads, next: None });
        }
        let below = session_prefix(&[namespace.encoded_prefix(), prefix.into_bytes()].concat());
        let mut range = Range::prefix(&below, CHUNK_SESSIONS_MAX);
        if let Some(UploadMarker { key, upload_id }) = start_after {
            let marker = session_key(&ObjectId::new(&namespace, &key)?, &upload_id);
            if marker[..] > below[..] {
                range = range.after(marker);
            }
        }
        let (snapshot, now) = (self.index().snapshot()?, self.now());
        loop {
            let page = snapshot.scan(Table::Sessions, range.clone()).await?;
            let last = page.last().map(|(key, _)| key.clone()).filter(|_| page.len() == CHUNK_SESSIONS_MAX);
            for (key, value) in page {
                uploads.extend(open_upload(&key, &value, now)?);
            }
            match last {
                Some(last) if uploads.len() <= limit => range = range.after(last),
                Some(_) | None => break,
            }
        }
        let is_truncated = uploads.len() > limit;
        uploads.truncate(limit);
        let marker =
            |upload: &UploadInfo| UploadMarker { key: upload.id.key().to_owned(), upload_id: upload.upload_id };
        let next = uploads.last().filter(|_| is_truncated).map(marker);
        Ok(UploadPage { uploads, next })
    }

    /// One page of the parts of an open upload: those with a higher number than `start_after`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the object has no such upload or it has ended; otherwise as [`list`](Self::list).
    pub async fn parts(
        &self,
        id: &ObjectId,
        upload: &UploadId,
        start_after: Option<PartNumber>,
        limit: usize,
    ) -> Result<PartPage> {
        self.check_limit(limit)?;
        let snapshot = self.index().snapshot()?;
        match self.session(&*snapshot, id, upload).await?.phase {
            Phase::Open => {}
            Phase::Completed { .. } => return Err(ended("completed")),
            Phase::Aborted => return Err(ended("aborted")),
        }
        let mut range = Range::prefix(&parts_prefix(upload), limit.saturating_add(1));
        if let Some(number) = start_after {
            range = range.after(part_key(upload, number));
        }
        let page = snapshot.scan(Table::Sessions, range).await?;
        let is_truncated = page.len() > limit;
        let (mut parts, mut last) = (Vec::new(), None);
        for entry in page.iter().take(limit) {
            let (number, info) = part_info(entry)?;
            last = Some(number);
            parts.extend(info);
        }
        Ok(PartPage { parts, next: last.filter(|_| is_truncated) })
    }

    async fn session(&self, snapshot: &dyn Snapshot, id: &ObjectId, upload: &UploadId) -> Result<Session> {
        let value = snapshot.get(Table::Sessions, &session_key(id, upload)).await?;
        let session = value.map(|value| Session::decode(&value)).transpose()?;
        session.filter(|session| session.is_live(self.now())).ok_or_else(no_such_upload)
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

/// The upload, if it is open.
fn open_upload(key: &[u8], value: &Bytes, now: Timestamp) -> Result<Option<UploadInfo>> {
    let (id, upload_id) = read_session_key(key)?;
    let session = Session::decode(value).map_err(|error| error.with_id(&id))?;
    let is_open = session.phase == Phase::Open && session.is_live(now);
    let Session { initiated, expires_at, attributes, .. } = session;
    Ok(is_open.then_some(UploadInfo { id, upload_id, initiated, expires_at, attributes }))
}

/// A part, unless it was lost.
fn part_info((key, value): &(Bytes, Bytes)) -> Result<(PartNumber, Option<PartInfo>)> {
    let (_, number) = read_part_key(key)?;
    let info = |Part { extent, etag, uploaded }: Part| PartInfo { number, etag, bytes: extent.bytes, uploaded };
    Ok((number, Filed::decode(value)?.part().map(info)))
}

fn ended(how: &str) -> Error {
    Error::new(ErrorKind::Invalid, "multipart", format!("the upload has been {how}"))
}
