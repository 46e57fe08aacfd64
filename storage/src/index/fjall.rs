//! The index on fjall, an embedded log-structured store: [`FjallIndex`].
//!
//! ```text
//! FjallIndex ──> Committer ── thread ──> FjallSink ──┐
//!     └────────> Slot: the store, none once closed ──┴──> Store: keyspaces, database, lock
//! FjallSnapshot ──┘                                      └─ the published snapshot
//! ```
//!
//! Guards the storage half of I3 (one fjall batch is one commit), of I7 (every read uses a
//! published snapshot, see `fjall/published.rs`) and I9 (`SyncData` before a completion).
//!
//! Every scan runs through [`Env::blocking`], and so does a `get` of a payload that is not in memory.
//! Other reads run inline: they take 2.5 µs when cached and 30 µs from the disk, less than a switch
//! to another thread and back.
//!
//! fjall can be reopened only when every handle is dropped. Only the sink therefore holds the store
//! for longer than one read.

use std::fmt;
use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::group_commit::{Committer, CommitterOptions, ThreadEnd};
use super::payload_log::{HeadKind, LogAccess, LogWriter, Opening, PayloadLogStats};
use super::{
    Batch, CommitError, Completion, Index, IndexStats, KEY_BYTES_MAX, Snapshot, SpaceStats, Table,
};
use crate::env::{self, Env};
use crate::modes::Modes;
use crate::types::{Checksum, Error, ErrorKind, Result};

mod archive;
mod check;
mod closing;
mod collector;
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
mod journal_end;
mod journals;
mod manifest;
mod mark;
mod marker;
mod options;
mod payloads;
mod published;
mod reclaim;
mod record;
mod repair;
mod reserve;
mod seal;
mod sink;
mod snapshot;
mod space;
mod store;
mod tidier;
#[cfg(any(test, feature = "contract"))]
mod unlogged;
mod upkeep;
mod view;
mod walk;

use collector::Collector;
pub use copy::IndexCopy;
use failure::caught;
use gaps::Gaps;
use marker::{LastMark, MarkWriter};
pub use options::FjallOptions;
use options::MIB;
use published::Published;
pub use repair::LostFile;
use sink::FjallSink;
use snapshot::{FjallSnapshot, reads_inline};
use space::Space;
use store::{Gone, OpenedStore, Resident, Store, StoreSlot};
use tidier::Tidier;
use upkeep::Upkeep;
use view::HeldLock;

/// An [`Index`] in a directory, on fjall.
pub struct FjallIndex {
    env: Env,
    committer: Arc<Committer>,
    marker: Option<Arc<MarkWriter>>,
    slot: StoreSlot,
    space: Arc<Space>,
    collector: Arc<Collector>,
    gone: Arc<Gone>,
    modes: Modes,
}

impl FjallIndex {
    /// Returns whether this process was the last to open the index in `dir`. The index may then
    /// still be closing, because the threads of a dropped engine end asynchronously. Blocks on the
    /// disk.
    pub fn is_held_here(dir: &Path) -> bool {
        creation::is_held_here(dir)
    }

    /// Opens the index in `dir`, or creates it if it does not exist. Blocks on the disk, for tenths
    /// of a second if the index is new: call it through [`Env::blocking`].
    ///
    /// # Errors
    /// - [`ErrorKind::AlreadyOpen`] if the index is open, in this process or another;
    /// - [`ErrorKind::Invalid`] if an option is out of bounds, or the directory holds foreign
    ///   files, which remain untouched;
    /// - [`ErrorKind::Corrupt`] if part of the index is missing or damaged. Damage that is visible
    ///   from the outside is detected before any file changes;
    /// - [`ErrorKind::UnknownFormat`] if another version wrote the index;
    /// - [`ErrorKind::Unavailable`] if the file system fails or has no room for a new index, or the
    ///   system clock is before 1970. An existing index opens on a full disk as long as the reserve
    ///   or the disk has some 100 KiB left.
    pub fn open(dir: &Path, env: Env, options: FjallOptions) -> Result<Self> {
        options.check()?;
        Self::open_with(dir, env, options, options.worker_threads)
    }

