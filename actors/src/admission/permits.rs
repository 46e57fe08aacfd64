//! [`Admission`]: permits in front of the actors' mailboxes, which ractor does not bound.
//!
//! A permit travels in the message. It is returned when the work of the message is done, or when
//! the message is lost with its actor.
//!
//! Over a limit is `Overloaded` at once, unless the queue has a free place
//! ([`QueueLimits`](crate::QueueLimits)). Bulk work has a share of each budget and waits for its
//! turn within the share, so that it never takes the rest, which is for single requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cenotaph_storage::{Env, Error, ErrorKind, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::Limits;

/// Unit of byte budgets, so that large budgets fit into a semaphore.
const UNIT_BYTES: usize = 1024;

/// Bytes that a large payload may hold before it takes the share of its blob: its peeked bytes and
/// one chunk.
pub(crate) const BEGINNING_BYTES: usize = 2 * 1024 * 1024;

/// The budgets of an engine.
pub(crate) struct Admission {
    writes: Arc<Semaphore>,
    write_bytes: Budget,
    uploads: Arc<Semaphore>,
    upload_bytes: Budget,
    /// Uploads that may hold [`BEGINNING_BYTES`] of the upload bytes: at most half of the budget,
    /// and never the space that the largest share needs.
    beginnings: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// Places to wait for one of the budgets above.
    queue: Semaphore,
    queue_wait: Duration,
    /// The budgets of bulk work.
    bulk: Arc<Semaphore>,
    bulk_uploads: Arc<Semaphore>,
    bulk_write_bytes: Budget,
    bulk_upload_bytes: Budget,
    budget_wait: Duration,
    env: Env,
    ending_parts: Arc<Semaphore>,
    uploads_max: u32,
    writes_max: u32,
    ending_parts_max: u32,
}

/// Permit for an operation. Cheap to clone; returned when the last clone is dropped.
#[derive(Clone)]
pub struct Permit {
    held: Vec<Arc<OwnedSemaphorePermit>>,
}

impl Permit {
    fn of(held: OwnedSemaphorePermit) -> Self {
        Self {
            held: vec![Arc::new(held)],
        }
    }

    /// Returns a permit for internal work, which is bounded elsewhere.
    pub(crate) fn free() -> Self {
        Self { held: Vec::new() }
    }

    /// Combines two permits.
    #[must_use]
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.held.extend(other.held);
        self
    }
}

/// Permit to hold [`BEGINNING_BYTES`].
pub(crate) struct Beginning {
    _counted: OwnedSemaphorePermit,
    bytes: OwnedSemaphorePermit,
}

impl Beginning {
    /// Returns the bytes, which then belong to a share.
    pub(crate) fn into_bytes(self) -> OwnedSemaphorePermit {
        self.bytes
    }
}

impl Admission {
    /// Creates the budgets of an engine. `share_bytes` is the maximum memory of a blob under way.
    pub(crate) fn new(limits: &Limits, share_bytes: usize, env: Env) -> Self {
        // tokio's semaphores hold at most `usize::MAX >> 3` permits, acquired by `u32`.
        let permits = |limit: usize| u32::try_from(limit).unwrap_or(u32::MAX).min(u32::MAX >> 4);
        let writes_max = permits(limits.writes_at_once);
        let uploads_max = permits(limits.uploads_at_once);
        let ending_parts_max = permits(limits.multipart.parts_ending_at_once.max(1));
        let upload_bytes = limits.upload_bytes_in_flight;
        let percent = usize::from(limits.bulk_percent.clamp(1, 100));
        // Divided first, so that large limits do not overflow. At least one, so that bulk work
        // runs.
        let of_bulk = |limit: usize| (limit / 100 * percent + limit % 100 * percent / 100).max(1);
        // A blob that holds a beginning waits for the rest of its share: without the space for one
        // whole share, blobs with beginnings would wait for each other.
        let beginnings =
            (upload_bytes / 2).min(upload_bytes.saturating_sub(share_bytes)) / BEGINNING_BYTES;
        Self {
            writes: Arc::new(Semaphore::new(writes_max as usize)),
            write_bytes: Budget::new(limits.write_bytes_in_flight),
            uploads: Arc::new(Semaphore::new(uploads_max as usize)),
            upload_bytes: Budget::new(upload_bytes),
            beginnings: Arc::new(Semaphore::new(permits(beginnings) as usize)),
            waiting: AtomicUsize::new(0),
            queue: Semaphore::new(permits(limits.queue.places) as usize),
            queue_wait: limits.queue.wait,
            bulk: Arc::new(Semaphore::new(of_bulk(writes_max as usize))),
            bulk_uploads: Arc::new(Semaphore::new(of_bulk(uploads_max as usize))),
            bulk_write_bytes: Budget::new(of_bulk(limits.write_bytes_in_flight)),
            bulk_upload_bytes: Budget::new(of_bulk(upload_bytes)),
            budget_wait: limits.budget_wait,
            env,
            ending_parts: Arc::new(Semaphore::new(ending_parts_max as usize)),
            uploads_max,
            writes_max,
            ending_parts_max,
        }
    }

