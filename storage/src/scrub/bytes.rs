//! The fifth walk: what each row names is there, and is what was written.
//!
//! ```text
//! read the row ─> pin its revisions ─> one snapshot: the row again, its payload or block checksums ─> read and compare
//!                                       it names others: look afresh
//! ```
//!
//! Guards I8 towards the sweeper: what is pinned before the second look is not swept under a scrub,
//! so that a blob that is missing then is lost. Bytes come through the fetcher of all reads, within
//! their budget. An object that has expired is absent, and is passed over. Deliberately not here:
//! how a blob is looked at (`blob.rs`).

use bytes::Bytes;
use futures::stream::{self, StreamExt};

use super::blob::{Blob, Blobs};
use super::damage::{Damage, RawKey};
use super::finding::{Cure, Found, Remedy};
use super::report::Tally;
use super::second::{contains, entry, readable};
use super::{Paged, ScrubDepth};
use crate::decide::{Lost, Mend, SeenEntry, is_as_written};
use crate::error::{Error, ErrorKind, Result};
use crate::id::ObjectId;
use crate::index::{Range, Snapshot, Table};
use crate::pins::Pin;
use crate::read::Reads;
use crate::rows::{Body, Extent, Row};
use crate::word::RevisionKey;

/// Objects on a page.
pub(super) const PAGE: usize = 256;
/// How often a row that is replaced under the scrub's eyes is looked at, before it is left to the
/// next scrub.
const LOOKS_MAX: usize = 16;

/// How the bytes are looked at.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    pub(super) depth: ScrubDepth,
    pub(super) at_once: usize,
}

/// The bytes of a page of objects, some at once.
pub(super) async fn page(reads: &Reads, pace: Pace, range: Range, tally: &Tally) -> Result<Paged> {
    // The walk over the rows has reported what can't be read.
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
        Look {
            reads,
            blobs: Blobs {
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
    while let Some(one) = looks.next().await {
        found.extend(one?);
        tally.object_done();
    }
    Ok((found, page.rest))
}

/// A look at one object.
struct Look<'a> {
    reads: &'a Reads,
    blobs: Blobs<'a>,
    object: ObjectId,
}

/// An object's row, what belongs to it, and the pins that keep its blobs.
struct Sight {
    row: Row,
    belongings: Vec<SeenEntry<Bytes>>,
    _pins: Vec<Pin>,
}

impl Look<'_> {
    async fn object(&self) -> Result<Vec<Found>> {
        for _ in 0..LOOKS_MAX {
            let seen = match readable(self.row(None).await)? {
                Ok(Some(seen)) => seen,
                Ok(None) => return Ok(Vec::new()),
                Err(error) => return Ok(vec![unreadable_row(&self.object, &error)]),
            };
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
                    drop(snapshot);
                    return self
                        .check(Sight {
                            row,
                            belongings,
                            _pins: pins,
                        })
                        .await;
                }
                Ok(Some(_)) => {}
            }
        }
        tracing::debug!(object = %self.object, "a scrub passes over an object that is replaced again and again");
        Ok(Vec::new())
    }

    /// The row of an object that exists and whose row can be read.
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

    /// What belongs to the row in the payload table. Of an inline payload that need not be read, an
    /// empty value.
    async fn belongings(
        &self,
        snapshot: &dyn Snapshot,
        row: &Row,
    ) -> Result<Vec<SeenEntry<Bytes>>> {
        let mut values = Vec::new();
        for key in row.belongings() {
            values.push(match (&row.body, self.blobs.depth) {
                (Body::Separate(_), ScrubDepth::Presence) => {
                    match contains(snapshot, Table::Payloads, &key).await? {
                        SeenEntry::Absent => SeenEntry::Absent,
                        SeenEntry::Broken => SeenEntry::Broken,
                        SeenEntry::Whole(()) => SeenEntry::Whole(Bytes::new()),
                    }
                }
                (Body::Separate(_), ScrubDepth::Bytes)
                | (Body::Embedded(_) | Body::Tombstone(_), _) => {
                    entry(snapshot, Table::Payloads, &key).await?
                }
            });
        }
        Ok(values)
    }

    async fn check(&self, sight: Sight) -> Result<Vec<Found>> {
        let row = &sight.row;
        match &row.body {
            Body::Embedded(payload) => Ok(self.inline(row, payload)),
            Body::Separate(_) => Ok(match sight.belongings.first() {
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
            Body::Tombstone(manifest) => {
                let mut found = Vec::new();
                for ((extent, key), checksums) in manifest
                    .extents()
                    .iter()
                    .zip(manifest.keys(&self.object))
                    .zip(&sight.belongings)
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

    fn inline(&self, row: &Row, payload: &Bytes) -> Vec<Found> {
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

    /// What is wrong with one extent's blob, if anything is.
    async fn extent(
        &self,
        extent: &Extent,
        key: &RevisionKey,
        checksums: Option<&Bytes>,
    ) -> Option<Found> {
        let (object, revision) = (self.object.clone(), extent.revision);
        let lost = Lost::Blob(revision);
        match self.blobs.look(&object, extent, key, checksums).await {
            Ok(Blob::Whole) => None,
            Ok(Blob::WithoutChecksums(blocks)) => {
                let cure = Cure::Mend(object.clone(), Mend::Checksums { revision, blocks });
                Some(Found {
                    damage: Damage::MissingChecksums { object, revision },
                    remedy: Remedy::Safe(cure),
                })
            }
            Ok(Blob::Nameless) => Some(Found {
                damage: Damage::DamagedTrailer { object, revision },
                remedy: Remedy::None,
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
                let remedy = Remedy::Beyond(Cure::Mend(object.clone(), Mend::GiveUp(lost)));
                let damage = Damage::UnreadableBlob {
                    object,
                    revision,
                    why: error.to_string(),
                };
                Some(Found { damage, remedy })
            }
        }
    }

    /// Damage that only giving the object up removes.
    fn lost(&self, lost: Lost, damage: Damage) -> Found {
        Found {
            damage,
            remedy: Remedy::Lossy(Cure::Mend(self.object.clone(), Mend::GiveUp(lost))),
        }
    }
}

/// An object that is known by name, and whose row the index can't read.
pub(super) fn unreadable_row(object: &ObjectId, error: &Error) -> Found {
    let damage = Damage::BrokenRow {
        key: RawKey(object.encoded().clone()),
        why: error.to_string(),
    };
    Found {
        damage,
        remedy: Remedy::Lossy(Cure::Mend(object.clone(), Mend::Excise)),
    }
}
