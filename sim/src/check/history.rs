//! Checks of a finished run: every call and its answer against the order of commits that the commit
//! observer has recorded.
//!
//! ```text
//! call ──────────── window ──────────── answer
//!        commits of the object, in the order in which they became durable
//! ```
//!
//! A write that was answered `Applied` has exactly one commit, and the commit is in its window. A
//! read returns a state that its object had at some moment of its window. A call without an answer,
//! or with the answer `Indeterminate`, may have committed once after the call. Together these
//! claims are linearizability: every operation takes effect at a single moment between call and
//! answer.
//!
//! Named checkers: `linearizability`, I7 (a read shows only durable states), I8 (bytes of the same
//! version to the end), I9 (acknowledged, not durable), I10 (the answer matches the outcome),
//! `unprovoked` (an error without a fault), `scrub`, `namespaces`.

use bytes::Bytes;

use super::call::{About, Answer, Asked, Call, Called, Demand, Listed};
use super::format::Row;
use super::model::Model;
use super::writes::ClientPut;
use crate::faults::{BLOB_READ_FAULTS, Fault};
use crate::plan::Fate;
use crate::trace::Tick;

/// Checks every call of a finished run.
pub(crate) fn check_history(model: &mut Model) {
    let mut found = Vec::new();
    let mut checker = Checker {
        model,
        found: &mut found,
    };
    model.calls.iter().enumerate().for_each(|(number, called)| {
        checker.check_call(number, called);
        checker.check_answer(called);
    });
    // These need all calls at once, so they follow the checks of single calls.
    checker.deletes();
    checker.derived();
    checker.check_causes();
    for (name, message) in found {
        model.violated(name, message);
    }
}

/// Checker of a finished run, with the violations found so far.
pub(super) struct Checker<'a> {
    pub(super) model: &'a Model,
    pub(super) found: &'a mut Vec<(&'static str, String)>,
}

impl Checker<'_> {
    /// Records a violation by a call.
    pub(super) fn violated(&mut self, checker: &'static str, called: &Called, why: &str) {
        let answer = called.answer.as_ref().map(|(_, answer)| answer);
        self.found.push((
            checker,
            format!("{why}: {:?} at {} -> {answer:?}", called.call, called.at),
        ));
    }

    /// Checks a call by its kind. Deletes, changes, copies and renames are checked all together
    /// afterwards, because their commits do not name their calls.
    fn check_call(&mut self, number: usize, called: &Called) {
        let answer = called.answer.as_ref();
        match &called.call {
            Call::Put {
                write,
                fails,
                object,
                bytes,
                demand,
                ..
            } => {
                let put = ClientPut {
                    write: *write,
                    fails: *fails,
                    object,
                    bytes: *bytes,
                    demand,
                };
                self.put(called, &put, answer);
            }
            Call::Update {
                write,
                fate,
                object,
                bytes,
            } => {
                let put = ClientPut {
                    write: *write,
                    fails: *fate != Fate::Put,
                    object,
                    bytes: *bytes,
                    demand: &Demand::Nothing,
                };
                self.put(called, &put, answer);
            }
            Call::Atomic { pieces } => self.atomic(called, pieces, answer),
            Call::Multipart(asked) => self.multipart(number, called, asked),
            Call::Read { object, span, .. } => {
                if let Some((at, answer)) = answer {
                    self.read(called, (object, *span), *at, answer);
                }
            }
            Call::List { .. } | Call::ListGroups { .. } | Call::ListAll { .. } => {
                if let Some((at, Answer::Listed(page))) = answer {
                    self.check_listing(called, *at, page);
                }
            }
            Call::Delete { .. }
            | Call::DeletePrefix { .. }
            | Call::Change { .. }
            | Call::Move { .. }
            | Call::Other => {}
        }
    }

    /// Checks a listing by its kind.
    fn check_listing(&mut self, called: &Called, at: Tick, page: &Listed) {
        match &called.call {
            Call::List {
                prefix,
                after,
                limit,
            } => self.list(called, (prefix, after.as_ref(), *limit), at, page),
            Call::ListGroups {
                prefix,
                delimiter,
                after,
                limit,
            } => {
                let query = (prefix, *delimiter, after.as_ref(), *limit);
                self.list_groups(called, query, at, page);
            }
            Call::ListAll { prefix } => self.list_all(called, prefix, at, &page.entries),
            _ => {}
        }
    }

    /// Checks an answer by its kind: conflicts, errors, scrub findings, and success in a namespace
    /// that may be disabled.
    fn check_answer(&mut self, called: &Called) {
        let Some((at, answer)) = &called.answer else {
            return;
        };
        match answer {
            Answer::Conflict { of, current } => {
                self.conflict(called, of.as_ref(), current.as_ref(), *at);
            }
            Answer::Failed(kind) => self.failed(called, *at, *kind),
            Answer::Scrubbed {
                damage,
                unconfirmed,
            } => self.scrubbed(called, damage, *unconfirmed, *at),
            Answer::Applied { .. }
            | Answer::Deleted { .. }
            | Answer::Found(_)
            | Answer::Absent
            | Answer::Began { .. }
            | Answer::Filed { .. }
            | Answer::Parts(..) => self.switched_off(called, *at),
            Answer::Superseded
            | Answer::Together(_)
            | Answer::Kept
            | Answer::NotSatisfiable { .. }
            | Answer::Listed(_)
            | Answer::Uploads(..)
            | Answer::Cancelled
            | Answer::Done => {}
        }
    }

    /// Checks that a scrub finds damage only after a fault that can cause damage, hide a blob, or
    /// leave a blob behind for ever.
    fn scrubbed(&mut self, called: &Called, damage: &[String], unconfirmed: u64, at: Tick) {
        let is_misled = self.model.struck_between(&BLOB_READ_FAULTS, called.at, at)
            || self.model.struck_between(&[Fault::BlobLate], 0, at)
            || self.model.strays > 0;
        if !damage.is_empty() && !is_misled {
            self.violated("scrub", called, "damage found without a fault");
        }
        if unconfirmed > 0 && !is_misled {
            self.violated("scrub", called, "unconfirmed damage without a fault");
        }
        // The shard reads a suspicious payload again, so a single flipped bit is not reported.
        let is_rotten = self
            .model
            .strikes_between(Fault::IndexBitRot, called.at, at)
            > 1;
        if !is_rotten
            && damage
                .iter()
                .any(|damage| damage.starts_with("corrupt-payload"))
        {
            self.violated(
                "scrub",
                called,
                "reported a payload that its shard did not read as damaged",
            );
        }
    }

    /// Checks that a successful call was not made while its namespace was disabled throughout.
    fn switched_off(&mut self, called: &Called, at: Tick) {
        let object = match &called.call {
            Call::Put { object, .. }
            | Call::Update { object, .. }
            | Call::Change { object, .. }
            | Call::Read { object, .. }
            | Call::Delete { object, .. } => object,
            // The source is absent and may be in another namespace. The call did not get as far as
            // the namespace of its upload.
            Call::Multipart(Asked {
                what: About::PartOf { .. },
                ..
            }) if matches!(called.answer, Some((_, Answer::Absent))) => {
                return;
            }
            Call::Multipart(Asked { object, .. }) => object,
            Call::Move { to, .. } if matches!(called.answer, Some((_, Answer::Applied { .. }))) => {
                to
            }
            _ => return,
        };
        if object.starts_with(b"other/") && !self.model.was_switched(false, called.at, at) {
            self.violated("namespaces", called, "succeeded in a disabled namespace");
        }
    }
}

