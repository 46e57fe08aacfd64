//! The second walk: each session can be read, and has its expiry entry; each part can be read, and
//! is one of an open upload.
//!
//! ```text
//! entry ─> session? read, and its expiry entry looked up in the same snapshot
//!       ─> part? read, and its upload noted                       some hundred thousand uploads at once
//!                └─> one snapshot: all sessions ─> uploads that none of them has open ─> strays: their parts are removed
//! ```
//!
//! Nothing leads from a part to its session, so that all sessions are read for each so many uploads
//! with parts. An upload's id is fresh, and its session goes no later than its parts; so one that
//! has no open session in some snapshot never has one again, and whoever finds a part of it may
//! remove that. Only the entry: what it names may be a row's by now, and what is nobody's is found
//! by the walks over payloads and blobs.
//!
//! What is done about a part of an open upload that can't be read: it is given up on request only.
//! Its bytes are still there, somebody may have been told that they are safe, and with the entry
//! they would go.

use std::collections::BTreeMap;
use std::vec;

use bytes::Bytes;

use super::damage::{Damage, RawKey};
use super::finding::{Cure, Found, Remedy};
use super::report::Tally;
use super::second::{self, contains, is_still, newest, readable, visit};
use crate::decide::{SeenEntry, UploadMend};
use crate::error::{Error, ErrorKind, Result};
use crate::id::ObjectId;
use crate::index::{Batch, Index, Range, Snapshot, Table};
use crate::multipart::{PartNumber, UploadId};
use crate::rows::{
    Filed, Part, Phase, Session, all_parts_prefix, all_sessions_prefix, part_key, parts_prefix,
    read_part_key, read_session_key, session_expiry_key,
};

/// Entries on a page.
const PAGE: usize = 1000;
/// Uploads that are looked at together: some ten bytes each, and the tree that holds them.
const UPLOADS_MAX: usize = 200_000;

/// The walk over sessions and parts.
pub(super) struct Sessions {
    /// What is still to be read.
    rest: Option<Range>,
    uploads: Uploads,
    /// Uploads that have parts and no session, not yet handed over.
    strays: vec::IntoIter<UploadId>,
    /// A session that can't be told may be theirs.
    may_be_needed: bool,
}

impl Default for Sessions {
    fn default() -> Self {
        let (uploads, strays) = (Uploads::new(), Vec::new().into_iter());
        Self {
            rest: Some(Range::all(PAGE)),
            uploads,
            strays,
            may_be_needed: false,
        }
    }
}

/// Uploads that have parts, and which of these can't be read.
type Uploads = BTreeMap<UploadId, Vec<PartNumber>>;

impl Sessions {
    /// What is wrong with some more of them, perhaps nothing; or that this was all.
    pub(super) async fn page(
        &mut self,
        index: &dyn Index,
        tally: &Tally,
    ) -> Result<Option<Vec<Found>>> {
        if let Some(upload) = self.strays.next() {
            return stray(&*index.snapshot()?, &upload, self.may_be_needed)
                .await
                .map(Some);
        }
        match self.rest.take() {
            None if self.uploads.is_empty() => Ok(None),
            Some(rest) if self.uploads.len() < UPLOADS_MAX => {
                self.entries(index, rest, tally).await.map(Some)
            }
            rest => {
                self.rest = rest;
                self.sort(index).await.map(Some)
            }
        }
    }

    /// A page of entries.
    async fn entries(
        &mut self,
        index: &dyn Index,
        range: Range,
        tally: &Tally,
    ) -> Result<Vec<Found>> {
        let second::Entries {
            snapshot,
            page,
            found: unreadable,
            rest,
        } = second::entries(index, Table::Sessions, range).await?;
        tally.entries(page.len());
        let mut found = Vec::new();
        for (key, value) in &page {
            let one = match Kind::of(key) {
                Kind::Session => session(&*snapshot, key, value).await?,
                Kind::Part => self.part(key, value, tally),
                Kind::Unknown => Some(unknown(key)),
            };
            let Some(one) = one else { continue };
            let confirms_itself =
                matches!(one.remedy, Remedy::None | Remedy::Lossy(Cure::Commit(_)));
            if !confirms_itself || is_still(index, Table::Sessions, key, |_| true).await? {
                found.push(one);
            }
        }
        found.extend(unreadable);
        self.rest = rest;
        if self.rest.is_none() {
            tally.all_counted();
        }
        Ok(found)
    }

