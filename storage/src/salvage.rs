//! Salvage: everything that can be read of a damaged index, copied into a new one.
//!
//! ```text
//! 1 payloads  as they are, with the block checksums
//! 2 rows      as they are; a row whose payload was not copied is reported      expiry entries are built anew
//! 3 sessions  as they are, with the parts                                      expiry entries are built anew
//! 4 changes   as they are                                                      not if tables are of different moments
//! 5 orphans   as they are, but for revisions that a copied row or part names    not if tables are of different moments
//! 6 meta      as it is: epoch, version floors, the store's id
//! 7 blobs     are only listed: a blob whose object's row could not be read is reported, and its version floor is raised
//! ```
//!
//! The blob tier is not touched, and stays the blob tier of the new index. What only lost rows
//! named is named by nothing in the new index: the sweeper never deletes it, a scrub with repairs
//! does. Where batches of the journal or a table file are lost, tables are of different moments: a
//! change may be of a write that was acknowledged, and an orphan may have been named since. They
//! are left out then, and their blobs are named by nothing. Guards I5 the safe way round (5: no
//! orphan is queued that something still names), and "versions are never reused" for every lost
//! object whose name is known (7). Deliberately not here: the directories (`index/fjall/copy.rs`,
//! `directory.rs`).

use std::collections::BTreeSet;

use futures::StreamExt;
use serde::Serialize;

use crate::blobs::{BlobName, BlobTier};
use crate::decide::unreached;
use crate::env::Env;
use crate::error::{ErrorKind, Result};
use crate::id::ObjectId;
use crate::index::fjall::LostFile;
use crate::index::{Index, Range, Snapshot, Table, UnreadableRange};
use crate::rows::{
    Body, Change, Filed, Row, Session, epoch_entry, expiry_key, expiry_value, floor_key,
    read_part_key, read_session_key, session_expiry_key, write_floor,
};
use crate::scrub::RawKey;
use crate::word::{Epoch, RevisionId};

mod directory;
mod writer;

pub use directory::SalvageDirectory;
use writer::Writer;

/// Entries read at once.
const PAGE: usize = 1000;
/// Names and ranges that a report holds. It counts all of them.
const NAMED_MAX: usize = 10_000;

/// What a salvage copied, and what it could not read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SalvageReport {
    /// Rows copied, one for each object.
    pub rows: u64,
    /// Payloads and block checksums copied.
    pub payloads: u64,
    /// Sessions and parts of multipart uploads copied.
    pub sessions: u64,
    /// Changes copied: writes that were under way.
    pub changes: u64,
    /// Orphans copied: blobs that were to be deleted.
    pub orphans: u64,
    /// Orphans left out, for something that was copied names their blobs.
    pub orphans_kept: u64,
    /// Other entries copied, most of them version floors of deleted objects.
    pub meta: u64,
    /// Expiry entries built anew.
    pub expiry: u64,
    /// Changes and orphans left out, for batches of the journal or a table file are lost, and their
    /// blobs may be needed.
    pub held_back: u64,
    /// True if batches of the journal are lost that had been acknowledged: objects may be missing,
    /// or be older than they were, and nobody knows which.
    pub journal_damaged: bool,
    /// Table files that are lost in part or as a whole, and of which it is not known what keys they
    /// held: such entries may be missing, or be older than they were.
    pub lost_tables: Vec<LostTable>,
    /// Unreadable ranges of keys, counted.
    pub unreadable: u64,
    /// The first 10,000 of these ranges.
    pub unreadable_ranges: Vec<Unread>,
    /// Objects whose inline bytes could not be read, counted. Their rows were copied.
    pub without_payload: u64,
    /// The first 10,000 of these objects.
    pub objects_without_payload: Vec<LostName>,
    /// Blobs of objects whose rows could not be read, or may be in lost batches, counted. Nothing
    /// is known of lost objects that had no blob.
    pub lost_blobs: u64,
    /// The first 10,000 of these blobs.
    pub lost_objects: Vec<LostBlob>,
}

/// A table file of which it is not known what keys it held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LostTable {
    /// The table.
    pub table: &'static str,
    /// The file, from the directory of the database on.
    pub file: String,
    /// The damage.
    pub why: String,
}

