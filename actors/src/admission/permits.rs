//! Admission: what stands in front of the mailboxes, which are unbounded in ractor.
//!
//! A permit travels in the message and is given back when the message's work is done, or when the
//! message is lost with its actor.
//!
//! Over a limit is `Overloaded` at once, unless there is a place in the queue
//! ([`QueueLimits`](crate::QueueLimits)). Bulk work has a share of each budget, waits for its turn
//! within that, and so never takes what single requests need.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cenotaph_storage::{Env, Error, ErrorKind, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::Limits;

/// Byte budgets are counted in units of this many bytes, so that they fit into a semaphore.
const UNIT_BYTES: usize = 1024;

/// Bytes that a large payload may hold before it takes the share of its blob: what was peeked at of
/// it, and a chunk.
pub(crate) const BEGINNING_BYTES: usize = 2 * 1024 * 1024;

/// The budgets of an engine.
pub(crate) struct Admission {
    writes: Arc<Semaphore>,
    write_bytes: Budget,
    uploads: Arc<Semaphore>,
    upload_bytes: Budget,
    /// Uploads that may hold [`BEGINNING_BYTES`] of it: half of it at the most, and never what the
    /// largest share needs.
    beginnings: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// Places to wait for one of the above.
    queue: Semaphore,
    queue_wait: Duration,
    /// Shares of bulk work.
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

/// Leave to do one thing. Cheap to clone; given back when the last clone is dropped.
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

    /// Leave for what the engine does by itself, which is bounded where it is done.
    pub(crate) fn free() -> Self {
        Self { held: Vec::new() }
    }

    /// Leave for both.
    #[must_use]
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.held.extend(other.held);
        self
    }
}

/// Leave to hold [`BEGINNING_BYTES`].
pub(crate) struct Beginning {
    _counted: OwnedSemaphorePermit,
    bytes: OwnedSemaphorePermit,
}

impl Beginning {
    /// The bytes, which are part of a share from now on.
    pub(crate) fn into_bytes(self) -> OwnedSemaphorePermit {
        self.bytes
    }
}

