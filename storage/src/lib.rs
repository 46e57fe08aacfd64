//! The storage layer of Cenotaph: basic types, stored values, pure decisions, and the two tiers.
//!
//! Reading order: `id` and `word` (basic types), [`env`](crate::Env) (time, randomness, tasks and
//! threads), `rows` (stored values), `decide` (pure decisions), `index` and `blobs` (the two
//! tiers), `read` (lookup and reading of objects), `scrub` (verification of all stored data).
//!
//! Guards the storage half of I1 to I9; ARCHITECTURE.md has the table of invariants. Actors and
//! their tasks are in the crate `actors`. The only long-lived thread of this crate is the committer
//! of the index. A short-lived thread closes each local blob.
//!
//! # Features
//! - `contract`: the test suite of the trait [`Index`](index::Index), for its implementations.
//! - `planted`: for the simulator, which plants bugs to test its checkers.

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod blobs;
mod checksum;
pub mod decide;
mod digest;
mod directory_sync;
mod env;
mod error;
mod id;
pub mod index;
mod list;
mod modes;
mod multipart;
pub mod ownership;
mod pins;
pub mod planted;
mod range;
mod read;
pub mod rows;
pub mod salvage;
pub mod scrub;
mod uploads;
mod word;

pub use checksum::{BLOCK_BYTES, BlockHasher, Checksum, Hasher};
pub use digest::{Digest, Verifier};
pub use env::{Env, Real, Seam, World};
pub use error::{Error, ErrorKind, Reason, Result};
pub use id::{KEY_BYTES_MAX, NAMESPACE_PART_BYTES_MAX, NAMESPACE_SCOPES_MAX, Namespace, ObjectId};
pub use list::{Entry, ListPage, ListRequest, OnDamage};
pub use modes::Modes;
pub use multipart::{PARTS_MAX, PartEtag, PartNumber, UploadId, no_such_upload};
pub use pins::{Pin, Pins};
pub use range::ByteRange;
pub use read::{Head, OpenObject, ReadLimits, ReadStats, ReadUse, Reads};
pub use uploads::{
    PartInfo, PartPage, PartsRequest, UploadInfo, UploadMarker, UploadPage, UploadsRequest,
};
pub use word::{
    Current, Epoch, Etag, OperationId, RevisionId, RevisionKey, StoreId, Timestamp, Version,
};
