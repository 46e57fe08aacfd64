//! The course of a migration from a fallback, as pure functions.
//!
//! ```text
//! pass ──> namespace, in order ──> page of keys, in order ──> move each object
//!                                     └─ the counts and the last object are recorded, durably
//! end of a pass ──> nothing failed, and the pass found an object   Seal
//!              └──> something failed, or the source seems empty    another pass, from the beginning
//! ```
//!
//! Guards "a failed pass never seals": a failure is counted in the record of its pass, so that a
//! crash forgets none.

use super::KeyPosition;
use crate::records::MigrationProgress;
use crate::types::{Namespace, ObjectId};

/// Counts of a page of a migration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MigrationCounts {
    /// Objects that were moved into the store.
    pub moved: u64,
    /// Objects that needed no move: the store has or had them, or they have expired.
    pub kept: u64,
    /// Objects that could not be moved.
    pub failed: u64,
    /// Payload bytes of the moved objects.
    pub bytes: u64,
}

impl MigrationCounts {
    /// Adds the counts of another page.
    pub fn add(&mut self, other: Self) {
        self.moved += other.moved;
        self.kept += other.kept;
        self.failed += other.failed;
        self.bytes += other.bytes;
    }
}

impl MigrationProgress {
    /// Returns the progress after a page that ends with `last`. Without `last` the cursor stays.
    #[must_use]
    pub fn after_page(&self, counts: MigrationCounts, last: Option<ObjectId>) -> Self {
        Self {
            passes: self.passes,
            cursor: last.or_else(|| self.cursor.clone()),
            moved: self.moved + counts.moved,
            found: self.found + counts.moved + counts.kept,
            failed: self.failed + counts.failed,
            bytes: self.bytes + counts.bytes,
        }
    }

    /// Returns the progress at the beginning of the next pass.
    #[must_use]
    pub fn next_pass(&self) -> Self {
        Self {
            passes: self.passes + 1,
            cursor: None,
            moved: self.moved,
            found: 0,
            failed: 0,
            bytes: self.bytes,
        }
    }

    /// Returns whether the pass, which has reached the end of the source, permits the seal. A source
    /// that seems empty may be a directory without its mount: it permits the seal only if
    /// `may_be_empty`.
    pub fn permits_seal(&self, may_be_empty: bool) -> bool {
        self.failed == 0 && (self.found > 0 || may_be_empty)
    }
}

/// Returns the namespace with which a pass continues, as its place in the list, and the position in
/// it. `namespaces` are in order.
pub fn resume(namespaces: &[Namespace], cursor: Option<&ObjectId>) -> (usize, KeyPosition) {
    let Some(cursor) = cursor else {
        return (0, KeyPosition::Start);
    };
    let reached = cursor.namespace();
    let at = namespaces.partition_point(|namespace| *namespace < reached);
    if namespaces.get(at) == Some(&reached) {
        (at, KeyPosition::AfterKey(cursor.key().to_owned()))
    } else {
        // The namespace is gone from the source.
        (at, KeyPosition::Start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(namespace: &Namespace, key: &str) -> ObjectId {
        ObjectId::new(namespace, key).unwrap()
    }

    fn namespaces(names: &[&str]) -> Vec<Namespace> {
        names
            .iter()
            .map(|name| Namespace::new(name).unwrap())
            .collect()
    }

    #[test]
    fn pass_continues_behind_its_cursor() {
        let all = namespaces(&["a", "c"]);
        let behind = |key: &str| KeyPosition::AfterKey(key.to_owned());
        assert_eq!(resume(&all, None), (0, KeyPosition::Start));
        assert_eq!(resume(&all, Some(&id(&all[0], "k"))), (0, behind("k")));
        assert_eq!(resume(&all, Some(&id(&all[1], "k"))), (1, behind("k")));
        let [gone, last] = &namespaces(&["b", "d"])[..] else {
            unreachable!("two namespaces")
        };
        assert_eq!(resume(&all, Some(&id(gone, "k"))), (1, KeyPosition::Start));
        assert_eq!(resume(&all, Some(&id(last, "k"))), (2, KeyPosition::Start));
    }

    #[test]
    fn only_a_complete_pass_without_failures_permits_the_seal() {
        let namespace = Namespace::default_namespace();
        let page = |moved, kept, failed| MigrationCounts {
            moved,
            kept,
            failed,
            bytes: moved * 10,
        };
        let first = MigrationProgress::default().next_pass();
        assert!(!first.permits_seal(false), "the source seems empty");
        assert!(first.permits_seal(true));
        let failed = first
            .after_page(page(2, 0, 1), Some(id(&namespace, "c")))
            .after_page(page(3, 0, 0), Some(id(&namespace, "f")));
        assert!(
            !failed.permits_seal(true),
            "a later page forgets no failure"
        );
        let second = failed.next_pass();
        assert_eq!(
            (second.passes, second.moved, second.bytes, &second.cursor),
            (2, 5, 50, &None)
        );
        let clean = second.after_page(page(1, 5, 0), Some(id(&namespace, "f")));
        assert!(clean.permits_seal(false));
        assert_eq!((clean.moved, clean.found, clean.bytes), (6, 6, 60));
    }
}
