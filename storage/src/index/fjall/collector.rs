//! Collection of the payload log: [`Collector`].
//!
//! ```text
//! watch ──> thread, while there is something to do:
//!   1 delete the files of removed segments that no state reads
//!   2 select a victim (`SegmentTable::victim`), and seal it if it is a head
//!   3 walk over its entries; copy those that a pointer names to the head for moved values, sync
//!   4 queue a move for each; the commit thread carries out those whose pointer is unchanged
//!   5 wait for the commit. The commit that moves the last live entry removes the segment
//!   6 pace, and again from 1
//! ```
//!
//! Guards I12. A crash at any step loses nothing: until step 5 the pointers name the old entries, and
//! copies that nothing names are cut off by the next opening. Foreground batches never wait for a
//! copy, only for the small batch of pointers.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;

use super::failure::caught;
use super::tidier::Tidier;
use super::{Store, reclaim};
use crate::env::Env;
use crate::index::payload_log::{
    CollectionStats, HeadKind, LogWriter, Move, PayloadLog, Pointer, ScanDepth, SegmentId,
    SegmentScan, unavailable,
};
use crate::types::Result;

/// Bytes that are copied between two commits.
const STEP_BYTES: u64 = 4 * 1024 * 1024;
/// Size of a dead head below which it is kept, in bytes. A new segment costs a sync of the directory.
const DEAD_HEAD_BYTES_MIN: u64 = 4 * 1024 * 1024;
/// Longest pause after a step.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Interval at which a pause checks whether the index is closing.
const PAUSE_STEP: Duration = Duration::from_millis(20);

/// Collects the payload log of an open index.
// It does not own the log: a closed index must not keep the files of its log open.
pub(super) struct Collector {
    bytes_per_second: u64,
    is_running: AtomicBool,
    /// Held during a collection.
    collecting: Mutex<()>,
}

/// Entry to copy.
struct LiveEntry {
    key: Bytes,
    value: Bytes,
    old: Pointer,
}

/// Walk over a segment that is being collected.
struct SegmentWalk {
    victim: SegmentId,
    depth: ScanDepth,
    scan: SegmentScan,
}

/// Outcome of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CollectorStep {
    /// Something was collected, and there may be more.
    More,
    /// There is nothing to collect now.
    Done,
}

impl Collector {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second,
            is_running: AtomicBool::new(false),
            collecting: Mutex::default(),
        }
    }

    /// Starts a collection on a separate thread if there is something to do. Does not block on the
    /// disk.
    pub(super) fn watch(self: &Arc<Self>, env: &Env, tidier: &Tidier) {
        let Ok(store) = tidier.slot.store() else {
            return;
        };
        report(&store.log);
        let is_wanted = is_wanted(&store.log);
        // The thread takes the store again: an index that closes meanwhile is not kept open.
        drop(store);
        if !is_wanted || self.is_running.swap(true, Ordering::AcqRel) {
            return;
        }
        let collector = self.clone();
        let tidier = tidier.clone();
        let thread_env = env.clone();
        let collecting = move || {
            if let Err(error) = caught("collect", || collector.run(&thread_env, &tidier)) {
                tracing::warn!(%error, "failed to collect the payload log");
            }
            collector.is_running.store(false, Ordering::Release);
        };
        if let Err(error) = env.thread("cenotaph-collect", collecting) {
            tracing::warn!(%error, "failed to start the thread that collects the payload log");
            // The closure did not run.
            self.is_running.store(false, Ordering::Release);
        }
    }

    /// Collects until there is nothing to do, or the index is closing.
    pub(super) fn run(&self, env: &Env, tidier: &Tidier) -> Result<()> {
        let _alone = self
            .collecting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut run = CollectorRun::default();
        loop {
            let before = tidier.committer.stats().batches;
            // The store is held for one step only, so that a close does not wait for longer.
            let Ok(store) = tidier.slot.store() else {
                return Ok(());
            };
            let collection = Collection {
                env,
                tidier,
                store: &store,
                log: &store.log,
            };
            let freed_before = run
                .freed_before
                .get_or_insert_with(|| store.log.lock().table.freed_bytes());
            let freed_before = *freed_before;
            let step = collection.step(&mut run).inspect_err(|_| {
                // Moves may still be queued. The bytes behind the recorded end may become theirs,
                // so nothing may overwrite them.
                store.log.lock().table.seal(HeadKind::Moved);
            })?;
            store.log.delete_retired();
            let is_urgent = is_urgent(&store.log);
            if step == CollectorStep::Done {
                let freed_bytes = store.log.lock().table.freed_bytes() - freed_before;
                store.log.collected(CollectionStats {
                    ended: env.steady_now(),
                    freed_bytes,
                    copied_bytes: run.copied_bytes,
                });
                return Ok(());
            }
            drop(store);
            // The step has committed one batch itself.
            let is_idle = tidier.committer.stats().batches <= before + 1;
            if !is_idle && !is_urgent {
                // The writer holds the log, and the index may close during the pause.
                run.writer = None;
                self.pause(tidier);
            }
        }
    }

    fn pause(&self, tidier: &Tidier) {
        let micros = STEP_BYTES.saturating_mul(1_000_000) / self.bytes_per_second;
        let mut left = Duration::from_micros(micros).min(PAUSE_MAX);
        while !left.is_zero() && tidier.slot.store().is_ok() {
            let step = left.min(PAUSE_STEP);
            thread::park_timeout(step);
            left -= step;
        }
    }
}

