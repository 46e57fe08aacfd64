//! Salvage: copies everything that can be read of a damaged index into a new index.
//!
//! ```text
//! 1 payloads  copied, with the block checksums
//! 2 rows      copied, and their expiry entries built again; reported if the payload is missing
//! 3 sessions  copied: upload records and parts; their expiry entries built again
//! 4 changes   copied if the tables are consistent
//! 5 orphans   copied if the tables are consistent and no copied row or part names them
//! 6 meta      copied: epoch, last versions, base version, the store's id; the base version is
//!             raised above every version that may be lost
//! 7 blobs     only listed: a blob of an object whose row could not be read is reported
//! ```
//!
//! The blob tier is not changed, and becomes the blob tier of the new index. No entry of the new
//! index names the blobs that only lost rows named: the sweeper never deletes them, a scrub with
//! repairs does. If batches of the journal or a table file are lost, the tables are inconsistent:
//! they reflect different moments. A change may then belong to an acknowledged write, and a row may
//! have named an orphan since. Therefore changes and orphans are left out, and no entry names their
//! blobs. Guards I5 on the safe side (step 5: no orphan is queued that an entry still names), and
//! that no version of a lost object is reused (step 6). The
//! directories are in `index/fjall/copy.rs` and `directory.rs`.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::StreamExt;

use crate::blobs::{BlobName, BlobTier};
use crate::decide::unreached;
use crate::env::Env;
use crate::index::fjall::LostFile;
use crate::index::{Index, Range, Snapshot, Table, UnreadableRange};
use crate::records::{
    BASE_VERSION_KEY, BaseVersion, Change, Filed, Row, RowBody, UploadRecord,
    decode_upload_record_key, epoch_entry, expiry_key, expiry_value, read_part_key,
    upload_expiry_key,
};
use crate::types::{Epoch, ErrorKind, ObjectId, Result, RevisionId};

mod directory;
mod report;
mod writer;

pub use directory::SalvageDirectory;
use report::NAMED_MAX;
pub use report::{LostBlob, LostName, LostTable, SalvageReport, Unread};
use writer::Writer;

/// Entries per read.
const PAGE: usize = 1000;

/// Losses known before the tables are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Losses {
    /// True if the journals contained all acknowledged batches.
    pub has_whole_journals: bool,
    /// Lost table files with unknown keys.
    pub files: Vec<LostFile>,
}