    /// Notes a part, or what is wrong with its entry by itself.
    fn part(&mut self, key: &Bytes, value: &Bytes, tally: &Tally) -> Option<Found> {
        let Ok((upload, number)) = read_part_key(key) else {
            return Some(misfiled(key));
        };
        let parts = self.uploads.entry(upload).or_default();
        match Filed::decode(value) {
            Ok(filed) => {
                tally.part(filed.part().map_or(0, |part| part.extent.bytes));
                None
            }
            Err(error) if error.kind() == ErrorKind::UnknownFormat => Some(unknown(key)),
            Err(_) => {
                parts.push(number);
                None
            }
        }
    }

    /// Sorts out the uploads that are open, with what is wrong with their parts. The others are
    /// strays.
    async fn sort(&mut self, index: &dyn Index) -> Result<Vec<Found>> {
        let mut uploads = std::mem::take(&mut self.uploads);
        let snapshot = index.snapshot()?;
        let mut broken = Vec::new();
        self.may_be_needed = !open_uploads(&*snapshot, |object, upload| {
            broken.extend(
                uploads
                    .remove(&upload)
                    .unwrap_or_default()
                    .into_iter()
                    .map(|part| (object.clone(), upload, part)),
            );
        })
        .await?;
        let mut found = Vec::new();
        for (object, upload, number) in broken {
            found.extend(broken_part(&*snapshot, &object, upload, number).await?);
        }
        if !uploads.is_empty() {
            // The second look.
            let all_read = open_uploads(&*newest(index).await?, |_, upload| {
                drop(uploads.remove(&upload));
            })
            .await?;
            self.may_be_needed |= !all_read;
        }
        self.strays = uploads.into_keys().collect::<Vec<_>>().into_iter();
        Ok(found)
    }
}

/// Shows every upload whose session is open, or is damaged and may be; whether every session could
/// be told.
async fn open_uploads(
    snapshot: &dyn Snapshot,
    mut show: impl FnMut(&ObjectId, UploadId),
) -> Result<bool> {
    visit(snapshot, Table::Sessions, all(PAGE), |key, value| {
        let (object, upload) = read_session_key(key)?;
        match Session::decode(value).map(|session| session.phase) {
            Ok(Phase::Open) | Err(_) => show(&object, upload),
            Ok(Phase::Completed { .. } | Phase::Aborted) => {}
        }
        Ok(())
    })
    .await
}

/// The range of all sessions.
pub(super) fn all(limit: usize) -> Range {
    Range::prefix(&all_sessions_prefix(), limit)
}

/// What an entry of the session table is, by its key.
enum Kind {
    Session,
    Part,
    /// What no build up to this one writes.
    Unknown,
}

impl Kind {
    fn of(key: &Bytes) -> Self {
        if key.starts_with(&all_sessions_prefix()) {
            Self::Session
        } else if key.starts_with(&all_parts_prefix()) {
            Self::Part
        } else {
            Self::Unknown
        }
    }
}

/// What is wrong with a session, if anything is.
async fn session(snapshot: &dyn Snapshot, key: &Bytes, value: &Bytes) -> Result<Option<Found>> {
    let Ok((object, upload)) = read_session_key(key) else {
        return Ok(Some(misfiled(key)));
    };
    let begun = upload.begun();
    let deadline = match Session::decode(value) {
        Ok(session) => session.expires_at,
        Err(error) if error.kind() == ErrorKind::UnknownFormat => return Ok(Some(unknown(key))),
        Err(error) => {
            let cure = Cure::MendUpload(object.clone(), upload, UploadMend::Excise);
            let damage = Damage::BrokenSession {
                object,
                begun,
                why: error.to_string(),
            };
            return Ok(Some(Found {
                damage,
                remedy: Remedy::Lossy(cure),
            }));
        }
    };
    let entry = contains(
        snapshot,
        Table::Expiry,
        &session_expiry_key(deadline, &object, &upload),
    )
    .await?;
    if entry != SeenEntry::Absent {
        return Ok(None);
    }
    let cure = Cure::MendUpload(object.clone(), upload, UploadMend::Expiry { deadline });
    let damage = Damage::SessionWithoutExpiry {
        object,
        begun,
        deadline,
    };
    Ok(Some(Found {
        damage,
        remedy: Remedy::Safe(cure),
    }))
}

