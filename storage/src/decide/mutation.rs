//! [`Mutation`]: the change that a swap makes to the row of an object. `swap.rs` decides about it.

use bytes::Bytes;

use super::ExpectedRow;
use crate::records::{Amendment, Attributes, BlockChecksums, Extension, Manifest};
use crate::types::{Checksum, OperationId, RevisionId};

/// Change that a swap makes to the row.
#[derive(Clone, Debug)]
pub enum Mutation {
    /// Stores an inline row.
    Inline {
        /// Payload.
        payload: Bytes,
        /// Attributes that the caller gave.
        attributes: Attributes,
    },
    /// Stores a tombstone that names finished, durable revisions (I2). The operation of the swap is
    /// the id of its change.
    Tombstone {
        /// The revisions.
        manifest: Manifest,
        /// Checksum of the whole payload.
        checksum: Option<Checksum>,
        /// Block checksums of the revisions, in the same order.
        blocks: Vec<BlockChecksums>,
        /// Attributes that the caller gave.
        attributes: Attributes,
        /// Row that the upload expects to replace.
        expected: ExpectedRow,
    },
    /// Removes the row.
    Delete,
    /// Changes attributes of the row.
    Amend(Amendment),
    /// Changes the deadline of the row.
    Extend(Extension),
    /// Extends the deadline of a row that was read; version and etag stay.
    Touch {
        /// Operation in the row that was read.
        seen: OperationId,
    },
    /// Replaces the revisions of a tombstone by copies in the current blob tier. The object stays
    /// as it is: this is no write of the object. The operation of the swap is the id of its change.
    Relocate {
        /// The copies: finished, durable revisions (I2).
        manifest: Manifest,
        /// Block checksums of the copies, in the same order.
        blocks: Vec<BlockChecksums>,
        /// Revisions that were copied.
        copied: Vec<RevisionId>,
    },
    /// Removes the row if it has expired.
    Expire,
}

impl Mutation {
    /// Name of the operation in errors.
    pub(super) fn operation(&self) -> &'static str {
        match self {
            Self::Inline { .. } | Self::Tombstone { .. } | Self::Touch { .. } => "put",
            Self::Delete | Self::Expire => "delete",
            Self::Amend(_) => "amend",
            Self::Extend(_) => "extend_expiry",
            Self::Relocate { .. } => "relocate",
        }
    }

    /// Returns whether the mutation removes the row.
    pub(super) fn removes(&self) -> bool {
        matches!(self, Self::Delete | Self::Expire)
    }

    /// Returns whether the mutation replaces the object, whatever it was.
    pub(super) fn replaces(&self) -> bool {
        matches!(
            self,
            Self::Inline { .. } | Self::Tombstone { .. } | Self::Delete
        )
    }

    /// Returns whether blobs were written for the mutation, under a change.
    pub(super) fn has_change(&self) -> bool {
        matches!(self, Self::Tombstone { .. } | Self::Relocate { .. })
    }

    /// Bytes of the payload that the mutation stores in the index.
    pub(super) fn stored_bytes(&self) -> u64 {
        match self {
            Self::Inline { payload, .. } => payload.len() as u64,
            _ => 0,
        }
    }
}
