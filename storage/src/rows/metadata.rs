//! What is known about an object without its bytes: [`Attributes`], stated by the caller,
//! [`Metadata`], all of it, and [`Amendment`], which changes some of it.
//!
//! The whole metadata is in the row, so that head never touches the blob tier. Its bytes are part
//! of the row's (`row.rs`), and so is its golden fixture.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::expiration::{self, Expiration};
use crate::checksum::Checksum;
use crate::error::{Error, ErrorKind, Result};
use crate::word::Timestamp;

/// Most bytes of all attributes of one object together: names, values and the fixed fields.
pub const ATTRIBUTES_BYTES_MAX: usize = 16 * 1024;

/// What the caller states about an object. Cenotaph keeps it and gives it back; it acts on the
/// expiration alone.
///
/// All fields together may have [`ATTRIBUTES_BYTES_MAX`] bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// Media type, such as `image/png`.
    pub content_type: Option<String>,
    /// Encoding of the payload as given, such as `zstd`.
    pub compression: Option<String>,
    /// Where the object came from, such as a client's address.
    pub origin: Option<String>,
    /// The name a person would save it under.
    pub filename: Option<String>,
    /// Anything else, by name.
    pub custom: BTreeMap<String, String>,
    /// When it stops existing by itself.
    pub expiration: Expiration,
}

impl Attributes {
    /// Checks the limits.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if there are more than [`ATTRIBUTES_BYTES_MAX`] bytes in all, or as
    /// [`Expiration::validate`].
    pub fn validate(&self) -> Result<()> {
        self.expiration.validate()?;
        let fixed = [
            &self.content_type,
            &self.compression,
            &self.origin,
            &self.filename,
        ];
        let fixed_bytes: usize = fixed
            .iter()
            .filter_map(|field| field.as_ref())
            .map(String::len)
            .sum();
        let custom_bytes: usize = self
            .custom
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        let bytes = fixed_bytes + custom_bytes;
        if bytes > ATTRIBUTES_BYTES_MAX {
            let message =
                format!("metadata is too large: bytes={bytes} max={ATTRIBUTES_BYTES_MAX}");
            return Err(Error::new(ErrorKind::Invalid, "put", message));
        }
        Ok(())
    }
}

/// Everything known about an object without its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Size of the payload in bytes.
    pub size: u64,
    /// xxh3 over the whole payload; none where it was assembled from parts.
    pub checksum: Option<Checksum>,
    /// When the object was first written since it was last absent.
    pub created: Timestamp,
    /// When this version was written.
    pub modified: Timestamp,
    /// When it stops existing; none if it does not by itself.
    pub expires_at: Option<Timestamp>,
    /// What the caller stated.
    pub attributes: Attributes,
}

impl Metadata {
    /// Whether the object exists at `now`.
    pub fn is_live(&self, now: Timestamp) -> bool {
        expiration::is_live(self.expires_at, now)
    }
}

/// Changes to some of an object's [`Attributes`], leaving the others as they are.
///
/// ```
/// use cenotaph_storage::rows::{Amendment, Attributes};
///
/// let before = Attributes { filename: Some("a.txt".into()), ..Attributes::default() };
/// let amendment = Amendment { content_type: Some(Some("text/plain".into())), ..Amendment::default() };
/// let after = amendment.apply(&before);
/// assert_eq!((after.content_type.as_deref(), after.filename.as_deref()), (Some("text/plain"), Some("a.txt")));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amendment {
    /// Another media type, or none.
    pub content_type: Option<Option<String>>,
    /// Another encoding, or none.
    pub compression: Option<Option<String>>,
    /// Another origin, or none.
    pub origin: Option<Option<String>>,
    /// Another name to save it under, or none.
    pub filename: Option<Option<String>>,
    /// Custom entries to set, or to remove.
    pub custom: BTreeMap<String, Option<String>>,
    /// Another expiration, which begins anew at once.
    pub expiration: Option<Expiration>,
}

impl Amendment {
    /// The attributes with these changes.
    pub fn apply(&self, attributes: &Attributes) -> Attributes {
        let or = |changed: &Option<Option<String>>, kept: &Option<String>| {
            changed.as_ref().unwrap_or(kept).clone()
        };
        let mut custom = attributes.custom.clone();
        for (name, value) in &self.custom {
            match value {
                Some(value) => custom.insert(name.clone(), value.clone()),
                None => custom.remove(name),
            };
        }
        Attributes {
            content_type: or(&self.content_type, &attributes.content_type),
            compression: or(&self.compression, &attributes.compression),
            origin: or(&self.origin, &attributes.origin),
            filename: or(&self.filename, &attributes.filename),
            custom,
            expiration: self.expiration.unwrap_or(attributes.expiration),
        }
    }
}
