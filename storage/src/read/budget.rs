//! The memory of reads: [`ReadBudget`].
//!
//! ```text
//! bytes_in_flight:   1/4   on demand: a reader waits for these bytes. Held while they are fetched, by a task that is running,
//!                          and for a second more at the most, if nothing is left to hold them until they are taken.
//!                    3/4   held: fetched ahead, or not taken yet. Taken at once or not at all; travels with the bytes.
//! ```
//!
//! A task that waits for a permit holds none, and bytes that wait for their reader keep no other
//! reader from going on for longer than that second. So slow readers cost the others their
//! read-ahead and no more. Deliberately not here: what is fetched (`fetch.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::limits::ReadLimits;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};

/// Bytes that one permit stands for; tokio counts permits of one acquisition in 32 bits.
const PERMIT_BYTES: u32 = 1024;
const BYTES_GAUGE: &str = "cenotaph_read_bytes_held";
const PERMITS_MAX: u64 = (u32::MAX >> 4) as u64;

/// Reads under way, and the bytes that they hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadUse {
    /// Objects that are open. Metric: `cenotaph_reads_open`.
    pub open: usize,
    /// The limit.
    pub open_max: usize,
    /// Bytes being fetched, fetched ahead, or not taken by their reader yet, to the next KiB.
    /// Metric: `cenotaph_read_bytes_held`.
    pub bytes: u64,
    /// The limit.
    pub bytes_max: u64,
    /// Reads that wait for leave to fetch. Metric: `cenotaph_read_waits`.
    pub waiting: usize,
}

/// See the head of this file. Cheap to clone; clones share it.
#[derive(Clone)]
pub(super) struct ReadBudget {
    demand: Pool,
    held: Pool,
    open: Pool,
    waiting: Arc<AtomicUsize>,
    wait: Duration,
}

/// Permits, and how many there are in all.
#[derive(Clone)]
struct Pool {
    permits: Arc<Semaphore>,
    max: u32,
    gauge: &'static str,
    /// The amount that one permit adds to the gauge.
    unit: u32,
}

/// Leave that is given back when it is dropped.
#[derive(Debug)]
pub(super) struct Leave {
    _permits: OwnedSemaphorePermit,
    _gauged: Gauged,
}

/// Adds to a gauge until it is dropped.
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

/// A wait that is counted until it is dropped.
struct Waiting {
    count: Arc<AtomicUsize>,
    _gauged: Gauged,
}

impl Waiting {
    fn count(waiting: &Arc<AtomicUsize>) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self {
            count: Arc::clone(waiting),
            _gauged: Gauged::add("cenotaph_read_waits", 1),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    fn of(max: u64, gauge: &'static str, unit: u32) -> Self {
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
            .map(|permits| self.leave(permits))
    }

    fn leave(&self, permits: OwnedSemaphorePermit) -> Leave {
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

    /// Leave for one more open object.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`] if as many are open as may be.
    pub(super) fn open(&self) -> Result<Leave> {
        self.open.try_take(1).ok_or_else(|| {
            Error::new(
                ErrorKind::Overloaded,
                "read",
                "too many objects are being read",
            )
        })
    }

    /// Leave to hold so many bytes until their reader takes them, at once or not at all.
    pub(super) fn hold(&self, bytes: u64) -> Option<Leave> {
        let permits = u32::try_from(bytes.div_ceil(u64::from(PERMIT_BYTES))).ok()?;
        self.held.try_take(permits)
    }

    /// Leave to fetch so many bytes, first come first served. More than there may be take all there
    /// is.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`] after [`budget_wait`](ReadLimits::budget_wait).
    pub(super) async fn demand(&self, env: &Env, bytes: u64) -> Result<Leave> {
        let permits = u32::try_from(bytes.div_ceil(u64::from(PERMIT_BYTES)))
            .unwrap_or(u32::MAX)
            .min(self.demand.max);
        let _waiting = Waiting::count(&self.waiting);
        let acquire = Arc::clone(&self.demand.permits).acquire_many_owned(permits);
        match env.deadline(self.wait, acquire).await {
            Some(Ok(permits)) => Ok(self.demand.leave(permits)),
            Some(Err(closed)) => {
                Err(
                    Error::new(ErrorKind::Closed, "read", "the read side is closed")
                        .with_source(closed),
                )
            }
            None => {
                let message = format!("the memory of all reads is in use: waited={:?}", self.wait);
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
