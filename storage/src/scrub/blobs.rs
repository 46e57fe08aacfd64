//! Walk 7: each blob is named by a row, a part, a change or an orphan.
//!
//! ```text
//! list ─> younger than the grace time: skip
//!      ─> block checksums or an orphan with its id: known                one lookup each
//!      ─> suspects ─> one snapshot: all rows, parts, changes, orphans    at the end
//!                  ─> the same on a newer snapshot                       confirmation
//!                  ─> read the name of the blob: unknown blob            gone: swept since
//! ```
//!
//! The snapshot is taken after the listing, and a revision is recorded before its blob is begun
//! (I1). Therefore a revision that no entry names in the snapshot will never be named, and its blob
//! may be queued for deletion: no operation waits for it, reads it or commits it. This holds only
//! for this index. If the scrub found no blob that a row or part names, the blob tier may belong to
//! another store, or the index may be new. Then its blobs are deleted only if the caller permits
//! losses.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;

use super::bytes::unreadable_row;
use super::damage::Damage;
use super::finding::{FoundDamage, RepairAction, RepairPolicy};
use super::payloads::visit_rows;
use super::report::ScrubTally;
use super::second::{contains, entry, newest, readable, visit};
use super::sessions::visit_parts;
use crate::blobs::{BlobName, FoundBlob};
use crate::decide::SeenEntry;
use crate::index::{Batch, Range, Snapshot, Table};
use crate::read::Reads;
use crate::records::{Change, LateWrite, Orphan};
use crate::types::{Result, RevisionId, RevisionKey, Timestamp};

/// Blobs per page.
const PAGE: usize = 1000;
/// Maximum number of suspects before all rows are read: some hundred bytes each.
const SUSPECTS_MAX: usize = 50_000;
/// Changes per read.
const CHANGES_PAGE: usize = 1000;

/// The walk over the blob tier.
pub(super) struct TierWalk {
    blobs: BoxStream<'static, Result<FoundBlob>>,
    born_before: Timestamp,
    suspects: Suspects,
    /// True if block checksums in the index are no proof that a row names the blob, because the row
    /// may be lost.
    suspects_filed: bool,
    is_over: bool,
}

/// Blobs without a known entry that names them.
type Suspects = BTreeMap<RevisionId, FoundBlob>;

impl TierWalk {
    pub(super) fn new(reads: &Reads, grace: Duration, suspects_filed: bool) -> Self {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let born_before = Timestamp::from_millis(
            reads
                .env()
                .steady_now()
                .as_millis()
                .saturating_sub(grace_ms),
        );
        Self {
            blobs: reads.blobs().list(),
            born_before,
            suspects: Suspects::new(),
            suspects_filed,
            is_over: false,
        }
    }

    /// Verifies the next page of blobs. Returns its damage, or `None` at the end of the walk.
    pub(super) async fn page(
        &mut self,
        reads: &Reads,
        tally: &ScrubTally,
    ) -> Result<Option<Vec<FoundDamage>>> {
        if self.is_over {
            return Ok(None);
        }
        let mut listed = Vec::new();
        while listed.len() < PAGE
            && let Some(blob) = self.blobs.next().await
        {
            listed.push(blob?);
        }
        tally.blobs(listed.len());
        // A short page is the last page: the stream has ended.
        self.is_over = listed.len() < PAGE;
        let mut found = self.classify(&*reads.index().snapshot()?, listed).await?;
        if self.suspects.len() >= SUSPECTS_MAX || self.is_over && !self.suspects.is_empty() {
            let suspects = std::mem::take(&mut self.suspects);
            found.extend(unknown(reads, suspects, tally).await?);
        }
        Ok(Some(found))
    }

    /// Returns the foreign blobs of a page, and adds the blobs without known entries to the
    /// suspects.
    async fn classify(
        &mut self,
        snapshot: &dyn Snapshot,
        listed: Vec<FoundBlob>,
    ) -> Result<Vec<FoundDamage>> {
        let mut found = Vec::new();
        for blob in listed {
            let Some(revision) = blob.revision else {
                found.push(foreign(blob));
                continue;
            };
            // A revision without a start time is old: no running engine writes it.
            if revision.born().is_some_and(|born| born > self.born_before) {
                continue;
            }
            // An unreadable entry may be the entry that names the blob, and counts as present.
            let filed = contains(
                snapshot,
                Table::Payloads,
                &revision.as_bytes().to_vec().into(),
            )
            .await?;
            let may_be_unknown = filed == SeenEntry::Absent || self.suspects_filed;
            if may_be_unknown && !is_orphan(snapshot, revision).await? {
                self.suspects.insert(revision, blob);
            }
        }
        Ok(found)
    }
}

