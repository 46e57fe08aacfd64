//! The index on fjall, an embedded log-structured store.
//!
//! Holds [`FjallIndex`] and [`FjallOptions`]. Guards the storage half of I3 (one fjall batch is one
//! commit), of I7 (every read goes through a published snapshot, see `fjall/published.rs`) and I9
//! (`SyncData` before a completion). Deliberately not here: the thread that commits
//! (`committer.rs`), the directory (`fjall/creation.rs`), how fjall is tuned (`fjall/database.rs`),
//! and the check of what fjall would read (`fjall/check.rs`).
//!
//! What blocks: `get` of `payloads` and every scan go through [`Env::blocking`]. `get` of the other
//! tables runs inline: 2.5 µs when cached, 30 µs from the disk, less than the way to another thread
//! and back.
//!
//! ```text
//! FjallIndex ──> Committer ── thread ──> FjallSink ──┐
//!     └────────> Slot: the store, none once closed ──┴──> Store: keyspaces, database, lock
//! FjallSnapshot ──┘                                      └─ the published snapshot
//! ```
//!
//! fjall can be reopened only when every handle is gone, so nobody but the sink holds the store for
//! longer than one read.

use std::fmt;
use std::ops::Bound;
use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use fjall::{Database, Readable};
use futures::future::BoxFuture;

use super::committer::{Committer, CommitterOptions, Ended};
use super::{
    Batch, CommitError, Completion, Index, IndexStats, KEY_BYTES_MAX, Page, Range, Snapshot,
    SpaceStats, Table,
};
use crate::env::{self, Env};
use crate::error::{Error, ErrorKind, Result};

mod archive;
mod check;
mod copy;
mod creation;
mod database;
mod diagnosis;
pub mod doctor;
mod failure;
#[cfg(any(test, feature = "contract"))]
mod flushing;
mod gaps;
mod journal;
mod journals;
mod manifest;
mod mark;
mod marker;
mod mend;
mod options;
mod published;
mod reclaim;
mod reserve;
mod seal;
mod sink;
mod space;
mod tidier;
mod view;
mod walk;

pub use copy::IndexCopy;
use database::Tables;
use failure::{caught, failed};
use gaps::Gaps;
use marker::{LastMark, Marker};
pub use mend::LostFile;
pub use options::FjallOptions;
use options::MIB;
use published::{Published, State};
use sink::FjallSink;
use space::Space;
use tidier::Tidier;
use view::Held;
use walk::Walker;

/// An [`Index`] in a directory, on fjall.
pub struct FjallIndex {
    env: Env,
    committer: Arc<Committer>,
    marker: Option<Arc<Marker>>,
    slot: Slot,
    space: Arc<Space>,
    gone: Arc<Gone>,
}

impl FjallIndex {
    /// Returns whether the index in `dir` was last opened by this process. It may be closing then:
    /// the threads of an engine that was dropped end behind it. Blocks for the disk.
    pub fn is_held_here(dir: &Path) -> bool {
        creation::is_held_here(dir)
    }

    /// Opens the index in `dir`, and creates it if there is none. Blocks for the disk, tenths of a
    /// second for a new one: call it through [`Env::blocking`].
    ///
    /// # Errors
    /// - [`ErrorKind::AlreadyOpen`] if it is open, in this process or another;
    /// - [`ErrorKind::Invalid`] if an option is out of bounds, or the directory holds something
    ///   else, which is not touched;
    /// - [`ErrorKind::Corrupt`] if part of it is missing or damaged; what can be seen from the
    ///   outside is refused before anything is touched;
    /// - [`ErrorKind::UnknownFormat`] if another version wrote it;
    /// - [`ErrorKind::Unavailable`] if the file system fails, or has no room for a new index, or
    ///   the system's clock is before 1970. On a full disk an index that is there opens, as long
    ///   as the reserve or the disk has some 100 KiB left.
    pub fn open(dir: &Path, env: Env, options: FjallOptions) -> Result<Self> {
        options.check()?;
        Self::open_with(dir, env, options, options.worker_threads)
    }

