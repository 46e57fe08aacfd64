//! Metadata of an object: [`Attributes`] (set by the caller), [`Metadata`] (attributes and derived
//! fields) and [`Amendment`] (a change to attributes).
//!
//! All metadata is stored in the row, so that `head` never reads the blob tier. The byte layout and
//! the golden fixture are those of the row (`row.rs`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::expiration::{self, Expiration};
use crate::types::Checksum;
use crate::types::Timestamp;
use crate::types::{Error, ErrorKind, Result};

/// Maximum size of the attributes of an object in bytes: fixed fields, and names and values of
/// custom entries.
pub const ATTRIBUTES_BYTES_MAX: usize = 16 * 1024;

/// Properties of an object that its caller sets. Cenotaph stores and returns them, and acts only on
/// the expiration.
///
/// All fields together may have at most [`ATTRIBUTES_BYTES_MAX`] bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// Media type, for example `image/png`.
    pub content_type: Option<String>,
    /// Encoding of the payload, for example `zstd`. The payload is stored as given.
    pub compression: Option<String>,
    /// Source of the object, for example the address of a client.
    pub origin: Option<String>,
    /// Suggested file name for a download.
    pub filename: Option<String>,
    /// Custom entries by name.
    pub custom: BTreeMap<String, String>,
    /// Expiration policy.
    pub expiration: Expiration,
}

impl Attributes {
    /// Checks the size of the attributes and the expiration policy.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the attributes have more than [`ATTRIBUTES_BYTES_MAX`] bytes, and
    /// the errors of [`Expiration::validate`].
    pub fn validate(&self) -> Result<()> {
        self.expiration.validate()?;
        // The limit bounds the size of a row, which every `head` and `list` reads.
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

/// Everything that is stored about an object except its payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Size of the payload in bytes.
    pub size: u64,
    /// xxh3 over the whole payload. `None` if the payload was assembled from parts.
    pub checksum: Option<Checksum>,
    /// Time of the first write since the object was last absent.
    pub created: Timestamp,
    /// Time of the write of this version.
    pub modified: Timestamp,
    /// Deadline of the object. `None` if it does not expire.
    pub expires_at: Option<Timestamp>,
    /// Properties that the caller has set.
    pub attributes: Attributes,
}

impl Metadata {
    /// Returns `true` if the object exists at `now`.
    pub fn is_live(&self, now: Timestamp) -> bool {
        expiration::is_live(self.expires_at, now)
    }
}

/// Changes to some of the [`Attributes`] of an object. A field of `None` is unchanged.
///
/// ```
/// use cenotaph_storage::records::{Amendment, Attributes};
///
/// let before = Attributes { filename: Some("a.txt".into()), ..Attributes::default() };
/// let plain_text = Some("text/plain".to_owned());
/// let amendment = Amendment { content_type: Some(plain_text), ..Amendment::default() };
/// let after = amendment.apply(&before);
/// assert_eq!(after.content_type.as_deref(), Some("text/plain"));
/// assert_eq!(after.filename.as_deref(), Some("a.txt"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amendment {
    /// New media type; `Some(None)` removes it.
    pub content_type: Option<Option<String>>,
    /// New encoding; `Some(None)` removes it.
    pub compression: Option<Option<String>>,
    /// New origin; `Some(None)` removes it.
    pub origin: Option<Option<String>>,
    /// New file name; `Some(None)` removes it.
    pub filename: Option<Option<String>>,
    /// Custom entries to set (`Some`) or to remove (`None`).
    pub custom: BTreeMap<String, Option<String>>,
    /// New expiration policy. Its time starts at the amendment.
    pub expiration: Option<Expiration>,
}

impl Amendment {
    /// Returns the attributes with these changes applied.
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
