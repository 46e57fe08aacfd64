//! Limits the memory of reads: [`ReadBudget`].
//!
//! ```text
//! share of
//! bytes_in_flight   pool     bytes                          a permit is
//! 1/4               demand   for which a reader waits       waited for; kept during the fetch, and
//!                                                           at most a second longer if no held
//!                                                           permit is available
//! 3/4               held     fetched ahead, or fetched      taken at once or not at all; kept
//!                            and not taken by the reader    until the reader takes the bytes
//! ```
//!
//! A task that waits for a permit holds no other permit, and bytes that wait for their reader block
//! other readers for at most that second. So slow readers cost other readers only their read-ahead.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::limits::ReadLimits;
use crate::env::Env;
use crate::types::{Error, ErrorKind, Result};

/// Bytes per permit of the semaphores. Tokio acquires at most `u32::MAX` permits at a time, too few
/// for a permit per byte.
const PERMIT_BYTES: u32 = 1024;
const BYTES_GAUGE: &str = "cenotaph_read_bytes_held";
/// Most permits of a pool.
const PERMITS_MAX: u64 = (u32::MAX >> 4) as u64;

/// Open objects, and the memory that they hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadUse {
    /// Number of open objects. Metric: `cenotaph_reads_open`.
    pub open: usize,
    /// Limit of `open`.
    pub open_max: usize,
    /// Bytes being fetched, fetched ahead, or not taken by their reader yet; each unit is rounded
    /// up to 1 KiB. Metric: `cenotaph_read_bytes_held`.
    pub bytes: u64,
    /// Limit of `bytes`.
    pub bytes_max: u64,
    /// Number of reads that wait for memory to fetch. Metric: `cenotaph_read_waits`.
    pub waiting: usize,
}

/// Memory budget of all reads, and the limit of open objects. Cheap to clone; clones share the
/// budget.
#[derive(Clone)]
pub(super) struct ReadBudget {
    demand: Pool,
    held: Pool,
    open: Pool,
    waiting: Arc<AtomicUsize>,
    wait: Duration,
}

/// A pool of permits, and its gauge.
#[derive(Clone)]
struct Pool {
    permits: Arc<Semaphore>,
    /// Number of permits, free and taken.
    max: u32,
    gauge: &'static str,
    /// Amount that a permit adds to the gauge.
    unit: u32,
}

/// Permits of a pool, released when they are dropped.
#[derive(Debug)]
pub(super) struct Leave {
    _permits: OwnedSemaphorePermit,
    _gauged: Gauged,
}

/// Amount added to a gauge, which is subtracted on drop.
#[derive(Debug)]
struct Gauged(&'static str, u32);

impl Gauged {
    fn add(gauge: &'static str, amount: u32) -> Self {
        metrics::gauge!(gauge).increment(amount);
        Self(gauge, amount)
    }
}

impl Drop for Gauged {
    fn drop(&mut self) {
        metrics::gauge!(self.0).decrement(self.1);
    }
}

/// A waiting read, counted until it is dropped.
struct WaitingRead {
    count: Arc<AtomicUsize>,
    _gauged: Gauged,
}

impl WaitingRead {
    fn count(waiting: &Arc<AtomicUsize>) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self {
            count: Arc::clone(waiting),
            _gauged: Gauged::add("cenotaph_read_waits", 1),
        }
    }
}

impl Drop for WaitingRead {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    fn of(max: u64, gauge: &'static str, unit: u32) -> Self {
        // A pool without permits would block all reads, so each has at least 1.
        let max = u32::try_from(max.clamp(1, PERMITS_MAX)).unwrap_or(1);
        Self {
            permits: Arc::new(Semaphore::new(max as usize)),
            max,
            gauge,
            unit,
        }
    }

    fn try_take(&self, count: u32) -> Option<Leave> {
        Arc::clone(&self.permits)
            .try_acquire_many_owned(count)
            .ok()
            .map(|permits| self.gauged(permits))
    }

    fn gauged(&self, permits: OwnedSemaphorePermit) -> Leave {
        let count = u32::try_from(permits.num_permits()).unwrap_or(u32::MAX);
        Leave {
            _permits: permits,
            _gauged: Gauged::add(self.gauge, count.saturating_mul(self.unit)),
        }
    }

    fn used(&self) -> usize {
        self.max as usize - self.permits.available_permits()
    }
}

impl ReadBudget {
    pub(super) fn new(limits: &ReadLimits) -> Self {
        let permits = limits.bytes_in_flight / u64::from(PERMIT_BYTES);
        Self {
            demand: Pool::of(permits / 4, BYTES_GAUGE, PERMIT_BYTES),
            held: Pool::of(permits - permits / 4, BYTES_GAUGE, PERMIT_BYTES),
            open: Pool::of(limits.open_at_once as u64, "cenotaph_reads_open", 1),
            waiting: Arc::default(),
            wait: limits.budget_wait,
        }
    }

    /// Takes the permit of an open object.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`] if [`open_at_once`](ReadLimits::open_at_once) objects are open.
    pub(super) fn open(&self) -> Result<Leave> {
        self.open.try_take(1).ok_or_else(|| {
            let message = format!("too many open objects: max={}", self.open.max);
            Error::new(ErrorKind::Overloaded, "read", message)
        })
    }

    /// Takes a held permit for this many bytes, or returns `None` if it is not available now.
    pub(super) fn hold(&self, bytes: u64) -> Option<Leave> {
        let permits = u32::try_from(bytes.div_ceil(u64::from(PERMIT_BYTES))).ok()?;
        // Never waits: a task that waits here with a demand permit could deadlock with other
        // readers.
        self.held.try_take(permits)
    }

    /// Waits for a demand permit for this many bytes, first come first served. A request larger
    /// than the pool takes the whole pool.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`] after [`budget_wait`](ReadLimits::budget_wait).
    pub(super) async fn demand(&self, env: &Env, bytes: u64) -> Result<Leave> {
        let permits = u32::try_from(bytes.div_ceil(u64::from(PERMIT_BYTES)))
            .unwrap_or(u32::MAX)
            .min(self.demand.max);
        // Counted by a guard, so that a dropped future does not count as waiting.
        let _waiting = WaitingRead::count(&self.waiting);
        let acquire = Arc::clone(&self.demand.permits).acquire_many_owned(permits);
        match env.deadline(self.wait, acquire).await {
            Some(Ok(permits)) => Ok(self.demand.gauged(permits)),
            Some(Err(closed)) => Err(
                Error::new(ErrorKind::Closed, "read", "the reader is closed").with_source(closed),
            ),
            None => {
                let message = format!(
                    "the memory budget of reads is used up: waited={:?}",
                    self.wait
                );
                Err(Error::new(ErrorKind::Overloaded, "read", message))
            }
        }
    }

    pub(super) fn usage(&self) -> ReadUse {
        ReadUse {
            open: self.open.used(),
            open_max: self.open.max as usize,
            bytes: (self.demand.used() + self.held.used()) as u64 * u64::from(PERMIT_BYTES),
            bytes_max: (u64::from(self.demand.max) + u64::from(self.held.max))
                * u64::from(PERMIT_BYTES),
            waiting: self.waiting.load(Ordering::Relaxed),
        }
    }
}
