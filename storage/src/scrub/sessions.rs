//! Walk 2: each upload record is readable and has its expiry entry; each part is readable and
//! belongs to an open upload.
//!
//! ```text
//! entry ─> upload record: decode, and look up its expiry entry in the same snapshot
//!       ─> part: decode, and collect its upload id             up to 200,000 uploads at a time
//!            └─> one snapshot: all upload records ─> the uploads that are not open are strays:
//!                                                    their parts are removed
//! ```
//!
//! A part does not refer to its upload record, so all upload records are read for each group of
//! uploads with parts. An upload id is never reused, and an upload record is removed no later than
//! its parts. Therefore an upload without an open record in some snapshot never has an open record
//! again, and its parts may be removed. Only the entry of a part is removed: a row may already name
//! its blob. Blobs and payloads that no entry names are found by the walks over payloads and blobs.
//!
//! An unreadable part of an open upload is given up only on request. Its bytes still exist, their
//! upload may have been acknowledged, and the removal of the entry would lose them.

use std::collections::BTreeMap;
use std::vec;

use bytes::Bytes;

use super::damage::{Damage, RawKey};
use super::finding::{FoundDamage, RepairAction, RepairPolicy};
use super::report::ScrubTally;
use super::second::{self, contains, is_still, newest, readable, visit};
use crate::decide::{SeenEntry, UploadRepair};
use crate::index::{Batch, Index, Range, Snapshot, Table};
use crate::records::{
    Filed, Part, UploadPhase, UploadRecord, all_parts_prefix, all_sessions_prefix,
    decode_upload_record_key, part_key, parts_prefix, read_part_key, upload_expiry_key,
};
use crate::types::{Error, ErrorKind, ObjectId, PartNumber, Result, UploadId};

/// Entries per page.
const PAGE: usize = 1000;
/// Maximum number of uploads collected before all upload records are read: some ten bytes each,
/// plus the tree.
const UPLOADS_MAX: usize = 200_000;

/// The walk over upload records and parts.
pub(super) struct Sessions {
    /// Range that remains, or `None` at the end.
    rest: Option<Range>,
    uploads: UploadsWithParts,
    /// Uploads with parts but without an open upload record, not yet returned.
    strays: vec::IntoIter<UploadId>,
    /// True if an upload record was unreadable: the strays may belong to this upload record.
    may_be_needed: bool,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            rest: Some(Range::all(PAGE)),
            uploads: UploadsWithParts::new(),
            strays: Vec::new().into_iter(),
            may_be_needed: false,
        }
    }
}

/// Uploads with parts, and the numbers of their undecodable parts.
type UploadsWithParts = BTreeMap<UploadId, Vec<PartNumber>>;