impl Losses {
    /// Returns whether the readable tables are consistent with each other.
    fn keep_tables_consistent(&self) -> bool {
        self.has_whole_journals
            && self
                .files
                .iter()
                .all(|lost| !affects_other_tables(lost.table))
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

/// Returns whether a lost entry of this table can contradict other entries. A payload is written
/// only once, and expiry entries are built again.
fn affects_other_tables(table: Table) -> bool {
    match table {
        Table::Rows | Table::Changes | Table::Orphans | Table::Uploads | Table::Meta => true,
        Table::Payloads | Table::Expiry => false,
    }
}

/// Copies all readable entries of `old` into `new`, which is empty. If `blobs` is given, lists the
/// blob tier to find lost objects. Uses 16 bytes of memory per revision that a row or part names.
///
/// `losses` are the losses of the [`IndexCopy`](crate::index::fjall::IndexCopy).
///
/// # Errors
/// [`ErrorKind::Unavailable`] if `old` cannot be read at all, `new` cannot be written, or `blobs`
/// cannot be listed or read.
pub async fn copy_tables(
    old: &dyn Index,
    new: &dyn Index,
    losses: Losses,
    blobs: Option<&BlobTier>,
    env: &Env,
) -> Result<SalvageReport> {
    let salvage = RunningSalvage {
        old: old.snapshot()?,
        new,
        env,
    };
    let mut known = CopiedFacts {
        are_tables_consistent: losses.keep_tables_consistent(),
        ..CopiedFacts::default()
    };
    let mut report = losses.into_report();
    salvage.payloads(&mut report).await?;
    salvage.rows(&mut report, &mut known).await?;
    salvage.sessions(&mut report, &mut known).await?;
    salvage.changes(&mut report, &mut known).await?;
    salvage.orphans(&mut report, &mut known).await?;
    salvage.meta(&mut report, &known).await?;
    if let Some(blobs) = blobs {
        salvage.lost_objects(blobs, &mut report, &known).await?;
    }
    Ok(report)
}

/// Facts collected from the copied entries.
#[derive(Default)]
struct CopiedFacts {
    /// Revisions that rows and parts name.
    named: BTreeSet<RevisionId>,
    /// Revisions that changes and orphans name.
    unsettled: BTreeSet<RevisionId>,
    /// Ranges of rows that could not be read.
    rows_unread: Vec<UnreadableRange>,
    /// True if the tables are consistent with each other.
    are_tables_consistent: bool,
    epoch: Option<Epoch>,
}

/// A running salvage.
struct RunningSalvage<'a> {
    old: Box<dyn Snapshot>,
    new: &'a dyn Index,
    env: &'a Env,
}

impl RunningSalvage<'_> {
    /// Copies the payloads. Reads each value separately, so that an unreadable value does not hide
    /// others.
    async fn payloads(&self, report: &mut SalvageReport) -> Result<()> {
        let mut writer = Writer::new(self.new);
        let mut next = Some(Range::all(PAGE));
        while let Some(range) = next {
            let page = self.old.keys_over(Table::Payloads, range).await?;
            for key in page.entries {
                match self.old.get(Table::Payloads, &key).await {
                    Ok(Some(value)) => {
                        writer.put(Table::Payloads, key, value).await?;
                        report.payloads += 1;
                    }
                    Ok(None) => {}
                    // The walk over the rows reports the row without its payload.
                    Err(error) if error.kind() == ErrorKind::Corrupt => {}
                    Err(error) => return Err(error),
                }
            }
            report.unread(page.unreadable);
            next = page.rest;
        }
        writer.flush().await
    }

    /// Copies the rows, and builds their expiry entries.
    async fn rows(&self, report: &mut SalvageReport, known: &mut CopiedFacts) -> Result<()> {
        let copied = self.new.snapshot()?;
        let mut writer = Writer::new(self.new);
        let mut next = Some(Range::all(PAGE));
        while let Some(range) = next {
            let page = self.old.scan_over(Table::Rows, range).await?;
            for (key, value) in page.entries {
                if let (Ok(object), Ok(row)) = (ObjectId::decode(&key), Row::decode(&value)) {
                    known.named.extend(row.revisions());
                    self.row(&object, &row, &*copied, &mut writer, report)
                        .await?;
                }
                // Undecodable rows, too: a scrub of the new store reports them.
                writer.put(Table::Rows, key, value).await?;
                report.rows += 1;
            }
            known.rows_unread.extend(page.unreadable.clone());
            report.unread(page.unreadable);
            next = page.rest;
        }
        writer.flush().await
    }

