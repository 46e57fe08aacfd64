//! The decisions: what a write does to a row. Pure functions, called by the shards, by recovery,
//! and by whoever checks them.
//!
//! ```text
//! swap                     the shard sees                        outcome
//! ------------------------ ------------------------------------- --------------------------------------------------
//! any                      its own operation in the row          Already: the same version and etag again
//! Tombstone, change gone   anything                              Fenced: never commits (I6)
//! any, with precondition   it does not hold                      Conflict; a tombstone's change is settled, its own
//!                                                                revisions: orphans
//! Inline                   anything                              Commit; a replaced tombstone's revisions: orphans
//! Tombstone                what the upload saw when it began     Commit; settles the change; replaced: orphans
//!  without precondition    a tombstone it did not see            Superseded; settles the change; its own: orphan
//!                          no tombstone, but it saw one          Superseded, the same; if that one has expired: Commit
//! Delete                   a row                                 Commit; floor kept; its revisions: orphans
//!                          no row                                Absent
//! Amend, Extend            a live row                            Commit; the bytes stay where they are
//!                          none                                  Absent
//! Touch                    the live row that was read, idle      Commit; only its deadline changes
//!                          anything else                         Unchanged
//! Expire                   an expired row                        Commit; as a delete
//!                          anything else                         Unchanged
//! ```
//!
//! An expired row counts as none, but what it names still becomes orphans with it. Guards I3
//! (everything that a swap changes is in the one batch that [`Swap::batch`] makes), I6 and the
//! idempotence of `compare_and_write`. Deliberately not here: who calls, in which order, and what
//! has become durable.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::checksum::Checksum;
use crate::error::Result;
use crate::id::ObjectId;
use crate::index::{Batch, Table};
use crate::rows::{
    Amendment, Attributes, BlockChecksums, Body, Change, EMBEDDED_BYTES_MAX, Extension, Landing,
    Manifest, Metadata, Row,
};
use crate::word::{Current, Etag, OperationId, RevisionId, RevisionKey, Timestamp, Version};

mod mend;
mod parts;
mod precondition;
mod rename;
mod session;
mod transition;
mod upload_mend;

pub(crate) use mend::is_as_written;
pub use mend::{Lost, Mend, Mending, Seen, Sight, excise, unreached};
pub use parts::{PartRules, Selection};
pub use precondition::Precondition;
pub use rename::{Rename, RenameDecision};
pub use session::{SessionMutation, SessionSwap, SessionView, Verdict};
use transition::Transition;
pub use upload_mend::{SeenEntry, SeenUpload, UploadMend};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It is the object's newest version, or was when it committed.
    Applied,
    /// A large put whose object changed its tombstone, or got or lost one, while the put was under
    /// way: it counts as overwritten the moment it was made. Nothing of it is visible, and it
    /// leaves nothing behind. Not an error.
    Superseded,
}

/// The answer to a write, from the write itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// It has a row, which may have expired.
    Present(Box<Row>),
    /// It does not; it last had this version ([`Version::NONE`] if it never existed).
    Absent(Version),
}

impl Standing {
    /// The row, if the object exists at `now`: one that has expired does not.
    pub fn live(&self, now: Timestamp) -> Option<&Row> {
        self.row().filter(|row| row.is_live(now))
    }

    /// The row, expired or not.
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
    pub fn expectation(&self, now: Timestamp) -> Expected {
        match self
            .live(now)
            .map(|row| (&row.body, row.metadata.expires_at))
        {
            Some((Body::Tombstone(manifest), expires_at)) => Expected::Tombstone {
                first: manifest.revisions().next(),
                expires_at,
            },
            Some((Body::Embedded(_) | Body::Separate(_), _)) | None => Expected::NoTombstone,
        }
    }
}

/// Which row a tombstone means to replace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// No live tombstone: no row, an inline one, or an expired one.
    NoTombstone,
    /// The tombstone whose first revision this is, and which expires then.
    Tombstone {
        /// Its first revision.
        first: Option<RevisionId>,
        /// Its deadline, as it was seen.
        expires_at: Option<Timestamp>,
    },
}

