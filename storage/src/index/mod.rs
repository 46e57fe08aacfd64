//! The index (high-volume tier): the ordered, durable store of rows, as the trait [`Index`].
//!
//! Guards the storage half of I3 (a batch is all or nothing), of I7 (a read returns durable data
//! only) and of I10 (a completion fires exactly once, with the true outcome). `records/` defines
//! the meaning of a row.

use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::types::{Checksum, Error, ErrorKind, Result};

mod batch;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod fjall;
mod group_commit;
mod heartbeats;
mod payload_log;
#[cfg(feature = "postgres")]
pub mod postgres;
mod read_only;
mod shared;
mod space;
mod stall;
mod step_over;

pub use batch::{Batch, Condition, KEY_BYTES_MAX, RangeCondition};
pub(crate) use heartbeats::wait_until_alone;
pub use heartbeats::{Heartbeats, LeaseTimes, MemberReading};
pub use payload_log::{CollectionStats, PayloadLogStats};
pub use read_only::{ReadOnlyIndex, read_only};
pub use shared::{Member, SharedIndex};
pub use space::{SpaceStats, no_space};
pub use stall::StallWatch;
pub use step_over::{PartialPage, UnreadableRange};

/// The tables of an index. One table is one ordered map from keys to values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Encoded object id -> [`Row`](crate::records::Row).
    Rows,
    /// Operation id -> inline payload, or revision id ->
    /// [`BlockChecksums`](crate::records::BlockChecksums): data of a row that is read only together
    /// with the object's bytes.
    Payloads,
    /// Operation id -> [`Change`](crate::records::Change).
    Changes,
    /// Revision id -> [`Orphan`](crate::records::Orphan).
    Orphans,
    /// Upload records: the stored rows of multipart uploads.
    Uploads,
    /// Deadlines of objects and uploads, ordered by time.
    Expiry,
    /// Format version, epoch, and the last versions of deleted objects.
    Meta,
}

impl Table {
    /// Every table, in a fixed order.
    pub const ALL: [Self; 7] = [
        Self::Rows,
        Self::Payloads,
        Self::Changes,
        Self::Orphans,
        Self::Uploads,
        Self::Expiry,
        Self::Meta,
    ];

    /// Returns the name of the table on disk.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Payloads => "payloads",
            Self::Changes => "changes",
            Self::Orphans => "orphans",
            Self::Uploads => "sessions",
            Self::Expiry => "expiry",
            Self::Meta => "meta",
        }
    }
}

/// Reason why a submitted batch is not known to be durable.
#[derive(Clone, Debug)]
pub enum CommitError {
    /// The batch did not reach the store and never will. Nothing of it is or becomes durable.
    NotStarted(Error),
    /// A [`Condition`] of the batch does not hold: another member of a shared index has changed the
    /// key. Nothing of the batch is or becomes durable. The index is not poisoned.
    Changed,
    /// The store failed or is overdue. The batch may be durable now, become durable later, or
    /// never. Only a reopen shows the outcome.
    Unknown(Error),
}

impl CommitError {
    /// Returns the error for the caller of the write.
    pub fn into_error(self) -> Error {
        match self {
            Self::NotStarted(error) | Self::Unknown(error) => error,
            Self::Changed => Error::new(
                ErrorKind::Unavailable,
                "commit",
                "another member has changed the object meanwhile; nothing was committed",
            ),
        }
    }

    /// Creates the outcome of a batch that an index does not accept, because the index is closed or
    /// has failed for this reason.
    pub fn not_started(reason: &Error) -> Self {
        // The reason may have any kind. Callers distinguish only "closed" and "reopen the index".
        let kind = if reason.kind() == ErrorKind::Closed {
            ErrorKind::Closed
        } else {
            ErrorKind::Unavailable
        };
        let message = if kind == ErrorKind::Closed {
            "the index is closed"
        } else {
            "the index has failed and must be reopened"
        };
        Self::NotStarted(Error::new(kind, "commit", message).with_source(reason.clone()))
    }

