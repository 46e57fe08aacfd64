//! Walk 5: the bytes that each row names exist and are intact.
//!
//! ```text
//! 1. read the row
//! 2. pin its revisions
//! 3. one snapshot: row, payload or block checksums    the revisions have changed: back to 1
//! 4. read the bytes and compare the checksums
//! ```
//!
//! Guards I8 against the sweeper: a blob pinned before the second read of its row is not swept
//! during the verification, so a missing blob is lost. Bytes are read through the shared fetcher,
//! within its budget. An expired object counts as absent and is skipped. The verification of a blob
//! is in `blob.rs`.

use bytes::Bytes;
use futures::stream::{self, StreamExt};

use super::blob::{Blob, ScrubbedTier};
use super::damage::{Damage, RawKey};
use super::finding::{FoundDamage, RepairAction, RepairPolicy};
use super::report::ScrubTally;
use super::second::{contains, entry, readable};
use super::{Paged, ScrubDepth};
use crate::decide::{Lost, Repair, SeenEntry, is_as_written};
use crate::index::{Range, Snapshot, Table};
use crate::read::Reads;
use crate::read::pins::Pin;
use crate::records::{Extent, Row, RowBody};
use crate::types::{Error, ErrorKind, ObjectId, Result, RevisionKey};

/// Objects per page.
pub(super) const PAGE: usize = 256;
/// Maximum number of attempts for a row that is replaced during the scrub. After them the next
/// scrub verifies the row.
const LOOKS_MAX: usize = 16;

/// Depth and concurrency of the verification.
#[derive(Clone, Copy)]
pub(super) struct ScrubPace {
    pub(super) depth: ScrubDepth,
    pub(super) at_once: usize,
}

/// Verifies the bytes of a page of objects, several at a time.
pub(super) async fn page(
    reads: &Reads,
    pace: ScrubPace,
    range: Range,
    tally: &ScrubTally,
) -> Result<Paged> {
    // The walk over the rows has reported the unreadable entries.
    let page = reads
        .index()
        .snapshot()?
        .keys_over(Table::Rows, range)
        .await?;
    let objects: Vec<_> = page
        .entries
        .iter()
        .filter_map(|key| ObjectId::decode(key).ok())
        .collect();
    let looks = objects.into_iter().map(|object| async move {
        ObjectCheck {
            reads,
            blobs: ScrubbedTier {
                reads,
                tally,
                depth: pace.depth,
            },
            object,
        }
        .object()
        .await
    });
    let mut looks = stream::iter(looks).buffered(pace.at_once);
    let mut found = Vec::new();
    while let Some(damages) = looks.next().await {
        found.extend(damages?);
        tally.object_done();
    }
    Ok((found, page.rest))
}

/// Verification of an object.
struct ObjectCheck<'a> {
    reads: &'a Reads,
    blobs: ScrubbedTier<'a>,
    object: ObjectId,
}

/// The row of an object, its entries in the payload table, and the pins of its blobs.
struct PinnedRow {
    row: Row,
    belongings: Vec<SeenEntry<Bytes>>,
    _pins: Vec<Pin>,
}

