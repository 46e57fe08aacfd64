//! Rows as older formats had them. They are read, and written in today's format when they change
//! next.
//!
//! ```text
//! 1  postcard: version, operation, metadata without expiration and deadline, body kind; a separate payload lies under
//!    the row's own operation
//! 0  the same without the version: it reads as version 1
//! ```

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;

use super::{Stored, StoredBody};
use crate::checksum::Checksum;
use crate::error::Result;
use crate::rows::codec;
use crate::rows::{Attributes, Expiration, Extent, Manifest, Metadata};
use crate::word::{OperationId, Timestamp, Version};

/// The format before objects could expire.
pub(super) const WITHOUT_EXPIRY: u8 = 1;
/// The format before objects had versions.
pub(super) const WITHOUT_VERSION: u8 = 0;

pub(super) fn decode_without_expiry(value: &Bytes) -> Result<(Stored, Bytes)> {
    let ((version, row), tail) =
        codec::decode_with_tail::<(Version, OldRow)>("row", WITHOUT_EXPIRY, value)?;
    Ok((row.stored(version), tail))
}

pub(super) fn decode_without_version(value: &Bytes) -> Result<(Stored, Bytes)> {
    let (row, tail) = codec::decode_with_tail::<OldRow>("row", WITHOUT_VERSION, value)?;
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
