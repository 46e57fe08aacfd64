//! The pure decision of a commit: the batches of a group whose conditions hold, and the writes.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::index::group_commit::Changes;
use crate::index::{Batch, RangeCondition, Table};

/// A key of a table.
pub(super) type Place = (Table, Bytes);

/// Entries of the store. An absent key has no entry.
pub(super) type Entries = BTreeMap<Place, Bytes>;

/// Keys with a prefix that the store has, by table and prefix.
pub(super) type Ranges = BTreeMap<Place, BTreeSet<Bytes>>;

/// Decision about a group of batches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Decided {
    /// Positions of the batches with a condition that does not hold.
    pub(super) changed: BTreeSet<usize>,
    /// Writes of all other batches. The last write of each key wins.
    pub(super) writes: Changes,
    /// `true` if the transaction wrote nothing, not even its token.
    pub(super) is_read_only: bool,
}

/// Returns the keys that the conditions of a group name.
pub(super) fn required(batches: &[Batch]) -> BTreeSet<Place> {
    let conditions = batches.iter().flat_map(Batch::conditions);
    conditions
        .map(|condition| (condition.table, condition.key.clone()))
        .collect()
}

/// Returns the ranges that the conditions of a group name.
pub(super) fn required_ranges(batches: &[Batch]) -> BTreeSet<Place> {
    let ranges = batches.iter().flat_map(Batch::range_conditions);
    ranges
        .map(|range| (range.table, range.prefix.clone()))
        .collect()
}

/// Returns the keys that a group writes.
pub(super) fn written(batches: &[Batch]) -> BTreeSet<Place> {
    let ops = batches.iter().flat_map(Batch::ops);
    ops.map(|(table, key, _)| (*table, key.clone())).collect()
}

/// Evaluates the batches in order. Each sees the writes of those before it that commit. `stored` has
/// the entries of all [`required`] keys, `ranges` the keys of all [`required_ranges`].
pub(super) fn decide(batches: &[Batch], stored: &Entries, ranges: &Ranges) -> Decided {
    let mut decided = Decided::default();
    for (position, batch) in batches.iter().enumerate() {
        let mut whole = batch.range_conditions().iter();
        let holds = whole.all(|range| keys_of(range, &decided.writes, ranges) == range.keys);
        let holds = holds
            && batch.conditions().iter().all(|condition| {
                let place = (condition.table, condition.key.clone());
                let value = match decided.writes.get(&place) {
                    Some(written) => written.as_ref(),
                    None => stored.get(&place),
                };
                value == condition.value.as_ref()
            });
        if !holds {
            decided.changed.insert(position);
            continue;
        }
        for (table, key, value) in batch.ops() {
            decided.writes.insert((*table, key.clone()), value.clone());
        }
    }
    decided
}

/// Returns the keys of a range after these writes.
fn keys_of(range: &RangeCondition, writes: &Changes, ranges: &Ranges) -> BTreeSet<Bytes> {
    let place = (range.table, range.prefix.clone());
    let mut keys = ranges.get(&place).cloned().unwrap_or_default();
    let within = writes
        .range(place..)
        .take_while(|((table, key), _)| *table == range.table && key.starts_with(&range.prefix));
    for ((_, key), value) in within {
        match value {
            Some(_) => keys.insert(key.clone()),
            None => keys.remove(key),
        };
    }
    keys
}

/// Returns the writes that are left to do when the store has these entries for the keys that it has
/// already written or locked.
pub(super) fn left(decided: &Decided, stored: &Entries, placed: &Entries) -> Changes {
    let mut left = decided.writes.clone();
    for (place, value) in placed {
        match left.get(place) {
            Some(Some(wanted)) if wanted == value => drop(left.remove(place)),
            Some(_) => {}
            // A placeholder of a key that no batch writes.
            None => drop(left.insert(place.clone(), None)),
        }
    }
    // A value that is stored already.
    left.retain(|place, value| value.is_none() || value.as_ref() != stored.get(place));
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(key: &'static str) -> Place {
        (Table::Rows, Bytes::from(key))
    }

    fn batch(
        required: &[(&'static str, Option<&'static str>)],
        put: &[(&'static str, Option<&'static str>)],
    ) -> Batch {
        let mut batch = Batch::new();
        for (key, value) in required {
            batch.require(Table::Rows, *key, value.map(Bytes::from));
        }
        for (key, value) in put {
            match value {
                Some(value) => batch.put(Table::Rows, *key, *value),
                None => batch.remove(Table::Rows, *key),
            }
        }
        batch
    }

    #[test]
    fn each_batch_sees_the_batches_before_it() {
        let group = [
            batch(&[("a", None)], &[("a", Some("1"))]),
            batch(&[("a", None)], &[("b", Some("lost"))]),
            batch(&[("a", Some("1"))], &[("a", None)]),
            batch(&[("a", None), ("c", Some("old"))], &[("c", Some("new"))]),
        ];
        let stored = Entries::from([(place("c"), Bytes::from("old"))]);
        let decided = decide(&group, &stored, &Ranges::new());
        assert_eq!(decided.changed, BTreeSet::from([1]));
        let writes = [(place("a"), None), (place("c"), Some(Bytes::from("new")))];
        assert_eq!(decided.writes, Changes::from(writes));
    }

    #[test]
    fn batch_that_rests_on_a_refused_batch_is_refused() {
        let group = [
            batch(&[("a", Some("0"))], &[("a", Some("1"))]),
            batch(&[("a", Some("1"))], &[("a", Some("2"))]),
        ];
        let stored = Entries::from([(place("a"), Bytes::from("other"))]);
        let decided = decide(&group, &stored, &Ranges::new());
        assert_eq!(decided.changed, BTreeSet::from([0, 1]));
        assert!(decided.writes.is_empty());
    }

    fn whole(keys: &[&'static str], put: &[(&'static str, Option<&'static str>)]) -> Batch {
        let mut batch = batch(&[], put);
        batch.require_only(RangeCondition {
            table: Table::Rows,
            prefix: Bytes::from("p/"),
            keys: keys.iter().map(|key| Bytes::from(*key)).collect(),
        });
        batch
    }

    #[test]
    fn ranges_show_the_keys_of_others_and_of_earlier_batches() {
        let group = [
            whole(&["p/1"], &[("end", Some("early"))]),
            whole(&["p/1", "p/2"], &[("p/3", Some("3")), ("q", Some("1"))]),
            whole(&["p/1", "p/2"], &[("end", Some("lost"))]),
            batch(&[], &[("p/1", None)]),
            whole(&["p/2", "p/3"], &[("end", Some("last"))]),
        ];
        let keys = [Bytes::from("p/1"), Bytes::from("p/2")];
        let ranges = Ranges::from([(place("p/"), BTreeSet::from(keys))]);
        let decided = decide(&group, &Entries::new(), &ranges);
        assert_eq!(decided.changed, BTreeSet::from([0, 2]));
    }

    #[test]
    fn placeholders_are_removed_and_finished_writes_are_not_repeated() {
        let group = [batch(
            &[("new", None), ("mask", None), ("same", Some("1"))],
            &[("new", Some("1")), ("same", Some("1")), ("gone", None)],
        )];
        let stored = Entries::from([(place("same"), Bytes::from("1"))]);
        let decided = decide(&group, &stored, &Ranges::new());
        let placed = Entries::from([
            (place("new"), Bytes::from("1")),
            (place("mask"), Bytes::new()),
        ]);
        let expected = [(place("mask"), None), (place("gone"), None)];
        assert_eq!(left(&decided, &stored, &placed), Changes::from(expected));
    }
}
