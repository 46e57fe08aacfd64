//! Stored values: one file per kind, with its byte layout, codec, golden fixture and round-trip
//! test.
//!
//! Every value begins with a format version byte. A value of an unknown version is refused with
//! [`ErrorKind::UnknownFormat`](crate::ErrorKind). The rules for changing a value are in `decide/`.

mod base_version;
mod change;
mod claim;
mod codec;
mod expiration;
mod expiry;
mod fallback;
mod last_version;
mod manifest;
mod meta;
mod metadata;
mod orphan;
mod part;
mod payload;
mod reader_pin;
mod row;
mod store;
mod upload_record;

pub use base_version::{BASE_VERSION_KEY, BaseVersion};
pub use change::Change;
pub use claim::{Claim, claim_key};
pub use expiration::{Deadline, EXPIRATION_MAX, Expiration, Extension, is_live};
pub use expiry::{
    Due, check_expiry_value, expiry_end, expiry_key, expiry_value, read_expiry_key,
    upload_expiry_key,
};
pub use fallback::{FALLBACK_KEY, FallbackRecord, FallbackState, MigrationProgress};
pub use last_version::{LastVersion, last_version_key, last_version_object, last_versions_prefix};
pub use manifest::{Extent, Manifest, PayloadId};
pub(crate) use meta::epoch_entry;
pub use meta::{begin_epoch, last_epoch};
pub use metadata::{ATTRIBUTES_BYTES_MAX, Amendment, Attributes, Metadata};
pub use orphan::{LateWrite, Orphan, OrphanDue};
pub use part::{Filed, Part, all_parts_prefix, is_part_key, part_key, parts_prefix, read_part_key};
pub use payload::BlockChecksums;
pub use reader_pin::{
    read_reader_pin_key, reader_pin_key, reader_pin_value, reader_pins_of, reader_pins_prefix,
};
pub use row::{EMBEDDED_BYTES_MAX, Row, RowBody};
pub use store::{NextTier, NumberedTier, STORE_KEY, StoreRecord, TierState};
pub use upload_record::{
    PartsDigest, UploadPhase, UploadRecord, all_sessions_prefix, decode_upload_record_key,
    session_prefix, upload_record_key,
};
