//! Ranges of keys that are known to hold nothing: [`Gaps`].
//!
//! fjall keeps an entry for each key that was removed until a compaction drops it, and a scan steps
//! over them one by one, at some 0.7 µs each: 140 ms to the first object behind 200,000 consumed
//! ones. So a step of a scan that took long is remembered here, and later scans leave it out:
//!
//! ```text
//! keys        a  x  x  x  x  x  x  x  b  x  c        x: removed
//! gaps           [a\0 ............. b)
//! a scan      a ─────────────────────> b  x  c
//! a put of x3          cuts it in two
//! ```
//!
//! A gap found in the state after commit n holds for every later state until a key within it is
//! put: `committing` cuts it before that state is published. A scan of an older state finds nothing
//! here. A scan that ends after a put was committed, and began before, has its gaps cut by what was
//! put meanwhile, which is noted for that; if too much was put meanwhile to be noted, its gaps are
//! forgotten. Guards that no key is ever left out of a scan.
//!
//! Nothing of it is durable: a store that was opened anew finds its gaps again, one slow step each.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::index::Table;

/// Gaps of one table at the most. The cheapest ones are forgotten, and found again.
const GAPS_MAX: usize = 256;
/// Keys that were put last and are noted.
const NOTED_MAX: usize = 16 * 1024;

/// See the head of this file.
pub(super) struct Gaps(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// By table, then by the first key of the gap.
    gaps: BTreeMap<Table, BTreeMap<Bytes, Gap>>,
    /// Keys that were put, with the commit that put them, in order.
    noted: VecDeque<(u64, Table, Bytes)>,
    /// Of this commit and all before it not all is noted any more.
    forgotten: u64,
}

/// A gap without its first key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Gap {
    /// The first key behind it; none if there is no end to it.
    to: Option<Bytes>,
    /// The commit after which it was seen.
    since: u64,
    /// The time that crossing it took.
    took: Duration,
}

/// Keys between which nothing was found.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// The first one.
    pub(super) from: Bytes,
    /// The first one behind them; none if there is no end to them.
    pub(super) to: Option<Bytes>,
    /// The time that crossing them took.
    pub(super) took: Duration,
}

/// A stretch of a scan that crosses no gap.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    /// Where it begins; none if nothing more is there.
    pub(super) from: Option<Bytes>,
    /// Where the next gap begins.
    pub(super) gap: Option<Bytes>,
}

impl Gaps {
    pub(super) fn new() -> Self {
        Self(Mutex::default())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Each change of it is complete when nothing panics in between, and nothing does.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stretch to scan of the state after this commit, from a key on and up to the next gap.
    pub(super) fn stretch(&self, table: Table, from: Bytes, commit: u64) -> Stretch {
        let known = self.known();
        let Some(gaps) = known.gaps.get(&table) else {
            return Stretch {
                from: Some(from),
                gap: None,
            };
        };
        let mut from = from;
        while let Some((_, gap)) = gaps
            .range(..=from.clone())
            .next_back()
            .filter(|(_, gap)| gap.holds(&from, commit))
        {
            match &gap.to {
                Some(to) => from = to.clone(),
                None => {
                    return Stretch {
                        from: None,
                        gap: None,
                    };
                }
            }
        }
        let next = gaps
            .range(from.clone()..)
            .find(|(_, gap)| gap.since <= commit);
        Stretch {
            gap: next.map(|(key, _)| key.clone()),
            from: Some(from),
        }
    }

    /// Remembers what a scan of the state after this commit has found.
    pub(super) fn remember(&self, table: Table, found: Vec<Found>, commit: u64) {
        let mut known = self.known();
        if commit < known.forgotten || !is_followed(table) {
            return;
        }
        let put: Vec<Bytes> = known
            .noted
            .iter()
            .rev()
            .take_while(|(at, ..)| *at > commit)
            .filter(|(_, of, _)| *of == table)
            .map(|(_, _, key)| key.clone())
            .collect();
        let gaps = known.gaps.entry(table).or_default();
        for Found { from, to, took } in found {
            insert(
                gaps,
                from,
                Gap {
                    to,
                    since: commit,
                    took,
                },
            );
        }
        put.iter().for_each(|key| cut(gaps, key));
        while gaps.len() > GAPS_MAX {
            let cheapest = gaps
                .iter()
                .min_by_key(|(_, gap)| gap.took)
                .map(|(from, _)| from.clone());
            cheapest.and_then(|from| gaps.remove(&from));
        }
    }

    /// A commit with this number puts these keys. Called before the state behind it is published.
    pub(super) fn committing<'a>(
        &self,
        commit: u64,
        put: impl Iterator<Item = (Table, &'a Bytes)>,
    ) {
        let mut known = self.known();
        for (table, key) in put.filter(|(table, _)| is_followed(*table)) {
            if let Some(gaps) = known.gaps.get_mut(&table) {
                cut(gaps, key);
            }
            known.noted.push_back((commit, table, key.clone()));
        }
        while known.noted.len() > NOTED_MAX {
            if let Some((commit, ..)) = known.noted.pop_front() {
                known.forgotten = commit;
            }
        }
    }
}

/// Payloads are put with each write, and scanned by a scrub only.
fn is_followed(table: Table) -> bool {
    table != Table::Payloads
}

impl Gap {
    /// Returns whether a key from its first one on lies in it, in the state after this commit.
    fn holds(&self, key: &Bytes, commit: u64) -> bool {
        self.since <= commit && self.to.as_ref().is_none_or(|to| key < to)
    }
}

/// Joins it with those that it touches.
fn insert(gaps: &mut BTreeMap<Bytes, Gap>, mut from: Bytes, mut new: Gap) {
    let reaches = |gap: &Gap, key: &Bytes| gap.to.as_ref().is_none_or(|to| key <= to);
    if let Some((first, _)) = gaps
        .range(..=from.clone())
        .next_back()
        .filter(|(_, gap)| reaches(gap, &from))
    {
        from = first.clone();
    }
    while let Some((first, _)) = gaps
        .range(from.clone()..)
        .next()
        .filter(|(first, _)| reaches(&new, first))
    {
        let first = first.clone();
        if let Some(old) = gaps.remove(&first) {
            new.since = new.since.max(old.since);
            new.took = new.took.saturating_add(old.took);
            new.to = new.to.zip(old.to).map(|(new, old)| new.max(old));
        }
    }
    gaps.insert(from, new);
}

/// Takes a key out of the gap that holds it.
fn cut(gaps: &mut BTreeMap<Bytes, Gap>, key: &Bytes) {
    let within = |gap: &Gap| gap.to.as_ref().is_none_or(|to| key < to);
    let Some((first, _)) = gaps
        .range(..=key.clone())
        .next_back()
        .filter(|(_, gap)| within(gap))
    else {
        return;
    };
    let first = first.clone();
    let Some(gap) = gaps.remove(&first) else {
        return;
    };
    let behind = behind(key);
    if gap.to.as_ref().is_none_or(|to| behind < *to) {
        gaps.insert(behind, gap.clone());
    }
    if first < *key {
        gaps.insert(
            first,
            Gap {
                to: Some(key.clone()),
                ..gap
            },
        );
    }
}

/// The smallest key above this one.
pub(super) fn behind(key: &Bytes) -> Bytes {
    [&key[..], &[0]].concat().into()
}

#[cfg(test)]
#[path = "gaps_tests.rs"]
mod tests;
