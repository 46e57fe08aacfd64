//! The sixth walk: what each part of an open upload names is there, and is what was written.
//!
//! ```text
//! read the part ─> pin its revision ─> one snapshot: session and part again, its block checksums ─> look at the blob
//!                                       it names another: look afresh                                    │ damage?
//!                                                        the part is still there ─> damage               v
//!                                       replaced, completed, aborted, expired ─> none <─ one more look at the part
//! ```
//!
//! Guards I8 towards the sweeper, as the walk over the bytes of objects does. The parts of an
//! upload that has ended are nobody's, or an object's by now. Deliberately not here: how a blob is
//! looked at (`blob.rs`).

use bytes::Bytes;
use futures::stream::{self, StreamExt};

use super::Paged;
use super::blob::{Blob, Blobs};
use super::bytes::Pace;
use super::damage::Damage;
use super::finding::{Cure, Found, Remedy};
use super::report::Tally;
use super::second::{entry, readable};
use crate::decide::{SeenEntry, UploadMend, revision_key};
use crate::error::{ErrorKind, Result};
use crate::id::ObjectId;
use crate::index::{Range, Snapshot, Table};
use crate::multipart::{PartNumber, UploadId};
use crate::read::Reads;
use crate::rows::{
    Filed, Part, Phase, Session, part_key, parts_prefix, read_part_key, read_session_key,
    session_key,
};
use crate::word::RevisionId;

/// Uploads on a page, with all of their parts.
pub(super) const PAGE: usize = 16;
/// Parts read at once.
const PARTS_PAGE: usize = 256;
/// How often a part that is replaced under the scrub's eyes is looked at, before it is left to the
/// next scrub.
const LOOKS_MAX: usize = 16;

/// The bytes of the parts of a page of uploads, some at once.
pub(super) async fn page(reads: &Reads, pace: Pace, range: Range, tally: &Tally) -> Result<Paged> {
    // The walk over sessions and parts has reported what can't be read.
    let sessions = reads
        .index()
        .snapshot()?
        .scan_over(Table::Sessions, range)
        .await?;
    let blobs = Blobs {
        reads,
        tally,
        depth: pace.depth,
    };
    let mut found = Vec::new();
    for (key, value) in &sessions.entries {
        if let Ok((object, upload)) = read_session_key(key)
            && is_open(value, reads)
        {
            let look = Look {
                blobs,
                object: &object,
                upload,
            };
            found.extend(look.parts(pace.at_once).await?);
        }
    }
    Ok((found, sessions.rest))
}

/// Whether a session can be read, and takes parts.
fn is_open(value: &Bytes, reads: &Reads) -> bool {
    Session::decode(value)
        .is_ok_and(|session| session.phase == Phase::Open && session.is_live(reads.now()))
}

/// A look at one upload.
#[derive(Clone, Copy)]
struct Look<'a> {
    blobs: Blobs<'a>,
    object: &'a ObjectId,
    upload: UploadId,
}

impl Look<'_> {
    async fn parts(&self, at_once: usize) -> Result<Vec<Found>> {
        let mut range = Range::prefix(&parts_prefix(&self.upload), PARTS_PAGE);
        let mut found = Vec::new();
        loop {
            let keys = self
                .blobs
                .reads
                .index()
                .snapshot()?
                .keys_over(Table::Sessions, range)
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
            while let Some(one) = looks.next().await {
                found.extend(one?);
            }
            match keys.rest {
                Some(rest) => range = rest,
                None => return Ok(found),
            }
        }
    }

    async fn part(&self, number: PartNumber) -> Result<Option<Found>> {
        let reads = self.blobs.reads;
        for _ in 0..LOOKS_MAX {
            let Some(seen) = self.filed(&*reads.index().snapshot()?, number).await? else {
                return Ok(None);
            };
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
            drop(snapshot);
            let Some(found) = self.check(number, &part, checksums.as_ref()).await else {
                return Ok(None);
            };
            let still = self.filed(&*reads.index().snapshot()?, number).await?;
            return Ok(still
                .filter(|still| still.extent.revision == part.extent.revision)
                .map(|_| found));
        }
        tracing::debug!(object = %self.object, part = %number, "a scrub passes over a part that is replaced again and again");
        Ok(None)
    }

    /// The part, if its upload is open and it can be read.
    async fn filed(&self, snapshot: &dyn Snapshot, number: PartNumber) -> Result<Option<Part>> {
        let session = snapshot
            .get(Table::Sessions, &session_key(self.object, &self.upload))
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
                .get(Table::Sessions, &part_key(&self.upload, number))
                .await,
        )?;
        Ok(value
            .ok()
            .flatten()
            .and_then(|value| Filed::decode(&value).ok())
            .and_then(Filed::part))
    }

    /// What is wrong with a part's blob, if anything is.
    async fn check(
        &self,
        number: PartNumber,
        part: &Part,
        checksums: Option<&Bytes>,
    ) -> Option<Found> {
        let (object, extent) = (self.object.clone(), &part.extent);
        let (revision, begun) = (extent.revision, self.upload.begun());
        let key = revision_key(&object, revision);
        match self.blobs.look(&object, extent, &key, checksums).await {
            Ok(Blob::Whole) => None,
            Ok(Blob::WithoutChecksums(blocks)) => {
                let mend = UploadMend::Checksums {
                    number,
                    revision,
                    blocks,
                };
                let remedy = Remedy::Safe(Cure::MendUpload(object.clone(), self.upload, mend));
                Some(Found {
                    damage: Damage::MissingChecksums { object, revision },
                    remedy,
                })
            }
            Ok(Blob::Nameless) => Some(Found {
                damage: Damage::DamagedTrailer { object, revision },
                remedy: Remedy::None,
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
                let mend = UploadMend::GiveUp {
                    number,
                    named: Some(revision),
                };
                let remedy = Remedy::Beyond(Cure::MendUpload(object.clone(), self.upload, mend));
                let damage = Damage::UnreadableBlob {
                    object,
                    revision,
                    why: error.to_string(),
                };
                Some(Found { damage, remedy })
            }
        }
    }

    /// Damage that only giving the part up removes.
    fn lost(&self, number: PartNumber, revision: RevisionId, damage: Damage) -> Found {
        let mend = UploadMend::GiveUp {
            number,
            named: Some(revision),
        };
        Found {
            damage,
            remedy: Remedy::Lossy(Cure::MendUpload(self.object.clone(), self.upload, mend)),
        }
    }
}