    /// Builds the expiry entry of a row, and reports a missing payload.
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
        if let RowBody::Separate(operation) = row.body {
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

    /// Copies the upload records and parts, and builds the expiry entries of the uploads.
    async fn sessions(&self, report: &mut SalvageReport, known: &mut CopiedFacts) -> Result<()> {
        let mut writer = Writer::new(self.new);
        let mut next = Some(Range::all(PAGE));
        while let Some(range) = next {
            let page = self.old.scan_over(Table::Uploads, range).await?;
            for (key, value) in page.entries {
                if let (Ok((object, upload)), Ok(session)) =
                    (decode_upload_record_key(&key), UploadRecord::decode(&value))
                {
                    let entry = upload_expiry_key(session.expires_at, &object, &upload);
                    writer.put(Table::Expiry, entry, expiry_value()).await?;
                    report.expiry += 1;
                }
                if let (Ok(_), Ok(filed)) = (read_part_key(&key), Filed::decode(&value)) {
                    known
                        .named
                        .extend(filed.part().map(|part| part.extent.revision));
                }
                writer.put(Table::Uploads, key, value).await?;
                report.sessions += 1;
            }
            report.unread(page.unreadable);
            next = page.rest;
        }
        writer.flush().await
    }

    /// Copies the changes, unless the tables are inconsistent.
    async fn changes(&self, report: &mut SalvageReport, known: &mut CopiedFacts) -> Result<()> {
        let mut writer = Writer::new(self.new);
        let mut next = Some(Range::all(PAGE));
        while let Some(range) = next {
            let page = self.old.scan_over(Table::Changes, range).await?;
            for (key, value) in page.entries {
                if let Ok(change) = Change::decode(&value) {
                    known.unsettled.extend(change.revisions);
                    // Used if the epoch entry itself is unreadable.
                    known.epoch = known.epoch.max(Some(change.epoch));
                }
                if !known.are_tables_consistent {
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

    /// Copies the orphans that no copied row or part names, unless the tables are inconsistent.
    async fn orphans(&self, report: &mut SalvageReport, known: &mut CopiedFacts) -> Result<()> {
        let mut writer = Writer::new(self.new);
        let mut next = Some(Range::all(PAGE));
        while let Some(range) = next {
            let page = self.old.scan_over(Table::Orphans, range).await?;
            for (key, value) in page.entries {
                let revision = RevisionId::from_slice(&key);
                if revision.is_some_and(|revision| known.named.contains(&revision)) {
                    // The deletion of the blob would lose a copied object (I5).
                    report.orphans_kept += 1;
                    continue;
                }
                if !known.are_tables_consistent {
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

    /// Copies the meta table, and raises the base version if the version of an object may be lost.
    async fn meta(&self, report: &mut SalvageReport, known: &CopiedFacts) -> Result<()> {
        let mut writer = Writer::new(self.new);
        let mut next = Some(Range::all(PAGE));
        let mut base = Ok(None);
        let mut is_lost = !known.are_tables_consistent || !known.rows_unread.is_empty();
        // A minimum. The copied epoch entry overwrites it, if the entry is readable.
        let (key, value) = epoch_entry(known.epoch.unwrap_or(Epoch::new(0)));
        writer.put(Table::Meta, key, value).await?;
        while let Some(range) = next {
            let page = self.old.scan_over(Table::Meta, range).await?;
            for (key, value) in page.entries {
                if key == BASE_VERSION_KEY {
                    base = BaseVersion::decode(&value).map(Some);
                }
                writer.put(Table::Meta, key, value).await?;
                report.meta += 1;
            }
            // The range may have contained last versions or the base version.
            is_lost |= page.unreadable.is_some();
            report.unread(page.unreadable);
            next = page.rest;
        }
        if let (true, Ok(base)) = (is_lost, base) {
            let now = self.env.steady_now();
            // Higher than every lost version: none is reused, also not by an object whose name is
            // lost.
            let base = base
                .unwrap_or(BaseVersion::first(now))
                .raised(unreached(now));
            writer
                .put(
                    Table::Meta,
                    Bytes::from_static(BASE_VERSION_KEY),
                    base.encode(),
                )
                .await?;
        }
        writer.flush().await
    }

    /// Reports the blobs of objects whose rows could not be read.
    async fn lost_objects(
        &self,
        blobs: &BlobTier,
        report: &mut SalvageReport,
        known: &CopiedFacts,
    ) -> Result<()> {
        if known.rows_unread.is_empty() && known.are_tables_consistent {
            return Ok(());
        }
        let copied = self.new.snapshot()?;
        let mut listed = blobs.list();
        while let Some(blob) = listed.next().await {
            let blob = blob?;
            let Some(revision) = blob.revision else {
                continue;
            };
            // In a lost batch, the swap of a change may have been committed.
            let is_unsettled = known.unsettled.contains(&revision) && known.are_tables_consistent;
            if known.named.contains(&revision) || is_unsettled {
                continue;
            }
            let object = match blobs.name_of(&blob).await? {
                BlobName::Of(key) => Some(key.object),
                // Most likely a blob that was never finished.
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
                let may_be_lost = !known.are_tables_consistent || is_in_unread();
                // The state of the object was copied: the blob is an earlier revision, not a loss.
                if !may_be_lost || copied.get(Table::Rows, encoded).await?.is_some() {
                    continue;
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
        Ok(())
    }
}