    fn open_with(dir: &Path, env: Env, options: FjallOptions, workers: usize) -> Result<Self> {
        check_clock("open")?;
        if !creation::is_created(dir)? {
            Space::check_new(dir)?;
        }
        let lock = creation::lock(dir, options.modes)?;
        let space = Arc::new(Space::open(
            dir,
            env.clone(),
            options.reserve_bytes,
            options.modes,
        ));
        // Opening writes a little itself, and so does the first commit.
        space.make_way(0, 0)?;
        let existing = creation::create_or_check(dir, &lock, options.modes, |path| {
            database::build(path, &options)
        })?;
        let open = || database::open(&existing.database, &options, workers, &existing.keyspaces);
        let (mut tables, mut database) = open()?;
        // Without workers nothing is flushed.
        let is_sealed = workers > 0
            && seal::is_wanted(&existing.database, &space, || {
                caught("open", || reclaim::unflushed(&tables))
            });
        if is_sealed {
            drop((tables, database));
            // No journal more is no harm: fjall then opens as before.
            if let Err(error) = seal::seal(&existing.database, options.modes) {
                tracing::warn!(%error, "the journals are not sealed");
            }
            (tables, database) = open()?;
        }
        lock.note_holder();
        // fjall has synced the journals: what the check has seen in them is durable.
        let last = existing.checked.last_seqno;
        let marker = existing
            .checked
            .marks
            .map(|marks| Arc::new(Marker::new(&existing.database, marks, last)));
        let opened = Opened {
            tables,
            database,
            marker,
            held: Held::alone(lock),
            space,
        };
        let index = Self::start(env, &options, opened)?;
        if workers > 0 {
            index.tidier().tidy_first(is_sealed);
        }
        Ok(index)
    }

    fn start(env: Env, options: &FjallOptions, opened: Opened) -> Result<Self> {
        let Opened {
            tables,
            database,
            marker,
            held,
            space,
        } = opened;
        let (sender, receiver) = mpsc::channel();
        let last_mark = LastMark(marker.clone());
        let published = Published::new(&database);
        let store = Arc::new(Store {
            published,
            gaps: Gaps::new(),
            slow_step: Duration::from_micros(options.slow_step_us),
            tables,
            database,
            marker: marker.clone(),
            _last_mark: last_mark,
            _held: held,
            _gone: sender,
        });

        let deadline = Duration::from_millis(options.commit_deadline_ms);
        let committer_options = CommitterOptions {
            deadline,
            ..CommitterOptions::default()
        };
        let sink = FjallSink {
            store: store.clone(),
            env: env.clone(),
            space: space.clone(),
        };
        let committer = Arc::new(Committer::start(&env, committer_options, sink)?);
        let slot = Slot(Arc::new(RwLock::new(Some(store))));
        Ok(Self {
            env,
            committer,
            marker,
            slot,
            space,
            gone: Arc::new(Gone(Mutex::new(receiver))),
        })
    }

    fn tidier(&self) -> Tidier {
        Tidier {
            slot: self.slot.clone(),
            committer: self.committer.clone(),
            space: self.space.clone(),
        }
    }
}

impl Index for FjallIndex {
    fn submit(&self, batch: Batch, completion: Completion) {
        self.space.queue(batch.bytes() as u64);
        self.committer.submit(batch, completion);
    }

    fn get<'a>(&'a self, table: Table, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>>> {
        if reads_inline(table) {
            return Box::pin(async move {
                // A loop of reads that never wait must not starve its neighbours.
                tokio::task::coop::consume_budget().await;
                let store = self.slot.store()?;
                store.get(&self.env, &store.published.latest(), table, key)
            });
        }
        let (env, slot, key) = (
            self.env.clone(),
            self.slot.clone(),
            Bytes::copy_from_slice(key),
        );
        let read = move || {
            let store = slot.store()?;
            store.get(&env, &store.published.latest(), table, &key)
        };
        Box::pin(async move { self.env.blocking(read).await? })
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        let state = self.slot.store()?.published.latest();
        Ok(Box::new(FjallSnapshot {
            env: self.env.clone(),
            slot: self.slot.clone(),
            state,
        }))
    }

