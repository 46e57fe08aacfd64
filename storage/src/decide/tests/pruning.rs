//! Old last versions are dropped, and no version of any object is ever reused.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::*;
use crate::records::{BASE_VERSION_KEY, BaseVersion, Expiration, LastVersion, last_version_key};

fn object(number: u8) -> ObjectId {
    ObjectId::try_from(format!("k{number}").as_str()).unwrap()
}

fn gone(version: u64, deleted: u64) -> RowState {
    RowState::Absent(LastVersion::at(Version::new(version), at(deleted)))
}

fn undated(version: u64) -> RowState {
    RowState::Absent(LastVersion {
        version: Version::new(version),
        deleted: None,
    })
}

fn base(version: u64) -> BaseVersion {
    BaseVersion::first(at(50)).raised(Version::new(version))
}

fn pruned(states: Vec<RowState>, now: BaseVersion, cutoff: u64) -> (Plan<u64>, BaseVersion) {
    let objects = (0..).map(object).zip(states).collect();
    prune(objects, now, at(cutoff))
}

#[test]
fn old_last_versions_are_dropped_below_a_raised_base_version() {
    let row = after(&never(), &inline(1, 1));
    let states = vec![
        gone(7, 10),
        gone(9, 11),
        row,
        RowState::New(Version::NONE),
        gone(3, 9),
    ];
    let (plan, raised) = pruned(states, base(5), 10);
    assert_eq!(plan.reply.unwrap(), 2);
    assert_eq!(raised, base(7));
    let dropped = [object(0), object(4)];
    let next = dropped
        .clone()
        .map(|id| (id, RowState::New(Version::new(7))));
    assert_eq!(plan.rows, next);
    let removed = dropped.map(|id| (Table::Meta, last_version_key(&id), None));
    let stored = (
        Table::Meta,
        Bytes::from_static(BASE_VERSION_KEY),
        Some(base(7).encode()),
    );
    let ops: Vec<_> = removed.into_iter().chain([stored]).collect();
    assert_eq!(plan.batch.ops(), ops);
    assert!(plan.batch.releases(), "accepted on a full disk");
}

#[test]
fn base_version_is_never_lowered() {
    let (plan, raised) = pruned(vec![gone(3, 1)], base(5), 10);
    assert_eq!((plan.reply.unwrap(), raised), (1, base(5)));
}

#[test]
fn undated_last_version_counts_from_the_first_base_version() {
    for (cutoff, count) in [(49, 0), (50, 1)] {
        let (plan, _) = pruned(vec![undated(3)], base(0), cutoff);
        assert_eq!(plan.reply.unwrap(), count);
        assert_eq!(plan.batch.is_empty(), count == 0);
    }
}

#[test]
fn last_version_beyond_every_write_is_kept() {
    for (version, count) in [(1 << 62, 1), ((1 << 62) + 1, 0)] {
        let (plan, _) = pruned(vec![gone(version, 1)], base(0), 10);
        assert_eq!(plan.reply.unwrap(), count);
    }
}

#[test]
fn put_of_a_new_object_removes_no_last_version() {
    let plan = plan(&inline(1, 1), &RowState::New(Version::new(9)), true, at(1));
    assert_eq!(tables(&plan.batch), [(Table::Rows, true)]);
    assert_eq!(plan.rows[0].1.version(), Version::new(10));
}

/// Tables of an index, as the decisions of all objects leave them.
#[derive(Default)]
struct Tables {
    rows: BTreeMap<Bytes, Row>,
    meta: BTreeMap<Bytes, Bytes>,
}

impl Tables {
    fn base(&self) -> Option<BaseVersion> {
        let value = self.meta.get(BASE_VERSION_KEY)?;
        Some(BaseVersion::decode(value).unwrap())
    }

    fn state(&self, id: &ObjectId) -> RowState {
        if let Some(row) = self.rows.get(id.encoded()) {
            return RowState::Present(Box::new(row.clone()));
        }
        match self.meta.get(&last_version_key(id)) {
            Some(value) => RowState::Absent(LastVersion::decode(value).unwrap()),
            None => RowState::New(self.base().map_or(Version::NONE, |base| base.version)),
        }
    }

    fn apply(&mut self, batch: Batch) {
        for (table, key, value) in batch.into_ops() {
            match (table, value) {
                (Table::Rows, Some(value)) => {
                    drop(self.rows.insert(key, Row::decode(&value).unwrap()));
                }
                (Table::Rows, None) => drop(self.rows.remove(&key)),
                (Table::Meta, Some(value)) => drop(self.meta.insert(key, value)),
                (Table::Meta, None) => drop(self.meta.remove(&key)),
                _ => {}
            }
        }
    }
}