    /// Creates the outcome of a batch whose commit failed for this reason and may or may not be
    /// durable.
    pub fn unknown(reason: &Error) -> Self {
        Self::Unknown(
            Error::new(
                ErrorKind::Indeterminate,
                "commit",
                "the commit failed and may or may not be durable",
            )
            .with_source(reason.clone()),
        )
    }
}

/// Callback for the outcome of a submitted batch. The index calls it exactly once: on the thread
/// that commits, or on the thread of a caller that submits to, watches or closes a failed index.
/// The callback must be short and must not block.
pub type Completion = Box<dyn FnOnce(Result<(), CommitError>) + Send>;

/// Page of a scan: keys and values in key order.
pub type Page = Vec<(Bytes, Bytes)>;

/// Key range of a scan, and the maximal number of entries.
#[derive(Clone, Debug)]
pub struct Range {
    /// Lower bound.
    pub start: Bound<Bytes>,
    /// Upper bound.
    pub end: Bound<Bytes>,
    /// Maximal number of entries in the page.
    pub limit: usize,
}

impl Range {
    /// Returns the range of all keys, limited to `limit` entries.
    pub fn all(limit: usize) -> Self {
        Self {
            start: Bound::Unbounded,
            end: Bound::Unbounded,
            limit,
        }
    }

    /// Returns the range of all keys with this prefix, limited to `limit` entries.
    pub fn prefix(prefix: &[u8], limit: usize) -> Self {
        let end = successor(prefix).map_or(Bound::Unbounded, Bound::Excluded);
        Self {
            start: Bound::Included(Bytes::copy_from_slice(prefix)),
            end,
            limit,
        }
    }

    /// Returns the same range, starting directly after `key`.
    #[must_use]
    pub fn after(mut self, key: Bytes) -> Self {
        self.start = Bound::Excluded(key);
        self
    }
}

/// Returns the smallest key above all keys with this prefix, or `None` if the prefix is empty or
/// consists of 0xff bytes.
pub fn successor(prefix: &[u8]) -> Option<Bytes> {
    // A byte 0xff can't be incremented. The last smaller byte is, and the rest is cut off.
    let last = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}

/// Consistent state of an index. Contains each batch completely or not at all.
///
/// A snapshot may prevent the index from freeing space. Drop it soon.
pub trait Snapshot: Send + Sync {
    /// Returns the value of a key, or `None` if it is absent.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the store can't be read, [`ErrorKind::Corrupt`] if the stored
    /// data is damaged.
    fn get<'a>(&'a self, table: Table, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>>>;

    /// Returns the values of several keys, in the order of `keys`. An index with a fixed cost per
    /// call pays it only once.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn get_many(
        &self,
        table: Table,
        keys: Vec<Bytes>,
    ) -> BoxFuture<'_, Result<Vec<Option<Bytes>>>> {
        Box::pin(async move {
            let mut values = Vec::with_capacity(keys.len());
            for key in &keys {
                values.push(self.get(table, key).await?);
            }
            Ok(values)
        })
    }

    /// Returns a page of entries in key order.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn scan(&self, table: Table, range: Range) -> BoxFuture<'_, Result<Page>>;

    /// Returns a page of keys in order, without their values. An index that can read keys without
    /// values does so, because callers scan tables with large values this way.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn keys(&self, table: Table, range: Range) -> BoxFuture<'_, Result<Vec<Bytes>>> {
        Box::pin(async move {
            Ok(self
                .scan(table, range)
                .await?
                .into_iter()
                .map(|(key, _)| key)
                .collect())
        })
    }
}

/// Counters of an index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexStats {
    /// Batches that became durable since the index was opened.
    pub batches: u64,
    /// Syncs for these batches. Group commit makes this the smaller number.
    pub syncs: u64,
    /// Batches that were submitted and whose completion has not fired.
    pub waiting: u64,
}