    /// Waits for a permit to end an upload with this number of parts, first come, first served.
    pub(crate) async fn end(&self, parts: usize) -> Permit {
        let parts = u32::try_from(parts)
            .unwrap_or(u32::MAX)
            .clamp(1, self.ending_parts_max);
        let _waiting = self.waiting();
        let held = Arc::clone(&self.ending_parts)
            .acquire_many_owned(parts)
            .await;
        Permit::of(held.expect("the budget is never closed"))
    }

    /// Acquires a permit for a small put or delete.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`] if the limit is reached, and the queue is full or the wait in it
    /// too long.
    pub(crate) async fn write(&self) -> Result<Permit> {
        self.one_of(&self.writes, 1, "too many writes at once")
            .await
    }

    /// Acquires a permit for a small put or delete, or returns `None` if the limit is reached.
    pub(crate) fn try_write(&self) -> Option<Permit> {
        Arc::clone(&self.writes)
            .try_acquire_owned()
            .ok()
            .map(Permit::of)
    }

    /// Acquires a permit for several writes in one commit. More writes than the limit take all of
    /// it.
    pub(crate) async fn writes(&self, count: usize) -> Result<Permit> {
        let count = u32::try_from(count)
            .unwrap_or(u32::MAX)
            .min(self.writes_max);
        self.one_of(&self.writes, count, "too many writes at once")
            .await
    }

    /// Acquires a permit to hold these payload bytes of a small put. Bulk work first waits for its
    /// turn within its share.
    pub(crate) async fn payload(&self, bytes: usize, is_bulk: bool) -> Result<Permit> {
        let turn = if is_bulk {
            self.turn_of(&self.bulk_write_bytes, bytes).await?
        } else {
            Permit::free()
        };
        let Budget { units, .. } = &self.write_bytes;
        let bytes = self
            .one_of(
                units,
                self.write_bytes.units(bytes),
                "too many payload bytes in flight",
            )
            .await?;
        Ok(bytes.and(turn))
    }

    /// Acquires a permit for an upload. Bulk work first waits for its turn within its share.
    pub(crate) async fn upload(&self, is_bulk: bool) -> Result<Permit> {
        if !is_bulk {
            return self
                .one_of(&self.uploads, 1, "too many uploads at once")
                .await;
        }
        // The turn first: bulk work that waits must not hold an upload.
        let turn = self.turn(&self.bulk_uploads, 1).await?;
        Ok(self
            .one_of(&self.uploads, 1, "too many uploads at once")
            .await?
            .and(turn))
    }

    /// Waits for the turn of an operation of bulk work.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`] after [`budget_wait`](Limits::budget_wait).
    pub(crate) async fn bulk(&self) -> Result<Permit> {
        self.turn(&self.bulk, 1).await
    }

    /// Waits for the turn of bulk work that holds these bytes.
    async fn turn_of(&self, budget: &Budget, bytes: usize) -> Result<Permit> {
        self.turn(&budget.units, budget.units(bytes)).await
    }

    async fn turn(&self, of: &Arc<Semaphore>, count: u32) -> Result<Permit> {
        let _waiting = self.waiting();
        let turn = self
            .env
            .deadline(self.budget_wait, Arc::clone(of).acquire_many_owned(count))
            .await;
        turn.and_then(std::result::Result::ok)
            .map(Permit::of)
            .ok_or_else(|| overloaded("bulk work waits for its turn"))
    }

    /// Acquires `count` units at once, or waits for them if the queue has a free place, for at most
    /// the limit of the queue.
    async fn one_of(&self, of: &Arc<Semaphore>, count: u32, why: &str) -> Result<Permit> {
        if let Ok(permit) = Arc::clone(of).try_acquire_many_owned(count) {
            return Ok(Permit::of(permit));
        }
        // The place is held during the wait and returned with it.
        let Ok(_place) = self.queue.try_acquire() else {
            return Err(overloaded(why));
        };
        let _waiting = self.waiting();
        let permit = self
            .env
            .deadline(self.queue_wait, Arc::clone(of).acquire_many_owned(count))
            .await;
        permit
            .and_then(std::result::Result::ok)
            .map(Permit::of)
            .ok_or_else(|| overloaded(why))
    }

