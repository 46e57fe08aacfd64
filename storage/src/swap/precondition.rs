//! What a caller may demand of an object before a write to it commits: [`Precondition`]. Pure.

use serde::{Deserialize, Serialize};

use crate::rows::Row;
use crate::word::{Current, Etag, Version};

/// How an object must stand for a write to commit. An expired object stands as an absent one.
///
/// Whatever is true of a version or an etag once is never true of another write: neither is ever
/// reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precondition {
    /// It may stand as it likes.
    #[default]
    None,
    /// It must be absent.
    Absent,
    /// It must be present, with this version.
    Version(Version),
    /// It must be present, with this etag.
    Etag(Etag),
}

impl Precondition {
    /// Whether it holds for an object with this live row, or without one.
    ///
    /// # Errors
    /// If it does not: how the object stands, none if it is absent.
    pub fn check(self, live: Option<&Row>) -> Result<(), Option<Current>> {
        let current = live.map(Row::current);
        if self.holds(current) {
            Ok(())
        } else {
            Err(current)
        }
    }

    /// Whether it holds for an object of which this write stands, or none.
    pub fn holds(self, current: Option<Current>) -> bool {
        match self {
            Self::None => true,
            Self::Absent => current.is_none(),
            Self::Version(version) => current.is_some_and(|current| current.version == version),
            Self::Etag(etag) => current.is_some_and(|current| current.etag == etag),
        }
    }
}