/// A range of keys that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unread {
    /// The table.
    pub table: &'static str,
    /// The first key of the range. Empty for the beginning of the table.
    pub from: RawKey,
    /// The first key behind the range. None for the end of the table.
    pub to: Option<RawKey>,
    /// The error of the index.
    pub why: String,
}

/// An object of which something is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LostName {
    /// Its namespace.
    pub namespace: String,
    /// Its key.
    pub key: String,
}

/// A blob that belongs to an object whose row could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LostBlob {
    /// The object that the blob was written for, which may have been renamed since. None if the
    /// name is long and the trailer of the blob can't be read: the path holds the beginning of the
    /// name.
    #[serde(flatten)]
    pub object: Option<LostName>,
    /// The revision.
    pub revision: RevisionId,
    /// The path of the blob in the blob tier.
    pub path: String,
    /// The length in bytes, if the blob tier tells.
    pub bytes: Option<u64>,
}

impl SalvageReport {
    /// Returns whether everything could be read.
    pub fn is_complete(&self) -> bool {
        let is_all_read =
            self.unreadable == 0 && self.lost_tables.is_empty() && !self.journal_damaged;
        is_all_read && self.without_payload == 0 && self.lost_blobs == 0
    }
}

impl LostName {
    fn of(object: &ObjectId) -> Self {
        Self {
            namespace: object.namespace_str().to_owned(),
            key: object.key().to_owned(),
        }
    }
}

/// The losses that are known before anything is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Losses {
    /// True if the journals held all that was acknowledged.
    pub has_whole_journals: bool,
    /// Files of which it is not known what keys they held.
    pub files: Vec<LostFile>,
}

impl Losses {
    /// Returns whether the tables that can be read are of one moment.
    fn leave_one_moment(&self) -> bool {
        self.has_whole_journals && self.files.iter().all(|lost| !is_of_a_moment(lost.table))
    }

    fn into_report(self) -> SalvageReport {
        let files = self
            .files
            .into_iter()
            .filter(|lost| lost.table != Table::Expiry);
        let lost_tables = files.map(|LostFile { table, file, why }| {
            let file = file.display().to_string();
            LostTable {
                table: table.name(),
                file,
                why,
            }
        });
        SalvageReport {
            journal_damaged: !self.has_whole_journals,
            lost_tables: lost_tables.collect(),
            ..SalvageReport::default()
        }
    }
}

/// Returns whether a lost entry of this table can make others wrong. A payload is written once, and
/// expiry entries are built anew.
fn is_of_a_moment(table: Table) -> bool {
    match table {
        Table::Rows | Table::Changes | Table::Orphans | Table::Sessions | Table::Meta => true,
        Table::Payloads | Table::Expiry => false,
    }
}

/// Copies all tables of `old` that can be read into `new`, which is empty, and lists `blobs`, if it
/// is given, for what is known of lost objects. Holds 16 bytes in memory for each revision that a
/// row or part names.
///
/// `losses` are those of the [`IndexCopy`](crate::index::fjall::IndexCopy).
///
/// # Errors
/// [`ErrorKind::Unavailable`] if `old` can't be read at all, `new` can't be written, or `blobs`
/// can't be listed or read.
pub async fn copy_tables(
    old: &dyn Index,
    new: &dyn Index,
    losses: Losses,
    blobs: Option<&BlobTier>,
    env: &Env,
) -> Result<SalvageReport> {
    let salvage = Salvage {
        old: old.snapshot()?,
        new,
        env,
    };
    let mut known = Known {
        is_of_one_moment: losses.leave_one_moment(),
        ..Known::default()
    };
    let mut report = losses.into_report();
    salvage.payloads(&mut report).await?;
    salvage.rows(&mut report, &mut known).await?;
    salvage.sessions(&mut report, &mut known).await?;
    salvage.changes(&mut report, &mut known).await?;
    salvage.orphans(&mut report, &mut known).await?;
    salvage.meta(&mut report, &known).await?;
    if let Some(blobs) = blobs {
        salvage.lost(blobs, &mut report, &known).await?;
    }
    Ok(report)
}

/// What has been learnt from what was copied.
#[derive(Default)]
struct Known {
    /// Revisions that rows and parts name.
    named: BTreeSet<RevisionId>,
    /// Revisions that changes and orphans name.
    unsettled: BTreeSet<RevisionId>,
    /// Ranges of rows that could not be read.
    rows_unread: Vec<UnreadableRange>,
    /// True if no table is older than another.
    is_of_one_moment: bool,
    epoch: Option<Epoch>,
}

