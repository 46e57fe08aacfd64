//! Histories: what clients asked and heard, checked against the order that the witness saw.
//!
//! ```text
//! call ──────────── window ──────────── answer
//!        commits of the object, in the one order in which they became durable
//! ```
//!
//! A write that says `Applied` has exactly one commit, and it lies in its window. A read tells how the object stood at
//! some moment of its window. Whoever heard nothing, or `Indeterminate`, may have committed, once, after its call. Together
//! that is linearizability: every operation takes effect at one moment between call and answer. Named checkers:
//! `linearizability`, I7 (read before durable), I8 (bytes of one version to the end), I9 (acknowledged, not durable), I10
//! (what was answered is what happened), `unprovoked` (an error without a fault).

use std::collections::BTreeSet;

use bytes::Bytes;
use cenotaph::ErrorKind;

use super::call::{Answer, Call, Called, Content, Listed, Reading};
use super::format::Row;
use super::monitor::Monitor;
use crate::faults::{BLOB_READ_FAULTS, BLOB_WRITE_FAULTS, COMMIT_FAULTS, Fault, PROVOKING, ROT};
use crate::plan::Span;
use crate::trace::Tick;

/// How often a read may find its object replaced before it gives up.
const READ_ATTEMPTS: usize = 16;

/// Checks every call of a finished run.
pub(crate) fn check_history(monitor: &mut Monitor) {
    let mut found = Vec::new();
    let mut checker = Checker { monitor, found: &mut found };
    monitor.calls.iter().for_each(|called| checker.call(called));
    checker.deletes();
    for (name, message) in found {
        monitor.violated(name, message);
    }
}

/// A put, as it was asked.
struct Put<'a> {
    write: u64,
    fails: bool,
    object: &'a Bytes,
    bytes: u64,
}

struct Checker<'a> {
    monitor: &'a Monitor,
    found: &'a mut Vec<(&'static str, String)>,
}

