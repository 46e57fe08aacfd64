//! Results of decisions, converted for the callers.

use super::RowState;
use crate::records::Row;
use crate::types::{Etag, PutResult, Version, WriteOutcome};

/// Result of a delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// True if the object existed before.
    pub existed: bool,
}

/// Result of a swap of any kind. Each kind of caller converts it with the method of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwapReply {
    /// WriteOutcome of the swap.
    pub outcome: WriteOutcome,
    /// Version of the row afterwards; `None` if there is no row or the swap was superseded.
    pub version: Option<Version>,
    /// Etag of that version.
    pub etag: Option<Etag>,
    /// True if the object existed before.
    pub existed: bool,
}

impl SwapReply {
    /// Reply of a swap that leaves the object without a row.
    pub(super) fn without_row(existed: bool) -> Self {
        Self {
            outcome: WriteOutcome::Applied,
            version: None,
            etag: None,
            existed,
        }
    }

    /// Reply of a swap after which the object is in this state.
    pub(super) fn applied(state: &RowState, existed: bool) -> Self {
        let current = state.row().map(Row::current);
        Self {
            outcome: WriteOutcome::Applied,
            version: current.map(|current| current.version),
            etag: current.map(|current| current.etag),
            existed,
        }
    }

    pub(super) const SUPERSEDED: Self = Self {
        outcome: WriteOutcome::Superseded,
        version: None,
        etag: None,
        existed: true,
    };

    /// Returns the result of a put.
    pub fn written(self) -> PutResult {
        PutResult {
            outcome: self.outcome,
            version: self.version,
            etag: self.etag,
            created: !self.existed,
        }
    }

    /// Returns the result of a change to an existing object; `None` if there was no object.
    pub fn amended(self) -> Option<PutResult> {
        self.existed.then(|| self.written())
    }

    /// Returns the result of a delete.
    pub fn deleted(self) -> Deleted {
        Deleted {
            existed: self.existed,
        }
    }
}
