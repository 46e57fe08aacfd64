//! The contract of [`Index`], as tests that run against any implementation.
//!
//! Each public function tests the claim in its name; [`all`] runs every function. A function opens
//! the subject, panics if the claim does not hold, and closes the subject. Each function uses its
//! own keys, so that they may share one store. Guards the storage half of I3, I7, I9 and I10 in any
//! implementation. Crashes and failing disks need a store that can be made to fail, and have tests
//! of their own.
//!
//! ```
//! use std::sync::Arc;
//! use cenotaph_storage::{Env, Result};
//! use cenotaph_storage::index::contract::{self, Subject};
//! use cenotaph_storage::index::{Index, fjall::{FjallIndex, FjallOptions}};
//! use futures::future::BoxFuture;
//!
//! struct OnDisk(Env, tempfile::TempDir);
//!
//! impl Subject for OnDisk {
//!     fn open(&self) -> BoxFuture<'_, Result<Arc<dyn Index>>> {
//!         Box::pin(async move {
//!             let Self(env, dir) = self;
//!             let index = FjallIndex::open(dir.path(), env.clone(), FjallOptions::default())?;
//!             Ok(Arc::new(index) as Arc<dyn Index>)
//!         })
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let runtime = tokio::runtime::Runtime::new()?;
//! # runtime.block_on(async {
//! let subject = OnDisk(Env::real()?, tempfile::tempdir()?);
//! contract::barriers_wait(&subject).await;     // or contract::all(&subject)
//! # Ok(())
//! # })
//! # }
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use tokio::sync::oneshot;

use super::{Batch, CommitError, Index, IndexStats, Range, Snapshot, Table};
use crate::types::{Checksum, ErrorKind, Result};

mod reads;
mod scans;
pub mod shared;

pub use reads::{
    payloads_match_their_checksums, reads_see_everything_acknowledged, snapshots_are_stable,
    snapshots_keep_what_they_saw, snapshots_never_see_half_a_batch, values_of_every_size_come_back,
};
pub use scans::{
    keys_may_hold_any_byte_up_to_the_longest, scans_are_ordered_bounded_and_paged,
    scans_see_what_comes_and_goes,
};

/// Number of batches that a claim about many batches submits in a row.
const MANY: usize = 500;

/// Store under test.
pub trait Subject: Send + Sync {
    /// Opens the store. The first call creates an empty store, later calls reopen it after a close.
    fn open(&self) -> BoxFuture<'_, Result<Arc<dyn Index>>>;

