//! The storage layer of Cenotaph: basic types, stored values, pure decisions, and the two tiers.
//!
//! Reading order: `types` (names, ids, times, errors), [`env`](crate::Env) (time, randomness, tasks
//! and threads), `records` (stored values), `decide` (pure decisions), `index` and `blobs` (the two
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
pub mod decide;
mod directory_sync;
mod env;
pub mod fallback;
pub mod index;
mod modes;
pub mod ownership;
pub mod planted;
mod read;
pub mod records;
pub mod salvage;
pub mod scrub;
pub mod tamper;
pub mod tier_scan;
mod types;

pub use env::{Env, Real, SyncPoint, World};
pub use modes::Modes;
pub use read::list::{Entry, ListPage, ListRequest, OnDamage};
pub use read::list_uploads::{
    PartInfo, PartPage, PartsRequest, UploadInfo, UploadMarker, UploadPage, UploadsRequest,
};
pub use read::pins::{Pin, Pins};
pub use read::{ObjectMeta, OpenObject, ReadLimits, ReadStats, ReadUse, Reads};
pub use types::{
    BLOCK_BYTES, BlockHasher, ByteRange, Checksum, Digest, Epoch, Error, ErrorKind, Etag, Hasher,
    KEY_BYTES_MAX, NAMESPACE_PART_BYTES_MAX, NAMESPACE_SCOPES_MAX, Namespace, ObjectId,
    ObjectVersion, OperationId, PARTS_MAX, PartEtag, PartNumber, Reason, Result, RevisionId,
    RevisionKey, StoreId, TierId, TierMark, TierNumber, Timestamp, UploadId, Verifier, Version,
    WallTime, no_such_upload,
};
