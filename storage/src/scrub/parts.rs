//! Walk 6: the blob that each part of an open upload names exists and is intact.
//!
//! ```text
//! 1. read the part
//! 2. pin its revision
//! 3. one snapshot: upload record, part, block checksums    the revision has changed: back to 1
//! 4. verify the blob                                       intact: end
//! 5. read the part again                                   it still names the revision: damage
//!                                                          replaced, or the upload has ended: none
//! ```
//!
//! Guards I8 against the sweeper, like the walk over the bytes of objects. Parts of an ended upload
//! are skipped: they belong to no object, or already to an object. The verification of a blob is in
//! `blob.rs`.

use bytes::Bytes;
use futures::stream::{self, StreamExt};

use super::Paged;
use super::blob::{Blob, ScrubbedTier};
use super::bytes::ScrubPace;
use super::damage::Damage;
use super::finding::{FoundDamage, RepairAction, RepairPolicy};
use super::report::ScrubTally;
use super::second::{entry, readable};
use crate::decide::{SeenEntry, UploadRepair, revision_key};
use crate::index::{Range, Snapshot, Table};
use crate::read::Reads;
use crate::records::{
    Filed, Part, UploadPhase, UploadRecord, decode_upload_record_key, part_key, parts_prefix,
    read_part_key, upload_record_key,
};
use crate::types::{ErrorKind, ObjectId, PartNumber, Result, RevisionId, UploadId};

/// Uploads per page, each with all of its parts.
pub(super) const PAGE: usize = 16;
/// Parts per read.
const PARTS_PAGE: usize = 256;
/// Maximum number of attempts for a part that is replaced during the scrub. After them the next
/// scrub verifies the part.
const LOOKS_MAX: usize = 16;

/// Verifies the blobs of all parts of a page of uploads, several at a time.
pub(super) async fn page(
    reads: &Reads,
    pace: ScrubPace,
    range: Range,
    tally: &ScrubTally,
) -> Result<Paged> {
    // The walk over uploads has reported the unreadable entries.
    let sessions = reads
        .index()
        .snapshot()?
        .scan_over(Table::Uploads, range)
        .await?;
    let blobs = ScrubbedTier {
        reads,
        tally,
        depth: pace.depth,
    };
    let mut found = Vec::new();
    for (key, value) in &sessions.entries {
        if let Ok((object, upload)) = decode_upload_record_key(key)
            // An ended upload has no parts, or its parts belong to an object already.
            && is_open(value, reads)
        {
            let look = UploadCheck {
                blobs,
                object: &object,
                upload,
            };
            found.extend(look.parts(pace.at_once).await?);
        }
    }
    Ok((found, sessions.rest))
}

/// Returns whether an upload record is readable and its upload accepts parts.
fn is_open(value: &Bytes, reads: &Reads) -> bool {
    UploadRecord::decode(value)
        .is_ok_and(|session| session.phase == UploadPhase::Open && session.is_live(reads.now()))
}

/// Verification of an upload.
#[derive(Clone, Copy)]
struct UploadCheck<'a> {
    blobs: ScrubbedTier<'a>,
    object: &'a ObjectId,
    upload: UploadId,
}

