//! Every limit of this room, in one struct. Over a limit is `Overloaded`, never unbounded memory.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What the actors may use. All limits are per engine.
///
/// ```
/// let limits = cenotaph_actors::Limits { uploads_at_once: 32, ..Default::default() };
/// assert_eq!(limits.shards, 16);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Shards: serialisation domains. May differ at every open; nothing stored depends on it.
    pub shards: usize,
    /// Small puts and deletes that may wait for their commit at once. One more is `Overloaded`.
    pub writes_at_once: usize,
    /// Payload bytes that those writes, and puts whose beginning is still being read or waits for a
    /// share of [`upload_bytes_in_flight`](Self::upload_bytes_in_flight), may hold together. One
    /// more is `Overloaded`. A stream of unknown length reserves the inline limit until its tier is
    /// known.
    pub write_bytes_in_flight: usize,
    /// Large puts and parts at once, streaming or waiting for a share of the bytes in flight. One
    /// more is `Overloaded`.
    pub uploads_at_once: usize,
    /// Payload bytes that all uploads may buffer together. An upload that has sent no more than 2
    /// MiB holds so much of it, while half of it is free for such beginnings; any other waits,
    /// without reading its stream, for the share of its blob: for
    /// [`budget_wait`](Self::budget_wait) at the most.
    pub upload_bytes_in_flight: usize,
    /// The queue where a limit of the work under way at once is reached. It has no place, unless
    /// configured.
    pub queue: QueueLimits,
    /// The part of the work under way at once, and of the bytes, that bulk work may take, in
    /// percent, 1 to 100: batches that are not atomic, deletions of a prefix, and puts that say so.
    /// What needs more by itself is let through alone. Bulk work waits for its turn within it, for
    /// [`budget_wait`](Self::budget_wait) at the most.
    pub bulk_percent: u8,
    /// Longest wait for a share of a budget. Then the operation is `Overloaded`, and nothing was
    /// committed.
    pub budget_wait: Duration,
    /// Longest time that a caller's stream may give nothing while it is waited for. Then the put
    /// fails with kind `Source`.
    pub source_idle: Duration,
    /// Longest payload of one put, in bytes. A longer stream is `Invalid`.
    pub payload_bytes_max: u64,
    /// How often a request that did not reach its shard is delivered again before it is
    /// `Unavailable`.
    pub deliveries_max: u32,
    /// How often an actor may be restarted.
    pub restarts: RestartLimits,
    /// Changes that recovery looks at per read of the index.
    pub recovery_page: usize,
    /// How orphans are deleted.
    pub sweep: SweepLimits,
    /// How expired objects are removed.
    pub expiry: ExpiryLimits,
    /// Multipart uploads.
    pub multipart: MultipartLimits,
    /// How large puts are uploaded as several blobs at once.
    pub split: SplitLimits,
    /// Most operations of one batch, atomic or not.
    pub batch_operations_max: usize,
    /// Most payload bytes of one atomic batch together.
    pub atomic_bytes_max: usize,
    /// How often an update is tried before it is a conflict.
    pub update_attempts: u32,
    /// How often the index is checked for an overdue commit.
    pub heartbeat: Duration,
    /// How long `close` may take. What is unfinished then is left to the next open.
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
    /// Operations that may wait. One more is `Overloaded` at once. 0 by default: nobody waits.
    pub places: usize,
    /// Longest wait. Then the operation is `Overloaded`, and nothing was started. 1 second by
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

/// How often actors may be restarted: the intensity of Erlang's supervisors
/// (<https://www.erlang.org/doc/system/sup_princ.html>). Beyond it the engine fails closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RestartLimits {
    /// Most restarts, of all actors together, ..
    pub max: usize,
    /// .. within this time.
    pub within: Duration,
    /// Delay before the first restart; doubled for each further one within the time.
    pub backoff_min: Duration,
    /// Longest delay.
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

/// How orphans are deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SweepLimits {
    /// Deletions at once.
    pub deletes_at_once: usize,
    /// Orphans settled by one commit.
    pub page: usize,
    /// How long after its first deletion a blob that may still land is deleted again.
    pub grace: Duration,
    /// How long one deletion may take before it counts as failed.
    pub timeout: Duration,
    /// Delay after the first failed deletion of an orphan; doubled for each further one.
    pub backoff_min: Duration,
    /// Longest such delay.
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

/// How expired objects are removed. They are absent from their deadline on, removed or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExpiryLimits {
    /// Removals at once: they share syncs.
    pub removals_at_once: usize,
    /// Entries per read of the expiry index.
    pub page: usize,
    /// Longest time until the next look for what is due: how late a clock that was set forward is
    /// noticed.
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

/// Multipart uploads. The parts of an upload together may have [`Limits::payload_bytes_max`], and
/// each part under way counts among [`Limits::uploads_at_once`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MultipartLimits {
    /// Fewest bytes of each part but the last; looked at when the upload is completed. S3 wants 5
    /// MiB.
    pub part_bytes_min: u64,
    /// Most bytes of a part.
    pub part_bytes_max: u64,
    /// How long an upload may take from its beginning to its completion. Later nobody knows it any
    /// more, and its parts are deleted.
    pub lifetime: Duration,
    /// Parts of uploads that may be ending at once, by completion, abort or expiry: what ends an
    /// upload is one commit about all of its parts, some 800 bytes of memory each while it is under
    /// way. An end waits for its turn; one with more parts than this takes all there is.
    pub parts_ending_at_once: usize,
    /// For how long it is remembered what came of an upload: a repeated completion hears the same.
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

/// How large puts are uploaded as several blobs at once, so that one stream can use the whole
/// network: a payload of more than [`over_bytes`](Self::over_bytes) is cut into blobs, some of them
/// under way together, that one tombstone names.
///
/// A stream that does not say how long it is has a first blob of `over_bytes`. A payload that would
/// need more than 10,000 blobs has larger ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SplitLimits {
    /// Longest payload that is one blob.
    pub over_bytes: u64,
    /// Bytes of each blob of a longer one. As much as a blob's requests under way hold (see
    /// `BlobOptions`) is best: more of it is not uploaded beside the next one.
    pub part_bytes: u64,
    /// Blobs of one put under way at a time.
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