/// Returns the size of a maximum matching between left nodes, given by their edges, and `right`
/// right nodes. Uses augmenting paths.
pub(super) fn matching(edges: &[Vec<usize>], right: usize) -> usize {
    /// Searches for an augmenting path from a left node and swaps its edges.
    fn augment(
        left: usize,
        edges: &[Vec<usize>],
        seen: &mut [bool],
        taken: &mut [Option<usize>],
    ) -> bool {
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
    (0..edges.len())
        .filter(|&left| augment(left, edges, &mut vec![false; right], &mut taken))
        .count()
}

/// Returns the row of an object right before this tick.
pub(super) fn row_state<'a>(model: &'a Model, object: &Bytes, before: Tick) -> Option<&'a Row> {
    let states = model.states.get(object)?;
    // States are in the order of their ticks.
    let later = states.partition_point(|(tick, _)| *tick < before);
    states[..later].last()?.1.as_ref()
}

/// Returns the state of an object at `from` and every later state before `to`, each with its first
/// tick.
pub(super) fn states_in<'a>(
    model: &'a Model,
    object: &Bytes,
    from: Tick,
    to: Tick,
) -> impl Iterator<Item = (Tick, Option<&'a Row>)> + use<'a> {
    let states = model
        .states
        .get(object)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let first = states.partition_point(|(tick, _)| *tick < from);
    let last = states.partition_point(|(tick, _)| *tick < to);
    let before = match first.checked_sub(1).map(|at| &states[at]) {
        Some((tick, row)) => (*tick, row.as_ref()),
        // Before its first state an object is absent.
        None => (0, None),
    };
    std::iter::once(before).chain(
        states[first..last.max(first)]
            .iter()
            .map(|(tick, row)| (*tick, row.as_ref())),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matching_has_maximum_size() {
        assert_eq!(matching(&[vec![0, 1], vec![0], vec![1]], 2), 2);
        assert_eq!(matching(&[vec![0, 1], vec![0], vec![1, 2]], 3), 3);
        assert_eq!(matching(&[vec![], vec![0]], 1), 1);
    }
}
