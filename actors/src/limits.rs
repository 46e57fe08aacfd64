//! [`Limits`]: every limit of this crate. Over a limit is `Overloaded`, never unbounded memory.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Resources that the actors may use. All limits are per engine.
///
/// ```
/// let limits = cenotaph_actors::Limits { uploads_at_once: 32, ..Default::default() };
/// assert_eq!(limits.shards, 16);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Number of shards, the serialisation domains. May differ at every open, because nothing
    /// stored depends on it.
    pub shards: usize,
    /// Maximum number of small puts and deletes that wait for their commit. Over it is
    /// `Overloaded`.
    pub writes_at_once: usize,
    /// Maximum number of payload bytes that those writes hold together. Puts whose beginning is
    /// being read, or waits for a share of
    /// [`upload_bytes_in_flight`](Self::upload_bytes_in_flight), count too. Over it is
    /// `Overloaded`. A stream of unknown length reserves the inline limit until its tier is known.
    pub write_bytes_in_flight: usize,
    /// Maximum number of large puts and parts that stream or wait for memory. Over it is
    /// `Overloaded`.
    pub uploads_at_once: usize,
    /// Maximum number of payload bytes that all uploads buffer together. An upload that has sent at
    /// most 2 MiB holds only those bytes; half of the budget may be used so. Any other upload waits
    /// for the share of its blob without reading its stream, for at most
    /// [`budget_wait`](Self::budget_wait).
    pub upload_bytes_in_flight: usize,
    /// The queue in front of the limits on work under way. It is disabled by default.
    pub queue: QueueLimits,
    /// Share of the limits on work under way and on bytes that bulk work may use, in percent, 1 to
    /// 100. Bulk work is batches that are not atomic, deletions of a prefix, and puts marked as
    ///   bulk. A single operation over the share runs alone. Bulk work waits for its turn within
    ///   the share, for at most [`budget_wait`](Self::budget_wait).
    pub bulk_percent: u8,
    /// Maximum wait for a share of a budget. After it the operation is `Overloaded`, and nothing
    /// was committed.
    pub budget_wait: Duration,
    /// Maximum time that a caller's stream may be idle while it is awaited. After it the put fails
    /// with kind `Source`.
    pub source_idle: Duration,
    /// Maximum length of the payload of a put, in bytes. A longer stream is `Invalid`.
    pub payload_bytes_max: u64,
    /// Maximum number of repeated deliveries of a request that did not reach its actor. After them
    /// the request is `Unavailable`.
    pub deliveries_max: u32,
    /// Limits of actor restarts.
    pub restarts: RestartLimits,
    /// Number of changes that recovery reads per page of the index.
    pub recovery_page: usize,
    /// Deletion of orphans.
    pub sweep: SweepLimits,
    /// Removal of expired objects.
    pub expiry: ExpiryLimits,
    /// Last versions of deleted objects.
    pub last_versions: LastVersionLimits,
    /// Members of a shared index.
    pub members: MemberLimits,
    /// Multipart uploads.
    pub multipart: MultipartLimits,
    /// Division of large puts into blobs.
    pub split: SplitLimits,
    /// Maximum number of operations of a batch, atomic or not.
    pub batch_operations_max: usize,
    /// Maximum number of payload bytes of an atomic batch together.
    pub atomic_bytes_max: usize,
    /// Number of attempts of an update before it is a conflict.
    pub update_attempts: u32,
    /// Interval of the checks for an overdue commit.
    pub heartbeat: Duration,
    /// Time limit of `close`. The next open settles the work that is unfinished then.
    pub close_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            shards: 16,
            writes_at_once: 4096,
            write_bytes_in_flight: 256 * 1024 * 1024,
            uploads_at_once: 256,
            upload_bytes_in_flight: 256 * 1024 * 1024,
            queue: QueueLimits::default(),
            bulk_percent: 50,
            budget_wait: Duration::from_secs(30),
            source_idle: Duration::from_secs(60),
            payload_bytes_max: 5 * 1024 * 1024 * 1024 * 1024,
            deliveries_max: 12,
            restarts: RestartLimits::default(),
            recovery_page: 256,
            sweep: SweepLimits::default(),
            expiry: ExpiryLimits::default(),
            last_versions: LastVersionLimits::default(),
            members: MemberLimits::default(),
            multipart: MultipartLimits::default(),
            split: SplitLimits::default(),
            batch_operations_max: 1000,
            atomic_bytes_max: 8 * 1024 * 1024,
            update_attempts: 5,
            heartbeat: Duration::from_secs(1),
            close_timeout: Duration::from_secs(30),
        }
    }
}