impl Expected {
    /// Whether the object still stands as expected. That it has expired since is nobody's write.
    fn is_met(self, standing: &Standing, now: Timestamp) -> bool {
        let first = |row: Option<&Row>| match row.map(|row| &row.body) {
            Some(Body::Tombstone(manifest)) => Some(manifest.revisions().next()),
            Some(Body::Embedded(_) | Body::Separate(_)) | None => None,
        };
        let live = first(standing.live(now));
        match self {
            Self::NoTombstone => live.is_none(),
            Self::Tombstone {
                first: seen,
                expires_at,
            } => {
                let has_expired =
                    live.is_none() && expires_at.is_some_and(|deadline| deadline <= now);
                live == Some(seen) || has_expired
            }
        }
    }
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
    /// A tombstone that names finished, durable revisions (I2). The change it settles has the
    /// swap's operation as its id.
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
    /// The same row with other attributes.
    Amend(Amendment),
    /// The same row with another deadline.
    Extend(Extension),
    /// The same version with a later deadline, for it was read.
    Touch {
        /// The operation in the row that was read.
        seen: OperationId,
    },
    /// No row, if it has expired.
    Expire,
}

/// One compare-and-swap on one row.
#[derive(Clone, Debug)]
pub struct Swap {
    /// The object.
    pub id: ObjectId,
    /// The operation; the same for every repetition of the same swap.
    pub operation: OperationId,
    /// How the object must stand.
    pub precondition: Precondition,
    /// What it makes of the row.
    pub mutation: Mutation,
}

/// What a shard must do about a [`Swap`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Commit it: the object then stands so. What the old row named and the new one does not is
    /// listed.
    Commit {
        /// The object afterwards.
        next: Standing,
        /// Revisions that become orphans.
        orphans: Vec<RevisionKey>,
        /// Whether the object existed before.
        existed: bool,
    },
    /// Settle its change and make its own revisions orphans; the row stays.
    Supersede {
        /// Its own revisions.
        orphans: Vec<RevisionKey>,
    },
    /// Its precondition does not hold. Settle its change, if it has one, and make its own revisions
    /// orphans.
    Conflict {
        /// How the object stands.
        current: Option<Current>,
        /// Its own revisions.
        orphans: Vec<RevisionKey>,
    },
    /// It has been committed before: answer the same again.
    Already,
    /// There is nothing that it could change.
    Absent,
    /// It leaves everything as it is.
    Unchanged,
    /// Its change is no longer live: it must never commit (I6).
    Fenced,
}

impl Swap {
    /// Returns whether it may replace a row that can't be read: it depends on nothing in the row,
    /// and its caller means to lose what the row holds.
    pub fn replaces_unread(&self) -> bool {
        match self.mutation {
            Mutation::Inline { .. } | Mutation::Tombstone { .. } | Mutation::Delete => {
                self.precondition == Precondition::None
            }
            Mutation::Amend(_)
            | Mutation::Extend(_)
            | Mutation::Touch { .. }
            | Mutation::Expire => false,
        }
    }

    /// Decides against what stands. `change_is_live` matters to tombstones only.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if amended attributes break a limit.
    pub fn decide(
        &self,
        standing: &Standing,
        change_is_live: bool,
        now: Timestamp,
    ) -> Result<Decision> {
        if standing
            .row()
            .is_some_and(|row| row.operation == self.operation)
        {
            return Ok(Decision::Already);
        }
        if let (Mutation::Tombstone { .. }, false) = (&self.mutation, change_is_live) {
            return Ok(Decision::Fenced);
        }
        if let Err(current) = self.precondition.check(standing.live(now)) {
            return Ok(Decision::Conflict {
                current,
                orphans: self.own_revisions(),
            });
        }
        if let Mutation::Tombstone { expected, .. } = &self.mutation
            && self.precondition == Precondition::None
            && !expected.is_met(standing, now)
        {
            return Ok(Decision::Supersede {
                orphans: self.own_revisions(),
            });
        }
        Ok(match self.next(standing, now)? {
            Next::Row(row) => self.commit(standing, Standing::Present(row), now),
            Next::NoRow => self.commit(standing, Standing::Absent(standing.version()), now),
            Next::Unchanged => Decision::Unchanged,
            Next::Absent => Decision::Absent,
        })
    }

    fn commit(&self, standing: &Standing, next: Standing, now: Timestamp) -> Decision {
        let orphans = transition::orphans(&[Transition {
            id: &self.id,
            before: standing,
            after: &next,
        }]);
        Decision::Commit {
            next,
            orphans,
            existed: standing.live(now).is_some(),
        }
    }

