//! Results of writes, as callers receive them.

use serde::{Deserialize, Serialize};

use super::RowState;
use crate::records::Row;
use crate::types::{Etag, Version};

/// Outcome of a write that did not fail.
///
/// ```
/// # use cenotaph_storage::decide::{Outcome, PutResult};
/// fn is_visible(written: &PutResult) -> bool {
///     match written.outcome {
///         Outcome::Applied => true,
///         Outcome::Superseded => false, // another write to the object counts as the later write
///     }
/// }
/// # let written = PutResult { outcome: Outcome::Superseded, version: None, etag: None, created: false };
/// # assert!(!is_visible(&written));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The write committed as the newest version of the object.
    Applied,
    /// While a large put was uploading, another write created, replaced or removed the object's
    /// tombstone. The put counts as overwritten at once: no reader sees any of it, and it leaves
    /// no blob behind. Not an error.
    Superseded,
}

/// Result of a write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutResult {
    /// Outcome of the write.
    pub outcome: Outcome,
    /// Version that the write committed; `None` if it was superseded.
    pub version: Option<Version>,
    /// Etag of that version; `None` if the write was superseded.
    pub etag: Option<Etag>,
    /// True if the object was absent before.
    pub created: bool,
}

impl PutResult {
    pub(super) const SUPERSEDED: Self = Self {
        outcome: Outcome::Superseded,
        version: None,
        etag: None,
        created: false,
    };
}

/// Result of a delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// True if the object existed before.
    pub existed: bool,
}

/// Result of a swap of any kind. Each kind of caller converts it with the method of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwapReply {
    /// Outcome of the swap.
    pub outcome: Outcome,
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
            outcome: Outcome::Applied,
            version: None,
            etag: None,
            existed,
        }
    }

    /// Reply of a swap after which the object is in this state.
    pub(super) fn applied(state: &RowState, existed: bool) -> Self {
        let current = state.row().map(Row::current);
        Self {
            outcome: Outcome::Applied,
            version: current.map(|current| current.version),
            etag: current.map(|current| current.etag),
            existed,
        }
    }

    pub(super) const SUPERSEDED: Self = Self {
        outcome: Outcome::Superseded,
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