/// Next step of a random history.
#[derive(Clone, Debug)]
enum Act {
    Put(u8),
    PutExpiring(u8),
    Rename(u8, u8),
    Delete(u8),
    Expire(u8),
    /// The last version of an object is an entry of format 1.
    Undate(u8),
    /// Some objects are pruned that were deleted this long ago.
    Prune(Vec<u8>, u64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let objects = || 0..4u8;
    let act = prop_oneof![
        3 => objects().prop_map(Act::Put),
        1 => objects().prop_map(Act::PutExpiring),
        1 => (objects(), 0..4u8).prop_map(|(from, to)| Act::Rename(from, to)),
        3 => objects().prop_map(Act::Delete),
        1 => objects().prop_map(Act::Expire),
        1 => objects().prop_map(Act::Undate),
        3 => (proptest::collection::vec(objects(), 1..4), 0..6u64)
            .prop_map(|(objects, age)| Act::Prune(objects, age)),
    ];
    proptest::collection::vec(act, 1..60)
}

fn of(number: u8, swap: Swap) -> Swap {
    Swap {
        id: object(number),
        ..swap
    }
}

/// Applies an act, and returns the states of rows that it commits.
fn act(tables: &mut Tables, act: Act, nth: u128, now: u64) -> Vec<(ObjectId, RowState)> {
    let swapped = |tables: &Tables, swap: Swap| {
        let plan = plan(&swap, &tables.state(&swap.id), true, at(now));
        (plan.batch, plan.rows)
    };
    let (batch, rows) = match act {
        Act::Put(number) => swapped(tables, of(number, inline(nth, 1))),
        Act::PutExpiring(number) => {
            let mut swap = of(number, inline(nth, 1));
            if let Mutation::Inline { attributes, .. } = &mut swap.mutation {
                attributes.expiration = Expiration::TimeToLive(std::time::Duration::from_millis(2));
            }
            swapped(tables, swap)
        }
        Act::Delete(number) => swapped(tables, of(number, delete(nth))),
        Act::Expire(number) => {
            let mutation = Mutation::Expire;
            let swap = Swap {
                mutation,
                ..delete(nth)
            };
            swapped(tables, of(number, swap))
        }
        Act::Rename(from, to) if from == to => return Vec::new(),
        Act::Rename(from, to) => {
            let rename = Rename {
                from: object(from),
                to: object(to),
                operation: op(nth),
                source: Precondition::None,
                target: Precondition::None,
            };
            let states = [from, to].map(|number| tables.state(&object(number)));
            let plan = rename.decide(&states[0], &states[1], at(now));
            (plan.batch, plan.rows)
        }
        Act::Undate(number) => {
            let mut batch = Batch::new();
            if let RowState::Absent(last) = tables.state(&object(number)) {
                let undated = LastVersion {
                    deleted: None,
                    ..last
                };
                batch.put(
                    Table::Meta,
                    last_version_key(&object(number)),
                    undated.encode(),
                );
            }
            (batch, Vec::new())
        }
        Act::Prune(numbers, age) => {
            let mut objects: Vec<_> = numbers.into_iter().map(object).collect();
            objects.sort();
            objects.dedup();
            let states = objects
                .into_iter()
                .map(|id| (id.clone(), tables.state(&id)));
            let base = tables.base().unwrap_or(BaseVersion::first(at(now)));
            let cutoff = at(now.saturating_sub(age));
            let (plan, _) = prune(states.collect(), base, cutoff);
            (plan.batch, plan.rows)
        }
    };
    tables.apply(batch);
    rows
}

proptest! {
    #[test]
    fn no_version_is_reused_across_drops_of_last_versions(acts in acts()) {
        let mut tables = Tables::default();
        let mut highest: BTreeMap<ObjectId, Version> = BTreeMap::new();
        for ((moment, nth), step) in (1u64..).zip(1000u128..).zip(acts) {
            for (id, state) in act(&mut tables, step, nth, moment) {
                if let RowState::Present(row) = state {
                    let last = highest.insert(id, row.version);
                    prop_assert!(last.is_none_or(|last| row.version > last), "{last:?}");
                }
            }
        }
        let kept = tables.meta.keys().filter(|key| *key != BASE_VERSION_KEY).count();
        prop_assert!(kept + tables.rows.len() <= highest.len());
    }
}
