//! Counts the readers of each revision: [`Pins`], which the sweeper checks before it deletes a
//! blob.
//!
//! ```text
//! reader     read row ──> pin ──> read row again, unchanged? ──> read blobs ──> unpin
//! sweeper    read orphan ──> pinned? yes: try again later, no: delete the blob
//! ```
//!
//! Guards I8. An orphan becomes visible together with the row that no longer names its revision. So
//! either the reader finds that the row has changed, or the sweeper finds the pin. `read.rs` reads
//! the row again. These pins are not durable, because readers end with their
//! process. Members of a shared index also store pins of long reads (`records/reader_pin.rs`).

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::types::RevisionId;

/// The pinned revisions, with a count per revision. Cheap to clone; clones share the pins.
#[derive(Clone, Default)]
pub struct Pins(Arc<Shared>);

#[derive(Default)]
struct Shared {
    counts: Mutex<BTreeMap<RevisionId, NonZeroUsize>>,
    released: Notify,
}

impl Pins {
    /// Creates an empty set of pins.
    pub fn new() -> Self {
        Self::default()
    }

    /// Pins a revision until the returned guard is dropped. A revision may be pinned several times.
    pub fn pin(&self, revision: RevisionId) -> Pin {
        self.counts()
            .entry(revision)
            .and_modify(|count| *count = count.saturating_add(1))
            .or_insert(NonZeroUsize::MIN);
        Pin {
            pins: self.clone(),
            revision,
        }
    }

    /// Returns whether any pin on this revision is held.
    pub fn is_pinned(&self, revision: RevisionId) -> bool {
        self.counts().contains_key(&revision)
    }

    /// Returns the pinned revisions, in order.
    pub fn revisions(&self) -> BTreeSet<RevisionId> {
        self.counts().keys().copied().collect()
    }

    /// Returns the number of pinned revisions.
    pub fn len(&self) -> usize {
        self.counts().len()
    }

    /// Returns whether no revision is pinned.
    pub fn is_empty(&self) -> bool {
        self.counts().is_empty()
    }

    /// Resolves when a revision has lost its last pin since the previous call resolved; immediately
    /// if this has already happened. Supports a single waiter, the sweeper.
    pub async fn released(&self) {
        self.0.released.notified().await;
    }

    fn unpin(&self, revision: RevisionId) {
        let mut counts = self.counts();
        let Entry::Occupied(mut held) = counts.entry(revision) else {
            return;
        };
        match NonZeroUsize::new(held.get().get() - 1) {
            Some(fewer) => *held.get_mut() = fewer,
            None => {
                held.remove();
                // The lock is released first, so that the woken sweeper does not wait for it.
                drop(counts);
                self.0.released.notify_one();
            }
        }
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<RevisionId, NonZeroUsize>> {
        // A poisoned lock is harmless: no code that can panic runs while it is held, so the map is
        // consistent.
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pins").field(&self.counts()).finish()
    }
}

/// Guard that keeps the sweeper from deleting a revision until it is dropped (I8).
#[must_use = "the revision is pinned only while this lives"]
pub struct Pin {
    pins: Pins,
    revision: RevisionId,
}

impl Pin {
    /// Returns the pinned revision.
    pub fn revision(&self) -> RevisionId {
        self.revision
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.pins.unpin(self.revision);
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pin").field(&self.revision).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn revision(n: u8) -> RevisionId {
        RevisionId::from_uuid(Uuid::from_u128(u128::from(n)))
    }

    proptest! {
        #[test]
        fn revision_is_pinned_while_any_pin_is_held(
            steps in proptest::collection::vec((0..4u8, any::<Option<usize>>()), 0..60),
        ) {
            let pins = Pins::new();
            let mut held: Vec<Pin> = Vec::new();
            for (n, release) in steps {
                match release {
                    Some(at) if !held.is_empty() => drop(held.swap_remove(at % held.len())),
                    Some(_) | None => held.push(pins.pin(revision(n))),
                }
                for n in 0..4 {
                    let expected = held.iter().any(|pin| pin.revision() == revision(n));
                    prop_assert_eq!(pins.clone().is_pinned(revision(n)), expected);
                }
            }
            drop(held);
            prop_assert!(pins.is_empty());
        }
    }

    #[test]
    fn release_before_the_wait_is_not_lost() {
        let pins = Pins::new();
        let first = pins.pin(revision(1));
        let second = pins.pin(revision(1));
        drop(first);
        assert!(
            pins.released().now_or_never().is_none(),
            "the revision is still pinned"
        );
        drop(second);
        assert!(pins.released().now_or_never().is_some());
        assert!(
            pins.released().now_or_never().is_none(),
            "a release resolves a single call"
        );
    }

    #[test]
    fn last_release_wakes_a_waiting_sweeper() {
        let pins = Pins::new();
        let pin = pins.pin(revision(1));
        let mut waiting = Box::pin(pins.released());
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(pin);
        assert!(waiting.as_mut().now_or_never().is_some());
    }
}
