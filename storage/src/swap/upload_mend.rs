//! The decision of a repair to an upload: what a shard does about damage to a session or its parts.
//! Pure.
//!
//! ```text
//! mend         the shard sees                                    one batch
//! ------------ ------------------------------------------------- -----------------------------------------------------
//! Expiry       a session with exactly this deadline, no entry    the expiry entry is put
//!              a session with another one, or none, and an entry the expiry entry is removed
//! Excise       a session that can't be read                      it is removed, and its parts with it: orphans
//! GiveUp       an open session, and under the number what was    the number is marked as lost; the part's revision: orphan
//!              found: a part of this revision, or one that
//!              can't be read
//! Checksums    an open session, and a part of this revision      its block checksums are put
//!              whose checksums are not there
//! any          anything else                                     nothing: not confirmed
//! ```
//!
//! Guards I3 for repairs, as `mend.rs` does for rows. What a part that can't be read names is left
//! to the walks behind it: they find block checksums and a blob that nothing names. Deliberately
//! not here: finding the damage (`scrub`).

use std::collections::BTreeMap;

use bytes::Bytes;

use super::mend::hold_checksums;
use super::{revision_key, session};
use crate::id::ObjectId;
use crate::index::{Batch, Table};
use crate::multipart::{PartNumber, UploadId};
use crate::rows::{
    BlockChecksums, Filed, Part, Phase, Session, check_expiry_value, expiry_value, part_key,
    session_expiry_key, session_key,
};
use crate::word::{RevisionId, Timestamp};

/// A repair of what one upload has in the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UploadMend {
    /// The expiry entry of this deadline is there exactly if the session has this deadline.
    Expiry {
        /// The deadline.
        deadline: Timestamp,
    },
    /// A session that can't be read is removed, and its parts are given up.
    Excise,
    /// A part is given up. Its number stays marked, so that no completion passes it over before it
    /// is uploaded again.
    GiveUp {
        /// Which one.
        number: PartNumber,
        /// The revision that it named; none if it can't be read.
        named: Option<RevisionId>,
    },
    /// The block checksums of a part, learnt anew from bytes that match the checksum of the whole.
    Checksums {
        /// Which one.
        number: PartNumber,
        /// Its revision.
        revision: RevisionId,
        /// Its block checksums.
        blocks: BlockChecksums,
    },
}

/// What a shard sees under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeenEntry<T> {
    /// Nothing.
    Absent,
    /// Something that can't be read.
    Broken,
    /// This.
    Whole(T),
}

/// What a shard sees of an upload that something is wrong with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenUpload {
    /// Its session.
    pub session: SeenEntry<Session>,
    /// What is filed as its parts, as far as the mend needs it.
    pub parts: BTreeMap<PartNumber, SeenEntry<Filed>>,
    /// The durable value of the key that [`UploadMend::reads`] gives.
    pub entry: SeenEntry<Bytes>,
    /// True if a batch about the session or the part is on its way to the disk. `entry` may then be
    /// older than the rest.
    pub is_pending: bool,
}

impl UploadMend {
    /// The key whose value the decision needs beside session and parts; none if these are enough.
    pub fn reads(&self, id: &ObjectId, upload: &UploadId) -> Option<(Table, Bytes)> {
        match self {
            Self::Expiry { deadline } => {
                Some((Table::Expiry, session_expiry_key(*deadline, id, upload)))
            }
            Self::Checksums { revision, .. } => {
                Some((Table::Payloads, Bytes::copy_from_slice(revision.as_bytes())))
            }
            Self::Excise | Self::GiveUp { .. } => None,
        }
    }

    /// Decides against the newest state: what to commit, or none if the damage is not confirmed.
    pub fn decide(
        &self,
        id: &ObjectId,
        upload: &UploadId,
        seen: &SeenUpload,
        now: Timestamp,
    ) -> Option<Batch> {
        let mut batch = Batch::new();
        match (self, &seen.session) {
            (Self::Expiry { .. } | Self::Checksums { .. }, _) if seen.is_pending => return None,
            (Self::Expiry { deadline }, SeenEntry::Whole(session))
                if session.expires_at == *deadline =>
            {
                if let SeenEntry::Whole(value) = &seen.entry
                    && check_expiry_value(value).is_ok()
                {
                    return None;
                }
                batch.put(
                    Table::Expiry,
                    session_expiry_key(*deadline, id, upload),
                    expiry_value(),
                );
            }
            (Self::Expiry { deadline }, SeenEntry::Whole(_) | SeenEntry::Absent) => {
                if seen.entry == SeenEntry::Absent {
                    return None;
                }
                batch.remove(Table::Expiry, session_expiry_key(*deadline, id, upload));
            }
            (Self::Excise, SeenEntry::Broken) => {
                batch.remove(Table::Sessions, session_key(id, upload));
                for &number in seen.parts.keys() {
                    batch.remove(Table::Sessions, part_key(upload, number));
                }
                for part in seen.parts.values().filter_map(whole_part) {
                    session::give_up(&mut batch, &[revision_key(id, part.extent.revision)], now);
                }
            }
            (Self::GiveUp { number, named }, SeenEntry::Whole(session))
                if session.phase == Phase::Open =>
            {
                let entry = seen.parts.get(number)?;
                match (named, whole_part(entry)) {
                    (None, _) if *entry == SeenEntry::Broken => {}
                    (Some(named), Some(part)) if part.extent.revision == *named => {
                        session::give_up(&mut batch, &[revision_key(id, *named)], now);
                    }
                    (None | Some(_), _) => return None,
                }
                batch.put(
                    Table::Sessions,
                    part_key(upload, *number),
                    Filed::Lost.encode(),
                );
            }
            (
                Self::Checksums {
                    number,
                    revision,
                    blocks,
                },
                SeenEntry::Whole(session),
            ) if session.phase == Phase::Open && !hold_checksums(&seen.entry, blocks) => {
                seen.parts
                    .get(number)
                    .and_then(whole_part)
                    .filter(|part| part.extent.revision == *revision)?;
                batch.put(
                    Table::Payloads,
                    revision.as_bytes().to_vec(),
                    blocks.encode(),
                );
            }
            (Self::Expiry { .. }, SeenEntry::Broken)
            | (Self::Excise, SeenEntry::Whole(_) | SeenEntry::Absent)
            | (Self::GiveUp { .. } | Self::Checksums { .. }, _) => return None,
        }
        Some(batch)
    }
}

fn whole_part(entry: &SeenEntry<Filed>) -> Option<Part> {
    match entry {
        SeenEntry::Whole(filed) => filed.part(),
        SeenEntry::Absent | SeenEntry::Broken => None,
    }
}

#[cfg(test)]
#[path = "upload_mend_tests.rs"]
mod tests;
