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
    HeadKind, LogWriter, Move, PayloadLog, Pointer, ScanDepth, SegmentId, SegmentScan, unavailable,
};
use crate::types::Result;

/// Bytes that are copied between two commits.
const STEP_BYTES: u64 = 4 * 1024 * 1024;
/// Longest pause after a step.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Interval at which a pause checks whether the index is closing.
const PAUSE_STEP: Duration = Duration::from_millis(20);

/// Collects the payload log of an open index.
pub(super) struct Collector {
    log: Arc<PayloadLog>,
    bytes_per_second: u64,
    is_running: AtomicBool,
    /// Held during a collection.
    writer: Mutex<LogWriter>,
}

/// Entry to copy.
struct LiveEntry {
    key: Bytes,
    value: Bytes,
    old: Pointer,
}

/// Walk over a segment that is being collected.
struct Walk {
    victim: SegmentId,
    depth: ScanDepth,
    scan: SegmentScan,
}

/// Outcome of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Something was collected, and there may be more.
    More,
    /// There is nothing to collect now.
    Done,
}

impl Collector {
    pub(super) fn new(log: Arc<PayloadLog>, bytes_per_second: u64) -> Self {
        Self {
            writer: Mutex::new(LogWriter::new(log.clone(), HeadKind::Moved)),
            log,
            bytes_per_second,
            is_running: AtomicBool::new(false),
        }
    }

    /// Starts a collection on a separate thread if there is something to do. Does not block on the
    /// disk.
    pub(super) fn watch(self: &Arc<Self>, env: &Env, tidier: &Tidier) {
        self.report();
        if !self.is_wanted() || self.is_running.swap(true, Ordering::AcqRel) {
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

    fn report(&self) {
        let usage = self.log.lock().table.usage();
        metrics::gauge!("cenotaph_index_log_live_bytes").set(usage.live_bytes as f64);
        metrics::gauge!("cenotaph_index_log_dead_bytes").set(usage.dead_bytes as f64);
        metrics::gauge!("cenotaph_index_log_segments").set(usage.segments as f64);
    }

    fn is_wanted(&self) -> bool {
        let state = self.log.lock();
        let is_head_dead = state.table.dead_head().is_some();
        is_head_dead || state.table.victim().is_some() || {
            drop(state);
            self.log.has_retired()
        }
    }

    /// Collects until there is nothing to do, or the index is closing.
    pub(super) fn run(&self, env: &Env, tidier: &Tidier) -> Result<()> {
        let mut walk = None;
        loop {
            let before = tidier.committer.stats().batches;
            // The store is held for one step only, so that a close does not wait for longer.
            let Ok(store) = tidier.slot.store() else {
                return Ok(());
            };
            let step = self.step(env, tidier, &store, &mut walk)?;
            drop(store);
            self.log.delete_retired();
            if step == Step::Done {
                return Ok(());
            }
            // The step has committed one batch itself.
            let is_idle = tidier.committer.stats().batches <= before + 1;
            if !is_idle && !self.is_urgent() {
                self.pause(tidier);
            }
        }
    }

    /// Returns whether almost half of the log is dead.
    fn is_urgent(&self) -> bool {
        let usage = self.log.lock().table.usage();
        usage.dead_bytes > usage.live_bytes.saturating_mul(3) / 4
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

    /// Collects up to [`STEP_BYTES`]. `walk` is the walk over the current victim.
    fn step(
        &self,
        env: &Env,
        tidier: &Tidier,
        store: &Store,
        walk: &mut Option<Walk>,
    ) -> Result<Step> {
        let dead_head = self.log.lock().table.dead_head();
        if let Some(kind) = dead_head {
            // The next batch removes the segment, because none of its entries is in use.
            self.log.lock().table.seal(kind);
            tidier.commit(reclaim::noop_batch())?;
            return Ok(Step::More);
        }
        let current = match walk.take() {
            Some(current) => current,
            None => match self.select()? {
                Some(selected) => selected,
                None => return Ok(Step::Done),
            },
        };
        // The copies need space until the victim is deleted. A dead segment needs none.
        let buffered = store.database.write_buffer_size();
        if tidier.space.room(2 * STEP_BYTES, buffered).is_err() {
            return Ok(Step::Done);
        }
        let current = walk.insert(current);
        let live = self.live_entries(env, store, current)?;
        if !live.is_empty() {
            self.move_entries(tidier, live)?;
            return Ok(Step::More);
        }
        let ended = walk.take();
        // The batches of others may have removed the last entries meanwhile.
        tidier.commit(reclaim::noop_batch())?;
        if let Some(ended) = ended {
            *walk = self.continue_behind(&ended)?;
        }
        Ok(Step::More)
    }

    /// Selects a segment to collect, and seals it.
    fn select(&self) -> Result<Option<Walk>> {
        let mut state = self.log.lock();
        let Some(victim) = state.table.victim() else {
            return Ok(None);
        };
        state.table.seal_segment(victim);
        drop(state);
        self.walk(victim, ScanDepth::Keys)
    }

    /// Starts a walk. Returns `None` if the segment is missing or removed.
    fn walk(&self, victim: SegmentId, depth: ScanDepth) -> Result<Option<Walk>> {
        let record = self.log.lock().table.record(victim);
        let Some(record) = record else {
            return Ok(None);
        };
        let path = self.log.path(victim);
        match SegmentScan::open(&path, record.end, depth) {
            Ok(scan) => Ok(Some(Walk {
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
    fn continue_behind(&self, ended: &Walk) -> Result<Option<Walk>> {
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
    fn live_entries(&self, env: &Env, store: &Store, walk: &mut Walk) -> Result<Vec<LiveEntry>> {
        let failed = |error| unavailable("collect", &self.log.path(walk.victim), error);
        let state = store.published.latest();
        let mut live = Vec::new();
        let mut bytes = 0;
        while bytes < STEP_BYTES {
            let Some(found) = walk.scan.next().map_err(failed)? else {
                break;
            };
            let old = match store.pointer(env, &state, &found.key)? {
                Some(old) if old.segment == walk.victim && old.offset == found.offset => old,
                Some(_) | None => continue,
            };
            let segment = self.log.segment(&state.segments, &old)?;
            // A damaged entry stays, and so does its segment.
            let Ok(value) = segment.read(&old, &found.key) else {
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
    fn move_entries(&self, tidier: &Tidier, live: Vec<LiveEntry>) -> Result<()> {
        let entries: Vec<_> = live.iter().map(|entry| (&entry.key, &entry.value)).collect();
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let pointers = writer
            .append(&entries)
            .map_err(|error| unavailable("collect", writer.dir(), error))?;
        drop(writer);
        let moves = live.into_iter().zip(pointers).map(|(entry, new)| Move {
            key: entry.key,
            old: entry.old,
            new,
        });
        self.log.queue_moves(moves);
        tidier.commit(reclaim::noop_batch())
    }
}