impl Checker<'_> {
    fn violated(&mut self, checker: &'static str, called: &Called, why: &str) {
        let answer = called.answer.as_ref().map(|(_, answer)| answer);
        self.found.push((checker, format!("{why}: {:?} at {} -> {answer:?}", called.call, called.at)));
    }

    fn call(&mut self, called: &Called) {
        match (&called.call, &called.answer) {
            (Call::Put { write, fails, object, bytes, .. }, answer) => {
                let put = Put { write: *write, fails: *fails, object, bytes: *bytes };
                self.put(called, &put, answer.as_ref());
            }
            (Call::Read { object, kind, span }, Some((at, answer))) => {
                self.read(called, (object, *kind, *span), *at, answer);
            }
            (Call::List { prefix, after, limit }, Some((at, Answer::Listed(page)))) => {
                self.list(called, (prefix, after.as_ref(), *limit), *at, page);
            }
            (Call::ListGroups { prefix, delimiter, after, limit }, Some((at, Answer::Listed(page)))) => {
                self.list_groups(called, (prefix, *delimiter, after.as_ref(), *limit), *at, page);
            }
            (Call::ListAll { prefix }, Some((at, Answer::Listed(listed)))) => {
                self.list_all(called, prefix, *at, &listed.entries);
            }
            (
                Call::Delete { .. }
                | Call::Read { .. }
                | Call::List { .. }
                | Call::ListGroups { .. }
                | Call::ListAll { .. }
                | Call::Other,
                _,
            ) => {}
        }
        if let Some((at, Answer::Failed(kind))) = &called.answer {
            self.failed(called, *at, *kind);
        }
    }

    fn put(&mut self, called: &Called, put: &Put<'_>, answer: Option<&(Tick, Answer)>) {
        let (monitor, write, object) = (self.monitor, put.write, put.object);
        let commits = monitor.commits.get(&write).map(Vec::as_slice).unwrap_or_default();
        if commits.len() > 1 {
            self.violated("linearizability", called, "it committed more than once");
        }
        let sealed = monitor.sealed(called.at);
        for (tick, row) in commits {
            if !(called.at..sealed).contains(tick) {
                self.violated(
                    "linearizability",
                    called,
                    "it committed before it was called, or once its fate was sealed",
                );
            }
            if !states_in(monitor, object, *tick, tick + 1).any(|(_, state)| state == Some(row)) {
                self.violated("linearizability", called, "it committed another object");
            }
        }
        if put.fails && !commits.is_empty() {
            self.violated("I10", called, "its stream failed, and it committed");
        }
        match answer {
            Some((at, Answer::Applied { version, etag, created })) => match commits.first() {
                Some((tick, row)) if tick < at => {
                    let was_absent = standing(monitor, object, *tick).is_none();
                    if (row.version, row.etag(), was_absent) != (*version, etag.clone(), *created) {
                        self.violated("I10", called, "it committed something else than it says");
                    }
                }
                Some(_) => self.violated("I9", called, "it was acknowledged before it was durable"),
                None => self.violated("I9", called, "it was acknowledged and never became durable"),
            },
            Some((at, Answer::Superseded)) => {
                if !commits.is_empty() {
                    self.violated("I10", called, "it says it was superseded, and it committed");
                }
                if !states_in(monitor, object, called.at, *at).any(|(tick, _)| tick >= called.at) {
                    self.violated("I10", called, "it says it was superseded, and nobody else wrote");
                }
                let tells = put.bytes >= 8;
                if tells && monitor.superseded.get(&write).is_none_or(|tick| tick > at) {
                    self.violated("I9", called, "it says it was superseded before that was durable");
                }
            }
            Some((at, Answer::Failed(kind))) if *kind != ErrorKind::Indeterminate => {
                if !commits.is_empty() {
                    self.violated("I10", called, "it says that nothing was committed, and it committed");
                }
                if monitor.superseded.contains_key(&write) {
                    self.violated("I10", called, "it was superseded and says that it failed");
                }
            }
            Some(_) | None => {}
        }
    }

    fn read(&mut self, called: &Called, asked: (&Bytes, Reading, Span), at: Tick, answer: &Answer) {
        let (monitor, (object, kind, span)) = (self.monitor, asked);
        let hidden = monitor.struck_between(&[Fault::BlobNotFound], called.at, at);
        match answer {
            Answer::Found(found) => {
                let seen = |row: &Row| {
                    (row.version, row.etag(), row.size, row.write)
                        == (found.version, found.etag.clone(), found.size, found.write)
                };
                let ever = states_in(monitor, object, called.at, found.opened).any(|(_, row)| row.is_some_and(seen));
                if !ever {
                    let later =
                        states_in(monitor, object, found.opened, Tick::MAX).any(|(_, row)| row.is_some_and(seen));
                    let checker = if later { "I7" } else { "linearizability" };
                    self.violated(checker, called, "at no moment of the call the object stood so");
                }
                match found.content {
                    Content::NotAsked | Content::AsPut | Content::Left => {}
                    Content::Wrong => self.violated("I8", called, "other bytes than were put"),
                    Content::Failed(ErrorKind::Corrupt) if !monitor.struck_between(&ROT, called.at, at) => {
                        self.violated("I8", called, "bytes are damaged, and nobody damaged them");
                    }
                    Content::Failed(ErrorKind::Closed) if monitor.closed_between(monitor.life_of(called.at), at) => {}
                    Content::Failed(_) => {
                        if !monitor.struck_between(&BLOB_READ_FAULTS, called.at, at) {
                            self.violated("I8", called, "the bytes could not be read to their end");
                        }
                    }
                }
            }
            Answer::Absent if kind == Reading::Bytes && hidden => {}
            Answer::Absent => {
                if !states_in(monitor, object, called.at, at).any(|(_, row)| row.is_none()) {
                    self.violated("linearizability", called, "at no moment of the call the object was absent");
                }
            }
            Answer::NotSatisfiable { size } => {
                let fits = |row: Option<&Row>| row.is_some_and(|row| row.size == *size && !span.fits(row.size));
                if !states_in(monitor, object, called.at, at).any(|(_, row)| fits(row)) {
                    self.violated(
                        "linearizability",
                        called,
                        "at no moment of the call the object was too short for the range",
                    );
                }
            }
            Answer::Failed(ErrorKind::Corrupt) if !monitor.struck_between(&ROT, called.at, at) => {
                self.violated("I8", called, "bytes are damaged, and nobody damaged them");
            }
            Answer::Failed(_)
            | Answer::Cancelled
            | Answer::Done
            | Answer::Applied { .. }
            | Answer::Superseded
            | Answer::Deleted { .. }
            | Answer::Listed(_) => {}
        }
    }

    /// A page is the listing of one moment.
    fn list(&mut self, called: &Called, query: (&Bytes, Option<&Bytes>, usize), at: Tick, page: &Listed) {
        let (prefix, after, limit) = query;
        let objects = || self.monitor.states.keys().filter(|object| object.starts_with(prefix));
        let mut moments: BTreeSet<Tick> = BTreeSet::from([called.at]);
        for object in objects() {
            moments.extend(states_in(self.monitor, object, called.at, at).map(|(tick, _)| tick.max(called.at)));
        }
        let fits = |moment: &Tick| {
            let there = objects().filter(|object| after.is_none_or(|after| *object > after));
            let mut all = there.filter_map(|object| {
                standing(self.monitor, object, moment + 1).map(|row| (object.clone(), row.version))
            });
            let expected: Vec<_> = all.by_ref().take(limit).collect();
            expected == page.entries && all.next().is_some() == page.has_next
        };
        if !moments.iter().any(fits) {
            self.violated("linearizability", called, "at no moment of the call the listing was so");
        }
    }

    /// A page of groups is the listing of one moment.
    fn list_groups(&mut self, called: &Called, query: (&Bytes, char, Option<&Bytes>, usize), at: Tick, page: &Listed) {
        let (prefix, delimiter, after, limit) = query;
        let objects = || self.monitor.states.keys().filter(|object| object.starts_with(prefix));
        let mut moments: BTreeSet<Tick> = BTreeSet::from([called.at]);
        for object in objects() {
            moments.extend(states_in(self.monitor, object, called.at, at).map(|(tick, _)| tick.max(called.at)));
        }
        // The delimiters of a workload are ASCII.
        let group = |object: &Bytes| {
            let end = object[prefix.len()..].iter().position(|&byte| char::from(byte) == delimiter)?;
            Some(object.slice(..=prefix.len() + end))
        };
        let fits = |moment: &Tick| {
            let mut all: Vec<(Bytes, u64)> = objects()
                .filter_map(|object| {
                    let row = standing(self.monitor, object, moment + 1)?;
                    Some(group(object).map_or_else(|| (object.clone(), row.version), |group| (group, 0)))
                })
                .filter(|(name, _)| after.is_none_or(|after| name > after))
                .collect();
            all.dedup();
            let has_next = all.len() > limit;
            all.truncate(limit);
            all == page.entries && has_next == page.has_next
        };
        if !moments.iter().any(fits) {
            self.violated("linearizability", called, "at no moment of the call the listing was so");
        }
    }

    /// Pages of several moments: each entry is of some moment of the call, and what was there all along is in it.
    fn list_all(&mut self, called: &Called, prefix: &Bytes, at: Tick, entries: &[(Bytes, u64)]) {
        if !entries.is_sorted_by(|(a, _), (b, _)| a < b) {
            self.violated("linearizability", called, "the listing is out of order");
        }
        for (object, version) in entries {
            let fits = |row: Option<&Row>| row.is_some_and(|row| row.version == *version);
            if !states_in(self.monitor, object, called.at, at).any(|(_, row)| fits(row)) {
                self.violated("linearizability", called, "an entry that was there at no moment of the call");
            }
        }
        let objects = self.monitor.states.keys().filter(|object| object.starts_with(prefix));
        for object in objects {
            let always = states_in(self.monitor, object, called.at, at).all(|(_, row)| row.is_some());
            if always && !entries.iter().any(|(entry, _)| entry == object) {
                self.violated("linearizability", called, "an object is missing that was there all along");
            }
        }
    }

    fn failed(&mut self, called: &Called, at: Tick, kind: ErrorKind) {
        let monitor = self.monitor;
        let life = monitor.engine_of(called.at);
        if kind == ErrorKind::Indeterminate && !monitor.struck_between(&COMMIT_FAULTS, life, at) {
            self.violated("I10", called, "the outcome is said to be unknown, and no commit failed");
        }
        if let Call::Put { large: false, write, .. } = &called.call
            && kind == ErrorKind::Indeterminate
            && !monitor.unknown.contains(write)
        {
            self.violated("I10", called, "the outcome is said to be unknown, and it never came to a commit");
        }
        if kind == ErrorKind::Source && !matches!(called.call, Call::Put { fails: true, .. }) {
            self.violated("unprovoked", called, "its stream did not fail");
        }
        let read_failed = monitor.struck_between(&[Fault::IndexReadFails], called.at, at);
        let provoked = match &called.call {
            // No actor stands between a reader and the tiers, and nothing that is over.
            Call::List { .. }
            | Call::ListGroups { .. }
            | Call::ListAll { .. }
            | Call::Read { kind: Reading::Head, .. } => read_failed,
            Call::Read { kind: Reading::Bytes, .. } => {
                read_failed || monitor.struck_between(&BLOB_READ_FAULTS, called.at, at)
            }
            // What the blob tier does is no matter here, and one death is made good.
            Call::Put { large: false, .. } | Call::Delete { .. } => {
                read_failed
                    || monitor.struck_between(&COMMIT_FAULTS, life, at)
                    || monitor.deaths_between(life, at) > 1
                    || monitor.beheaded.iter().any(|tick| (life..at).contains(tick))
            }
            // It needs both tiers and its own actors; one death of another is made good.
            Call::Put { .. } => {
                read_failed
                    || monitor.struck_between(&COMMIT_FAULTS, life, at)
                    || monitor.struck_between(&BLOB_WRITE_FAULTS, called.at, at)
                    || monitor.deaths_between(life, at) > 1
                    || monitor.uploads_died.iter().any(|tick| (life..at).contains(tick))
            }
            Call::Other => monitor.struck_between(&PROVOKING, life, at),
        };
        if kind == ErrorKind::Closed && !monitor.closed_between(life, at) {
            self.violated("unprovoked", called, "it is said to be closed, and nobody closed it");
        }
        if matches!(kind, ErrorKind::Unavailable | ErrorKind::Corrupt) && !provoked && !self.was_busy(called, at) {
            self.violated("unprovoked", called, "it failed, and nothing had gone wrong");
        }
    }

    /// Whether its object was replaced so often that a read may give up.
    fn was_busy(&self, called: &Called, at: Tick) -> bool {
        match &called.call {
            Call::Read { object, .. } => states_in(self.monitor, object, called.at, at).count() > READ_ATTEMPTS,
            Call::Put { .. }
            | Call::Delete { .. }
            | Call::List { .. }
            | Call::ListGroups { .. }
            | Call::ListAll { .. }
            | Call::Other => false,
        }
    }

    /// Deletes leave no name in what they commit: each removal must belong to one delete, and each delete that says it
    /// removed something to one removal.
    fn deletes(&mut self) {
        for (object, states) in &self.monitor.states {
            let removals: Vec<Tick> = states.iter().filter(|(_, row)| row.is_none()).map(|(tick, _)| *tick).collect();
            let calls = self.monitor.calls.iter();
            let deletes: Vec<&Called> =
                calls.filter(|called| matches!(&called.call, Call::Delete { object: of } if of == object)).collect();
            self.deletes_of(&removals, &deletes);
        }
        for called in &self.monitor.calls {
            if let (Call::Delete { object }, Some((at, Answer::Deleted { existed: false }))) =
                (&called.call, &called.answer)
                && !states_in(self.monitor, object, called.at, *at).any(|(_, row)| row.is_none())
            {
                self.violated("linearizability", called, "at no moment of the call the object was absent");
            }
            if let (Call::Delete { object }, Some((_, Answer::Deleted { existed: true }))) =
                (&called.call, &called.answer)
                && !self.monitor.states.contains_key(object)
            {
                self.violated("linearizability", called, "the object never existed");
            }
        }
    }

    fn deletes_of(&mut self, removals: &[Tick], deletes: &[&Called]) {
        let may = |called: &Called, removal: Tick| {
            let in_time = called.answer.as_ref().is_none_or(|(at, _)| removal < *at);
            let can = match called.answer.as_ref().map(|(_, answer)| answer) {
                Some(Answer::Deleted { existed: true }) => in_time,
                // Dropped by its caller, lost with a crash, or unknown: it may have happened, then or later.
                None | Some(Answer::Cancelled | Answer::Failed(ErrorKind::Indeterminate)) => {
                    removal < self.monitor.sealed(called.at)
                }
                Some(_) => false,
            };
            can && called.at <= removal
        };
        let edges: Vec<Vec<usize>> = removals
            .iter()
            .map(|&removal| (0..deletes.len()).filter(|&delete| may(deletes[delete], removal)).collect())
            .collect();
        if matching(&edges, deletes.len()) < removals.len() {
            let message = format!("removals at {removals:?} are not the work of any delete");
            self.found.push(("linearizability", message));
        }
        let says_so = |called: &&Called| matches!(called.answer, Some((_, Answer::Deleted { existed: true })));
        let sure: Vec<Vec<usize>> = deletes
            .iter()
            .filter(|called| says_so(called))
            .map(|called| (0..removals.len()).filter(|&removal| may(called, removals[removal])).collect())
            .collect();
        if matching(&sure, removals.len()) < sure.len() {
            let message = format!("more deletes say that they removed something than the removals at {removals:?}");
            self.found.push(("I9", message));
        }
    }
}