    /// Acquires [`BEGINNING_BYTES`] for an upload, at once or not at all. The holder may wait for
    /// the rest of its share.
    pub(crate) fn beginning(&self) -> Option<Beginning> {
        let counted = Arc::clone(&self.beginnings).try_acquire_owned().ok()?;
        let bytes = self.upload_bytes.try_acquire(BEGINNING_BYTES)?;
        Some(Beginning {
            _counted: counted,
            bytes,
        })
    }

    /// Returns the budget of the bytes that uploads hold.
    pub(crate) fn upload_bytes(&self) -> &Budget {
        &self.upload_bytes
    }

    /// Returns the share of that budget for bulk work.
    pub(crate) fn bulk_upload_bytes(&self) -> &Budget {
        &self.bulk_upload_bytes
    }

    /// Returns the budget of the bytes that small puts hold.
    pub(crate) fn write_bytes(&self) -> &Budget {
        &self.write_bytes
    }

    /// Counts a wait for a budget until the guard is dropped.
    pub(crate) fn waiting(&self) -> CountedWait<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        CountedWait(&self.waiting)
    }

    /// Returns the number of waits for a budget.
    pub(crate) fn waits(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits until no upload and no write holds a permit.
    pub(crate) async fn work_ended(&self) {
        // All permits: they are granted once every write has returned its own.
        let _writes = self.writes.acquire_many(self.writes_max).await;
        let _uploads = self.uploads.acquire_many(self.uploads_max).await;
    }

    /// Sets the gauges of the budgets.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    pub(crate) fn gauge(&self) {
        let gauge = |name, value: usize| metrics::gauge!(name).set(value as f64);
        gauge("cenotaph_writes_live", self.writes_live());
        gauge("cenotaph_uploads_live", self.uploads_live());
        gauge("cenotaph_write_bytes_held", self.write_bytes.usage().bytes);
        gauge(
            "cenotaph_upload_bytes_held",
            self.upload_bytes.usage().bytes,
        );
        gauge("cenotaph_budget_waits", self.waits());
        gauge("cenotaph_writes_max", self.writes_max as usize);
        gauge("cenotaph_uploads_max", self.uploads_max as usize);
        gauge(
            "cenotaph_write_bytes_max",
            self.write_bytes.usage().bytes_max,
        );
        gauge(
            "cenotaph_upload_bytes_max",
            self.upload_bytes.usage().bytes_max,
        );
    }

    /// Returns the number of small writes under way.
    pub(crate) fn writes_live(&self) -> usize {
        self.writes_max as usize - self.writes.available_permits()
    }

    /// Returns the number of uploads under way.
    pub(crate) fn uploads_live(&self) -> usize {
        self.uploads_max as usize - self.uploads.available_permits()
    }
}

/// Use of a byte budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BudgetUse {
    /// Bytes in use, rounded up to KiB.
    pub bytes: usize,
    /// The limit.
    pub bytes_max: usize,
}

/// Guard of a counted wait for a budget.
pub(crate) struct CountedWait<'a>(&'a AtomicUsize);

impl Drop for CountedWait<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A budget of bytes, counted in units.
pub(crate) struct Budget {
    units: Arc<Semaphore>,
    max: usize,
}

impl Budget {
    fn new(bytes: usize) -> Self {
        let max = bytes.div_ceil(UNIT_BYTES).clamp(1, u32::MAX as usize >> 4);
        Self {
            units: Arc::new(Semaphore::new(max)),
            max,
        }
    }

    /// Returns the units of a request. A request larger than the budget takes all of it.
    fn units(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT_BYTES).min(self.max))
            .expect("a budget has fewer than 2^28 units")
    }

    fn try_acquire(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.units)
            .try_acquire_many_owned(self.units(bytes))
            .ok()
    }

    /// Returns whether this many bytes are free.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.units.available_permits() >= self.units(bytes) as usize
    }

    /// Waits for this many bytes, first come, first served.
    pub(crate) async fn acquire(&self, bytes: usize) -> OwnedSemaphorePermit {
        Arc::clone(&self.units)
            .acquire_many_owned(self.units(bytes))
            .await
            .expect("the budget is never closed")
    }

    /// Returns the use of the budget.
    pub(crate) fn usage(&self) -> BudgetUse {
        let used = self.max - self.units.available_permits();
        BudgetUse {
            bytes: used * UNIT_BYTES,
            bytes_max: self.max * UNIT_BYTES,
        }
    }
}

fn overloaded(why: &str) -> Error {
    Error::new(ErrorKind::Overloaded, "admit", why)
}

#[cfg(test)]
mod tests;