/// Ordered, durable store with atomic batches.
///
/// The contract, which [`contract`](crate::index) tests on any implementation:
///
/// 1. Batches become durable in the order in which they were submitted, each all or nothing.
/// 2. A completion fires exactly once. `Ok` means durable: the batch survives a crash right after
///    it (I9).
/// 3. A read returns durable data only (I7), and all data whose completion has fired with `Ok`.
/// 4. After a failed or overdue commit the index is poisoned: no later batch is acknowledged, every
///    later submission completes with [`CommitError::NotStarted`], and reads continue to work.
/// 5. No call blocks on the disk, except reads where the implementation documents it.
///
/// A [shared](Index::shared) index has several handles, its members. Of each handle:
///
/// 6. A batch commits only if all its [`Condition`]s hold at its place in the order of all commits.
///    Otherwise its completion is [`CommitError::Changed`] and later batches go on. Several members
///    may write a key only in batches that require a value of it: writes without a condition are
///    ordered with those of the same member alone.
/// 7. A batch whose connection breaks in its commit completes with its true outcome, as soon as the
///    store answers again.
/// 8. After a member was declared dead, none of its batches commits. The handle is poisoned.
pub trait Index: Send + Sync + 'static {
    /// Queues a batch. Its completion fires when the batch is durable or has failed. An empty batch
    /// completes when all batches submitted before it are durable.
    fn submit(&self, batch: Batch, completion: Completion);

    /// Resolves when all batches submitted before are durable, or have failed.
    ///
    /// # Errors
    /// The error of the failed commit. The index is then poisoned or closed.
    fn barrier(&self) -> BoxFuture<'static, Result<()>> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.submit(
            Batch::new(),
            // The send fails if the caller has dropped the future. The outcome is then of no use.
            Box::new(move |outcome| drop(sender.send(outcome))),
        );
        Box::pin(async move {
            match receiver.await {
                Ok(outcome) => outcome.map_err(CommitError::into_error),
                // An implementation that drops a completion violates the contract.
                Err(_) => Err(Error::new(
                    ErrorKind::Indeterminate,
                    "barrier",
                    "a completion was dropped",
                )),
            }
        })
    }

    /// Returns the durable value of a key, or `None` if it is absent.
    ///
    /// # Errors
    /// As [`Snapshot::get`]; [`ErrorKind::Closed`] after a close.
    fn get<'a>(&'a self, table: Table, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>>>;

    /// Returns the durable value of a key of [`Table::Payloads`] with a known checksum, or `None` if
    /// the key is absent. The value matches the checksum. An index with checksums of its own need
    /// not verify them, too, so that each byte is hashed once.
    ///
    /// # Errors
    /// As [`get`](Self::get); [`ErrorKind::Corrupt`] if the value does not match the checksum.
    fn payload<'a>(
        &'a self,
        key: &'a [u8],
        expected: Checksum,
    ) -> BoxFuture<'a, Result<Option<Bytes>>> {
        Box::pin(async move {
            let value = self.get(Table::Payloads, key).await?;
            value.map(|value| expected.verified(value)).transpose()
        })
    }

    /// Returns the membership of this handle if other processes may change the index while it is
    /// open. The index then checks the conditions of each batch.
    fn shared(&self) -> Option<&dyn SharedIndex> {
        None
    }

    /// Returns `true` if other processes may change the index while it is open.
    fn is_shared(&self) -> bool {
        self.shared().is_some()
    }

    /// Returns the length of the longest key that the index stores, in bytes. A batch with a longer
    /// key completes with [`CommitError::NotStarted`].
    fn key_bytes_max(&self) -> usize {
        KEY_BYTES_MAX
    }

    /// Returns a snapshot of the current durable state. A shared index fixes the state at the first
    /// read of the snapshot.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] after a close.
    fn snapshot(&self) -> Result<Box<dyn Snapshot>>;

    /// Poisons the index if a commit takes longer than the index allows. A [`StallWatch`]
    /// distinguishes a hung disk from a paused process. `now` is
    /// [`Env::monotonic`](crate::Env::monotonic). The owner must call this method periodically,
    /// because a hung commit cannot report itself.
    fn watch(&self, now: Duration);

    /// Returns the reason why the index is poisoned, or `None` if it is not poisoned.
    fn poisoned(&self) -> Option<Error>;

    /// Returns the counters of this index.
    fn stats(&self) -> IndexStats;

    /// Checks that the disk has room for a batch that stores `bytes`, or for as many bytes of other
    /// files on the same disk. Callers check before they submit, unless the batch
    /// [releases](Batch::releases) space: a submitted batch is never refused for lack of space.
    /// Does not block.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] with [`Reason::NoSpace`](crate::Reason::NoSpace) if the disk is
    /// full, or so full that the index might soon be unable to commit deletes.
    fn room(&self, bytes: u64) -> Result<()> {
        // The default suits an index that does not share a disk.
        let _ = bytes;
        Ok(())
    }

    /// Returns space of removed entries to the disk, if [`room`](Self::room) has refused a batch
    /// and entries were removed since. Removed entries may still take space until then. Does
    /// nothing otherwise. Resolves when the work is done, and never fails.
    fn reclaim(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Returns the space of the disk under the index, or `None` if it is unknown.
    fn space(&self) -> Option<SpaceStats> {
        None
    }

    /// Returns the statistics of the payload log, or `None` if the index has none.
    fn payload_log(&self) -> Option<PayloadLogStats> {
        None
    }

    /// Commits all submitted batches, then releases the store. Later calls fail with
    /// [`ErrorKind::Closed`]. A second close has no effect.
    ///
    /// # Errors
    /// [`ErrorKind::Indeterminate`] if a submitted batch could not be made durable.
    fn close(&self) -> BoxFuture<'static, Result<()>>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Creates a batch that puts a key into each table of `puts` and removes a key from each table
    /// of `removes`.
    fn batch(puts: &[Table], removes: &[Table]) -> Batch {
        let mut batch = Batch::new();
        puts.iter().for_each(|&table| batch.put(table, "k", "v"));
        removes.iter().for_each(|&table| batch.remove(table, "l"));
        batch
    }

    #[test]
    fn batches_that_end_an_object_or_upload_release_space() {
        use Table::{Changes, Expiry, Meta, Orphans, Payloads, Rows, Uploads};
        assert!(batch(&[], &[]).releases(), "barrier");
        assert!(batch(&[Meta], &[]).releases(), "epoch");
        assert!(
            batch(&[Meta, Orphans], &[Rows, Payloads, Expiry]).releases(),
            "delete"
        );
        assert!(batch(&[Orphans], &[Changes]).releases(), "fence");
        assert!(
            batch(&[Uploads, Expiry, Orphans], &[Uploads, Expiry]).releases(),
            "abort"
        );
        assert!(!batch(&[Changes], &[]).releases(), "begin of a large put");
        assert!(
            !batch(&[Rows, Payloads], &[Meta, Changes]).releases(),
            "put"
        );
        assert!(
            !batch(&[Rows, Expiry], &[Expiry]).releases(),
            "new deadline"
        );
        assert!(
            !batch(&[Uploads, Expiry], &[]).releases(),
            "begin of an upload"
        );
        assert!(!batch(&[Uploads, Payloads], &[Changes]).releases(), "part");
    }

    proptest! {
        #[test]
        fn successor_bounds_exactly_the_prefix(
            prefix in proptest::collection::vec(any::<u8>(), 0..6),
            key in proptest::collection::vec(any::<u8>(), 0..8),
        ) {
            let below = successor(&prefix).is_none_or(|end| key[..] < end[..]);
            prop_assert_eq!(key[..] >= prefix[..] && below, key.starts_with(&prefix));
        }
    }
}
