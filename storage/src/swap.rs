//! The decisions: what a write does to a row. Pure functions, called by the shards, by recovery, and by whoever checks
//! them.
//!
//! ```text
//! swap                     the shard sees                        outcome
//! ------------------------ ------------------------------------- --------------------------------------------------
//! Inline                   anything                              Applied; a replaced tombstone's revisions: orphans
//! Tombstone, change gone   anything                              Fenced: never commits (I6)
//! Tombstone, change live   what the upload saw when it began     Applied; settles the change; replaced: orphans
//!                          a tombstone it did not see            Superseded; settles the change; its own: orphan
//!                          no tombstone, but it saw one          Superseded, the same
//! Delete                   a row                                 Applied; floor kept; its revisions: orphans
//!                          no row                                Absent
//! any                      its own operation in the row          Already: the same version and etag again
//! ```
//!
//! Guards I3 (everything that a swap changes is in the one batch that [`Swap::batch`] makes), I6 and the idempotence of
//! `compare_and_write`. Deliberately not here: who calls, in which order, and what has become durable.

use bytes::Bytes;

use crate::checksum::Checksum;
use crate::id::ObjectId;
use crate::index::{Batch, Table};
use crate::rows::{
    Attributes, BlockChecksums, Body, Change, EMBEDDED_BYTES_MAX, Landing, Manifest, Metadata, Orphan, Row, floor_key,
    write_floor,
};
use crate::word::{Etag, OperationId, RevisionId, RevisionKey, Timestamp, Version};

/// What became of a write.
///
/// ```
/// # use cenotaph_storage::swap::{Outcome, Written};
/// fn is_visible(written: &Written) -> bool {
///     match written.outcome {
///         Outcome::Applied => true,
///         Outcome::Superseded => false, // another write to the object counts as the later one
///     }
/// }
/// # let written = Written { outcome: Outcome::Superseded, version: None, etag: None, created: false };
/// # assert!(!is_visible(&written));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is the object's newest version, or was when it committed.
    Applied,
    /// A large put whose object changed its tombstone, or got or lost one, while the put was under way: it counts as
    /// overwritten the moment it was made. Nothing of it is visible, and it leaves nothing behind. Not an error.
    Superseded,
}

/// The answer to a write, from the write itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// What became of it.
    pub outcome: Outcome,
    /// The version it committed; none if it was superseded.
    pub version: Option<Version>,
    /// The etag of that version; none if it was superseded.
    pub etag: Option<Etag>,
    /// Whether the object was absent before.
    pub created: bool,
}

/// The answer to a delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// Whether there was an object to delete.
    pub existed: bool,
}

/// What a shard knows of an object: its row, or the last version that it had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It exists.
    Present(Box<Row>),
    /// It does not; it last had this version ([`Version::NONE`] if it never existed).
    Absent(Version),
}

impl Standing {
    /// The row, if it exists.
    pub fn row(&self) -> Option<&Row> {
        match self {
            Self::Present(row) => Some(row),
            Self::Absent(_) => None,
        }
    }

    /// The last version that the object had.
    pub fn version(&self) -> Version {
        match self {
            Self::Present(row) => row.version,
            Self::Absent(floor) => *floor,
        }
    }

    /// What an upload that begins now will expect to find when it commits.
    pub fn expectation(&self) -> Expected {
        match self.row().map(|row| &row.body) {
            Some(Body::Tombstone(manifest)) => Expected::Tombstone(manifest.revisions().next()),
            Some(Body::Embedded(_) | Body::Separate) | None => Expected::NoTombstone,
        }
    }
}

/// Which row a tombstone means to replace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// No tombstone: no row, or an inline one.
    NoTombstone,
    /// The tombstone whose first revision this is.
    Tombstone(Option<RevisionId>),
}