    /// Forces the open store to reorganise its files (flush, compact, collect), as it does after
    /// many writes. Does nothing if the store never reorganises files.
    fn reorganise(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Returns the number of overwrites in claims about overwrites. A store that reorganises its
    /// files needs some hundred for a test to detect an error.
    fn overwrites(&self) -> usize {
        40
    }
}

/// Tests every claim in sequence.
pub async fn all(subject: &dyn Subject) {
    batches_are_applied_whole(subject).await;
    order_is_kept(subject).await;
    the_last_change_of_a_key_wins_within_a_batch(subject).await;
    the_last_change_of_a_key_wins_across_batches(subject).await;
    completions_fire_exactly_once(subject).await;
    empty_batches_complete_in_their_turn(subject).await;
    barriers_wait(subject).await;
    stats_count_what_was_done(subject).await;
    reads_see_everything_acknowledged(subject).await;
    payloads_match_their_checksums(subject).await;
    snapshots_are_stable(subject).await;
    snapshots_never_see_half_a_batch(subject).await;
    snapshots_keep_what_they_saw(subject).await;
    scans_are_ordered_bounded_and_paged(subject).await;
    scans_see_what_comes_and_goes(subject).await;
    values_of_every_size_come_back(subject).await;
    keys_may_hold_any_byte_up_to_the_longest(subject).await;
    a_closed_index_refuses_everything(subject).await;
    closing_commits_what_was_submitted(subject).await;
    reopening_finds_everything_acknowledged(subject).await;
}

/// Checks that a batch may change every table, and that all its writes are readable when it is
/// acknowledged.
pub async fn batches_are_applied_whole(subject: &dyn Subject) {
    let index = open(subject).await;
    let mut batch = Batch::new();
    Table::ALL
        .iter()
        .for_each(|&table| batch.put(table, "whole", table.name()));
    commit(&index, batch).await.expect("the batch is durable");
    for table in Table::ALL {
        assert_eq!(
            get(&index, table, "whole").await,
            Some(Bytes::from(table.name())),
            "{table:?}"
        );
    }
    let mut batch = Batch::new();
    Table::ALL
        .iter()
        .for_each(|&table| batch.remove(table, "whole"));
    commit(&index, batch).await.expect("the removal is durable");
    for table in Table::ALL {
        assert_eq!(get(&index, table, "whole").await, None, "{table:?}");
    }
    close(index).await;
}

/// Checks that completions fire in the order of submission, and that the last submission wins.
pub async fn order_is_kept(subject: &dyn Subject) {
    let index = open(subject).await;
    // Unbounded, because a completion must not block.
    let (sender, outcomes) = std::sync::mpsc::channel();
    for number in 0..MANY {
        let sender = sender.clone();
        let completion = Box::new(move |outcome: Result<(), CommitError>| {
            let _ = sender.send((number, outcome.is_ok()));
        });
        index.submit(put("order", &number.to_string()), completion);
    }
    index.barrier().await.expect("the barrier is passed");
    assert!(
        outcomes
            .try_iter()
            .eq((0..MANY).map(|number| (number, true))),
        "out of order, or not all acknowledged"
    );
    assert_eq!(
        get(&index, Table::Rows, "order").await,
        Some(Bytes::from((MANY - 1).to_string()))
    );
    close(index).await;
}

/// Checks a put after a put, a removal after a put, and a put after a removal: the last write
/// counts.
pub async fn the_last_change_of_a_key_wins_within_a_batch(subject: &dyn Subject) {
    let index = open(subject).await;
    commit(&index, put("within/gone", "old"))
        .await
        .expect("the first batch is durable");
    let mut batch = put("within/twice", "1");
    batch.put(Table::Rows, "within/twice", "2");
    batch.put(Table::Rows, "within/gone", "new");
    batch.remove(Table::Rows, "within/gone");
    batch.remove(Table::Rows, "within/back");
    batch.put(Table::Rows, "within/back", "3");
    commit(&index, batch).await.expect("the batch is durable");
    assert_eq!(
        get(&index, Table::Rows, "within/twice").await,
        Some(Bytes::from("2"))
    );
    assert_eq!(get(&index, Table::Rows, "within/gone").await, None);
    assert_eq!(
        get(&index, Table::Rows, "within/back").await,
        Some(Bytes::from("3"))
    );
    close(index).await;
}

/// Checks the same for batches that the index may merge into one write.
pub async fn the_last_change_of_a_key_wins_across_batches(subject: &dyn Subject) {
    let index = open(subject).await;
    for round in 0..MANY {
        let mut batch = put("across/a", &round.to_string());
        batch.put(Table::Orphans, "across/a", round.to_string());
        // Each round removes the key that the round before has put.
        let (removed, here) = if round % 2 == 1 {
            ("across/b", "across/c")
        } else {
            ("across/c", "across/b")
        };
        batch.put(Table::Rows, here, "here");
        batch.remove(Table::Rows, removed);
        // Not awaited, so that the index may merge the batches.
        index.submit(batch, Box::new(|_| {}));
    }
    index.barrier().await.expect("the barrier is passed");
    let last = Some(Bytes::from((MANY - 1).to_string()));
    assert_eq!(get(&index, Table::Rows, "across/a").await, last);
    assert_eq!(get(&index, Table::Orphans, "across/a").await, last);
    assert_eq!(get(&index, Table::Rows, "across/b").await, None);
    assert_eq!(
        get(&index, Table::Rows, "across/c").await,
        Some(Bytes::from("here"))
    );
    close(index).await;
}

/// Checks that every completion fires exactly once, before, during and after a close.
pub async fn completions_fire_exactly_once(subject: &dyn Subject) {
    let index = open(subject).await;
    let counts: Arc<Vec<AtomicU32>> = Arc::new((0..MANY).map(|_| AtomicU32::new(0)).collect());
    let mut closing = None;
    for number in 0..MANY {
        if number == MANY / 2 {
            // The rest of the batches is submitted during and after the close.
            closing = Some(index.close());
        }
        let counts = counts.clone();
        let completion = Box::new(move |_| {
            counts[number].fetch_add(1, Ordering::SeqCst);
        });
        index.submit(put("once", &number.to_string()), completion);
    }
    closing
        .expect("the loop closes the index half-way")
        .await
        .expect("all submitted batches are durable");
    drop(index);
    let counts: Vec<_> = counts
        .iter()
        .map(|count| count.load(Ordering::SeqCst))
        .collect();
    assert!(counts.iter().all(|&count| count == 1), "{counts:?}");
}

/// Checks that an empty batch is acknowledged after all batches submitted before it.
pub async fn empty_batches_complete_in_their_turn(subject: &dyn Subject) {
    let index = open(subject).await;
    commit(&index, Batch::new())
        .await
        .expect("the empty batch is durable");
    let mut first = submit(&index, put("empty", "1"));
    let empty = submit(&index, Batch::new());
    empty
        .await
        .expect("the completion fires")
        .expect("the empty batch is durable");
    assert!(
        // Without waiting: the first completion must have fired before the second.
        matches!(first.try_recv(), Ok(Ok(()))),
        "the batch before it is acknowledged first"
    );
    close(index).await;
}

/// Checks that a barrier resolves when all batches submitted before it are readable.
pub async fn barriers_wait(subject: &dyn Subject) {
    let index = open(subject).await;
    let key = |number: usize| format!("barrier/{number}");
    (0..MANY).for_each(|number| index.submit(put(&key(number), "here"), Box::new(|_| {})));
    index.barrier().await.expect("the barrier is passed");
    for number in 0..MANY {
        assert!(
            get(&index, Table::Rows, &key(number)).await.is_some(),
            "number={number}"
        );
    }
    close(index).await;
}

/// Checks that the index counts durable batches, and at most one sync for each.
pub async fn stats_count_what_was_done(subject: &dyn Subject) {
    let index = open(subject).await;
    assert_eq!(index.stats(), IndexStats::default());
    assert!(index.poisoned().is_none());
    // Concurrent, so that batches may share a sync.
    join_all((0..MANY).map(|number| commit(&index, put("stats", &number.to_string())))).await;
    let stats = index.stats();
    assert_eq!((stats.batches, stats.waiting), (MANY as u64, 0));
    assert!((1..=MANY as u64).contains(&stats.syncs), "{stats:?}");
    close(index).await;
}

/// Checks that a closed index refuses reads, scans, submissions, barriers and snapshots, also
/// through snapshots taken before the close. A second close succeeds.
pub async fn a_closed_index_refuses_everything(subject: &dyn Subject) {
    let index = open(subject).await;
    commit(&index, put("closed", "1"))
        .await
        .expect("the batch is durable");
    let snapshot = index.snapshot().expect("the index is open");
    index
        .close()
        .await
        .expect("all submitted batches are durable");
    index.close().await.expect("a second close succeeds");
    let outcome = commit(&index, put("closed", "2")).await;
    assert!(
        matches!(outcome, Err(CommitError::NotStarted(error)) if error.kind() == ErrorKind::Closed)
    );
    assert_eq!(
        index.barrier().await.map_err(|error| error.kind()),
        Err(ErrorKind::Closed)
    );
    assert!(
        index
            .snapshot()
            .is_err_and(|error| error.kind() == ErrorKind::Closed)
    );
    for table in Table::ALL {
        let read = index.get(table, b"closed").await;
        assert_eq!(
            read.map_err(|error| error.kind()),
            Err(ErrorKind::Closed),
            "{table:?}"
        );
    }
    // The old index and its snapshot still exist. They must not keep the store open.
    let reopened = open(subject).await;
    assert_eq!(
        get(&reopened, Table::Rows, "closed").await,
        Some(Bytes::from("1"))
    );
    let read = snapshot.get(Table::Rows, b"closed").await;
    assert_eq!(read.map_err(|error| error.kind()), Err(ErrorKind::Closed));
    let read = snapshot.scan(Table::Rows, Range::all(1)).await;
    assert_eq!(read.map_err(|error| error.kind()), Err(ErrorKind::Closed));
    // Through the closed index, while another index has the store open.
    assert!(matches!(
        commit(&index, put("closed", "3")).await,
        Err(CommitError::NotStarted(_))
    ));
    close(reopened).await;
}

/// Checks that a close makes all queued batches durable and acknowledges them.
pub async fn closing_commits_what_was_submitted(subject: &dyn Subject) {
    let index = open(subject).await;
    let key = |number: usize| format!("closing/{number}");
    let outcomes: Vec<_> = (0..MANY)
        .map(|number| submit(&index, put(&key(number), "here")))
        .collect();
    index
        .close()
        .await
        .expect("all submitted batches are durable");
    for mut outcome in outcomes {
        assert!(
            matches!(outcome.try_recv(), Ok(Ok(()))),
            "a close resolves after the last completion"
        );
    }
    let index = open(subject).await;
    for number in 0..MANY {
        assert!(
            get(&index, Table::Rows, &key(number)).await.is_some(),
            "number={number}"
        );
    }
    close(index).await;
}

/// Checks for every table that a reopen finds acknowledged writes, and that removed keys stay
/// removed.
pub async fn reopening_finds_everything_acknowledged(subject: &dyn Subject) {
    for round in 0..3 {
        let index = open(subject).await;
        for table in Table::ALL {
            let before = (round > 0).then(|| Bytes::from((round - 1).to_string()));
            assert_eq!(get(&index, table, "reopened").await, before, "{table:?}");
            assert_eq!(
                get(&index, table, &format!("reopened/{}", round - 1)).await,
                None,
                "{table:?}"
            );
        }
        let mut batch = Batch::new();
        for table in Table::ALL {
            batch.put(table, "reopened", round.to_string());
            batch.put(table, format!("reopened/{round}"), "short-lived");
        }
        commit(&index, batch).await.expect("the batch is durable");
        let mut batch = Batch::new();
        Table::ALL
            .iter()
            .for_each(|&table| batch.remove(table, format!("reopened/{round}")));
        commit(&index, batch).await.expect("the removal is durable");
        close(index).await;
    }
    // Removes the keys, because the claim may run again on the same store.
    let index = open(subject).await;
    let mut batch = Batch::new();
    Table::ALL
        .iter()
        .for_each(|&table| batch.remove(table, "reopened"));
    commit(&index, batch).await.expect("the removal is durable");
    close(index).await;
}

async fn open(subject: &dyn Subject) -> Arc<dyn Index> {
    subject.open().await.expect("the subject opens")
}

async fn close(index: Arc<dyn Index>) {
    index
        .close()
        .await
        .expect("all submitted batches are durable");
}

/// Creates a batch that puts one row.
fn put(key: &str, value: &str) -> Batch {
    let mut batch = Batch::new();
    batch.put(Table::Rows, key.to_owned(), value.to_owned());
    batch
}

type Pending = oneshot::Receiver<Result<(), CommitError>>;

fn submit(index: &Arc<dyn Index>, batch: Batch) -> Pending {
    let (sender, receiver) = oneshot::channel();
    index.submit(batch, Box::new(move |outcome| drop(sender.send(outcome))));
    receiver
}

async fn commit(index: &Arc<dyn Index>, batch: Batch) -> Result<(), CommitError> {
    submit(index, batch)
        .await
        .expect("a completion is never dropped")
}

/// Returns the value of a key, and checks that a new snapshot returns the same value.
async fn get(index: &Arc<dyn Index>, table: Table, key: &str) -> Option<Bytes> {
    let value = index
        .get(table, key.as_bytes())
        .await
        .expect("the read succeeds");
    let snapshot = index.snapshot().expect("the index is open");
    let again = snapshot
        .get(table, key.as_bytes())
        .await
        .expect("the read succeeds");
    assert_eq!(
        value, again,
        "a read and a snapshot disagree: table={table:?} key={key}"
    );
    value
}
