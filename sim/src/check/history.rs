//! Histories: what clients asked and heard, checked against the order that the witness saw.
//!
//! ```text
//! call ──────────── window ──────────── answer
//!        commits of the object, in the one order in which they became durable
//! ```
//!
//! A write that says `Applied` has exactly one commit, and it lies in its window. A read tells how
//! the object stood at some moment of its window. Whoever heard nothing, or `Indeterminate`, may
//! have committed, once, after its call. Together that is linearizability: every operation takes
//! effect at one moment between call and answer. Named checkers: `linearizability`, I7 (read before
//! durable), I8 (bytes of one version to the end), I9 (acknowledged, not durable), I10 (what was
//! answered is what happened), `unprovoked` (an error without a fault).

use bytes::Bytes;
use cenotaph::ErrorKind;

use super::call::{About, Answer, Asked, AtomicPiece, Call, Called, Content, Demand, Reading};
use super::format::Row;
use super::monitor::Monitor;
use crate::faults::{BLOB_READ_FAULTS, COMMIT_FAULTS, Fault, ROT};
use crate::plan::{Fate, Span};
use crate::trace::Tick;

/// Checks every call of a finished run.
pub(crate) fn check_history(monitor: &mut Monitor) {
    let mut found = Vec::new();
    let mut checker = Checker {
        monitor,
        found: &mut found,
    };
    monitor
        .calls
        .iter()
        .enumerate()
        .for_each(|(number, called)| checker.call(number, called));
    checker.deletes();
    checker.derived();
    checker.work_of_somebody();
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
    demand: &'a Demand,
}

pub(super) struct Checker<'a> {
    pub(super) monitor: &'a Monitor,
    pub(super) found: &'a mut Vec<(&'static str, String)>,
}