    /// Also asks for a high-water mark of the journals, about once a second.
    fn watch(&self, now: Duration) {
        self.committer.watch(now);
        if let Some(marker) = self.marker.clone().filter(|marker| marker.due(now)) {
            // On the thread that commits, so that no batch is under way.
            let write = move |outcome: Result<(), CommitError>| {
                if outcome.is_ok() {
                    marker.write();
                }
            };
            self.committer.submit(Batch::new(), Box::new(write));
        }
        self.tidier().watch(&self.env);
    }

    fn room(&self, bytes: u64) -> Result<()> {
        check_clock("commit")?;
        // A closed index says so itself when it is asked for something.
        let Ok(store) = self.slot.store() else {
            return Ok(());
        };
        self.space.room(bytes, store.database.write_buffer_size())
    }

    fn reclaim(&self) -> BoxFuture<'static, ()> {
        let (env, tidier) = (self.env.clone(), self.tidier());
        // Also where somebody else is at it, who is then waited for.
        Box::pin(async move { drop(env.blocking(move || tidier.tidy()).await) })
    }

    fn space(&self) -> Option<SpaceStats> {
        let store = self.slot.store().ok()?;
        Some(self.space.stats(store.database.write_buffer_size()))
    }

    fn poisoned(&self) -> Option<Error> {
        self.committer.poisoned()
    }

    fn stats(&self) -> IndexStats {
        self.committer.stats()
    }

    /// Waits for reads under way too, for they hold the store. A commit that hangs is given up when
    /// it is overdue; the directory then stays locked until it returns, for it might still write.
    fn close(&self) -> BoxFuture<'static, Result<()>> {
        self.committer.close();
        let (env, committer, slot, gone) = (
            self.env.clone(),
            self.committer.clone(),
            self.slot.clone(),
            self.gone.clone(),
        );
        Box::pin(async move {
            env.blocking(move || {
                let ended = committer.wait();
                slot.clear();
                match ended {
                    Ended::Joined => gone.wait(),
                    Ended::Detached => {
                        tracing::error!(
                            "the index is closed while a commit hangs: it stays locked"
                        );
                    }
                }
                committer.poisoned().map_or(Ok(()), |reason| {
                    let message =
                        "a commit failed: not all that was submitted is known to be durable";
                    Err(Error::new(ErrorKind::Indeterminate, "close", message).with_source(reason))
                })
            })
            .await?
        })
    }
}

impl Drop for FjallIndex {
    /// As [`close`](Index::close), but blocks, and does not wait for reads under way.
    fn drop(&mut self) {
        self.committer.close();
        self.committer.wait();
        self.slot.clear();
    }
}

impl fmt::Debug for FjallIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FjallIndex")
            .field("committer", &self.committer)
            .finish_non_exhaustive()
    }
}

/// One state of the index. It does not keep the store open: after a close it answers
/// [`ErrorKind::Closed`].
struct FjallSnapshot {
    env: Env,
    slot: Slot,
    state: Arc<State>,
}

impl FjallSnapshot {
    /// Reads on another thread. The store is asked for there: a read that waits for its turn must
    /// not keep the store open.
    fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(Walker<'_>) -> Result<T> + Send + 'static,
    ) -> BoxFuture<'_, Result<T>> {
        let (env, slot, state) = (self.env.clone(), self.slot.clone(), self.state.clone());
        let read = move || {
            read(Walker {
                store: &*slot.store()?,
                state: &state,
                env: &env,
            })
        };
        Box::pin(async move { self.env.blocking(read).await? })
    }
}

impl Snapshot for FjallSnapshot {
    fn get<'a>(&'a self, table: Table, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>>> {
        if reads_inline(table) {
            return Box::pin(
                async move { self.slot.store()?.get(&self.env, &self.state, table, key) },
            );
        }
        let key = Bytes::copy_from_slice(key);
        self.read(move |Walker { store, state, env }| store.get(env, state, table, &key))
    }