/// What a swap makes of the row.
#[derive(Clone, Debug)]
pub enum Mutation {
    /// An inline row with this payload.
    Inline {
        /// The payload.
        payload: Bytes,
        /// What the caller stated about it.
        attributes: Attributes,
    },
    /// A tombstone that names finished, durable revisions (I2). The change it settles has the swap's operation as its
    /// id.
    Tombstone {
        /// The revisions.
        manifest: Manifest,
        /// Checksum of the whole payload.
        checksum: Option<Checksum>,
        /// Their block checksums, in the same order.
        blocks: Vec<BlockChecksums>,
        /// What the caller stated about it.
        attributes: Attributes,
        /// What the upload saw when it began.
        expected: Expected,
    },
    /// No row.
    Delete,
}

/// One compare-and-swap on one row.
#[derive(Clone, Debug)]
pub struct Swap {
    /// The object.
    pub id: ObjectId,
    /// The operation; the same for every repetition of the same swap.
    pub operation: OperationId,
    /// What it makes of the row.
    pub mutation: Mutation,
}

/// What a shard must do about a [`Swap`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Commit it: the object then stands so. What the old row named and the new one does not is listed.
    Commit {
        /// The object afterwards.
        next: Standing,
        /// Revisions that become orphans.
        orphans: Vec<RevisionId>,
        /// Whether there was a row before.
        existed: bool,
    },
    /// Settle its change and make its own revisions orphans; the row stays.
    Supersede {
        /// Its own revisions.
        orphans: Vec<RevisionId>,
    },
    /// It has been committed before: answer the same again.
    Already,
    /// A delete of what is not there: nothing to do.
    Absent,
    /// Its change is no longer live: it must never commit (I6).
    Fenced,
}

impl Swap {
    /// Decides against what stands. `change_is_live` matters to tombstones only.
    pub fn decide(&self, standing: &Standing, change_is_live: bool, now: Timestamp) -> Decision {
        if standing.row().is_some_and(|row| row.operation == self.operation) {
            return Decision::Already;
        }
        let existed = standing.row().is_some();
        match &self.mutation {
            Mutation::Inline { payload, attributes } => {
                let body =
                    if payload.len() <= EMBEDDED_BYTES_MAX { Body::Embedded(payload.clone()) } else { Body::Separate };
                let checksum = Some(Checksum::of(payload));
                let row = self.row(standing, body, payload.len() as u64, checksum, attributes, now);
                Decision::Commit {
                    orphans: orphans(standing, Some(&row)),
                    next: Standing::Present(Box::new(row)),
                    existed,
                }
            }
            Mutation::Tombstone { .. } if !change_is_live => Decision::Fenced,
            Mutation::Tombstone { manifest, expected, .. } if standing.expectation() != *expected => {
                Decision::Supersede { orphans: manifest.revisions().collect() }
            }
            Mutation::Tombstone { manifest, checksum, attributes, .. } => {
                let size = manifest.extents.iter().map(|extent| extent.bytes).sum();
                let body = Body::Tombstone(manifest.clone());
                let row = self.row(standing, body, size, *checksum, attributes, now);
                Decision::Commit {
                    orphans: orphans(standing, Some(&row)),
                    next: Standing::Present(Box::new(row)),
                    existed,
                }
            }
            Mutation::Delete if existed => Decision::Commit {
                next: Standing::Absent(standing.version()),
                orphans: orphans(standing, None),
                existed,
            },
            Mutation::Delete => Decision::Absent,
        }
    }

    fn row(
        &self,
        standing: &Standing,
        body: Body,
        size: u64,
        checksum: Option<Checksum>,
        attributes: &Attributes,
        now: Timestamp,
    ) -> Row {
        let created = standing.row().map_or(now, |row| row.metadata.created);
        Row {
            version: standing.version().next(),
            operation: self.operation,
            metadata: Metadata { size, checksum, created, modified: now, attributes: attributes.clone() },
            body,
        }
    }

    /// The one atomic batch that carries out a decision (I3); empty if there is nothing to carry out.
    pub fn batch(&self, standing: &Standing, decision: &Decision, now: Timestamp) -> Batch {
        let mut batch = Batch::new();
        match decision {
            Decision::Commit { next, orphans, .. } => {
                self.put_row(&mut batch, standing, next);
                self.settle(&mut batch, orphans, now);
            }
            Decision::Supersede { orphans } => self.settle(&mut batch, orphans, now),
            Decision::Already | Decision::Absent | Decision::Fenced => {}
        }
        batch
    }