/// One salvage.
struct Salvage<'a> {
    old: Box<dyn Snapshot>,
    new: &'a dyn Index,
    env: &'a Env,
}

impl Salvage<'_> {
    /// Keys first, and each value by itself: one that can't be read hides no other.
    async fn payloads(&self, report: &mut SalvageReport) -> Result<()> {
        let (mut writer, mut next) = (Writer::new(self.new), Some(Range::all(PAGE)));
        while let Some(range) = next {
            let page = self.old.keys_over(Table::Payloads, range).await?;
            for key in page.entries {
                match self.old.get(Table::Payloads, &key).await {
                    Ok(Some(value)) => {
                        writer.put(Table::Payloads, key, value).await?;
                        report.payloads += 1;
                    }
                    Ok(None) => {}
                    // The row that names it is reported.
                    Err(error) if error.kind() == ErrorKind::Corrupt => {}
                    Err(error) => return Err(error),
                }
            }
            report.unread(page.unreadable);
            next = page.rest;
        }
        writer.flush().await
    }

    async fn rows(&self, report: &mut SalvageReport, known: &mut Known) -> Result<()> {
        let copied = self.new.snapshot()?;
        let (mut writer, mut next) = (Writer::new(self.new), Some(Range::all(PAGE)));
        while let Some(range) = next {
            let page = self.old.scan_over(Table::Rows, range).await?;
            for (key, value) in page.entries {
                if let (Ok(object), Ok(row)) = (ObjectId::decode(&key), Row::decode(&value)) {
                    known.named.extend(row.revisions());
                    self.row(&object, &row, &*copied, &mut writer, report)
                        .await?;
                }
                writer.put(Table::Rows, key, value).await?;
                report.rows += 1;
            }
            known.rows_unread.extend(page.unreadable.clone());
            report.unread(page.unreadable);
            next = page.rest;
        }
        writer.flush().await
    }

    async fn row(
        &self,
        object: &ObjectId,
        row: &Row,
        copied: &dyn Snapshot,
        writer: &mut Writer<'_>,
        report: &mut SalvageReport,
    ) -> Result<()> {
        if let Some(deadline) = row.metadata.expires_at {
            writer
                .put(Table::Expiry, expiry_key(deadline, object), expiry_value())
                .await?;
            report.expiry += 1;
        }
        if let Body::Separate(operation) = row.body {
            let only = Range::prefix(operation.as_bytes(), 1);
            if copied.keys(Table::Payloads, only).await?.is_empty() {
                report.without_payload += 1;
                if report.objects_without_payload.len() < NAMED_MAX {
                    report.objects_without_payload.push(LostName::of(object));
                }
            }
        }
        Ok(())
    }

    async fn sessions(&self, report: &mut SalvageReport, known: &mut Known) -> Result<()> {
        let (mut writer, mut next) = (Writer::new(self.new), Some(Range::all(PAGE)));
        while let Some(range) = next {
            let page = self.old.scan_over(Table::Sessions, range).await?;
            for (key, value) in page.entries {
                if let (Ok((object, upload)), Ok(session)) =
                    (read_session_key(&key), Session::decode(&value))
                {
                    let entry = session_expiry_key(session.expires_at, &object, &upload);
                    writer.put(Table::Expiry, entry, expiry_value()).await?;
                    report.expiry += 1;
                }
                if let (Ok(_), Ok(filed)) = (read_part_key(&key), Filed::decode(&value)) {
                    known
                        .named
                        .extend(filed.part().map(|part| part.extent.revision));
                }
                writer.put(Table::Sessions, key, value).await?;
                report.sessions += 1;
            }
            report.unread(page.unreadable);
            next = page.rest;
        }
        writer.flush().await
    }

    async fn changes(&self, report: &mut SalvageReport, known: &mut Known) -> Result<()> {
        let (mut writer, mut next) = (Writer::new(self.new), Some(Range::all(PAGE)));
        while let Some(range) = next {
            let page = self.old.scan_over(Table::Changes, range).await?;
            for (key, value) in page.entries {
                if let Ok(change) = Change::decode(&value) {
                    known.unsettled.extend(change.revisions);
                    known.epoch = known.epoch.max(Some(change.epoch));
                }
                if !known.is_of_one_moment {
                    report.held_back += 1;
                    continue;
                }
                writer.put(Table::Changes, key, value).await?;
                report.changes += 1;
            }
            report.unread(page.unreadable);
            next = page.rest;
        }
        writer.flush().await
    }

    async fn orphans(&self, report: &mut SalvageReport, known: &mut Known) -> Result<()> {
        let (mut writer, mut next) = (Writer::new(self.new), Some(Range::all(PAGE)));
        while let Some(range) = next {
            let page = self.old.scan_over(Table::Orphans, range).await?;
            for (key, value) in page.entries {
                let revision = RevisionId::from_slice(&key);
                if revision.is_some_and(|revision| known.named.contains(&revision)) {
                    report.orphans_kept += 1;
                    continue;
                }
                if !known.is_of_one_moment {
                    report.held_back += 1;
                    continue;
                }
                known.unsettled.extend(revision);
                writer.put(Table::Orphans, key, value).await?;
                report.orphans += 1;
            }
            report.unread(page.unreadable);
            next = page.rest;
        }
        writer.flush().await
    }

    async fn meta(&self, report: &mut SalvageReport, known: &Known) -> Result<()> {
        let (mut writer, mut next) = (Writer::new(self.new), Some(Range::all(PAGE)));
        // Overwritten by the epoch itself, if that can be read.
        let (key, value) = epoch_entry(known.epoch.unwrap_or(Epoch::new(0)));
        writer.put(Table::Meta, key, value).await?;
        while let Some(range) = next {
            let page = self.old.scan_over(Table::Meta, range).await?;
            for (key, value) in page.entries {
                writer.put(Table::Meta, key, value).await?;
                report.meta += 1;
            }
            report.unread(page.unreadable);
            next = page.rest;
        }
        writer.flush().await
    }

    /// What blobs tell of objects whose rows could not be read.
    async fn lost(
        &self,
        blobs: &BlobTier,
        report: &mut SalvageReport,
        known: &Known,
    ) -> Result<()> {
        if known.rows_unread.is_empty() && known.is_of_one_moment {
            return Ok(());
        }
        let copied = self.new.snapshot()?;
        let mut writer = Writer::new(self.new);
        let mut listed = blobs.list();
        while let Some(blob) = listed.next().await {
            let blob = blob?;
            let Some(revision) = blob.revision else {
                continue;
            };
            // The swap of a change may be in a lost batch.
            let is_unsettled = known.unsettled.contains(&revision) && known.is_of_one_moment;
            if known.named.contains(&revision) || is_unsettled {
                continue;
            }
            let object = match blobs.name_of(&blob).await? {
                BlobName::Of(key) => Some(key.object),
                // One that was never finished, most likely.
                BlobName::Unknown if known.unsettled.contains(&revision) => continue,
                BlobName::Unknown => None,
                BlobName::Gone => continue,
            };
            if let Some(object) = &object {
                let encoded = object.encoded();
                let is_in_unread = || {
                    known
                        .rows_unread
                        .iter()
                        .any(|range| range.contains(encoded))
                };
                let may_be_lost = !known.is_of_one_moment || is_in_unread();
                if !may_be_lost || copied.get(Table::Rows, encoded).await?.is_some() {
                    continue;
                }
                if copied.get(Table::Meta, &floor_key(object)).await?.is_none() {
                    let floor = write_floor(unreached(self.env.steady_now()));
                    writer.put(Table::Meta, floor_key(object), floor).await?;
                }
            }
            report.lost_blobs += 1;
            if report.lost_objects.len() < NAMED_MAX {
                let object = object.as_ref().map(LostName::of);
                report.lost_objects.push(LostBlob {
                    object,
                    revision,
                    path: blob.path,
                    bytes: blob.bytes,
                });
            }
        }
        writer.flush().await
    }
}

impl SalvageReport {
    fn unread(&mut self, range: Option<UnreadableRange>) {
        let Some(UnreadableRange {
            table,
            from,
            to,
            why,
        }) = range
        else {
            return;
        };
        self.unreadable += 1;
        if self.unreadable_ranges.len() < NAMED_MAX {
            let (from, to) = (RawKey(from), to.map(RawKey));
            self.unreadable_ranges.push(Unread {
                table: table.name(),
                from,
                to,
                why,
            });
        }
    }
}