impl Admission {
    /// `share_bytes`: most that one blob under way holds.
    pub(crate) fn new(limits: &Limits, share_bytes: usize, env: Env) -> Self {
        let permits = |limit: usize| u32::try_from(limit).unwrap_or(u32::MAX).min(u32::MAX >> 4);
        let (writes_max, uploads_max) = (
            permits(limits.writes_at_once),
            permits(limits.uploads_at_once),
        );
        let ending_parts_max = permits(limits.multipart.parts_ending_at_once.max(1));
        let upload_bytes = limits.upload_bytes_in_flight;
        let percent = usize::from(limits.bulk_percent.clamp(1, 100));
        let of_bulk = |limit: usize| (limit / 100 * percent + limit % 100 * percent / 100).max(1);
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

    /// Leave to end an upload of so many parts, first come first served.
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

    /// Leave for one small put or delete.
    ///
    /// # Errors
    /// Those of this kind: [`ErrorKind::Overloaded`] if there is none, and no place in the queue,
    /// or none in time.
    pub(crate) async fn write(&self) -> Result<Permit> {
        self.one_of(&self.writes, 1, "too many writes at once")
            .await
    }

    /// The same, at once or not at all.
    pub(crate) fn try_write(&self) -> Option<Permit> {
        Arc::clone(&self.writes)
            .try_acquire_owned()
            .ok()
            .map(Permit::of)
    }

    /// Leave for as many of them that happen together. More than there may be take all there is.
    pub(crate) async fn writes(&self, count: usize) -> Result<Permit> {
        let count = u32::try_from(count)
            .unwrap_or(u32::MAX)
            .min(self.writes_max);
        self.one_of(&self.writes, count, "too many writes at once")
            .await
    }

    /// Leave to hold this much payload of a small put. A put of bulk work first waits for its turn
    /// among those.
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

    /// Leave for one upload. An upload of bulk work first waits for its turn among those.
    pub(crate) async fn upload(&self, is_bulk: bool) -> Result<Permit> {
        if !is_bulk {
            return self
                .one_of(&self.uploads, 1, "too many uploads at once")
                .await;
        }
        let turn = self.turn(&self.bulk_uploads, 1).await?;
        Ok(self
            .one_of(&self.uploads, 1, "too many uploads at once")
            .await?
            .and(turn))
    }

    /// Waits for the turn of one operation of bulk work.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`] after [`budget_wait`](Limits::budget_wait).
    pub(crate) async fn bulk(&self) -> Result<Permit> {
        self.turn(&self.bulk, 1).await
    }

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

    /// At once; or, if there is a place in the queue, as soon as there is one, for as long as one
    /// may wait there.
    async fn one_of(&self, of: &Arc<Semaphore>, count: u32, why: &str) -> Result<Permit> {
        if let Ok(permit) = Arc::clone(of).try_acquire_many_owned(count) {
            return Ok(Permit::of(permit));
        }
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

    /// Leave to hold [`BEGINNING_BYTES`] of an upload, at once or not at all. Who holds it may wait
    /// for the rest of a share.
    pub(crate) fn beginning(&self) -> Option<Beginning> {
        let counted = Arc::clone(&self.beginnings).try_acquire_owned().ok()?;
        let bytes = self.upload_bytes.try_acquire(BEGINNING_BYTES)?;
        Some(Beginning {
            _counted: counted,
            bytes,
        })
    }

    /// The budget of the bytes that uploads hold.
    pub(crate) fn upload_bytes(&self) -> &Budget {
        &self.upload_bytes
    }

    /// The part of it that bulk work may hold.
    pub(crate) fn bulk_upload_bytes(&self) -> &Budget {
        &self.bulk_upload_bytes
    }

    pub(crate) fn write_bytes(&self) -> &Budget {
        &self.write_bytes
    }

    /// Counts a wait for a budget, until it is dropped.
    pub(crate) fn waiting(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(&self.waiting)
    }

    /// Waits for a budget under way.
    pub(crate) fn waits(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Resolves when no upload and no write holds a permit.
    pub(crate) async fn work_ended(&self) {
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

    /// Small writes under way.
    pub(crate) fn writes_live(&self) -> usize {
        self.writes_max as usize - self.writes.available_permits()
    }

    /// Uploads under way.
    pub(crate) fn uploads_live(&self) -> usize {
        self.uploads_max as usize - self.uploads.available_permits()
    }
}

/// Bytes of a budget in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BudgetUse {
    /// Bytes in use, to the next KiB.
    pub bytes: usize,
    /// The limit.
    pub bytes_max: usize,
}

/// A wait for a budget.
pub(crate) struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes that may be held together, counted in units.
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

    /// A request larger than the whole budget takes all of it.
    fn units(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT_BYTES).min(self.max))
            .expect("a budget has fewer than 2^28 units")
    }

    fn try_acquire(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.units)
            .try_acquire_many_owned(self.units(bytes))
            .ok()
    }

    /// Returns whether this much is free now.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.units.available_permits() >= self.units(bytes) as usize
    }

    /// First come first served.
    pub(crate) async fn acquire(&self, bytes: usize) -> OwnedSemaphorePermit {
        Arc::clone(&self.units)
            .acquire_many_owned(self.units(bytes))
            .await
            .expect("the budget is never closed")
    }

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
mod tests {
    use super::*;
    use crate::limits::QueueLimits;

    fn admission(limits: &Limits) -> Admission {
        Admission::new(limits, 0, Env::real().unwrap())
    }

    fn kind<T>(refused: Result<T>) -> ErrorKind {
        refused.err().expect("it is refused").kind()
    }

    #[tokio::test]
    async fn one_write_too_many_is_overloaded_until_one_ends() {
        let admission = admission(&Limits {
            writes_at_once: 2,
            ..Limits::default()
        });
        let first = admission
            .write()
            .await
            .unwrap()
            .and(admission.payload(10, false).await.unwrap());
        let clone = first.clone();
        let _second = admission.write().await.unwrap();
        drop(first);
        assert_eq!(
            kind(admission.write().await),
            ErrorKind::Overloaded,
            "a clone still holds it"
        );
        drop(clone);
        assert!(admission.write().await.is_ok());
    }

    #[tokio::test]
    async fn more_writes_together_than_there_may_be_still_pass_alone() {
        let admission = admission(&Limits {
            writes_at_once: 2,
            ..Limits::default()
        });
        let together = admission.writes(5).await.unwrap();
        assert_eq!(kind(admission.write().await), ErrorKind::Overloaded);
        drop(together);
        let one = admission.write().await.unwrap();
        assert_eq!(
            kind(admission.writes(2).await),
            ErrorKind::Overloaded,
            "all or none of it"
        );
        drop(one);
        assert!(admission.writes(2).await.is_ok());
    }

