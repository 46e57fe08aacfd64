//! Stored values: one file per kind, with its byte layout, codec, golden fixture and round-trip
//! test.
//!
//! Every value begins with a format version byte. A value of an unknown version is refused with
//! [`ErrorKind::UnknownFormat`](crate::ErrorKind). The rules for changing a value are in `decide/`.

mod change;
mod codec;
mod expiration;
mod expiry;
mod manifest;
mod meta;
mod metadata;
mod orphan;
mod part;
mod payload;
mod row;
mod session;
mod store;

pub use change::Change;
pub use expiration::{Deadline, EXPIRATION_MAX, Expiration, Extension, is_live};
pub use expiry::{
    Due, check_expiry_value, expiry_end, expiry_key, expiry_value, read_expiry_key,
    session_expiry_key,
};
pub use manifest::{Extent, Manifest};
pub(crate) use meta::epoch_entry;
pub use meta::{
    begin_epoch, floor_key, floor_object, floors_prefix, last_epoch, read_floor, write_floor,
};
pub use metadata::{ATTRIBUTES_BYTES_MAX, Amendment, Attributes, Metadata};
pub use orphan::{Landing, Orphan, OrphanDue};
pub use part::{Filed, Part, all_parts_prefix, is_part_key, part_key, parts_prefix, read_part_key};
pub use payload::BlockChecksums;
pub use row::{Body, EMBEDDED_BYTES_MAX, Row};
pub use session::{
    PartsDigest, Phase, Session, all_sessions_prefix, read_session_key, session_key, session_prefix,
};
pub use store::{STORE_KEY, StoreRecord, TierState};