/// The queue in front of [`writes_at_once`](Limits::writes_at_once),
/// [`write_bytes_in_flight`](Limits::write_bytes_in_flight) and
/// [`uploads_at_once`](Limits::uploads_at_once).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueueLimits {
    /// Maximum number of waiting operations. Over it is `Overloaded` at once. 0 by default: no
    /// operation waits.
    pub places: usize,
    /// Maximum wait. After it the operation is `Overloaded`, and nothing was started. 1 second by
    /// default.
    pub wait: Duration,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self {
            places: 0,
            wait: Duration::from_secs(1),
        }
    }
}

/// Limits of actor restarts: the intensity of Erlang's supervisors
/// (<https://www.erlang.org/doc/system/sup_princ.html>). Beyond them the engine fails closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RestartLimits {
    /// Maximum number of restarts of all actors together within [`within`](Self::within).
    pub max: usize,
    /// Window in which restarts are counted.
    pub within: Duration,
    /// Delay before the first restart; doubled for each further restart within the window.
    pub backoff_min: Duration,
    /// Maximum delay.
    pub backoff_max: Duration,
}

impl Default for RestartLimits {
    fn default() -> Self {
        Self {
            max: 20,
            within: Duration::from_secs(10),
            backoff_min: Duration::from_millis(5),
            backoff_max: Duration::from_millis(500),
        }
    }
}

/// Deletion of orphans.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SweepLimits {
    /// Number of deletions at once.
    pub deletes_at_once: usize,
    /// Maximum number of orphans settled by one commit.
    pub page: usize,
    /// Delay between the two deletions of a blob that a late write may still create.
    pub grace: Duration,
    /// Time limit of a deletion, after which it counts as failed.
    pub timeout: Duration,
    /// Delay after the first failed deletion of an orphan; doubled for each further failure.
    pub backoff_min: Duration,
    /// Maximum delay.
    pub backoff_max: Duration,
}

impl Default for SweepLimits {
    fn default() -> Self {
        Self {
            deletes_at_once: 16,
            page: 256,
            grace: Duration::from_secs(60),
            timeout: Duration::from_secs(60),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(300),
        }
    }
}

/// Removal of expired objects. An object is absent from its deadline on, removed or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExpiryLimits {
    /// Number of removals at once, which share syncs.
    pub removals_at_once: usize,
    /// Number of entries per page of the expiry index.
    pub page: usize,
    /// Maximum time between two passes. A clock that was set forward is noticed at the latest after
    /// it.
    pub interval_max: Duration,
}

impl Default for ExpiryLimits {
    fn default() -> Self {
        Self {
            removals_at_once: 512,
            page: 1024,
            interval_max: Duration::from_secs(60),
        }
    }
}

/// Last versions of deleted objects, which the index keeps so that a version is never reused.
///
/// An entry over one of the limits is dropped in the background, and the base version of the store
/// rises to at least its version: new objects then start at a higher version than 1. No version is
/// reused, whatever the limits are.
///
/// ```
/// use std::time::Duration;
///
/// let limits = cenotaph_actors::LastVersionLimits::default();
/// assert_eq!(limits.kept_for, Duration::from_secs(30 * 24 * 3600));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LastVersionLimits {
    /// Retention after the deletion. An object that is created again within it continues its
    /// versions.
    pub kept_for: Duration,
    /// Maximum number of entries. Of more entries the oldest are dropped. The number is known from
    /// walks over all entries, so that it may be exceeded for a while.
    pub entries_max: u64,
    /// Number of entries per page, and maximum number of entries dropped together.
    pub page: usize,
    /// Time between two pages of a walk. A page with old entries is followed by the next one
    /// without delay.
    pub page_interval: Duration,
    /// Time between two walks. A walk begins earlier if a quarter of
    /// [`entries_max`](Self::entries_max) was added since the last one began.
    pub walk_interval: Duration,
}

