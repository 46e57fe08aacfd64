//! Results of writes, as callers receive them and as upload records store them.

use serde::{Deserialize, Serialize};

use super::{Etag, Version};

/// Outcome of a write that did not fail.
///
/// ```
/// # use cenotaph_storage::decide::{WriteOutcome, PutResult};
/// fn is_visible(written: &PutResult) -> bool {
///     match written.outcome {
///         WriteOutcome::Applied => true,
///         WriteOutcome::Superseded => false, // another write to the object counts as the later write
///     }
/// }
/// # let written = PutResult { outcome: WriteOutcome::Superseded, version: None, etag: None, created: false };
/// # assert!(!is_visible(&written));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WriteOutcome {
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
    /// WriteOutcome of the write.
    pub outcome: WriteOutcome,
    /// Version that the write committed; `None` if it was superseded.
    pub version: Option<Version>,
    /// Etag of that version; `None` if the write was superseded.
    pub etag: Option<Etag>,
    /// True if the object was absent before.
    pub created: bool,
}

impl PutResult {
    /// Result of a superseded write.
    pub(crate) const SUPERSEDED: Self = Self {
        outcome: WriteOutcome::Superseded,
        version: None,
        etag: None,
        created: false,
    };
}
