//! Cache of key ranges that contain only removed entries: [`Gaps`].
//!
//! fjall keeps an entry for each removed key until a compaction drops it. A scan steps over each of
//! these entries, in some 0.7 µs: 140 ms to the first object after 200,000 consumed ones. The range
//! of a slow step is therefore remembered as a gap, and later scans skip it:
//!
//! ```text
//! keys         a  x  x  x  x  x  x  x  b  x  c        x: removed
//! gaps            [a\0 ............. b)
//! scan         a ─────────────────────> b  x  c
//! put of x3           cuts the gap in two
//! ```
//!
//! A gap found in the state after commit n is valid for every later state until a key within it is
//! put. `committing` cuts the gap before that state is published. A scan of an older state ignores
//! the gap. A scan may begin before a put commits and end after it. Its gaps are therefore cut by
//! all keys put since its state, which `noted` contains. If `noted` no longer contains all of them,
//! its gaps are dropped. Guards that no scan skips a key.
//!
//! Gaps are not durable: after an open each gap costs a slow step again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::index::Table;

/// Maximal number of gaps per table. The cheapest gaps are dropped, and found again by later scans.
const GAPS_MAX: usize = 256;
/// Maximal number of recent puts that are noted.
const NOTED_MAX: usize = 16 * 1024;

/// Gaps of all tables of an index.
pub(super) struct Gaps(Mutex<KnownGaps>);

#[derive(Default)]
struct KnownGaps {
    /// Gaps by table and first key.
    gaps: BTreeMap<Table, BTreeMap<Bytes, Gap>>,
    /// Recent puts in order: commit, table and key.
    noted: VecDeque<(u64, Table, Bytes)>,
    /// Last commit with a put that is no longer noted.
    forgotten: u64,
}

/// Gap without its first key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Gap {
    /// First key after the gap. `None` if the gap has no end.
    to: Option<Bytes>,
    /// Commit of the state in which the gap was found.
    since: u64,
    /// Duration of the step over the gap.
    took: Duration,
}

/// Empty key range that a scan has found.
#[derive(Clone, Debug)]
pub(super) struct FoundGap {
    /// First key of the range.
    pub(super) from: Bytes,
    /// First key after the range. `None` if the range has no end.
    pub(super) to: Option<Bytes>,
    /// Duration of the step over the range.
    pub(super) took: Duration,
}

/// Part of a scan up to the next gap.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    /// First key of the part. `None` if no key is left.
    pub(super) from: Option<Bytes>,
    /// First key of the next gap. `None` if no gap follows.
    pub(super) gap: Option<Bytes>,
}

impl Gaps {
    pub(super) fn new() -> Self {
        Self(Mutex::default())
    }

    fn known(&self) -> MutexGuard<'_, KnownGaps> {
        // A poisoned lock is safe: no code under the lock panics between two related changes.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the part of a scan of the state after this commit, from a key to the next gap.
    pub(super) fn stretch(&self, table: Table, from: Bytes, commit: u64) -> Stretch {
        let known = self.known();
        let Some(gaps) = known.gaps.get(&table) else {
            return Stretch {
                from: Some(from),
                gap: None,
            };
        };
        // A gap may end where the next gap begins.
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
        // A gap of a later state may contain keys that this state still has.
        let next = gaps
            .range(from.clone()..)
            .find(|(_, gap)| gap.since <= commit);
        Stretch {
            gap: next.map(|(key, _)| key.clone()),
            from: Some(from),
        }
    }

    /// Remembers the empty ranges that a scan of the state after this commit has found.
    pub(super) fn remember(&self, table: Table, found: Vec<FoundGap>, commit: u64) {
        let mut known = self.known();
        // Puts after the scan's state may be missing in `noted`: the ranges may not be empty now.
        if commit < known.forgotten || !is_followed(table) {
            return;
        }
        // Newest first: the loop ends at the first put that the scanned state contains.
        let put: Vec<Bytes> = known
            .noted
            .iter()
            .rev()
            .take_while(|(at, ..)| *at > commit)
            .filter(|(_, of, _)| *of == table)
            .map(|(_, _, key)| key.clone())
            .collect();
        let gaps = known.gaps.entry(table).or_default();
        for FoundGap { from, to, took } in found {
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
        // The ranges were empty in the scanned state. Keys put since are cut out.
        put.iter().for_each(|key| cut(gaps, key));
        while gaps.len() > GAPS_MAX {
            let cheapest = gaps
                .iter()
                .min_by_key(|(_, gap)| gap.took)
                .map(|(from, _)| from.clone());
            cheapest.and_then(|from| gaps.remove(&from));
        }
    }

    /// Cuts the keys that a commit puts out of the gaps, and notes them. Must be called before the
    /// state after the commit is published.
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

/// Returns whether the gaps of a table are remembered. Payloads are excluded: every write puts
/// them, and only a scrub scans them.
fn is_followed(table: Table) -> bool {
    table != Table::Payloads
}

impl Gap {
    /// Returns whether a key lies in the gap in the state after this commit. The key must not
    /// precede the first key of the gap.
    fn holds(&self, key: &Bytes, commit: u64) -> bool {
        self.since <= commit && self.to.as_ref().is_none_or(|to| key < to)
    }
}

/// Inserts a gap, and merges it with the gaps that it touches.
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
            // The merged gap is valid only in states in which both parts are.
            new.since = new.since.max(old.since);
            new.took = new.took.saturating_add(old.took);
            new.to = new.to.zip(old.to).map(|(new, old)| new.max(old));
        }
    }
    gaps.insert(from, new);
}

/// Cuts a key out of the gap that contains it.
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

/// Returns the smallest key above this key.
pub(super) fn behind(key: &Bytes) -> Bytes {
    [&key[..], &[0]].concat().into()
}

#[cfg(test)]
mod tests;