    /// Reads a payload on this thread if it is in memory, or else through [`Env::blocking`].
    /// `expected` is its checksum, if the caller knows it.
    async fn read_payload(&self, key: &[u8], expected: Option<Checksum>) -> Result<Option<Bytes>> {
        tokio::task::coop::consume_budget().await;
        let store = self.slot.store()?;
        let state = store.published.latest();
        if let Resident::Value(value) = store.get_resident(&self.env, &state, key, expected)? {
            return Ok(value);
        }
        // Neither may outlive a close while the read is queued.
        drop((store, state));
        let env = self.env.clone();
        let slot = self.slot.clone();
        let key = Bytes::copy_from_slice(key);
        let read = move || {
            let store = slot.store()?;
            store.payload(&env, &store.published.latest(), &key, expected)
        };
        self.env.blocking(read).await?
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
        // The open and the first commit write a little themselves.
        space.make_way(0, 0)?;
        let new_id = u128::from(env.random_u64()) << 64 | u128::from(env.random_u64());
        let existing = creation::create_or_check(dir, &lock, options.modes, new_id, |path| {
            database::build(path, &options)
        })?;
        let open = || database::open(&existing.database, &options, workers, &existing.keyspaces);
        let (mut tables, mut database) = open()?;
        // Without worker threads fjall flushes nothing, and a sealed journal would stay.
        let is_sealed = workers > 0
            && seal::is_wanted(&existing.database, &space, || {
                caught("open", || reclaim::unflushed(&tables))
            });
        if is_sealed {
            // fjall reopens only when every handle is dropped.
            drop((tables, database));
            // A failure does no harm: fjall then opens with the same journals as before.
            if let Err(error) = seal::seal(&existing.database, options.modes) {
                tracing::warn!(%error, "journals not sealed");
            }
            (tables, database) = open()?;
        }
        if existing.log_id.is_none() {
            record::add_log(dir, tables.keyspaces()?, new_id, options.modes)?;
        }
        // Without worker threads the index is a copy that nothing may change.
        let access = if workers > 0 {
            LogAccess::Write
        } else {
            LogAccess::Read
        };
        let log = payloads::open_log(
            &tables,
            Opening {
                id: existing.log_id.unwrap_or(new_id),
                dir: existing.payloads.clone(),
                modes: options.modes,
                segment_bytes: space.segment_bytes(options.segment_bytes),
                access,
            },
        )?;
        lock.note_holder();
        // fjall has synced the journals, so that the batches found by the check are durable.
        let last = existing.checked.last_seqno;
        let marker = existing
            .checked
            .marks
            .map(|marks| Arc::new(MarkWriter::new(&existing.database, marks, last)));
        let opened = OpenedStore {
            tables,
            database,
            marker,
            log,
            held: HeldLock::alone(lock),
            space,
        };
        let index = Self::start(env, &options, opened)?;
        if workers > 0 {
            index.tidier().tidy_first(is_sealed);
        }
        Ok(index)
    }

    fn start(env: Env, options: &FjallOptions, opened: OpenedStore) -> Result<Self> {
        let OpenedStore {
            tables,
            database,
            marker,
            log,
            held,
            space,
        } = opened;
        let (sender, receiver) = mpsc::channel();
        let last_mark = LastMark(marker.clone());
        let published = Published::new(&database, log.segments());
        let store = Arc::new(Store {
            published,
            gaps: Gaps::new(),
            upkeep: Upkeep::default(),
            slow_step: Duration::from_micros(options.slow_step_us),
            tables,
            database,
            log: log.clone(),
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
            writer: LogWriter::new(log, HeadKind::Written),
        };
        let committer = Arc::new(Committer::start(&env, committer_options, sink)?);
        let slot = StoreSlot(Arc::new(RwLock::new(Some(store))));
        let collector = Arc::new(Collector::new(options.collect_bytes_per_second));
        Ok(Self {
            env,
            collector,
            committer,
            marker,
            slot,
            space,
            gone: Arc::new(Gone(Mutex::new(receiver))),
            modes: options.modes,
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
                // An inline read never waits. Without this line a loop of reads would starve other
                // tasks.
                tokio::task::coop::consume_budget().await;
                let store = self.slot.store()?;
                store.get(&self.env, &store.published.latest(), table, key)
            });
        }
        Box::pin(self.read_payload(key, None))
    }