    /// What becomes of the row, now that nothing stands in the way.
    fn next(&self, standing: &Standing, now: Timestamp) -> Result<Next> {
        let live = standing.live(now);
        Ok(match &self.mutation {
            Mutation::Inline {
                payload,
                attributes,
            } => {
                let embeds = payload.len() <= EMBEDDED_BYTES_MAX;
                let body = if embeds {
                    Body::Embedded(payload.clone())
                } else {
                    Body::Separate(self.operation)
                };
                let checksum = Some(Checksum::of(payload));
                let body = (body, payload.len() as u64);
                Next::Row(Box::new(row(
                    self.operation,
                    standing,
                    body,
                    checksum,
                    attributes,
                    now,
                )))
            }
            Mutation::Tombstone {
                manifest,
                checksum,
                attributes,
                ..
            } => {
                let (body, size) = (
                    Body::Tombstone(manifest.clone()),
                    manifest.bytes().unwrap_or(u64::MAX),
                );
                Next::Row(Box::new(row(
                    self.operation,
                    standing,
                    (body, size),
                    *checksum,
                    attributes,
                    now,
                )))
            }
            Mutation::Delete if standing.row().is_some() => Next::NoRow,
            Mutation::Delete => Next::Absent,
            Mutation::Amend(amendment) => match live {
                Some(row) => Next::Row(Box::new(self.amended(row, amendment, now)?)),
                None => Next::Absent,
            },
            Mutation::Extend(extension) => match live {
                Some(row) => self.extended(row, *extension, now),
                None => Next::Absent,
            },
            Mutation::Touch { seen } => touched(live.filter(|row| row.operation == *seen), now),
            Mutation::Expire if standing.row().is_some() && live.is_none() => Next::NoRow,
            Mutation::Expire => Next::Unchanged,
        })
    }

    fn amended(&self, row: &Row, amendment: &Amendment, now: Timestamp) -> Result<Row> {
        let attributes = amendment.apply(&row.metadata.attributes);
        attributes.validate()?;
        let expires_at = match amendment.expiration {
            Some(expiration) => expiration.deadline(now),
            None => row.metadata.expires_at,
        };
        let metadata = Metadata {
            modified: now,
            expires_at,
            attributes,
            ..row.metadata.clone()
        };
        Ok(Row {
            version: row.version.next(),
            operation: self.operation,
            metadata,
            body: row.body.clone(),
        })
    }

    fn extended(&self, row: &Row, extension: Extension, now: Timestamp) -> Next {
        let expires_at = extension.of(row.metadata.expires_at, row.metadata.created, now);
        if expires_at == row.metadata.expires_at {
            return Next::Unchanged;
        }
        let metadata = Metadata {
            modified: now,
            expires_at,
            ..row.metadata.clone()
        };
        let body = row.body.clone();
        Next::Row(Box::new(Row {
            version: row.version.next(),
            operation: self.operation,
            metadata,
            body,
        }))
    }

    /// The revisions it brings with it.
    fn own_revisions(&self) -> Vec<RevisionKey> {
        match &self.mutation {
            Mutation::Tombstone { manifest, .. } => manifest.keys(&self.id).collect(),
            Mutation::Inline { .. }
            | Mutation::Delete
            | Mutation::Amend(_)
            | Mutation::Extend(_)
            | Mutation::Touch { .. }
            | Mutation::Expire => Vec::new(),
        }
    }

    /// Bytes of the payload that it stores in the index.
    pub fn stored_bytes(&self) -> u64 {
        match &self.mutation {
            Mutation::Inline { payload, .. } => payload.len() as u64,
            Mutation::Tombstone { .. }
            | Mutation::Delete
            | Mutation::Amend(_)
            | Mutation::Extend(_)
            | Mutation::Touch { .. }
            | Mutation::Expire => 0,
        }
    }

    /// The one atomic batch that carries out a decision (I3); empty if there is nothing to carry
    /// out.
    pub fn batch(&self, standing: &Standing, decision: &Decision, now: Timestamp) -> Batch {
        let mut batch = Batch::new();
        match decision {
            Decision::Commit { next, orphans, .. } => {
                transition::put_rows(
                    &mut batch,
                    &[Transition {
                        id: &self.id,
                        before: standing,
                        after: next,
                    }],
                );
                self.put_payload(&mut batch);
                self.settle(&mut batch, orphans, now);
            }
            Decision::Supersede { orphans } | Decision::Conflict { orphans, .. } => {
                self.settle(&mut batch, orphans, now);
            }
            Decision::Already | Decision::Absent | Decision::Unchanged | Decision::Fenced => {}
        }
        batch
    }

