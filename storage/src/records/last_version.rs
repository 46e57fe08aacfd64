//! The last version of a deleted object, in the meta table.
//!
//! ```text
//! key "floor" 0x00 object id
//! value: version=2 | postcard: last version (u64), time of the deletion (u64, milliseconds)
//!        version=1 | postcard: last version (u64)
//! ```
//!
//! Format 1 is read and never written, except back as it was. Guards "a version is never reused,
//! not even across delete and re-create": a delete stores the last version in its own batch, and
//! the next write removes it in its own batch. An old entry is dropped in a batch that raises the
//! base version (`base_version.rs`).

use bytes::Bytes;

use super::codec;
use crate::types::{ObjectId, Result, Timestamp, Version};

const FORMAT: u8 = 2;
/// Format without the time of the deletion.
const UNDATED: u8 = 1;
const PREFIX: &[u8] = b"floor\0";

/// Last version of a deleted object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastVersion {
    /// Version of the last write before the deletion.
    pub version: Version,
    /// Time of the deletion; `None` in entries of format 1.
    pub deleted: Option<Timestamp>,
}

impl LastVersion {
    /// Creates the last version of an object that is deleted at `now`.
    pub const fn at(version: Version, now: Timestamp) -> Self {
        Self {
            version,
            deleted: Some(now),
        }
    }

    /// Encodes the last version for storage.
    pub fn encode(&self) -> Bytes {
        match self.deleted {
            Some(deleted) => codec::encode(FORMAT, &(self.version, deleted)).into(),
            None => codec::encode(UNDATED, &self.version).into(),
        }
    }

    /// Decodes a stored last version.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) or [`UnknownFormat`](crate::ErrorKind::UnknownFormat).
    pub fn decode(value: &Bytes) -> Result<Self> {
        let (version, deleted) = if value.first() == Some(&UNDATED) {
            (codec::decode("last version", UNDATED, value)?, None)
        } else {
            let (version, deleted) = codec::decode("last version", FORMAT, value)?;
            (version, Some(deleted))
        };
        codec::check_version("last version", version)?;
        Ok(Self { version, deleted })
    }
}

/// Returns the key of the last version of an object.
pub fn last_version_key(id: &ObjectId) -> Bytes {
    [PREFIX, &id.encoded()[..]].concat().into()
}

/// Returns the prefix that the keys of all last versions share, and no other key has.
pub fn last_versions_prefix() -> Bytes {
    Bytes::from_static(PREFIX)
}

/// Returns the object whose last version has this key.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if the key is not that of a last version.
pub fn last_version_object(key: &[u8]) -> Result<ObjectId> {
    let malformed = || codec::corrupt("last version", "malformed key");
    let id = key.strip_prefix(PREFIX).ok_or_else(malformed)?;
    ObjectId::decode(id).map_err(|error| malformed().with_source(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::codec::fixture::{
        assert_golden, assert_later_format_refused, assert_robust,
    };
    use crate::types::ErrorKind;
    use proptest::prelude::*;

    fn undated(version: u64) -> LastVersion {
        LastVersion {
            version: Version::new(version),
            deleted: None,
        }
    }

    #[test]
    fn the_stored_form_of_a_last_version_is_stable() {
        let last = LastVersion::at(Version::new(300), Timestamp::from_millis(1000));
        let fixtures = [(last, "02 ac02 e807"), (undated(300), "01 ac02")];
        for (last, golden) in fixtures {
            let encoded = last.encode();
            assert_golden(&encoded, golden);
            assert_eq!(LastVersion::decode(&encoded).unwrap(), last);
            assert_later_format_refused(&encoded, LastVersion::decode);
            assert_robust(&encoded, LastVersion::decode);
        }
        let id = ObjectId::try_from("k").unwrap();
        let key = last_version_key(&id);
        assert_golden(&key, "666c6f6f7200 64656661756c7400 6b");
        assert_eq!(last_version_object(&key).unwrap(), id);
        assert!(key.starts_with(&last_versions_prefix()) && last_version_object(b"epoch").is_err());
    }

    #[test]
    fn last_version_that_cannot_be_raised_is_damage() {
        let highest = undated(Version::STORED_MAX.get());
        assert_eq!(LastVersion::decode(&highest.encode()).unwrap(), highest);
        for too_high in [Version::STORED_MAX.next().get(), u64::MAX] {
            let dated = LastVersion::at(Version::new(too_high), Timestamp::from_millis(1));
            for last in [undated(too_high), dated] {
                let error = LastVersion::decode(&last.encode()).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt);
            }
        }
    }

    proptest! {
        #[test]
        fn last_version_survives_encoding(
            version in 0..=Version::STORED_MAX.get(),
            deleted in proptest::option::of(any::<u64>().prop_map(Timestamp::from_millis)),
        ) {
            let last = LastVersion { version: Version::new(version), deleted };
            prop_assert_eq!(LastVersion::decode(&last.encode()).unwrap(), last);
        }
    }
}