impl Checker<'_> {
    pub(super) fn violated(&mut self, checker: &'static str, called: &Called, why: &str) {
        let answer = called.answer.as_ref().map(|(_, answer)| answer);
        self.found.push((
            checker,
            format!("{why}: {:?} at {} -> {answer:?}", called.call, called.at),
        ));
    }

    fn call(&mut self, number: usize, called: &Called) {
        match (&called.call, &called.answer) {
            (
                Call::Put {
                    write,
                    fails,
                    object,
                    bytes,
                    demand,
                    ..
                },
                answer,
            ) => {
                let put = Put {
                    write: *write,
                    fails: *fails,
                    object,
                    bytes: *bytes,
                    demand,
                };
                self.put(called, &put, answer.as_ref());
            }
            (
                Call::Update {
                    write,
                    fate,
                    object,
                    bytes,
                },
                answer,
            ) => {
                let fails = *fate != Fate::Put;
                let put = Put {
                    write: *write,
                    fails,
                    object,
                    bytes: *bytes,
                    demand: &Demand::Nothing,
                };
                self.put(called, &put, answer.as_ref());
            }
            (Call::Atomic { pieces }, answer) => self.atomic(called, pieces, answer.as_ref()),
            (Call::Multipart(asked), _) => self.multipart(number, called, asked),
            (Call::Read { object, kind, span }, Some((at, answer))) => {
                self.read(called, (object, *kind, *span), *at, answer);
            }
            (
                Call::List {
                    prefix,
                    after,
                    limit,
                },
                Some((at, Answer::Listed(page))),
            ) => {
                self.list(called, (prefix, after.as_ref(), *limit), *at, page);
            }
            (
                Call::ListGroups {
                    prefix,
                    delimiter,
                    after,
                    limit,
                },
                Some((at, Answer::Listed(page))),
            ) => {
                self.list_groups(
                    called,
                    (prefix, *delimiter, after.as_ref(), *limit),
                    *at,
                    page,
                );
            }
            (Call::ListAll { prefix }, Some((at, Answer::Listed(listed)))) => {
                self.list_all(called, prefix, *at, &listed.entries);
            }
            (
                Call::Delete { .. }
                | Call::DeletePrefix { .. }
                | Call::Change { .. }
                | Call::Move { .. }
                | Call::Read { .. }
                | Call::List { .. }
                | Call::ListGroups { .. }
                | Call::ListAll { .. }
                | Call::Other,
                _,
            ) => {}
        }
        if let Some((at, Answer::Conflict { of, current })) = &called.answer {
            self.conflict(called, of.as_ref(), current.as_ref(), *at);
        }
        match &called.answer {
            Some((at, Answer::Failed(kind))) => self.failed(called, *at, *kind),
            Some((
                at,
                Answer::Scrubbed {
                    damage,
                    unconfirmed,
                },
            )) => self.scrubbed(called, damage, *unconfirmed, *at),
            Some((
                at,
                Answer::Applied { .. } | Answer::Deleted { .. } | Answer::Found(_) | Answer::Absent,
            )) => {
                self.switched_off(called, *at);
            }
            Some((at, Answer::Began { .. } | Answer::Filed { .. } | Answer::Parts(..))) => {
                self.switched_off(called, *at);
            }
            Some(_) | None => {}
        }
    }

    /// Nothing is damaged but what a fault shows damaged, or missing, or leaves behind for ever.
    fn scrubbed(&mut self, called: &Called, damage: &[String], unconfirmed: u64, at: Tick) {
        let is_misled = self
            .monitor
            .struck_between(&BLOB_READ_FAULTS, called.at, at)
            || self.monitor.struck_between(&[Fault::BlobLate], 0, at);
        if !damage.is_empty() && !is_misled {
            self.violated("scrub", called, "it finds damage, and nothing is damaged");
        }
        if unconfirmed > 0 && !is_misled {
            self.violated(
                "scrub",
                called,
                "its snapshots show damage that its shards do not see",
            );
        }
        // A payload that was read with a flipped bit once is read again by its shard.
        let is_rotten = self
            .monitor
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
                "it reports a payload that its shard has not seen damaged",
            );
        }
    }

    /// While a namespace is off, nothing in it is done.
    fn switched_off(&mut self, called: &Called, at: Tick) {
        let object = match &called.call {
            Call::Put { object, .. }
            | Call::Update { object, .. }
            | Call::Change { object, .. }
            | Call::Read { object, .. }
            | Call::Delete { object, .. } => object,
            // The source is absent, in a namespace that is on: nothing was asked of this one.
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
        if object.starts_with(b"other/") && !self.monitor.was_switched(false, called.at, at) {
            self.violated(
                "namespaces",
                called,
                "its namespace was switched off all along",
            );
        }
    }

    fn put(&mut self, called: &Called, put: &Put<'_>, answer: Option<&(Tick, Answer)>) {
        let (monitor, write, object) = (self.monitor, put.write, put.object);
        let commits = monitor
            .commits
            .get(&write)
            .map(Vec::as_slice)
            .unwrap_or_default();
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
            if !self.holds_at(put.demand, object, *tick) {
                self.violated(
                    "precondition",
                    called,
                    "it committed, and what it demands was not so",
                );
            }
        }
        if put.fails && !commits.is_empty() {
            self.violated("I10", called, "its stream failed, and it committed");
        }
        match answer {
            Some((
                at,
                Answer::Applied {
                    version,
                    etag,
                    created,
                },
            )) => match commits.first() {
                Some((tick, row)) if tick < at => {
                    let old = standing(monitor, object, *tick);
                    // What has expired by then may have been there when it was decided.
                    let has_expired = old.is_some_and(|old| !old.is_live(monitor.time_at(*tick)));
                    let was_absent = if has_expired { *created } else { old.is_none() };
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
                    self.violated(
                        "I10",
                        called,
                        "it says it was superseded, and nobody else wrote",
                    );
                }
                let tells = put.bytes >= 8;
                if tells && monitor.superseded.get(&write).is_none_or(|tick| tick > at) {
                    self.violated(
                        "I9",
                        called,
                        "it says it was superseded before that was durable",
                    );
                }
            }
            Some((_, Answer::Conflict { .. } | Answer::Kept | Answer::Deleted { .. })) => {
                if !commits.is_empty() {
                    self.violated(
                        "I10",
                        called,
                        "it says that nothing was written, and it committed",
                    );
                }
            }
            Some((_, Answer::Failed(kind))) if *kind != ErrorKind::Indeterminate => {
                if !commits.is_empty() {
                    self.violated(
                        "I10",
                        called,
                        "it says that nothing was committed, and it committed",
                    );
                }
                if monitor.superseded.contains_key(&write) {
                    self.violated("I10", called, "it was superseded and says that it failed");
                }
            }
            Some(_) | None => {}
        }
    }

    fn read(&mut self, called: &Called, asked: (&Bytes, Reading, Span), at: Tick, answer: &Answer) {
        let (monitor, (object, _, span)) = (self.monitor, asked);
        match answer {
            Answer::Found(found) => {
                let seen = |row: &Row| {
                    (row.version, row.etag(), row.size, row.write)
                        == (found.version, found.etag.clone(), found.size, found.write)
                };
                // One that had expired before the call was absent all along.
                let asked_ms = monitor.time_at(called.at);
                let seen = |row: &Row| seen(row) && row.is_live(asked_ms);
                let ever = states_in(monitor, object, called.at, found.opened)
                    .any(|(_, row)| row.is_some_and(seen));
                if !ever {
                    let later = states_in(monitor, object, found.opened, Tick::MAX)
                        .any(|(_, row)| row.is_some_and(seen));
                    let checker = if later { "I7" } else { "linearizability" };
                    self.violated(
                        checker,
                        called,
                        "at no moment of the call the object stood so",
                    );
                }
                match found.content {
                    Content::NotAsked | Content::AsPut | Content::Left => {}
                    Content::Wrong => self.violated("I8", called, "other bytes than were put"),
                    Content::Failed(ErrorKind::Corrupt)
                        if !monitor.struck_between(&ROT, called.at, at) =>
                    {
                        self.violated("I8", called, "bytes are damaged, and nobody damaged them");
                    }
                    Content::Failed(ErrorKind::Closed)
                        if monitor.closed_between(monitor.life_of(called.at), at) => {}
                    Content::Failed(_) => {
                        if !monitor.struck_between(&BLOB_READ_FAULTS, called.at, at) {
                            self.violated("I8", called, "the bytes could not be read to their end");
                        }
                    }
                }
            }
            Answer::Absent => {
                if !self.was_absent(object, called.at, at) {
                    self.violated(
                        "linearizability",
                        called,
                        "at no moment of the call the object was absent",
                    );
                }
                // What hung in a failed index may land later; nobody hears of it.
                let has_failed =
                    monitor.struck_between(&COMMIT_FAULTS, monitor.engine_of(called.at), Tick::MAX);
                if !has_failed && self.comes_back(object, called.at, at) {
                    self.violated(
                        "expiry",
                        called,
                        "it was said to be absent, and comes back without a write",
                    );
                }
            }
            Answer::NotSatisfiable { size } => {
                let fits = |row: Option<&Row>| {
                    row.is_some_and(|row| row.size == *size && !span.fits(row.size))
                };
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
            | Answer::Conflict { .. }
            | Answer::Together(_)
            | Answer::Scrubbed { .. }
            | Answer::Kept
            | Answer::Deleted { .. }
            | Answer::Began { .. }
            | Answer::Filed { .. }
            | Answer::Parts(..)
            | Answer::Uploads(..)
            | Answer::Listed(_) => {}
        }
    }

    /// Whether a demand was met right before this commit. What has expired by then may have been
    /// there when it was decided.
    fn holds_at(&self, demand: &Demand, object: &Bytes, tick: Tick) -> bool {
        let old = standing(self.monitor, object, tick);
        let live = old.filter(|old| old.is_live(self.monitor.time_at(tick)));
        demand.is_met(live) || demand.is_met(old)
    }

    /// All of it was committed together, or none of it.
    fn atomic(&mut self, called: &Called, pieces: &[AtomicPiece], answer: Option<&(Tick, Answer)>) {
        for (place, piece) in pieces.iter().enumerate() {
            let Some(write) = piece.write else { continue };
            let demand = if piece.if_absent {
                Demand::Absent
            } else {
                Demand::Nothing
            };
            let put = Put {
                write,
                fails: false,
                object: &piece.object,
                bytes: 0,
                demand: &demand,
            };
            let own = answer.map(|(at, answer)| match answer {
                Answer::Together(answers) => {
                    (*at, answers.get(place).cloned().unwrap_or(Answer::Done))
                }
                other => (*at, other.clone()),
            });
            self.put(called, &put, own.as_ref());
        }
    }

    /// A conflict tells how the object stood at some moment of the call, and that was not as
    /// demanded.
    fn conflict(
        &mut self,
        called: &Called,
        of: Option<&Bytes>,
        current: Option<&(u64, String)>,
        at: Tick,
    ) {
        let absent = |wanted: bool| {
            if wanted {
                Demand::Absent
            } else {
                Demand::Nothing
            }
        };
        let (object, demands) = match &called.call {
            Call::Put { object, demand, .. }
            | Call::Delete { object, demand }
            | Call::Change { object, demand, .. } => (object, vec![demand.clone()]),
            Call::Multipart(Asked {
                object,
                what: About::Begin { demand },
                ..
            }) => (object, vec![demand.clone()]),
            Call::Multipart(Asked {
                object,
                of,
                what: About::Complete { demand, .. },
            }) => (
                object,
                vec![demand.clone(), self.monitor.demand_of(Some(*of))],
            ),
            Call::Move { to, if_absent, .. } => (to, vec![absent(*if_absent)]),
            Call::Atomic { pieces } => {
                match pieces.iter().find(|piece| Some(&piece.object) == of) {
                    Some(piece) => (&piece.object, vec![absent(piece.if_absent)]),
                    None => {
                        return self.violated(
                            "conflict",
                            called,
                            "it is in conflict with an object that is not in it",
                        );
                    }
                }
            }
            Call::Update { object, .. } => {
                // What it demanded is what it read; others must have written since.
                let changes = states_in(self.monitor, object, called.at, at).count() - 1;
                if changes == 0 && !self.was_absent(object, called.at, at) {
                    self.violated("conflict", called, "nobody else wrote");
                }
                return;
            }
            _ => return self.violated("conflict", called, "it demands nothing"),
        };
        let is_met = |row: Option<&Row>| demands.iter().all(|demand| demand.is_met(row));
        let fits = match current {
            None => self.was_absent(object, called.at, at) && !is_met(None),
            Some((version, etag)) => {
                let asked_ms = self.monitor.time_at(called.at);
                let stood = |row: &Row| {
                    (row.version, row.etag()) == (*version, etag.clone()) && row.is_live(asked_ms)
                };
                states_in(self.monitor, object, called.at, at)
                    .any(|(_, row)| row.is_some_and(|row| stood(row) && !is_met(Some(row))))
            }
        };
        if !fits {
            self.violated(
                "conflict",
                called,
                "at no moment of the call the object stood so",
            );
        }
    }

    fn failed(&mut self, called: &Called, at: Tick, kind: ErrorKind) {
        let monitor = self.monitor;
        let life = monitor.engine_of(called.at);
        if kind == ErrorKind::Indeterminate && !monitor.struck_between(&COMMIT_FAULTS, life, at) {
            self.violated(
                "I10",
                called,
                "the outcome is said to be unknown, and no commit failed",
            );
        }
        if let Call::Put {
            large: false,
            write,
            ..
        } = &called.call
            && kind == ErrorKind::Indeterminate
            && !monitor.unknown.contains(write)
        {
            self.violated(
                "I10",
                called,
                "the outcome is said to be unknown, and it never came to a commit",
            );
        }
        let may_fail = matches!(
            called.call,
            Call::Put { fails: true, .. }
                | Call::Update {
                    fate: Fate::Fail,
                    ..
                }
                | Call::Multipart(Asked {
                    what: About::Part { fails: true, .. },
                    ..
                })
        );
        if kind == ErrorKind::Source && !may_fail {
            self.violated("unprovoked", called, "its stream did not fail");
        }
        if kind == ErrorKind::Corrupt && matches!(called.call, Call::Other) {
            self.violated(
                "scrub",
                called,
                "damage ends it, where it should be found and stepped over",
            );
        }
        if kind == ErrorKind::Disabled && !monitor.was_switched(true, called.at, at) {
            self.violated(
                "namespaces",
                called,
                "its namespace is said to be switched off, and it is not",
            );
        }
        let provoked = self.was_provoked(called, at);
        if kind == ErrorKind::Closed && !monitor.closed_between(life, at) {
            self.violated(
                "unprovoked",
                called,
                "it is said to be closed, and nobody closed it",
            );
        }
        if matches!(kind, ErrorKind::Unavailable | ErrorKind::Corrupt)
            && !provoked
            && !self.was_busy(called, at)
        {
            self.violated(
                "unprovoked",
                called,
                "it failed, and nothing had gone wrong",
            );
        }
    }
}

