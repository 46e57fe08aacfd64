//! Preconditions of writes. `decide/precondition.rs` checks them.

use serde::{Deserialize, Serialize};

use super::{Etag, Version};

/// State that an object must be in for a write to commit. An expired object counts as absent.
///
/// Versions and etags are never reused, so a precondition that names one holds for exactly one
/// committed write. They never hold for an object that only the fallback of the store has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precondition {
    /// Any state.
    #[default]
    None,
    /// The object must be absent, also in the fallback of the store.
    Absent,
    /// The object must have this version.
    Version(Version),
    /// The object must have this etag.
    Etag(Etag),
    /// Only the fallback of the store must have the object: the store has neither the object nor
    /// deleted it since the fallback was attached. Never holds without a fallback.
    InFallback,
}