/// The most pairs between a left side, with its edges, and a right side, each used once (augmenting paths).
fn matching(edges: &[Vec<usize>], right: usize) -> usize {
    fn augment(left: usize, edges: &[Vec<usize>], seen: &mut [bool], taken: &mut [Option<usize>]) -> bool {
        for &candidate in &edges[left] {
            if !std::mem::replace(&mut seen[candidate], true)
                && taken[candidate].is_none_or(|other| augment(other, edges, seen, taken))
            {
                taken[candidate] = Some(left);
                return true;
            }
        }
        false
    }
    let mut taken = vec![None; right];
    (0..edges.len()).filter(|&left| augment(left, edges, &mut vec![false; right], &mut taken)).count()
}

/// How an object stood before this moment.
fn standing<'a>(monitor: &'a Monitor, object: &Bytes, before: Tick) -> Option<&'a Row> {
    let states = monitor.states.get(object)?;
    let later = states.partition_point(|(tick, _)| *tick < before);
    states[..later].last()?.1.as_ref()
}

/// How an object stood at `from`, and at every change of it until `to`.
fn states_in<'a>(
    monitor: &'a Monitor,
    object: &Bytes,
    from: Tick,
    to: Tick,
) -> impl Iterator<Item = (Tick, Option<&'a Row>)> + use<'a> {
    let states = monitor.states.get(object).map(Vec::as_slice).unwrap_or_default();
    let (first, last) =
        (states.partition_point(|(tick, _)| *tick < from), states.partition_point(|(tick, _)| *tick < to));
    let before = match first.checked_sub(1).map(|at| &states[at]) {
        Some((tick, row)) => (*tick, row.as_ref()),
        None => (0, None),
    };
    std::iter::once(before).chain(states[first..last.max(first)].iter().map(|(tick, row)| (*tick, row.as_ref())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matching_is_as_large_as_can_be() {
        assert_eq!(matching(&[vec![0, 1], vec![0], vec![1]], 2), 2);
        assert_eq!(matching(&[vec![0, 1], vec![0], vec![1, 2]], 3), 3);
        assert_eq!(matching(&[vec![], vec![0]], 1), 1);
    }
}
