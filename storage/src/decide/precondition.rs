//! The check of a precondition against the live row of an object.

use crate::records::Row;
use crate::types::{ObjectVersion, Precondition};

impl Precondition {
    /// Checks the precondition against the live row of an object, `None` if it is absent.
    ///
    /// # Errors
    /// The current version and etag if the precondition does not hold; `None` if the object is
    /// absent.
    pub fn check(self, live: Option<&Row>) -> Result<(), Option<ObjectVersion>> {
        let current = live.map(Row::current);
        if self.holds(current) {
            Ok(())
        } else {
            Err(current)
        }
    }

    /// Returns whether the precondition holds for an object whose newest write is `current`, `None`
    /// if it is absent.
    pub fn holds(self, current: Option<ObjectVersion>) -> bool {
        match self {
            Self::None => true,
            Self::Absent => current.is_none(),
            Self::Version(version) => current.is_some_and(|current| current.version == version),
            Self::Etag(etag) => current.is_some_and(|current| current.etag == etag),
        }
    }
}
