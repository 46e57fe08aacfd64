//! The check of a precondition against the state of an object.
//!
//! ```text
//! precondition      live row          only in the fallback   absent
//! ----------------- ----------------- ---------------------- ----------
//! None              holds             holds                  holds
//! Absent            fails             fails                  holds
//! Version, Etag     if it is the one  fails                  fails
//! InFallback        fails             holds                  fails
//! ```

use super::RowState;
use crate::records::Row;
use crate::types::{ObjectVersion, Precondition, Timestamp};

/// State of an object whose precondition does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnmetState {
    /// The object has this version and etag.
    Current(ObjectVersion),
    /// Only the fallback has the object.
    InFallback,
    /// The object is absent.
    Absent,
}

impl UnmetState {
    /// Returns the version and etag of the object, if it has any in this store.
    pub fn current(self) -> Option<ObjectVersion> {
        match self {
            Self::Current(current) => Some(current),
            Self::InFallback | Self::Absent => None,
        }
    }
}

impl From<Option<ObjectVersion>> for UnmetState {
    fn from(current: Option<ObjectVersion>) -> Self {
        current.map_or(Self::Absent, Self::Current)
    }
}

impl RowState {
    /// Checks a precondition.
    ///
    /// # Errors
    /// The state of the object if the precondition does not hold.
    pub fn check(&self, precondition: Precondition, now: Timestamp) -> Result<(), UnmetState> {
        let current = self.live(now).map(Row::current);
        let is_in_fallback = self.is_in_fallback(now);
        let holds = match precondition {
            Precondition::Absent if is_in_fallback => false,
            Precondition::InFallback => is_in_fallback,
            Precondition::None
            | Precondition::Absent
            | Precondition::Version(_)
            | Precondition::Etag(_) => precondition.holds(current),
        };
        match current {
            _ if holds => Ok(()),
            None if is_in_fallback => Err(UnmetState::InFallback),
            current => Err(current.into()),
        }
    }
}

impl Precondition {
    /// Returns whether the precondition holds for an object whose newest write is `current`, `None`
    /// if it is absent. The object is not in the fallback.
    pub fn holds(self, current: Option<ObjectVersion>) -> bool {
        match self {
            Self::None => true,
            Self::Absent => current.is_none(),
            Self::Version(version) => current.is_some_and(|current| current.version == version),
            Self::Etag(etag) => current.is_some_and(|current| current.etag == etag),
            Self::InFallback => false,
        }
    }
}
