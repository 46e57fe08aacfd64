//! The decision of a repair: what a shard does about damage to what one object has in the index. Pure.
//!
//! ```text
//! mend         the shard sees                                    one batch
//! ------------ ------------------------------------------------- -----------------------------------------------------
//! Expiry       a row with exactly this deadline                  the expiry entry is put
//!              a row with another one, or no row                 the expiry entry is removed
//! Checksums    a tombstone that names the revision               its block checksums are put
//! Floor        a row                                             the version floor is removed
//!              no row, and a floor that can't be read            the floor is set to what no version has reached
//! Excise       a row that can't be read                          the row is removed, and the floor set likewise
//!              a row that a later build may have written         nothing: it is not damage
//! any          anything else                                     nothing: it has been overtaken
//! ```
//!
//! Guards I3 for repairs: whoever found the damage looked at an earlier state, so the shard looks again, and each batch only
//! restores what belongs to the row that stands. Each is idempotent. Deliberately not here: finding the damage (`scrub`),
//! and giving up an object whose row can be read, which is a delete with a precondition like any other.

use crate::id::ObjectId;
use crate::index::{Batch, Table};
use crate::rows::{BlockChecksums, expiry_key, expiry_value, floor_key, write_floor};
use crate::swap::Standing;
use crate::word::{RevisionId, Timestamp, Version};

/// A repair of what one object has in the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mend {
    /// The expiry entry of this deadline is there exactly if the row has this deadline.
    Expiry {
        /// The deadline.
        deadline: Timestamp,
    },
    /// The block checksums of a revision, learnt anew from bytes that match the checksum of the whole.
    Checksums {
        /// The revision.
        revision: RevisionId,
        /// Its block checksums.
        blocks: BlockChecksums,
    },
    /// The version floor is there exactly if there is no row, and can be read.
    Floor,
    /// A row that can't be read is removed, and its object with it.
    Excise,
}

/// What a shard sees of an object that something is wrong with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing is wrong with its row or floor.
    Whole(Standing),
    /// It has a row that is damaged.
    BrokenRow,
    /// It has no row, and a version floor that is damaged.
    BrokenFloor,
}

/// What a shard must do about a [`Mend`].
#[derive(Clone, Debug, Default)]
pub struct Mending {
    /// What to commit.
    pub batch: Batch,
    /// How the object stands then, if it stands otherwise than before.
    pub next: Option<Standing>,
}

impl Mend {
    /// Decides against what stands; none if there is nothing to do any more.
    pub fn decide(&self, id: &ObjectId, seen: &Seen, now: Timestamp) -> Option<Mending> {
        let mut batch = Batch::new();
        let mut next = None;
        match (self, seen) {
            (Self::Expiry { deadline }, Seen::Whole(standing)) => {
                let key = expiry_key(*deadline, id);
                match standing.row().and_then(|row| row.metadata.expires_at) {
                    Some(expires_at) if expires_at == *deadline => batch.put(Table::Expiry, key, expiry_value()),
                    Some(_) | None => batch.remove(Table::Expiry, key),
                }
            }
            (Self::Expiry { deadline }, Seen::BrokenFloor) => batch.remove(Table::Expiry, expiry_key(*deadline, id)),
            (Self::Checksums { revision, blocks }, Seen::Whole(standing)) => {
                standing.row().filter(|row| row.names(*revision))?;
                batch.put(Table::Payloads, revision.as_bytes().to_vec(), blocks.encode());
            }
            (Self::Floor, Seen::Whole(standing)) => {
                standing.row()?;
                batch.remove(Table::Meta, floor_key(id));
            }
            (Self::Floor, Seen::BrokenFloor) => {
                let floor = unreached(now);
                batch.put(Table::Meta, floor_key(id), write_floor(floor));
                next = Some(Standing::Absent(floor));
            }
            (Self::Excise, Seen::BrokenRow) => {
                let floor = unreached(now);
                batch.remove(Table::Rows, id.encoded().clone());
                batch.put(Table::Meta, floor_key(id), write_floor(floor));
                next = Some(Standing::Absent(floor));
            }
            (Self::Excise, Seen::Whole(_) | Seen::BrokenFloor)
            | (Self::Checksums { .. }, Seen::BrokenRow | Seen::BrokenFloor)
            | (Self::Expiry { .. } | Self::Floor, Seen::BrokenRow) => return None,
        }
        Some(Mending { batch, next })
    }
}

/// A version that an object whose last version is lost has not reached, so that none is ever reused: 1024 for each
/// millisecond since 1970. That takes a million writes a second to this one object, ever since; and should it be lost a
/// second time, a million a second since the first.
pub fn unreached(now: Timestamp) -> Version {
    Version::new(now.as_millis().saturating_mul(1024).clamp(1 << 32, 1 << 62))
}

#[cfg(test)]
#[path = "mend_tests.rs"]
mod tests;