impl Sessions {
    /// Verifies the next page. Returns its damage, possibly none, or `None` at the end of the walk.
    pub(super) async fn page(
        &mut self,
        index: &dyn Index,
        tally: &ScrubTally,
    ) -> Result<Option<Vec<FoundDamage>>> {
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
                self.check_uploads(index).await.map(Some)
            }
        }
    }

    /// Verifies a page of entries.
    async fn entries(
        &mut self,
        index: &dyn Index,
        range: Range,
        tally: &ScrubTally,
    ) -> Result<Vec<FoundDamage>> {
        let second::EntryPage {
            snapshot,
            page,
            found: unreadable,
            rest,
        } = second::entries(index, Table::Uploads, range).await?;
        tally.entries(page.len());
        let mut found = Vec::new();
        for (key, value) in &page {
            let damage = match UploadEntryKind::of(key) {
                UploadEntryKind::UploadRecord => session(&*snapshot, key, value).await?,
                UploadEntryKind::Part => self.part(key, value, tally),
                UploadEntryKind::Unknown => Some(unknown(key)),
            };
            let Some(damage) = damage else { continue };
            // A shard confirms the other findings. These have no shard, so the walk reads the entry
            // again.
            let confirms_itself = matches!(
                damage.policy,
                RepairPolicy::None | RepairPolicy::Lossy(RepairAction::Commit(_))
            );
            if !confirms_itself || is_still(index, Table::Uploads, key, |_| true).await? {
                found.push(damage);
            }
        }
        found.extend(unreadable);
        self.rest = rest;
        if self.rest.is_none() {
            tally.all_counted();
        }
        Ok(found)
    }

    /// Collects the upload of a part, or returns the damage to the entry.
    fn part(&mut self, key: &Bytes, value: &Bytes, tally: &ScrubTally) -> Option<FoundDamage> {
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

    /// Removes the open uploads from the collected ones, and returns the damage to their parts. The
    /// remaining uploads are strays.
    async fn check_uploads(&mut self, index: &dyn Index) -> Result<Vec<FoundDamage>> {
        let mut uploads = std::mem::take(&mut self.uploads);
        // Newer than all pages: an upload record is written before its parts, so the snapshot
        // contains the record of every collected part whose upload is still open.
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
            // Confirm on the newest state, before the parts may be removed (docs/adr/0015).
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

/// Calls `show` for every upload whose record is open, or is damaged and may be open. Returns
/// whether every upload record was readable.
async fn open_uploads(
    snapshot: &dyn Snapshot,
    mut show: impl FnMut(&ObjectId, UploadId),
) -> Result<bool> {
    visit(snapshot, Table::Uploads, all(PAGE), |key, value| {
        let (object, upload) = decode_upload_record_key(key)?;
        match UploadRecord::decode(value).map(|session| session.phase) {
            // A damaged upload record may be open: keep the parts.
            Ok(UploadPhase::Open) | Err(_) => show(&object, upload),
            Ok(UploadPhase::Completed { .. } | UploadPhase::Aborted) => {}
        }
        Ok(())
    })
    .await
}

/// Returns the range of all upload records.
pub(super) fn all(limit: usize) -> Range {
    Range::prefix(&all_sessions_prefix(), limit)
}

/// Kind of an entry of the sessions table, by its key.
enum UploadEntryKind {
    UploadRecord,
    Part,
    /// Not written by this build or by earlier builds.
    Unknown,
}

impl UploadEntryKind {
    fn of(key: &Bytes) -> Self {
        if key.starts_with(&all_sessions_prefix()) {
            Self::UploadRecord
        } else if key.starts_with(&all_parts_prefix()) {
            Self::Part
        } else {
            Self::Unknown
        }
    }
}

/// Returns the damage to an upload record.
async fn session(
    snapshot: &dyn Snapshot,
    key: &Bytes,
    value: &Bytes,
) -> Result<Option<FoundDamage>> {
    let Ok((object, upload)) = decode_upload_record_key(key) else {
        return Ok(Some(misfiled(key)));
    };
    let begun = upload.begun();
    let deadline = match UploadRecord::decode(value) {
        Ok(session) => session.expires_at,
        Err(error) if error.kind() == ErrorKind::UnknownFormat => return Ok(Some(unknown(key))),
        Err(error) => {
            let action =
                RepairAction::RepairUpload(object.clone(), upload, UploadRepair::RemoveRecord);
            let damage = Damage::BrokenSession {
                object,
                begun,
                why: error.to_string(),
            };
            return Ok(Some(FoundDamage {
                damage,
                policy: RepairPolicy::Lossy(action),
            }));
        }
    };
    let entry = contains(
        snapshot,
        Table::Expiry,
        &upload_expiry_key(deadline, &object, &upload),
    )
    .await?;
    if entry != SeenEntry::Absent {
        return Ok(None);
    }
    let action =
        RepairAction::RepairUpload(object.clone(), upload, UploadRepair::Expiry { deadline });
    let damage = Damage::SessionWithoutExpiry {
        object,
        begun,
        deadline,
    };
    Ok(Some(FoundDamage {
        damage,
        policy: RepairPolicy::Safe(action),
    }))
}

/// Returns the damage to an undecodable part, if the part is still undecodable in this snapshot.
async fn broken_part(
    snapshot: &dyn Snapshot,
    object: &ObjectId,
    upload: UploadId,
    number: PartNumber,
) -> Result<Option<FoundDamage>> {
    let error = match readable(
        snapshot
            .get(Table::Uploads, &part_key(&upload, number))
            .await,
    )? {
        Ok(value) => value.as_ref().and_then(|value| Filed::decode(value).err()),
        Err(error) => Some(error),
    };
    let Some(error) = error else { return Ok(None) };
    if error.kind() == ErrorKind::UnknownFormat {
        return Ok(None);
    }
    let action = RepairAction::RepairUpload(
        object.clone(),
        upload,
        UploadRepair::GiveUp {
            number,
            named: None,
        },
    );
    Ok(Some(FoundDamage {
        damage: Damage::BrokenPart {
            object: object.clone(),
            begun: upload.begun(),
            part: number,
            why: error.to_string(),
        },
        policy: RepairPolicy::Lossy(action),
    }))
}

/// Returns the damage of the parts of an upload without an open record. Skips parts that a later
/// build may have written.
async fn stray(
    snapshot: &dyn Snapshot,
    upload: &UploadId,
    may_be_needed: bool,
) -> Result<Vec<FoundDamage>> {
    let is_known = |value: &Bytes| {
        Filed::decode(value).map_err(|error| error.kind()).err() != Some(ErrorKind::UnknownFormat)
    };
    let mut found = Vec::new();
    visit(
        snapshot,
        Table::Uploads,
        Range::prefix(&parts_prefix(upload), PAGE),
        |key, value| {
            if read_part_key(key).is_ok() && is_known(value) {
                let policy = if may_be_needed {
                    RepairPolicy::Withheld
                } else {
                    RepairPolicy::Safe(removal(key.clone()))
                };
                found.push(FoundDamage {
                    damage: Damage::PartWithoutSession {
                        key: RawKey(key.clone()),
                    },
                    policy,
                });
            }
            Ok(())
        },
    )
    .await?;
    Ok(found)
}

/// Returns the damage of an entry whose key is malformed: no read ever uses this key.
fn misfiled(key: &Bytes) -> FoundDamage {
    let damage = Damage::BrokenEntry {
        table: Table::Uploads,
        key: RawKey(key.clone()),
    };
    FoundDamage {
        damage,
        policy: RepairPolicy::Lossy(removal(key.clone())),
    }
}

/// Returns the damage of an entry in an unknown format.
fn unknown(key: &Bytes) -> FoundDamage {
    let damage = Damage::UnknownFormat {
        table: Table::Uploads,
        key: RawKey(key.clone()),
    };
    FoundDamage {
        damage,
        policy: RepairPolicy::None,
    }
}

/// Returns the repair that removes an entry.
fn removal(key: Bytes) -> RepairAction {
    let mut batch = Batch::new();
    batch.remove(Table::Uploads, key);
    RepairAction::Commit(batch)
}

/// Calls `show` for every readable part. Returns whether all entries that may name a revision are
/// readable.
pub(crate) async fn visit_parts(
    snapshot: &dyn Snapshot,
    mut show: impl FnMut(&Part),
) -> Result<bool> {
    visit(
        snapshot,
        Table::Uploads,
        Range::all(PAGE),
        |key, value| match UploadEntryKind::of(key) {
            // An upload record names no revision. In a format of a later build it may.
            UploadEntryKind::UploadRecord => {
                UploadRecord::decode(value).map(drop).or_else(unless_later)
            }
            UploadEntryKind::Part => {
                Filed::decode(value).map(|filed| filed.part().iter().for_each(&mut show))
            }
            UploadEntryKind::Unknown => Err(Error::new(
                ErrorKind::UnknownFormat,
                "scrub",
                "the kind of the entry is unknown",
            )),
        },
    )
    .await
}

/// Ignores a damaged upload record, and passes the error of a later format through.
fn unless_later(error: Error) -> Result<()> {
    if error.kind() == ErrorKind::UnknownFormat {
        Err(error)
    } else {
        Ok(())
    }
}
