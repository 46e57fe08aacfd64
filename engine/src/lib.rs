//! Cenotaph: an embeddable, actor-based, tiered object store.
//!
//! A cenotaph is a tombstone for a body that is buried elsewhere. Small objects are inline in an
//! embedded index. For a large object, the index holds a *tombstone*: a row that names the
//! immutable revisions in the blob tier which hold the bytes. The swap of this row is the only
//! commit point. Each change of an object is therefore atomic, also across a crash.
//!
//! Start with [`Engine`]. The README and docs/guarantees.md list the guarantees and their limits;
//! ARCHITECTURE.md explains the design. [`Config`] has all settings, and serde reads it.
//!
//! ```
//! use std::time::Duration;
//!
//! use cenotaph::{Body, Engine};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let directory = directory.path();
//! let engine = Engine::builder(directory).open().await?;
//! let done = engine.put("notes/today", "buy milk").content_type("text/plain").await?;
//! println!("version {} etag {}", done.version.unwrap(), done.etag.unwrap());
//!
//! // A stream of 5 MB: to the blob tier.
//! let chunks = (0..50).map(|n| Ok::<_, std::io::Error>(vec![n; 100_000]));
//! engine.put("videos/cat", Body::stream(futures::stream::iter(chunks))).await?;
//! let range = engine.get("videos/cat").range(100_000..100_004).await?.expect("was just put");
//! assert_eq!(range.bytes().await?, vec![1; 4]);
//! for entry in engine.list("").delimiter('/').await?.entries {
//!     println!("{}", entry.name());
//! }
//!
//! // A conditional write, which fails with a conflict if the object has changed since the read.
//! let read = engine.head("notes/today").await?.expect("was just put");
//! let day = Duration::from_secs(24 * 3600);
//! engine.put("notes/today", "buy bread").if_version(read.version.unwrap()).time_to_live(day).await?;
//!
//! // One commit, without copying a byte.
//! engine.rename("videos/cat", "videos/tom").await?;
//!
//! // An upload in parts, which `Engine::resume` continues by its id.
//! let upload = engine.multipart("videos/long").await?;
//! upload.part(2, "the end").await?;
//! upload.part(1, "once upon a time .. ").await?;
//! upload.complete().await?;
//! engine.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! This crate is the public API. The actors are in `cenotaph-actors`, the storage layer is in
//! `cenotaph-storage`.
//!
//! # Features
//! No feature is on by default, and a service needs none. Services of the blob tier are features of
//! the crate `opendal`.
//! - `chaos`: `Engine::kill`, which kills actors in tests.
//! - `planted`: for the simulator, which plants bugs to test its checkers.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod body;
mod builder;
#[cfg(feature = "chaos")]
mod chaos;
mod config;
pub mod doctor;
mod engine;
mod engine_fallback;
mod multipart;
mod namespaces;
mod observe;
mod opened;
mod ops;
mod read_only;
mod salvage;
mod shared;
mod startup;
mod update_queue;

pub use body::Body;
pub use builder::Builder;
pub use config::{Config, INLINE_BYTES_MAX, MissingBlob};
pub use engine::{Engine, IntoObjectId, Stats};
pub use engine_fallback::EngineFallback;
pub use multipart::{
    Complete, CopyPart, Initiate, ListParts, ListUploads, MultipartUpload, UploadPart,
};
pub use ops::amend::{Amend, ExtendExpiry};
pub use ops::batch::{BatchWrite, Operation, Reply};
pub use ops::copy::{CopyRequest, RenameRequest};
pub use ops::delete::{Delete, DeletePrefix, PrefixDeleted};
pub use ops::get::{Get, Object};
pub use ops::list::List;
pub use ops::migrate::{FallbackStatus, Migrate, MigrationFailure, MigrationReport};
pub use ops::put::Put;
pub use ops::relocate::{BlobTierInfo, Relocate, RelocationReport};
pub use ops::scrub::Scrub;
pub use ops::update::{NewContent, Update, Updated};
pub use ops::usage::Usage;
pub use salvage::{Salvage, salvage};
pub use shared::MemberInfo;

pub use cenotaph_actors::{
    ActorKind, ActorStats, BudgetUse, ExpiryLimits, LastVersionLimits, Limits, MemberLimits,
    MultipartLimits, NamespaceLimits, QueueLimits, RestartLimits, SplitLimits, SweepLimits,
    UploadedPart, WriteReply,
};
pub use cenotaph_storage::blobs::foreign::OperatorFallback;
pub use cenotaph_storage::blobs::marker::MARKER_PATH;
pub use cenotaph_storage::blobs::trailer::TRAILER_BYTES_MAX;
pub use cenotaph_storage::blobs::{BlobOptions, object_of_blob};
pub use cenotaph_storage::decide::{Deleted, Precondition, PutResult, WriteOutcome};
pub use cenotaph_storage::fallback::{
    Fallback, FallbackEntry, FallbackListRequest, FallbackMeta, FallbackObject, FallbackPage,
    FallbackTimes, KeyPosition, RemovableSource,
};
pub use cenotaph_storage::index::fjall::FjallOptions;
#[cfg(feature = "postgres")]
pub use cenotaph_storage::index::postgres::PostgresOptions;
pub use cenotaph_storage::index::{
    CollectionStats, Index, IndexStats, PayloadLogStats, SpaceStats, Table, UnreadableRange,
};
pub use cenotaph_storage::records::{
    ATTRIBUTES_BYTES_MAX, Amendment, Attributes, Deadline, EXPIRATION_MAX, Expiration, Metadata,
};
pub use cenotaph_storage::records::{FallbackState, MigrationProgress};
pub use cenotaph_storage::salvage::{LostBlob, LostName, LostTable, SalvageReport, Unread};
pub use cenotaph_storage::scrub::{
    Damage, Finding, RawKey, RepairOutcome, ScrubCounts, ScrubDepth, ScrubProgress, ScrubReport,
};
pub use cenotaph_storage::{
    ByteRange, Checksum, Digest, Entry, Env, Epoch, Error, ErrorKind, Etag, KEY_BYTES_MAX,
    ListPage, Modes, Namespace, ObjectId, ObjectMeta, ObjectVersion, OnDamage, PARTS_MAX, PartEtag,
    PartInfo, PartNumber, PartPage, ReadLimits, ReadStats, ReadUse, Reason, Result, RevisionId,
    TierNumber, Timestamp, UploadId, UploadInfo, UploadMarker, UploadPage, Version, WallTime,
};

pub use bytes;
pub use opendal::Operator;

/// The example of the README, compiled as a doc test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