    fn get_many(
        &self,
        table: Table,
        keys: Vec<Bytes>,
    ) -> BoxFuture<'_, Result<Vec<Option<Bytes>>>> {
        self.read(move |Walker { store, state, env }| {
            keys.iter()
                .map(|key| store.get(env, state, table, key))
                .collect()
        })
    }

    fn scan(&self, table: Table, range: Range) -> BoxFuture<'_, Result<Page>> {
        self.read(move |walker| walker.scan(table, range))
    }

    fn keys(&self, table: Table, range: Range) -> BoxFuture<'_, Result<Vec<Bytes>>> {
        self.read(move |walker| walker.keys(table, range))
    }
}

/// fjall panics where it writes down the time at which a table was made.
fn check_clock(operation: &'static str) -> Result<()> {
    if env::is_system_clock_set() {
        return Ok(());
    }
    let message = "the system's clock is before 1970: set it, then try again";
    Err(Error::new(ErrorKind::Unavailable, operation, message))
}

/// Whether a `get` is short enough for an async worker: these values are small, and mostly cached.
fn reads_inline(table: Table) -> bool {
    match table {
        Table::Rows
        | Table::Changes
        | Table::Orphans
        | Table::Sessions
        | Table::Expiry
        | Table::Meta => true,
        Table::Payloads => false,
    }
}

/// The store while it is open.
#[derive(Clone)]
struct Slot(Arc<RwLock<Option<Arc<Store>>>>);

impl Slot {
    fn store(&self) -> Result<Arc<Store>> {
        let store = self
            .0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        store.ok_or_else(|| Error::new(ErrorKind::Closed, "read", "the index is closed"))
    }

    fn clear(&self) {
        // Dropped after the guard: letting go of the store takes its time.
        let store = self
            .0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(store);
    }
}

/// A database that was opened, and what goes with it.
struct Opened {
    tables: Tables,
    database: Database,
    marker: Option<Arc<Marker>>,
    held: Held,
    space: Arc<Space>,
}

/// Everything fjall, and the lock. Its fields are dropped in this order.
struct Store {
    published: Published,
    gaps: Gaps,
    /// A step of a scan that takes as long is remembered as a gap.
    slow_step: Duration,
    tables: Tables,
    database: Database,
    marker: Option<Arc<Marker>>,
    _last_mark: LastMark,
    _held: Held,
    /// Dropped last, which tells [`Gone`].
    _gone: mpsc::Sender<()>,
}

/// Tells when the last holder has let go of the store.
struct Gone(Mutex<mpsc::Receiver<()>>);

impl Gone {
    fn wait(&self) {
        let receiver = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Nothing is ever sent: it fails when the sender is dropped.
        let _ = receiver.recv();
    }
}

impl Store {
    fn get(&self, env: &Env, state: &State, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        // fjall panics at a key that is empty or too long. None such was ever put.
        if !(1..=KEY_BYTES_MAX).contains(&key.len()) {
            return Ok(None);
        }
        let got = caught("get", || {
            let value = state
                .snapshot
                .get(self.tables.of(table), key)
                .map_err(|error| failed("get", error))?;
            Ok(value.map(Bytes::from))
        });
        got.or_else(|error| {
            self.get_by_range(
                &Walker {
                    store: self,
                    state,
                    env,
                },
                table,
                key,
                error,
            )
        })
    }

    /// A second way to the value of a key: a range reads no filter, so that a damaged one hides no
    /// entry.
    fn get_by_range(
        &self,
        walker: &Walker<'_>,
        table: Table,
        key: &[u8],
        error: Error,
    ) -> Result<Option<Bytes>> {
        if error.kind() != ErrorKind::Corrupt {
            return Err(error);
        }
        let key = Bytes::copy_from_slice(key);
        let only = Range {
            start: Bound::Included(key.clone()),
            end: Bound::Included(key),
            limit: 1,
        };
        let page = walker.scan(table, only).map_err(|_| error)?;
        tracing::warn!(
            table = table.name(),
            "a filter of the index is damaged: the key was read without it"
        );
        Ok(page.into_iter().next().map(|(_, value)| value))
    }
}

#[cfg(test)]
mod check_tests;
#[cfg(test)]
mod space_tests;
#[cfg(test)]
mod tests;
