//! What is known about an object without its bytes: [`Attributes`], stated by the caller, and [`Metadata`], all of it.
//!
//! The whole metadata is in the row, so that head never touches the blob tier. Its bytes are part of the row's
//! (`row.rs`), and so is its golden fixture.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::checksum::Checksum;
use crate::error::{Error, ErrorKind, Result};
use crate::word::Timestamp;

/// Most bytes of all attributes of one object together: names, values and the fixed fields.
pub const ATTRIBUTES_BYTES_MAX: usize = 16 * 1024;

/// What the caller states about an object. Cenotaph keeps it and gives it back; it acts on none of it.
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
}

impl Attributes {
    /// Checks the limit.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if there are more than [`ATTRIBUTES_BYTES_MAX`] bytes in all.
    pub fn validate(&self) -> Result<()> {
        let fixed = [&self.content_type, &self.compression, &self.origin, &self.filename];
        let fixed_bytes: usize = fixed.iter().filter_map(|field| field.as_ref()).map(String::len).sum();
        let custom_bytes: usize = self.custom.iter().map(|(name, value)| name.len() + value.len()).sum();
        let bytes = fixed_bytes + custom_bytes;
        if bytes > ATTRIBUTES_BYTES_MAX {
            let message = format!("metadata is too large: bytes={bytes} max={ATTRIBUTES_BYTES_MAX}");
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
    /// What the caller stated.
    pub attributes: Attributes,
}
