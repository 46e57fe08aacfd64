//! Reads that extend a deadline, on their way through a shard: one for each object, and few in all,
//! so that reads never crowd out writes. One that is left out is made good by the next read.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cenotaph_storage::ObjectId;

/// The objects whose deadlines are being extended. Cheap to clone; clones share them.
#[derive(Clone, Default)]
pub(crate) struct IdleRefreshes(Arc<Mutex<BTreeSet<ObjectId>>>);

/// One of them, until it is dropped.
pub(crate) struct IdleRefresh {
    touches: IdleRefreshes,
    id: ObjectId,
}

impl IdleRefreshes {
    /// Leave to extend the deadline of this object, unless somebody does already, or `most` others
    /// are under way.
    pub(crate) fn begin(&self, id: &ObjectId, most: usize) -> Option<IdleRefresh> {
        let mut under_way = self.under_way();
        let may = under_way.len() < most && under_way.insert(id.clone());
        may.then(|| IdleRefresh {
            touches: self.clone(),
            id: id.clone(),
        })
    }

    fn under_way(&self) -> MutexGuard<'_, BTreeSet<ObjectId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for IdleRefresh {
    fn drop(&mut self) {
        self.touches.under_way().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_touched_once_at_a_time_and_few_are_at_once() {
        let touches = IdleRefreshes::default();
        let [a, b, c] = ["a", "b", "c"].map(|key| ObjectId::try_from(key).unwrap());
        let first = touches.begin(&a, 2);
        assert!(
            first.is_some() && touches.begin(&a, 2).is_none(),
            "somebody does already"
        );
        let _second = touches.begin(&b, 2);
        assert!(touches.begin(&c, 2).is_none(), "too many");
        drop(first);
        assert!(touches.begin(&c, 2).is_some());
    }
}