fn report(log: &PayloadLog) {
    let usage = log.lock().table.usage();
    metrics::gauge!("cenotaph_index_log_live_bytes").set(usage.live_bytes as f64);
    metrics::gauge!("cenotaph_index_log_dead_bytes").set(usage.dead_bytes as f64);
    metrics::gauge!("cenotaph_index_log_segments").set(usage.segments as f64);
}

/// Returns whether there is something to collect or to delete.
fn is_wanted(log: &PayloadLog) -> bool {
    let state = log.lock();
    let has_dead_head = state.table.dead_head(DEAD_HEAD_BYTES_MIN).is_some();
    let is_wanted = has_dead_head || state.table.victim().is_some();
    drop(state);
    is_wanted || log.has_retired()
}

/// Returns whether almost half of the log is dead.
fn is_urgent(log: &PayloadLog) -> bool {
    let usage = log.lock().table.usage();
    usage.dead_bytes > usage.live_bytes.saturating_mul(3) / 4
}

/// State of a run of the collector.
#[derive(Default)]
struct CollectorRun {
    /// Walk over the current victim.
    walk: Option<SegmentWalk>,
    /// Writer of moved values.
    writer: Option<LogWriter>,
    copied_bytes: u64,
    /// Size of all segments removed before the run, in bytes.
    freed_before: Option<u64>,
}

/// A collection of an open store.
struct Collection<'a> {
    env: &'a Env,
    tidier: &'a Tidier,
    store: &'a Store,
    log: &'a Arc<PayloadLog>,
}