impl UploadCheck<'_> {
    /// Verifies the blobs of all parts of the upload.
    async fn parts(&self, at_once: usize) -> Result<Vec<FoundDamage>> {
        let mut range = Range::prefix(&parts_prefix(&self.upload), PARTS_PAGE);
        let mut found = Vec::new();
        loop {
            let keys = self
                .blobs
                .reads
                .index()
                .snapshot()?
                .keys_over(Table::Uploads, range)
                .await?;
            let numbers: Vec<_> = keys
                .entries
                .iter()
                .filter_map(|key| read_part_key(key).ok())
                .map(|(_, at)| at)
                .collect();
            let mut looks = stream::iter(numbers)
                .map(|number| self.part(number))
                .buffered(at_once);
            while let Some(damage) = looks.next().await {
                found.extend(damage?);
            }
            match keys.rest {
                Some(rest) => range = rest,
                None => return Ok(found),
            }
        }
    }

    /// Verifies the blob of a part, by the steps in the module documentation.
    async fn part(&self, number: PartNumber) -> Result<Option<FoundDamage>> {
        let reads = self.blobs.reads;
        for _ in 0..LOOKS_MAX {
            let Some(seen) = self.filed(&*reads.index().snapshot()?, number).await? else {
                return Ok(None);
            };
            // Pinned before the second read: if the part still names the revision then, the sweeper
            // has not deleted the blob.
            let _pin = reads.pin(seen.extent.revision);
            let snapshot = reads.index().snapshot()?;
            let Some(part) = self.filed(&*snapshot, number).await? else {
                return Ok(None);
            };
            if part.extent.revision != seen.extent.revision {
                continue;
            }
            let checksums =
                match entry(&*snapshot, Table::Payloads, part.extent.revision.as_bytes()).await? {
                    SeenEntry::Whole(value) => Some(value),
                    SeenEntry::Absent | SeenEntry::Broken => None,
                };
            // A held snapshot keeps old versions in the index, and the blob may be large.
            drop(snapshot);
            let Some(found) = self.check(number, &part, checksums.as_ref()).await else {
                return Ok(None);
            };
            // The upload may have ended during the verification, and its blobs with it.
            let still = self.filed(&*reads.index().snapshot()?, number).await?;
            return Ok(still
                .filter(|still| still.extent.revision == part.extent.revision)
                .map(|_| found));
        }
        tracing::debug!(
            object = %self.object,
            part = %number,
            "the scrub skips a part that is replaced repeatedly"
        );
        Ok(None)
    }

    /// Returns the part if it is readable and its upload is open.
    async fn filed(&self, snapshot: &dyn Snapshot, number: PartNumber) -> Result<Option<Part>> {
        let session = snapshot
            .get(
                Table::Uploads,
                &upload_record_key(self.object, &self.upload),
            )
            .await;
        if !readable(session)?
            .ok()
            .flatten()
            .is_some_and(|value| is_open(&value, self.blobs.reads))
        {
            return Ok(None);
        }
        let value = readable(
            snapshot
                .get(Table::Uploads, &part_key(&self.upload, number))
                .await,
        )?;
        Ok(value
            .ok()
            .flatten()
            .and_then(|value| Filed::decode(&value).ok())
            .and_then(Filed::part))
    }

    /// Returns the damage to the blob of a part.
    async fn check(
        &self,
        number: PartNumber,
        part: &Part,
        checksums: Option<&Bytes>,
    ) -> Option<FoundDamage> {
        let object = self.object.clone();
        let extent = &part.extent;
        let revision = extent.revision;
        let begun = self.upload.begun();
        let key = revision_key(&object, revision);
        match self.blobs.verify(&object, extent, &key, checksums).await {
            Ok(Blob::Whole) => None,
            Ok(Blob::WithoutChecksums(blocks)) => {
                let repair = UploadRepair::Checksums {
                    number,
                    revision,
                    blocks,
                };
                let policy = RepairPolicy::Safe(RepairAction::RepairUpload(
                    object.clone(),
                    self.upload,
                    repair,
                ));
                Some(FoundDamage {
                    damage: Damage::MissingChecksums { object, revision },
                    policy,
                })
            }
            Ok(Blob::Nameless) => Some(FoundDamage {
                damage: Damage::DamagedTrailer { object, revision },
                policy: RepairPolicy::None,
            }),
            Ok(Blob::Missing) => Some(self.lost(
                number,
                revision,
                Damage::MissingPart {
                    object,
                    begun,
                    part: number,
                    revision,
                },
            )),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                let why = error.to_string();
                let damage = Damage::CorruptPart {
                    object,
                    begun,
                    part: number,
                    revision,
                    why,
                };
                Some(self.lost(number, revision, damage))
            }
            Err(error) => {
                let repair = UploadRepair::GiveUp {
                    number,
                    named: Some(revision),
                };
                let policy = RepairPolicy::Beyond(RepairAction::RepairUpload(
                    object.clone(),
                    self.upload,
                    repair,
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

    /// Returns a damage that can be repaired only by giving up the part.
    fn lost(&self, number: PartNumber, revision: RevisionId, damage: Damage) -> FoundDamage {
        let repair = UploadRepair::GiveUp {
            number,
            named: Some(revision),
        };
        FoundDamage {
            damage,
            policy: RepairPolicy::Lossy(RepairAction::RepairUpload(
                self.object.clone(),
                self.upload,
                repair,
            )),
        }
    }
}