    #[tokio::test]
    async fn payload_bytes_are_bounded_and_one_oversized_payload_still_passes_alone() {
        let admission = admission(&Limits {
            write_bytes_in_flight: 10 * UNIT_BYTES,
            ..Limits::default()
        });
        let large = admission.payload(20 * UNIT_BYTES, false).await.unwrap();
        assert_eq!(
            kind(admission.payload(1, false).await),
            ErrorKind::Overloaded
        );
        drop(large);
        assert!(admission.payload(1, false).await.is_ok());
    }

    #[tokio::test]
    async fn who_has_a_place_in_the_queue_waits_and_one_more_is_overloaded_at_once() {
        let queue = QueueLimits {
            places: 1,
            wait: Duration::from_secs(60),
        };
        let admission = admission(&Limits {
            uploads_at_once: 1,
            queue,
            ..Limits::default()
        });
        let first = admission.upload(false).await.unwrap();
        let mut waits = Box::pin(admission.upload(false));
        assert!(futures::poll!(&mut waits).is_pending());
        assert_eq!(admission.waits(), 1);
        assert_eq!(kind(admission.upload(false).await), ErrorKind::Overloaded);
        drop(first);
        let second = waits.await.unwrap();
        assert_eq!(admission.waits(), 0);
        let mut waits = Box::pin(admission.upload(false));
        assert!(futures::poll!(&mut waits).is_pending());
        drop((waits, second));
        assert!(
            admission.upload(false).await.is_ok(),
            "who went away holds no place"
        );
    }

    #[tokio::test]
    async fn a_wait_in_the_queue_ends_as_overloaded() {
        let queue = QueueLimits {
            places: 1,
            wait: Duration::from_millis(20),
        };
        let admission = admission(&Limits {
            writes_at_once: 1,
            queue,
            ..Limits::default()
        });
        let _first = admission.write().await.unwrap();
        assert_eq!(kind(admission.write().await), ErrorKind::Overloaded);
    }

    #[tokio::test]
    async fn bulk_work_leaves_room_for_single_requests() {
        let limits = Limits {
            uploads_at_once: 4,
            writes_at_once: 4,
            budget_wait: Duration::from_millis(20),
            ..Limits::default()
        };
        let admission = admission(&limits);
        let bulk = [
            admission.upload(true).await.unwrap(),
            admission.upload(true).await.unwrap(),
        ];
        assert_eq!(
            kind(admission.upload(true).await),
            ErrorKind::Overloaded,
            "half of it is for bulk work"
        );
        let single = [
            admission.upload(false).await.unwrap(),
            admission.upload(false).await.unwrap(),
        ];
        assert_eq!(kind(admission.upload(false).await), ErrorKind::Overloaded);
        drop(bulk);
        assert!(admission.upload(true).await.is_ok());
        let held = admission.payload(128 << 20, true).await.unwrap();
        assert_eq!(
            kind(admission.payload(1, true).await),
            ErrorKind::Overloaded
        );
        assert!(admission.payload(100 << 20, false).await.is_ok());
        drop(held);
        let turns = [
            admission.bulk().await.unwrap(),
            admission.bulk().await.unwrap(),
        ];
        assert_eq!(kind(admission.bulk().await), ErrorKind::Overloaded);
        drop((turns, single));
    }

    #[tokio::test]
    async fn beginnings_leave_room_for_the_largest_share() {
        let mib = 1024 * 1024;
        for (budget_mib, share_mib, wanted) in [
            (64, 9, 16),
            (64, 49, 7),
            (10, 9, 0),
            (4, 9, 0),
            (256, 9, 64),
        ] {
            let limits = Limits {
                upload_bytes_in_flight: budget_mib * mib,
                ..Limits::default()
            };
            let admission = Admission::new(&limits, share_mib * mib, Env::real().unwrap());
            let beginnings: Vec<Beginning> = std::iter::from_fn(|| admission.beginning()).collect();
            assert_eq!(
                beginnings.len(),
                wanted,
                "budget={budget_mib} share={share_mib}"
            );
            assert!(
                admission.upload_bytes.has_room(share_mib * mib),
                "budget={budget_mib} share={share_mib}"
            );
        }
    }
}
