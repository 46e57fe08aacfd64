//! [`IdleRefreshes`]: reads that extend a deadline, at most one per object and few in all.
//!
//! Reads thus never crowd out writes. A refresh that is skipped is made up for by the next read.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cenotaph_storage::ObjectId;

/// Objects whose deadlines are being extended. Cheap to clone; clones share them.
#[derive(Clone, Default)]
pub(crate) struct IdleRefreshes(Arc<Mutex<BTreeSet<ObjectId>>>);

/// Guard of a refresh. Dropping it ends the refresh.
pub(crate) struct IdleRefresh {
    refreshes: IdleRefreshes,
    id: ObjectId,
}

impl IdleRefreshes {
    /// Begins the refresh of an object, unless the object is being refreshed already or `most`
    /// refreshes are under way.
    pub(crate) fn begin(&self, id: &ObjectId, most: usize) -> Option<IdleRefresh> {
        let mut under_way = self.under_way();
        let may = under_way.len() < most && under_way.insert(id.clone());
        may.then(|| IdleRefresh {
            refreshes: self.clone(),
            id: id.clone(),
        })
    }

    fn under_way(&self) -> MutexGuard<'_, BTreeSet<ObjectId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for IdleRefresh {
    fn drop(&mut self) {
        self.refreshes.under_way().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_is_refreshed_once_at_a_time_and_few_at_once() {
        let refreshes = IdleRefreshes::default();
        let [a, b, c] = ["a", "b", "c"].map(|key| ObjectId::try_from(key).unwrap());
        let first = refreshes.begin(&a, 2);
        assert!(
            first.is_some() && refreshes.begin(&a, 2).is_none(),
            "the object is being refreshed already"
        );
        let _second = refreshes.begin(&b, 2);
        assert!(refreshes.begin(&c, 2).is_none(), "too many");
        drop(first);
        assert!(refreshes.begin(&c, 2).is_some());
    }
}