impl Collection<'_> {
    /// Collects up to [`STEP_BYTES`].
    fn step(&self, run: &mut CollectorRun) -> Result<CollectorStep> {
        let dead_head = self.log.lock().table.dead_head(DEAD_HEAD_BYTES_MIN);
        if let Some(kind) = dead_head {
            // The next batch removes the segment, because none of its entries is in use.
            self.log.lock().table.seal(kind);
            self.tidier.commit(reclaim::noop_batch())?;
            return Ok(CollectorStep::More);
        }
        let current = match run.walk.take() {
            Some(current) => current,
            None => match self.select()? {
                Some(selected) => selected,
                None => return Ok(CollectorStep::Done),
            },
        };
        // The copies need space until the victim is deleted. A dead segment needs none.
        let buffered = self.store.database.write_buffer_size();
        if self.tidier.space.room(2 * STEP_BYTES, buffered).is_err() {
            return Ok(CollectorStep::Done);
        }
        let current = run.walk.insert(current);
        let live = self.live_entries(current)?;
        if !live.is_empty() {
            let bytes = live.iter().map(|entry| entry.value.len() as u64).sum();
            let writer = run
                .writer
                .get_or_insert_with(|| LogWriter::new(self.log.clone(), HeadKind::Moved));
            self.move_entries(writer, live)?;
            run.copied_bytes += bytes;
            self.log.copied(bytes);
            return Ok(CollectorStep::More);
        }
        let ended = run.walk.take();
        // The batches of others may have removed the last entries meanwhile.
        self.tidier.commit(reclaim::noop_batch())?;
        if let Some(ended) = ended {
            run.walk = self.continue_behind(&ended)?;
        }
        Ok(CollectorStep::More)
    }

    /// Selects a segment to collect, and seals it.
    fn select(&self) -> Result<Option<SegmentWalk>> {
        let mut state = self.log.lock();
        let Some(victim) = state.table.victim() else {
            return Ok(None);
        };
        state.table.seal_segment(victim);
        drop(state);
        self.walk(victim, ScanDepth::Keys)
    }

    /// Starts a walk. Returns `None` if the segment is missing or removed.
    fn walk(&self, victim: SegmentId, depth: ScanDepth) -> Result<Option<SegmentWalk>> {
        let record = self.log.lock().table.record(victim);
        let Some(record) = record else {
            return Ok(None);
        };
        let path = self.log.path(victim);
        match SegmentScan::open(&path, record.end, depth) {
            Ok(scan) => Ok(Some(SegmentWalk {
                victim,
                depth,
                scan,
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.log.lock().table.mark_stuck(victim);
                Ok(None)
            }
            Err(error) => Err(unavailable("collect", &path, error)),
        }
    }

    /// Returns the next walk over a segment whose walk has ended, or `None` if the segment is
    /// removed or the rest of its entries can't be moved.
    fn continue_behind(&self, ended: &SegmentWalk) -> Result<Option<SegmentWalk>> {
        let record = self.log.lock().table.record(ended.victim);
        let Some(record) = record else {
            return Ok(None);
        };
        match ended.depth {
            // A damaged length may have hidden entries.
            ScanDepth::Keys => self.walk(ended.victim, ScanDepth::Whole),
            ScanDepth::Whole => {
                tracing::error!(
                    segment = %self.log.path(ended.victim).display(),
                    payloads = record.live_entries,
                    "a segment of the payload log is damaged: some of its payloads can't be moved"
                );
                self.log.lock().table.mark_stuck(ended.victim);
                Ok(None)
            }
        }
    }

    /// Reads the next entries that are in use, up to [`STEP_BYTES`].
    fn live_entries(&self, walk: &mut SegmentWalk) -> Result<Vec<LiveEntry>> {
        let failed = |error| unavailable("collect", &self.log.path(walk.victim), error);
        let state = self.store.published.latest();
        let mut live = Vec::new();
        let mut bytes = 0;
        while bytes < STEP_BYTES {
            let Some(found) = walk.scan.next().map_err(failed)? else {
                break;
            };
            let old = match self.store.pointer(self.env, &state, &found.key)? {
                Some(old) if old.segment == walk.victim && old.offset == found.offset => old,
                Some(_) | None => continue,
            };
            let segment = self.log.segment(&state.segments, &old)?;
            // A damaged entry stays, and so does its segment.
            let Ok(value) = segment.read(&old, &found.key, None) else {
                continue;
            };
            bytes += old.entry_bytes(found.key.len());
            live.push(LiveEntry {
                key: found.key,
                value,
                old,
            });
        }
        Ok(live)
    }

    /// Copies entries, and waits until their pointers are replaced.
    fn move_entries(&self, writer: &mut LogWriter, live: Vec<LiveEntry>) -> Result<()> {
        let entries: Vec<_> = live
            .iter()
            .map(|entry| (&entry.key, &entry.value))
            .collect();
        let pointers = writer
            .append(&entries)
            .map_err(|error| unavailable("collect", writer.dir(), error))?;
        let moves = live.into_iter().zip(pointers).map(|(entry, new)| Move {
            key: entry.key,
            old: entry.old,
            new,
        });
        self.log.queue_moves(moves);
        self.tidier.commit(reclaim::noop_batch())
    }
}