impl LastVersionLimits {
    /// Number of entries stored since a walk began after which the next walk begins at once.
    pub(crate) fn stored_max(&self) -> u64 {
        (self.entries_max / 4).max(1)
    }
}

impl Default for LastVersionLimits {
    fn default() -> Self {
        Self {
            kept_for: Duration::from_secs(30 * 24 * 3600),
            entries_max: 1_000_000,
            page: 1024,
            page_interval: Duration::from_millis(50),
            walk_interval: Duration::from_secs(3600),
        }
    }
}

/// Members of a shared index. Without effect on an index with a single owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemberLimits {
    /// Time for which the heartbeat of another member must stand still before it is declared dead,
    /// by the monotonic clock of this process. Must be several times longer than the heartbeat of
    /// each member, which its index counts.
    pub lease: Duration,
    /// Number of times that a write is decided again, because other members change its object
    /// between the decision and the commit. After them it is `Overloaded`.
    pub attempts_max: u32,
    /// Time for which an orphan is kept, because a reader of another member may have it open. A read
    /// that takes longer than half of it stores a pin. Must be the same for all members.
    pub reader_grace: Duration,
}

impl Default for MemberLimits {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(20),
            attempts_max: 100,
            reader_grace: Duration::from_secs(60),
        }
    }
}

/// Multipart uploads. All parts of an upload together are limited by [`Limits::payload_bytes_max`],
/// and each part under way counts in [`Limits::uploads_at_once`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MultipartLimits {
    /// Minimum number of bytes of each part except the last, checked by the completion. S3 requires
    /// 5 MiB.
    pub part_bytes_min: u64,
    /// Maximum number of bytes of a part.
    pub part_bytes_max: u64,
    /// Maximum time from the initiation of an upload to its completion. After it the upload no
    /// longer exists, and its parts are deleted.
    pub lifetime: Duration,
    /// Maximum number of parts of uploads that end at once, by completion, abort or expiry. An
    /// upload ends with a single commit about all of its parts, which takes some 800 bytes of
    /// memory per part. The end of an upload waits for its turn; an upload with more parts ends
    /// alone.
    pub parts_ending_at_once: usize,
    /// Retention of the result of an upload: a repeated completion receives the same result.
    pub kept_for: Duration,
}

impl Default for MultipartLimits {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self {
            part_bytes_min: 0,
            part_bytes_max: 5 * 1024 * 1024 * 1024,
            lifetime: 7 * day,
            parts_ending_at_once: 20_000,
            kept_for: day,
        }
    }
}

/// Division of large puts into several blobs, so that one stream can use the whole network.
///
/// A payload of more than [`over_bytes`](Self::over_bytes) is cut into blobs that are uploaded in
/// parallel and named by one tombstone. A stream of unknown length has a first blob of
/// `over_bytes`. A payload that would need more than 10,000 blobs has larger blobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SplitLimits {
    /// Maximum length of a payload that is a single blob.
    pub over_bytes: u64,
    /// Number of bytes of each blob of a longer payload. The memory of a blob's requests under way
    /// (see `BlobOptions`) is the best value: larger blobs finish with less overlap.
    pub part_bytes: u64,
    /// Number of blobs of a put under way at a time.
    pub at_once: usize,
}

impl Default for SplitLimits {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        Self {
            over_bytes: 256 * MIB,
            part_bytes: 32 * MIB,
            at_once: 4,
        }
    }
}