impl ObjectCheck<'_> {
    /// Verifies the bytes of the object, by the steps in the module documentation.
    async fn object(&self) -> Result<Vec<FoundDamage>> {
        for _ in 0..LOOKS_MAX {
            let seen = match readable(self.row(None).await)? {
                Ok(Some(seen)) => seen,
                Ok(None) => return Ok(Vec::new()),
                Err(error) => return Ok(vec![unreadable_row(&self.object, &error)]),
            };
            // Pinned before the second read: if the row still names the revisions then, the sweeper
            // has not deleted the blobs.
            let pins = seen
                .revisions()
                .into_iter()
                .map(|revision| self.reads.pin(revision))
                .collect();
            let snapshot = self.reads.index().snapshot()?;
            match readable(self.row(Some(&*snapshot)).await)? {
                Err(error) => return Ok(vec![unreadable_row(&self.object, &error)]),
                Ok(None) => return Ok(Vec::new()),
                Ok(Some(row)) if row.revisions() == seen.revisions() => {
                    let belongings = self.belongings(&*snapshot, &row).await?;
                    // A held snapshot keeps old versions in the index, and the blobs may be large.
                    drop(snapshot);
                    return self
                        .check(PinnedRow {
                            row,
                            belongings,
                            _pins: pins,
                        })
                        .await;
                }
                // Replaced between the two reads: the pins are of the old revisions. Try again.
                Ok(Some(_)) => {}
            }
        }
        tracing::debug!(
            object = %self.object,
            "the scrub skips an object that is replaced repeatedly"
        );
        Ok(Vec::new())
    }

    /// Returns the row of the object if it exists, is decodable, and has not expired.
    async fn row(&self, snapshot: Option<&dyn Snapshot>) -> Result<Option<Row>> {
        let now = self.reads.now();
        let value = match snapshot {
            Some(snapshot) => snapshot.get(Table::Rows, self.object.encoded()).await?,
            None => {
                self.reads
                    .index()
                    .get(Table::Rows, self.object.encoded())
                    .await?
            }
        };
        Ok(value
            .and_then(|value| Row::decode(&value).ok())
            .filter(|row| row.is_live(now)))
    }

    /// Reads the entries of the row in the payload table. At [`ScrubDepth::Presence`] an inline
    /// payload is not read: its value is empty.
    async fn belongings(
        &self,
        snapshot: &dyn Snapshot,
        row: &Row,
    ) -> Result<Vec<SeenEntry<Bytes>>> {
        let mut values = Vec::new();
        for key in row.belongings() {
            values.push(match (&row.body, self.blobs.depth) {
                (RowBody::Separate(_), ScrubDepth::Presence) => {
                    match contains(snapshot, Table::Payloads, &key).await? {
                        SeenEntry::Absent => SeenEntry::Absent,
                        SeenEntry::Broken => SeenEntry::Broken,
                        SeenEntry::Whole(()) => SeenEntry::Whole(Bytes::new()),
                    }
                }
                (RowBody::Separate(_), ScrubDepth::Bytes)
                | (RowBody::Embedded(_) | RowBody::Tombstone(_), _) => {
                    entry(snapshot, Table::Payloads, &key).await?
                }
            });
        }
        Ok(values)
    }

    /// Returns the damage to the bytes of the object.
    async fn check(&self, pinned: PinnedRow) -> Result<Vec<FoundDamage>> {
        let row = &pinned.row;
        match &row.body {
            RowBody::Embedded(payload) => Ok(self.inline(row, payload)),
            RowBody::Separate(_) => Ok(match pinned.belongings.first() {
                None | Some(SeenEntry::Absent) => {
                    vec![self.lost(
                        Lost::Payload,
                        Damage::MissingPayload {
                            object: self.object.clone(),
                        },
                    )]
                }
                Some(SeenEntry::Broken) => {
                    vec![self.lost(
                        Lost::Payload,
                        Damage::CorruptPayload {
                            object: self.object.clone(),
                        },
                    )]
                }
                Some(SeenEntry::Whole(payload)) => self.inline(row, payload),
            }),
            RowBody::Tombstone(manifest) => {
                let mut found = Vec::new();
                for ((extent, key), checksums) in manifest
                    .extents()
                    .iter()
                    .zip(manifest.keys(&self.object))
                    .zip(&pinned.belongings)
                {
                    let checksums = match checksums {
                        SeenEntry::Whole(value) => Some(value),
                        SeenEntry::Absent | SeenEntry::Broken => None,
                    };
                    found.extend(self.extent(extent, &key, checksums).await);
                }
                Ok(found)
            }
        }
    }

    /// Returns the damage to an inline payload.
    fn inline(&self, row: &Row, payload: &Bytes) -> Vec<FoundDamage> {
        // The payload was not read, so there is nothing to compare.
        if self.blobs.depth == ScrubDepth::Presence {
            return Vec::new();
        }
        self.blobs.tally.bytes(payload.len() as u64);
        if is_as_written(row, payload) {
            return Vec::new();
        }
        vec![self.lost(
            Lost::Payload,
            Damage::CorruptPayload {
                object: self.object.clone(),
            },
        )]
    }

    /// Returns the damage to the blob of an extent.
    async fn extent(
        &self,
        extent: &Extent,
        key: &RevisionKey,
        checksums: Option<&Bytes>,
    ) -> Option<FoundDamage> {
        let object = self.object.clone();
        let revision = extent.revision;
        let lost = Lost::Blob(revision);
        match self.blobs.verify(&object, extent, key, checksums).await {
            Ok(Blob::Whole) => None,
            Ok(Blob::WithoutChecksums(blocks)) => {
                let action =
                    RepairAction::Repair(object.clone(), Repair::Checksums { revision, blocks });
                Some(FoundDamage {
                    damage: Damage::MissingChecksums { object, revision },
                    policy: RepairPolicy::Safe(action),
                })
            }
            Ok(Blob::Nameless) => Some(FoundDamage {
                damage: Damage::DamagedTrailer { object, revision },
                policy: RepairPolicy::None,
            }),
            Ok(Blob::Missing) => Some(self.lost(lost, Damage::MissingBlob { object, revision })),
            Err(error) if error.kind() == ErrorKind::Corrupt => Some(self.lost(
                lost,
                Damage::CorruptBlob {
                    object,
                    revision,
                    why: error.to_string(),
                },
            )),
            Err(error) => {
                let policy = RepairPolicy::Beyond(RepairAction::Repair(
                    object.clone(),
                    Repair::GiveUp(lost),
                ));
                let damage = Damage::UnreadableBlob {
                    object,
                    revision,
                    why: error.to_string(),
                };
                Some(FoundDamage { damage, policy })
            }
        }
    }

    /// Returns a damage that can be repaired only by giving up the object.
    fn lost(&self, lost: Lost, damage: Damage) -> FoundDamage {
        FoundDamage {
            damage,
            policy: RepairPolicy::Lossy(RepairAction::Repair(
                self.object.clone(),
                Repair::GiveUp(lost),
            )),
        }
    }
}

/// Returns the damage of an object with a known id whose row the index cannot read.
pub(super) fn unreadable_row(object: &ObjectId, error: &Error) -> FoundDamage {
    let damage = Damage::BrokenRow {
        key: RawKey(object.encoded().clone()),
        why: error.to_string(),
    };
    FoundDamage {
        damage,
        policy: RepairPolicy::Lossy(RepairAction::Repair(object.clone(), Repair::RemoveRow)),
    }
}