/// The most pairs between a left side, with its edges, and a right side, each used once (augmenting
/// paths).
pub(super) fn matching(edges: &[Vec<usize>], right: usize) -> usize {
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

/// How an object stood before this moment.
pub(super) fn standing<'a>(monitor: &'a Monitor, object: &Bytes, before: Tick) -> Option<&'a Row> {
    let states = monitor.states.get(object)?;
    let later = states.partition_point(|(tick, _)| *tick < before);
    states[..later].last()?.1.as_ref()
}

/// How an object stood at `from`, and at every change of it until `to`.
pub(super) fn states_in<'a>(
    monitor: &'a Monitor,
    object: &Bytes,
    from: Tick,
    to: Tick,
) -> impl Iterator<Item = (Tick, Option<&'a Row>)> + use<'a> {
    let states = monitor
        .states
        .get(object)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let (first, last) = (
        states.partition_point(|(tick, _)| *tick < from),
        states.partition_point(|(tick, _)| *tick < to),
    );
    let before = match first.checked_sub(1).map(|at| &states[at]) {
        Some((tick, row)) => (*tick, row.as_ref()),
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
    fn a_matching_is_as_large_as_can_be() {
        assert_eq!(matching(&[vec![0, 1], vec![0], vec![1]], 2), 2);
        assert_eq!(matching(&[vec![0, 1], vec![0], vec![1, 2]], 3), 3);
        assert_eq!(matching(&[vec![], vec![0]], 1), 1);
    }
}
