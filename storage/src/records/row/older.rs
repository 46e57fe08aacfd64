//! Decoders of rows in older formats. The next change of such a row writes it in the present
//! format.
//!
//! ```text
//! 1  postcard: version, operation, metadata without expiration and deadline, body kind;
//!    a separate payload is under the operation of the row
//! 0  the same without the version: it is read as version 1
//! ```

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;

use super::{Stored, StoredBody};
use crate::records::codec;
use crate::records::{Attributes, Expiration, Extent, Manifest, Metadata};
use crate::types::Checksum;
use crate::types::Result;
use crate::types::{OperationId, Timestamp, Version};

/// Format without expiration.
pub(super) const WITHOUT_EXPIRY: u8 = 1;
/// Format without versions.
pub(super) const WITHOUT_VERSION: u8 = 0;

/// Decodes a row of format [`WITHOUT_EXPIRY`] and returns it with its embedded payload.
pub(super) fn decode_without_expiry(value: &Bytes) -> Result<(Stored, Bytes)> {
    let ((version, row), tail) =
        codec::decode_with_tail::<(Version, OldRow)>("row", WITHOUT_EXPIRY, value)?;
    Ok((row.stored(version), tail))
}

/// Decodes a row of format [`WITHOUT_VERSION`] and returns it with its embedded payload.
pub(super) fn decode_without_version(value: &Bytes) -> Result<(Stored, Bytes)> {
    let (row, tail) = codec::decode_with_tail::<OldRow>("row", WITHOUT_VERSION, value)?;
    // Version 1, so that the next write of the object gets a higher version.
    Ok((row.stored(Version::NONE.next()), tail))
}

#[derive(Deserialize)]
struct OldRow {
    operation: OperationId,
    metadata: OldMetadata,
    body: OldBody,
}

#[derive(Deserialize)]
struct OldMetadata {
    size: u64,
    checksum: Option<Checksum>,
    created: Timestamp,
    modified: Timestamp,
    content_type: Option<String>,
    compression: Option<String>,
    origin: Option<String>,
    filename: Option<String>,
    custom: BTreeMap<String, String>,
}

#[derive(Deserialize)]
enum OldBody {
    Embedded,
    Separate,
    Tombstone(Vec<Extent>),
}

impl OldRow {
    fn stored(self, version: Version) -> Stored {
        let OldMetadata {
            size,
            checksum,
            created,
            modified,
            content_type,
            compression,
            origin,
            filename,
            custom,
        } = self.metadata;
        let attributes = Attributes {
            content_type,
            compression,
            origin,
            filename,
            custom,
            expiration: Expiration::Manual,
        };
        let body = match self.body {
            OldBody::Embedded => StoredBody::Embedded,
            // In these formats, the payload is always under the operation of the row.
            OldBody::Separate => StoredBody::Separate(self.operation),
            OldBody::Tombstone(extents) => StoredBody::Tombstone(Manifest::of_parts(extents)),
        };
        let metadata = Metadata {
            size,
            checksum,
            created,
            modified,
            expires_at: None,
            attributes,
        };
        Stored {
            version,
            operation: self.operation,
            metadata,
            body,
        }
    }
}
