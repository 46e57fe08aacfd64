//! The index (high-volume tier): the ordered, durable store of rows, seen through one trait.
//!
//! Holds [`Index`], its [`Batch`] and its [`Snapshot`]. Guards the storage half of I3 (a batch is
//! all or nothing), of I7 (readers see only what is durable) and of I10 (a completion is fired
//! exactly once, with the truth). Deliberately not here: what a row means (`rows/`), who may submit
//! what (the actors), and any particular store (`fjall.rs`).

use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::error::{Error, ErrorKind, Result};

mod committer;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod fjall;
mod read_only;
mod space;
mod stall;
mod step_over;

pub use read_only::{ReadOnlyIndex, read_only};
pub use space::{SpaceStats, no_space};
pub use stall::StallWatch;
pub use step_over::{PartialPage, UnreadableRange};

/// The tables of an index. One table is one ordered map from keys to values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Encoded object id -> [`Row`](crate::rows::Row).
    Rows,
    /// Operation id -> inline payload, or revision id ->
    /// [`BlockChecksums`](crate::rows::BlockChecksums): what belongs to a row and is read only with
    /// the bytes.
    Payloads,
    /// Operation id -> [`Change`](crate::rows::Change).
    Changes,
    /// Revision id -> [`Orphan`](crate::rows::Orphan).
    Orphans,
    /// Upload sessions.
    Sessions,
    /// What is due when.
    Expiry,
    /// Format version, epoch, and the version floors of deleted objects.
    Meta,
}

impl Table {
    /// Every table, in a fixed order.
    pub const ALL: [Self; 7] = [
        Self::Rows,
        Self::Payloads,
        Self::Changes,
        Self::Orphans,
        Self::Sessions,
        Self::Expiry,
        Self::Meta,
    ];

    /// Its name on disk.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Payloads => "payloads",
            Self::Changes => "changes",
            Self::Orphans => "orphans",
            Self::Sessions => "sessions",
            Self::Expiry => "expiry",
            Self::Meta => "meta",
        }
    }
}

/// Longest key of any table, in bytes: what every store we know of accepts.
pub const KEY_BYTES_MAX: usize = 16 * 1024;

/// Changes of several tables that become durable and visible together, or not at all.
///
/// Within a batch the last change of a key wins.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    changes: Vec<(Table, Bytes, Option<Bytes>)>,
    bytes: usize,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key to a value.
    pub fn put(&mut self, table: Table, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.push(table, key.into(), Some(value.into()));
    }

    /// Removes a key; nothing happens if it is absent.
    pub fn remove(&mut self, table: Table, key: impl Into<Bytes>) {
        self.push(table, key.into(), None);
    }

    fn push(&mut self, table: Table, key: Bytes, value: Option<Bytes>) {
        assert!(
            (1..=KEY_BYTES_MAX).contains(&key.len()),
            "ids are bounded at the border, so that no key is empty or too long: bytes={}",
            key.len()
        );
        self.bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
        self.changes.push((table, key, value));
    }

    /// Adds all changes of another batch, after its own.
    pub fn append(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.changes.extend(other.changes);
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Bytes of its keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns whether it releases space rather than taking some: it stores no row, no payload and
    /// no change, and begins no upload. Orphans, version floors, the epoch and the ends of uploads
    /// are small and lead to removals, so that a full disk must still take them.
    pub fn releases(&self) -> bool {
        let ends_something = self
            .changes
            .iter()
            .any(|(table, _, value)| *table == Table::Expiry && value.is_none());
        self.changes
            .iter()
            .filter(|(.., value)| value.is_some())
            .all(|(table, ..)| match table {
                Table::Rows | Table::Payloads | Table::Changes => false,
                Table::Sessions | Table::Expiry => ends_something,
                Table::Orphans | Table::Meta => true,
            })
    }

    /// Its changes in order: a value to set, or none to remove the key.
    pub fn changes(&self) -> &[(Table, Bytes, Option<Bytes>)] {
        &self.changes
    }

    /// Its changes in order, by value.
    pub fn into_changes(self) -> Vec<(Table, Bytes, Option<Bytes>)> {
        self.changes
    }
}