    fn payload<'a>(
        &'a self,
        key: &'a [u8],
        expected: Checksum,
    ) -> BoxFuture<'a, Result<Option<Bytes>>> {
        Box::pin(self.read_payload(key, Some(expected)))
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        let state = self.slot.store()?.published.latest();
        Ok(Box::new(FjallSnapshot {
            env: self.env.clone(),
            slot: self.slot.clone(),
            state,
        }))
    }

    /// Also requests a high-water mark of the journals, about once a second.
    fn watch(&self, now: Duration) {
        self.committer.watch(now);
        if let Some(marker) = self.marker.clone().filter(|marker| marker.due(now)) {
            // A completion runs on the commit thread, so that no batch is in flight during the
            // write.
            let write = move |outcome: Result<(), CommitError>| {
                if outcome.is_ok() {
                    marker.write();
                }
            };
            self.committer.submit(Batch::new(), Box::new(write));
        }
        self.tidier().watch(&self.env);
        self.collector.watch(&self.env, &self.tidier());
    }

    fn room(&self, bytes: u64) -> Result<()> {
        check_clock("commit")?;
        // A closed index returns its error from the next call.
        let Ok(store) = self.slot.store() else {
            return Ok(());
        };
        self.space.room(bytes, store.database.write_buffer_size())
    }

    fn reclaim(&self) -> BoxFuture<'static, ()> {
        let env = self.env.clone();
        let tidier = self.tidier();
        // `tidy` also waits for a reclaim that another thread has started.
        Box::pin(async move { drop(env.blocking(move || tidier.tidy()).await) })
    }

    fn space(&self) -> Option<SpaceStats> {
        let store = self.slot.store().ok()?;
        Some(self.space.stats(store.database.write_buffer_size()))
    }

    fn payload_log(&self) -> Option<PayloadLogStats> {
        Some(self.slot.store().ok()?.log.stats())
    }

    fn poisoned(&self) -> Option<Error> {
        self.committer.poisoned()
    }

    fn stats(&self) -> IndexStats {
        self.committer.stats()
    }

    /// Also waits for reads in progress, because they hold the store. Gives up a hung commit when
    /// it is overdue. The directory then stays locked until the commit returns, because it might
    /// still write.
    fn close(&self) -> BoxFuture<'static, Result<()>> {
        self.committer.close();
        let env = self.env.clone();
        let committer = self.committer.clone();
        let slot = self.slot.clone();
        let gone = self.gone.clone();
        let space = self.space.clone();
        let modes = self.modes;
        Box::pin(async move {
            env.blocking(move || {
                let ended = committer.wait();
                if ended == ThreadEnd::Joined
                    && let Ok(store) = slot.store()
                {
                    prepare_close(&store, &space, committer.poisoned().is_some(), modes);
                }
                slot.clear();
                match ended {
                    ThreadEnd::Joined => gone.wait(),
                    ThreadEnd::Detached => {
                        tracing::error!(
                            "index closed while a commit hangs: the directory stays locked"
                        );
                    }
                }
                committer.poisoned().map_or(Ok(()), |reason| {
                    let message = "a commit failed: submitted batches may not be durable";
                    Err(Error::new(ErrorKind::Indeterminate, "close", message).with_source(reason))
                })
            })
            .await?
        })
    }
}

impl Drop for FjallIndex {
    /// Closes the index like [`close`](Index::close), but blocks, and does not wait for reads in
    /// progress.
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

/// Frees dead segments, and flushes large journals, so that the next opening is fast. Every commit
/// has ended.
fn prepare_close(store: &Store, space: &Space, is_poisoned: bool, modes: Modes) {
    store.log.delete_retired();
    let Some(marker) = store.marker.as_ref().filter(|_| !is_poisoned) else {
        return;
    };
    match caught("close", || closing::flush(store, space, marker.database())) {
        Ok(true) => marker.flushed(modes),
        Ok(false) => {}
        Err(error) => tracing::warn!(%error, "failed to flush the index at its close"),
    }
}

/// Returns an error if the system clock is before 1970.
fn check_clock(operation: &'static str) -> Result<()> {
    // fjall panics at such a time when it records the creation time of a table.
    if env::is_system_clock_set() {
        return Ok(());
    }
    let message = "the system clock is before 1970: set it, then try again";
    Err(Error::new(ErrorKind::Unavailable, operation, message))
}

#[cfg(test)]
mod tests;