/// Returns the suspects that no entry names, as unknown blobs.
async fn unknown(
    reads: &Reads,
    mut suspects: Suspects,
    tally: &ScrubTally,
) -> Result<Vec<FoundDamage>> {
    let mut all_read = remove_named(&*reads.index().snapshot()?, &mut suspects).await?;
    if suspects.is_empty() {
        return Ok(Vec::new());
    }
    let snapshot = newest(reads.index()).await?;
    all_read &= remove_named(&*snapshot, &mut suspects).await?;
    let may_be_needed = !all_read;
    let mut found = Vec::new();
    for (revision, blob) in suspects {
        if is_orphan(&*snapshot, revision).await? {
            continue;
        }
        let key = match reads.blobs().name_of(&blob).await? {
            BlobName::Of(key) => key,
            // The blob is unfinished or has a damaged trailer: its object, and so its key, is
            // unknown.
            BlobName::Unknown => {
                found.push(foreign(blob));
                continue;
            }
            BlobName::Gone => continue,
        };
        if may_be_needed
            && let Err(error) = readable(snapshot.get(Table::Rows, key.object.encoded()).await)?
        {
            found.push(unreadable_row(&key.object, &error));
        }
        let bytes = match reads.blobs().stat(&key).await {
            Ok(Some(bytes)) => bytes,
            // Swept since the listing.
            Ok(None) => continue,
            Err(error) => {
                let RevisionKey { object, revision } = key;
                let damage = Damage::UnreadableBlob {
                    object,
                    revision,
                    why: error.to_string(),
                };
                found.push(FoundDamage {
                    damage,
                    policy: RepairPolicy::None,
                });
                continue;
            }
        };
        let action = RepairAction::Commit(queue(&key, reads.env().steady_now()));
        let policy = match tally.looked().named_blobs {
            _ if may_be_needed => RepairPolicy::Withheld,
            // No named blob was found: the blob tier may belong to another store.
            0 => RepairPolicy::Lossy(action),
            1.. => RepairPolicy::Safe(action),
        };
        found.push(FoundDamage {
            damage: Damage::UnknownBlob {
                object: key.object,
                revision: key.revision,
                bytes,
            },
            policy,
        });
    }
    Ok(found)
}

/// Returns the damage of a foreign blob.
fn foreign(blob: FoundBlob) -> FoundDamage {
    FoundDamage {
        damage: Damage::ForeignBlob { path: blob.path },
        policy: RepairPolicy::None,
    }
}

/// Returns the batch that makes a revision an orphan.
fn queue(key: &RevisionKey, now: Timestamp) -> Batch {
    let mut batch = Batch::new();
    let orphan = Orphan::new(key.object.clone(), now, LateWrite::Landed);
    batch.put(
        Table::Orphans,
        key.revision.as_bytes().to_vec(),
        orphan.encode(),
    );
    batch
}

/// Returns whether the revision is, or may be, an orphan.
async fn is_orphan(snapshot: &dyn Snapshot, revision: RevisionId) -> Result<bool> {
    Ok(entry(snapshot, Table::Orphans, revision.as_bytes()).await? != SeenEntry::Absent)
}

/// Removes the suspects that a row, a part or a change names. Returns whether all of these entries
/// were readable.
async fn remove_named(snapshot: &dyn Snapshot, suspects: &mut Suspects) -> Result<bool> {
    let rows_read = visit_rows(snapshot, |row| {
        for revision in row.revisions() {
            suspects.remove(&revision);
        }
    })
    .await?;
    let parts_read = visit_parts(snapshot, |part| {
        drop(suspects.remove(&part.extent.revision));
    })
    .await?;
    let changes_read = visit(
        snapshot,
        Table::Changes,
        Range::all(CHANGES_PAGE),
        |_, value| {
            for revision in &Change::decode(value)?.revisions {
                suspects.remove(revision);
            }
            Ok(())
        },
    )
    .await?;
    Ok(rows_read && parts_read && changes_read)
}