/// Why a submitted batch is not known to be durable.
#[derive(Clone, Debug)]
pub enum CommitError {
    /// It was never handed to the store, and never will be: nothing of it is or becomes durable.
    NotStarted(Error),
    /// The store failed or is overdue: it may be durable, now, later or never. Only a reopen can
    /// tell.
    Unknown(Error),
}

impl CommitError {
    /// As the caller of a write hears it.
    pub fn into_error(self) -> Error {
        match self {
            Self::NotStarted(error) | Self::Unknown(error) => error,
        }
    }

    /// As every index says that it does not take a batch on: it is closed, or has failed for this
    /// reason.
    pub fn not_started(reason: &Error) -> Self {
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

    /// As every index says that it does not know what became of a batch, for this reason.
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

/// Called exactly once, when it is known what became of a submitted batch. Must be short and must
/// not block: it runs on the thread that commits.
pub type Completion = Box<dyn FnOnce(Result<(), CommitError>) + Send>;

/// A page of a scan: keys and values in order.
pub type Page = Vec<(Bytes, Bytes)>;

/// Which keys a scan visits, and how many at most.
#[derive(Clone, Debug)]
pub struct Range {
    /// Where it begins.
    pub start: Bound<Bytes>,
    /// Where it ends.
    pub end: Bound<Bytes>,
    /// Most entries in the page.
    pub limit: usize,
}

impl Range {
    /// Every key, up to `limit` of them.
    pub fn all(limit: usize) -> Self {
        Self {
            start: Bound::Unbounded,
            end: Bound::Unbounded,
            limit,
        }
    }

    /// The keys that begin with `prefix`, up to `limit` of them.
    pub fn prefix(prefix: &[u8], limit: usize) -> Self {
        let end = successor(prefix).map_or(Bound::Unbounded, Bound::Excluded);
        Self {
            start: Bound::Included(Bytes::copy_from_slice(prefix)),
            end,
            limit,
        }
    }

    /// The same range, from just after `key` on.
    #[must_use]
    pub fn after(mut self, key: Bytes) -> Self {
        self.start = Bound::Excluded(key);
        self
    }
}

/// The smallest key above every key that begins with `prefix`; none if there is none.
pub fn successor(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}

/// One consistent state of an index: batches are wholly in it or not at all.
///
/// It may hold back space while it lives: keep it short.
pub trait Snapshot: Send + Sync {
    /// The value of a key.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the store can't be read, [`ErrorKind::Corrupt`] if what it
    /// holds is damaged.
    fn get<'a>(&'a self, table: Table, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>>>;

    /// The values of several keys, in the order in which they are asked for. An index that has
    /// something to do for each question does it once.
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

    /// A page of entries in key order.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn scan(&self, table: Table, range: Range) -> BoxFuture<'_, Result<Page>>;

    /// A page of keys in order, without their values. An index that can tell keys without reading
    /// values does so: it is asked of tables whose values are large.
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

/// What an index tells about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexStats {
    /// Batches that became durable since it was opened.
    pub batches: u64,
    /// Syncs that made them so: group commit makes this the smaller number.
    pub syncs: u64,
    /// Batches submitted and not yet answered.
    pub waiting: u64,
}

/// An ordered, durable store with atomic batches.
///
/// The contract, which [`contract`](crate::index) tests on any implementation:
///
/// 1. Batches become durable in the order in which they were submitted, each all or nothing.
/// 2. A completion is fired exactly once. `Ok` means durable; a crash right after cannot take it
///    back (I9).
/// 3. A read sees only what is durable (I7), and everything whose completion has been fired with
///    `Ok`.
/// 4. After a failed or overdue commit the index is poisoned: nothing later is acknowledged, every
///    later submission completes with [`CommitError::NotStarted`], reads go on.
/// 5. No call blocks for the disk, but for reads that the implementation documents.
pub trait Index: Send + Sync + 'static {
    /// Queues a batch. Its completion is called when it is durable or known not to be. An empty
    /// batch is durable when everything submitted before it is.
    fn submit(&self, batch: Batch, completion: Completion);

    /// Resolves when all that was submitted before is durable, or has failed.
    ///
    /// # Errors
    /// As the failed commit's: the index is poisoned or closed then.
    fn barrier(&self) -> BoxFuture<'static, Result<()>> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.submit(
            Batch::new(),
            Box::new(move |outcome| drop(sender.send(outcome))),
        );
        Box::pin(async move {
            match receiver.await {
                Ok(outcome) => outcome.map_err(CommitError::into_error),
                Err(_) => Err(Error::new(
                    ErrorKind::Indeterminate,
                    "barrier",
                    "a completion was dropped",
                )),
            }
        })
    }

    /// The durable value of a key.
    ///
    /// # Errors
    /// As [`Snapshot::get`]; [`ErrorKind::Closed`] once closed.
    fn get<'a>(&'a self, table: Table, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>>>;

    /// The durable state of this moment.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] once closed.
    fn snapshot(&self) -> Result<Box<dyn Snapshot>>;

    /// Poisons the index if a commit has been under way for longer than the index allows; a
    /// [`StallWatch`] tells a hung disk from a paused process. `now` is
    /// [`Env::monotonic`](crate::Env::monotonic). Somebody must call this from time to time: a hung
    /// disk can't tell by itself.
    fn watch(&self, now: Duration);

    /// Why the index is poisoned; none if it is not.
    fn poisoned(&self) -> Option<Error>;

    /// What has been done so far.
    fn stats(&self) -> IndexStats;

    /// Returns whether there is room for a batch that stores so many bytes, or for as many bytes of
    /// other files on the same disk. Whoever submits asks first, unless the batch
    /// [releases](Batch::releases) space: a batch that has been submitted is never refused for want
    /// of space. Does not block.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] with [`Reason::NoSpace`](crate::Reason::NoSpace) if the disk is
    /// full, or so full that the index might soon be unable to commit deletes.
    fn room(&self, bytes: u64) -> Result<()> {
        let _ = bytes;
        Ok(())
    }

    /// Gives space back to the disk where [`room`](Self::room) has been refused and something was
    /// removed since: what was removed may still take space. Does nothing otherwise. Resolves when
    /// it is done, and never fails.
    fn reclaim(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }

    /// The space of its disk; none if it is not known.
    fn space(&self) -> Option<SpaceStats> {
        None
    }

    /// Makes durable what was submitted, then lets go of the store. Later calls fail with
    /// [`ErrorKind::Closed`]. Calling it again does nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Indeterminate`] if what was submitted could not all be made durable.
    fn close(&self) -> BoxFuture<'static, Result<()>>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A batch that puts into these tables and removes from those.
    fn batch(puts: &[Table], removes: &[Table]) -> Batch {
        let mut batch = Batch::new();
        puts.iter().for_each(|&table| batch.put(table, "k", "v"));
        removes.iter().for_each(|&table| batch.remove(table, "l"));
        batch
    }

    #[test]
    fn batches_that_end_something_release_space() {
        use Table::{Changes, Expiry, Meta, Orphans, Payloads, Rows, Sessions};
        assert!(batch(&[], &[]).releases(), "a barrier");
        assert!(batch(&[Meta], &[]).releases(), "an epoch");
        assert!(
            batch(&[Meta, Orphans], &[Rows, Payloads, Expiry]).releases(),
            "a delete"
        );
        assert!(batch(&[Orphans], &[Changes]).releases(), "a fence");
        assert!(
            batch(&[Sessions, Expiry, Orphans], &[Sessions, Expiry]).releases(),
            "an abort"
        );
        assert!(
            !batch(&[Changes], &[]).releases(),
            "the beginning of a large put"
        );
        assert!(
            !batch(&[Rows, Payloads], &[Meta, Changes]).releases(),
            "a put"
        );
        assert!(
            !batch(&[Rows, Expiry], &[Expiry]).releases(),
            "another deadline"
        );
        assert!(
            !batch(&[Sessions, Expiry], &[]).releases(),
            "the beginning of an upload"
        );
        assert!(
            !batch(&[Sessions, Payloads], &[Changes]).releases(),
            "a part"
        );
    }

    proptest! {
        #[test]
        fn the_successor_bounds_exactly_the_prefix(prefix in proptest::collection::vec(any::<u8>(), 0..6), key in proptest::collection::vec(any::<u8>(), 0..8)) {
            let below = successor(&prefix).is_none_or(|end| key[..] < end[..]);
            prop_assert_eq!(key[..] >= prefix[..] && below, key.starts_with(&prefix));
        }
    }
}