    fn put_payload(&self, batch: &mut Batch) {
        match &self.mutation {
            Mutation::Inline { payload, .. } if payload.len() > EMBEDDED_BYTES_MAX => {
                batch.put(
                    Table::Payloads,
                    self.operation.as_bytes().to_vec(),
                    payload.clone(),
                );
            }
            Mutation::Tombstone {
                manifest, blocks, ..
            } => {
                for (revision, blocks) in manifest.revisions().zip(blocks) {
                    batch.put(
                        Table::Payloads,
                        revision.as_bytes().to_vec(),
                        blocks.encode(),
                    );
                }
            }
            Mutation::Inline { .. }
            | Mutation::Delete
            | Mutation::Amend(_)
            | Mutation::Extend(_)
            | Mutation::Touch { .. }
            | Mutation::Expire => {}
        }
    }

    fn settle(&self, batch: &mut Batch, orphans: &[RevisionKey], now: Timestamp) {
        if let Mutation::Tombstone { .. } = self.mutation {
            batch.remove(Table::Changes, self.operation.as_bytes().to_vec());
        }
        transition::put_orphans(batch, orphans, now, Landing::Landed);
    }
}

/// The row of a new payload, which has this body and size.
fn row(
    operation: OperationId,
    standing: &Standing,
    (body, size): (Body, u64),
    checksum: Option<Checksum>,
    attributes: &Attributes,
    now: Timestamp,
) -> Row {
    let created = standing.live(now).map_or(now, |row| row.metadata.created);
    let expires_at = attributes.expiration.deadline(now);
    let attributes = attributes.clone();
    let metadata = Metadata {
        size,
        checksum,
        created,
        modified: now,
        expires_at,
        attributes,
    };
    Row {
        version: standing.version().next(),
        operation,
        metadata,
        body,
    }
}

/// What becomes of a row.
enum Next {
    Row(Box<Row>),
    NoRow,
    Unchanged,
    Absent,
}

/// The row that was read, if it still stands and reads extend its deadline. Its version and etag
/// stay.
fn touched(read: Option<&Row>, now: Timestamp) -> Next {
    let extended = read.and_then(|row| {
        let expires_at = row
            .metadata
            .attributes
            .expiration
            .extended_by_read(row.metadata.expires_at, now)?;
        let metadata = Metadata {
            expires_at: Some(expires_at),
            ..row.metadata.clone()
        };
        Some(Box::new(Row {
            metadata,
            ..row.clone()
        }))
    });
    extended.map_or(Next::Unchanged, Next::Row)
}

/// Fences a dead change (I6): the batch removes it, after which it can never commit, and makes
/// orphans of those of its revisions that the row does not name. Trusts the row alone. Nobody knows
/// how far its write had got, so what it wrote may still land.
pub fn fence(
    change_id: OperationId,
    change: &Change,
    standing: &Standing,
    now: Timestamp,
) -> Batch {
    let mut batch = Batch::new();
    batch.remove(Table::Changes, change_id.as_bytes().to_vec());
    let given_up = fence_orphans(change, standing);
    let keys: Vec<_> = given_up
        .into_iter()
        .map(|revision| revision_key(&change.object, revision))
        .collect();
    transition::put_orphans(&mut batch, &keys, now, Landing::MayLand);
    batch
}

/// The revisions of a dead change that the row does not name.
pub fn fence_orphans(change: &Change, standing: &Standing) -> Vec<RevisionId> {
    let named = |revision: RevisionId| standing.row().is_some_and(|row| row.names(revision));
    change
        .revisions
        .iter()
        .copied()
        .filter(|&revision| !named(revision))
        .collect()
}

/// The batch that records a change (I1).
pub fn record(change_id: OperationId, change: &Change) -> Batch {
    let mut batch = Batch::new();
    batch.put(
        Table::Changes,
        change_id.as_bytes().to_vec(),
        change.encode(),
    );
    batch
}

/// The key under which the blob tier knows a revision that is written for `id`.
pub fn revision_key(id: &ObjectId, revision: RevisionId) -> RevisionKey {
    RevisionKey {
        object: id.clone(),
        revision,
    }
}

#[cfg(test)]
mod tests;