    fn put_row(&self, batch: &mut Batch, standing: &Standing, next: &Standing) {
        for revision in standing.row().map(Row::revisions).unwrap_or_default() {
            batch.remove(Table::Payloads, revision.as_bytes().to_vec());
        }
        if let Some(Row { body: Body::Separate, operation, .. }) = standing.row() {
            batch.remove(Table::Payloads, operation.as_bytes().to_vec());
        }
        match next {
            Standing::Present(row) => batch.put(Table::Rows, self.id.encoded().clone(), row.encode()),
            Standing::Absent(floor) => {
                batch.remove(Table::Rows, self.id.encoded().clone());
                batch.put(Table::Meta, floor_key(&self.id), write_floor(*floor));
            }
        }
        if let (Standing::Present(_), Standing::Absent(floor)) = (next, standing)
            && *floor != Version::NONE
        {
            batch.remove(Table::Meta, floor_key(&self.id));
        }
        match &self.mutation {
            Mutation::Inline { payload, .. } if payload.len() > EMBEDDED_BYTES_MAX => {
                batch.put(Table::Payloads, self.operation.as_bytes().to_vec(), payload.clone());
            }
            Mutation::Tombstone { manifest, blocks, .. } => {
                for (revision, blocks) in manifest.revisions().zip(blocks) {
                    batch.put(Table::Payloads, revision.as_bytes().to_vec(), blocks.encode());
                }
            }
            Mutation::Inline { .. } | Mutation::Delete => {}
        }
    }

    fn settle(&self, batch: &mut Batch, orphans: &[RevisionId], now: Timestamp) {
        if let Mutation::Tombstone { .. } = self.mutation {
            batch.remove(Table::Changes, self.operation.as_bytes().to_vec());
        }
        put_orphans(batch, &self.id, orphans, now, Landing::Landed);
    }
}

/// The revisions that `standing` names and `next` does not.
pub fn orphans(standing: &Standing, next: Option<&Row>) -> Vec<RevisionId> {
    let named = standing.row().map(Row::revisions).unwrap_or_default();
    named.into_iter().filter(|&revision| next.is_none_or(|row| !row.names(revision))).collect()
}

/// Fences a dead change (I6): the batch removes it, after which it can never commit, and makes orphans of those of its
/// revisions that the row does not name. Trusts the row alone. Nobody knows how far its write had got, so what it wrote
/// may still land.
pub fn fence(change_id: OperationId, change: &Change, standing: &Standing, now: Timestamp) -> Batch {
    let mut batch = Batch::new();
    batch.remove(Table::Changes, change_id.as_bytes().to_vec());
    put_orphans(&mut batch, &change.object, &fence_orphans(change, standing), now, Landing::MayLand);
    batch
}

/// The revisions of a dead change that the row does not name.
pub fn fence_orphans(change: &Change, standing: &Standing) -> Vec<RevisionId> {
    let named = |revision: RevisionId| standing.row().is_some_and(|row| row.names(revision));
    change.revisions.iter().copied().filter(|&revision| !named(revision)).collect()
}

/// The batch that records a change (I1).
pub fn record(change_id: OperationId, change: &Change) -> Batch {
    let mut batch = Batch::new();
    batch.put(Table::Changes, change_id.as_bytes().to_vec(), change.encode());
    batch
}

fn put_orphans(batch: &mut Batch, id: &ObjectId, revisions: &[RevisionId], now: Timestamp, landing: Landing) {
    for revision in revisions {
        let orphan = Orphan::new(id.clone(), now, landing);
        batch.put(Table::Orphans, revision.as_bytes().to_vec(), orphan.encode());
    }
}

/// The key under which the blob tier knows a revision that a row of `id` names.
pub fn revision_key(id: &ObjectId, revision: RevisionId) -> RevisionKey {
    RevisionKey { object: id.clone(), revision }
}

#[cfg(test)]
#[path = "swap_tests.rs"]
mod tests;
