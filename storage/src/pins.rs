//! Which revisions are being read right now: [`Pins`], asked by the sweeper before it deletes a
//! blob.
//!
//! ```text
//! reader: read row ──> pin ──> read row again: same? ──> read blobs ──> unpin
//! sweeper:    read orphan ──> pinned? later : delete blob
//! ```
//!
//! Guards I8. An orphan is visible no earlier than the row that stopped naming it, so of the two
//! only one can win: either the reader's second look shows a row that no longer names the revision,
//! or the sweeper sees the pin. Deliberately not here: the second look (`read.rs`), and what a
//! sweeper does meanwhile. Pins are not durable: a reader does not outlive its process.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::word::RevisionId;

/// The revisions that are being read, counted. Cheap to clone; clones share what is pinned.
#[derive(Clone, Default)]
pub struct Pins(Arc<Shared>);

#[derive(Default)]
struct Shared {
    counts: Mutex<BTreeMap<RevisionId, NonZeroUsize>>,
    released: Notify,
}

impl Pins {
    /// Nothing pinned.
    pub fn new() -> Self {
        Self::default()
    }

    /// Pins a revision until the returned guard is dropped. Pins of one revision add up.
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

    /// Whether at least one pin on this revision is held.
    pub fn is_pinned(&self, revision: RevisionId) -> bool {
        self.counts().contains_key(&revision)
    }

    /// How many revisions are pinned.
    pub fn len(&self) -> usize {
        self.counts().len()
    }

    /// Whether no revision is pinned.
    pub fn is_empty(&self) -> bool {
        self.counts().is_empty()
    }

    /// Resolves when some revision has lost its last pin since the previous call resolved; at once
    /// if that has happened already. For one waiter: the sweeper.
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
                drop(counts);
                self.0.released.notify_one();
            }
        }
    }

    /// No code that can panic runs under the lock, so that the map is whole even if the lock says
    /// otherwise.
    fn counts(&self) -> MutexGuard<'_, BTreeMap<RevisionId, NonZeroUsize>> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pins").field(&self.counts()).finish()
    }
}

/// Keeps one revision from being swept while it lives (I8).
#[must_use = "the revision is pinned only while this lives"]
pub struct Pin {
    pins: Pins,
    revision: RevisionId,
}

impl Pin {
    /// The pinned revision.
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
        fn a_revision_is_pinned_while_any_of_its_pins_is_held(steps in proptest::collection::vec((0..4u8, any::<Option<usize>>()), 0..60)) {
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
    fn a_release_is_heard_even_if_nobody_waited_yet() {
        let pins = Pins::new();
        let (first, second) = (pins.pin(revision(1)), pins.pin(revision(1)));
        drop(first);
        assert!(
            pins.released().now_or_never().is_none(),
            "the revision is still pinned"
        );
        drop(second);
        assert!(pins.released().now_or_never().is_some());
        assert!(
            pins.released().now_or_never().is_none(),
            "it was heard once"
        );
    }

    #[test]
    fn a_waiting_sweeper_is_woken_by_the_last_release() {
        let pins = Pins::new();
        let pin = pins.pin(revision(1));
        let mut waiting = Box::pin(pins.released());
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(pin);
        assert!(waiting.as_mut().now_or_never().is_some());
    }
}