/// A part that could not be read, if it still can't.
async fn broken_part(
    snapshot: &dyn Snapshot,
    object: &ObjectId,
    upload: UploadId,
    number: PartNumber,
) -> Result<Option<Found>> {
    let error = match readable(
        snapshot
            .get(Table::Sessions, &part_key(&upload, number))
            .await,
    )? {
        Ok(value) => value.as_ref().and_then(|value| Filed::decode(value).err()),
        Err(error) => Some(error),
    };
    let Some(error) = error else { return Ok(None) };
    if error.kind() == ErrorKind::UnknownFormat {
        return Ok(None);
    }
    let cure = Cure::MendUpload(
        object.clone(),
        upload,
        UploadMend::GiveUp {
            number,
            named: None,
        },
    );
    let (object, begun, why) = (object.clone(), upload.begun(), error.to_string());
    Ok(Some(Found {
        damage: Damage::BrokenPart {
            object,
            begun,
            part: number,
            why,
        },
        remedy: Remedy::Lossy(cure),
    }))
}

/// The parts of an upload that has no open session, those aside that a later build may have
/// written.
async fn stray(
    snapshot: &dyn Snapshot,
    upload: &UploadId,
    may_be_needed: bool,
) -> Result<Vec<Found>> {
    let is_known = |value: &Bytes| {
        Filed::decode(value).map_err(|error| error.kind()).err() != Some(ErrorKind::UnknownFormat)
    };
    let mut found = Vec::new();
    visit(
        snapshot,
        Table::Sessions,
        Range::prefix(&parts_prefix(upload), PAGE),
        |key, value| {
            if read_part_key(key).is_ok() && is_known(value) {
                let remedy = if may_be_needed {
                    Remedy::Withheld
                } else {
                    Remedy::Safe(removal(key.clone()))
                };
                found.push(Found {
                    damage: Damage::PartWithoutSession {
                        key: RawKey(key.clone()),
                    },
                    remedy,
                });
            }
            Ok(())
        },
    )
    .await?;
    Ok(found)
}

/// An entry whose key is that of no session and no part: nobody will ever look for it there.
fn misfiled(key: &Bytes) -> Found {
    let damage = Damage::BrokenEntry {
        table: Table::Sessions,
        key: RawKey(key.clone()),
    };
    Found {
        damage,
        remedy: Remedy::Lossy(removal(key.clone())),
    }
}

fn unknown(key: &Bytes) -> Found {
    let damage = Damage::UnknownFormat {
        table: Table::Sessions,
        key: RawKey(key.clone()),
    };
    Found {
        damage,
        remedy: Remedy::None,
    }
}

fn removal(key: Bytes) -> Cure {
    let mut batch = Batch::new();
    batch.remove(Table::Sessions, key);
    Cure::Commit(batch)
}

/// Shows every part that can be read; whether all that may name a revision can.
pub(super) async fn visit_parts(
    snapshot: &dyn Snapshot,
    mut show: impl FnMut(&Part),
) -> Result<bool> {
    visit(
        snapshot,
        Table::Sessions,
        Range::all(PAGE),
        |key, value| match Kind::of(key) {
            // A session names nothing; what a later build has it name is unknown.
            Kind::Session => Session::decode(value).map(drop).or_else(unless_later),
            Kind::Part => Filed::decode(value).map(|filed| filed.part().iter().for_each(&mut show)),
            Kind::Unknown => Err(Error::new(
                ErrorKind::UnknownFormat,
                "scrub",
                "nobody knows what it names",
            )),
        },
    )
    .await
}

fn unless_later(error: Error) -> Result<()> {
    if error.kind() == ErrorKind::UnknownFormat {
        Err(error)
    } else {
        Ok(())
    }
}
