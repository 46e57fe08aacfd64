//! The base version of a store, in the meta table: no last version that was dropped is higher.
//!
//! ```text
//! key "base"  value: version=1 | postcard: base version (u64), undated since (u64, milliseconds)
//! ```
//!
//! A new object without a last version starts behind the base version. Guards "a version is never
//! reused": each batch that drops last versions also stores a base version that is at least as high
//! (docs/adr/0027). A last version without a time of deletion counts as deleted at `undated_since`.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::codec;
use super::last_version::LastVersion;
use crate::types::{Result, Timestamp, Version};

const FORMAT: u8 = 1;

/// Key of the base version in the meta table.
pub const BASE_VERSION_KEY: &[u8] = b"base";

/// Base version of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseVersion {
    /// Version behind which new objects start.
    pub version: Version,
    /// Time of deletion of all last versions that have none.
    pub undated_since: Timestamp,
}

impl BaseVersion {
    /// Creates the first base version of a store: nothing was dropped before `now`.
    pub const fn first(now: Timestamp) -> Self {
        Self {
            version: Version::NONE,
            undated_since: now,
        }
    }

    /// Returns the base version, raised to at least `version`.
    #[must_use]
    pub fn raised(self, version: Version) -> Self {
        Self {
            version: self.version.max(version),
            ..self
        }
    }

    /// Returns the time at which an object with this last version was deleted.
    pub fn deleted(&self, last: &LastVersion) -> Timestamp {
        last.deleted.unwrap_or(self.undated_since)
    }

    /// Encodes the base version for storage.
    pub fn encode(&self) -> Bytes {
        codec::encode(FORMAT, self).into()
    }

    /// Decodes a stored base version.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) or [`UnknownFormat`](crate::ErrorKind::UnknownFormat).
    pub fn decode(value: &Bytes) -> Result<Self> {
        let base: Self = codec::decode("base version", FORMAT, value)?;
        codec::check_version("base version", base.version)?;
        Ok(base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::codec::fixture::{
        assert_golden, assert_later_format_refused, assert_robust,
    };
    use crate::records::last_versions_prefix;
    use crate::types::ErrorKind;
    use proptest::prelude::*;

    #[test]
    fn the_stored_form_of_a_base_version_is_stable() {
        let base = BaseVersion::first(Timestamp::from_millis(1000)).raised(Version::new(300));
        let encoded = base.encode();
        assert_golden(&encoded, "01 ac02 e807");
        assert_golden(BASE_VERSION_KEY, "62617365");
        assert_eq!(BaseVersion::decode(&encoded).unwrap(), base);
        assert_later_format_refused(&encoded, BaseVersion::decode);
        assert_robust(&encoded, BaseVersion::decode);
        assert!(!BASE_VERSION_KEY.starts_with(&last_versions_prefix()));
    }

    #[test]
    fn base_version_that_cannot_be_raised_is_damage() {
        let base = BaseVersion::first(Timestamp::from_millis(1));
        for too_high in [Version::STORED_MAX.next(), Version::new(u64::MAX)] {
            let error = BaseVersion::decode(&base.raised(too_high).encode()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
    }

    proptest! {
        #[test]
        fn base_version_is_never_lowered_and_survives_encoding(
            versions in proptest::collection::vec(0..=Version::STORED_MAX.get(), 1..5),
            since in any::<u64>(),
        ) {
            let mut base = BaseVersion::first(Timestamp::from_millis(since));
            for &version in &versions {
                base = base.raised(Version::new(version));
            }
            prop_assert_eq!(base.version.get(), versions.into_iter().max().unwrap_or(0));
            prop_assert_eq!(BaseVersion::decode(&base.encode()).unwrap(), base);
        }
    }
}
