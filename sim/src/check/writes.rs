//! Checks of writes at the end of a run: every put, update and atomic batch against the commits
//! that became durable.
//!
//! Named checkers: `linearizability`, `precondition`, I9 (acknowledged, not durable), I10 (the
//! answer matches the outcome).

use bytes::Bytes;
use cenotaph::ErrorKind;

use super::call::{Answer, AtomicPiece, Called, Demand};
use super::format::Row;
use super::history::{Checker, row_state, states_in};
use crate::trace::Tick;

/// A put, an update, or a piece of an atomic batch, as the client asked for it.
pub(super) struct ClientPut<'a> {
    pub(super) write: u64,
    /// True if its stream fails.
    pub(super) fails: bool,
    pub(super) object: &'a Bytes,
    pub(super) bytes: u64,
    pub(super) demand: &'a Demand,
}

impl Checker<'_> {
    /// Checks a write: its commits, then its answer.
    pub(super) fn put(
        &mut self,
        called: &Called,
        put: &ClientPut<'_>,
        answer: Option<&(Tick, Answer)>,
    ) {
        let commits = self
            .model
            .commits
            .get(&put.write)
            .map(Vec::as_slice)
            .unwrap_or_default();
        self.check_commits(called, put, commits);
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
                    let was_created = self.was_created(put.object, *tick, *created);
                    if (row.version, row.etag(), was_created) != (*version, etag.clone(), *created)
                    {
                        self.violated("I10", called, "the commit differs from the answer");
                    }
                }
                Some(_) => self.violated("I9", called, "acknowledged before it was durable"),
                None => self.violated("I9", called, "acknowledged and never durable"),
            },
            Some((at, Answer::Superseded)) => self.check_superseded(called, put, commits, *at),
            Some((_, Answer::Conflict { .. } | Answer::Kept | Answer::Deleted { .. })) => {
                if !commits.is_empty() {
                    self.violated(
                        "I10",
                        called,
                        "committed, but answered that it wrote nothing",
                    );
                }
            }
            // `Indeterminate` allows both outcomes.
            Some((_, Answer::Failed(kind))) if *kind != ErrorKind::Indeterminate => {
                if !commits.is_empty() {
                    self.violated("I10", called, "committed, but answered that it failed");
                }
                if self.model.superseded.contains_key(&put.write) {
                    self.violated("I10", called, "superseded, but answered that it failed");
                }
            }
            Some(_) | None => {}
        }
    }

    /// Checks that a write committed at most once, to its object, in its window, and with its
    /// precondition met.
    fn check_commits(&mut self, called: &Called, put: &ClientPut<'_>, commits: &[(Tick, Row)]) {
        if commits.len() > 1 {
            self.violated("linearizability", called, "committed more than once");
        }
        let sealed = self.model.sealed(called.at);
        for (tick, row) in commits {
            if !(called.at..sealed).contains(tick) {
                self.violated(
                    "linearizability",
                    called,
                    "committed before the call, or after the next opening of the index",
                );
            }
            // The state at the tick of the commit must be the committed row.
            let mut states = states_in(self.model, put.object, *tick, tick + 1);
            if !states.any(|(_, state)| state == Some(row)) {
                self.violated("linearizability", called, "committed another object");
            }
            let holds = self.holds_at(put.demand, put.object, *tick)
                || *put.demand == Demand::Absent
                    && self.was_free_of_source(put.object, called.at, *tick);
            if !holds {
                self.violated("precondition", called, "committed against its precondition");
            }
        }
        if put.fails && !commits.is_empty() {
            self.violated("I10", called, "committed, but its stream failed");
        }
    }

    /// Returns true if a commit at this tick created its object. An object that had expired by then
    /// may have been live when the write was decided, so either answer is right.
    fn was_created(&self, object: &Bytes, tick: Tick, answered: bool) -> bool {
        let old = row_state(self.model, object, tick);
        // A put that did not ask the fallback says that the store had no such object. An update
        // over an object of the fallback says otherwise.
        if old.is_some_and(Row::is_of_source) {
            return answered;
        }
        let has_expired = old.is_some_and(|old| !old.is_live(self.model.time_at(tick)));
        if has_expired { answered } else { old.is_none() }
    }

    /// Checks a write that was answered `Superseded`: another write committed during the call, this
    /// write did not, and the end of its change was durable before the answer.
    fn check_superseded(
        &mut self,
        called: &Called,
        put: &ClientPut<'_>,
        commits: &[(Tick, Row)],
        at: Tick,
    ) {
        if !commits.is_empty() {
            self.violated("I10", called, "committed, but answered Superseded");
        }
        let mut states = states_in(self.model, put.object, called.at, at);
        if !states.any(|(tick, _)| tick >= called.at) {
            self.violated("I10", called, "answered Superseded without another write");
        }
        // A payload of fewer than 8 bytes is too short for the number of its write.
        let is_identified = put.bytes >= 8;
        let superseded = self.model.superseded.get(&put.write);
        if is_identified && superseded.is_none_or(|tick| *tick > at) {
            self.violated(
                "I9",
                called,
                "answered Superseded before the end of its change was durable",
            );
        }
    }

    /// Returns true if a precondition was met right before this commit. An object that had expired
    /// by then may have been live when the write was decided, so either state counts.
    fn holds_at(&self, demand: &Demand, object: &Bytes, tick: Tick) -> bool {
        let old = row_state(self.model, object, tick);
        let live = old.filter(|old| old.is_live(self.model.time_at(tick)));
        demand.is_met(live) || demand.is_met(old)
    }

    /// Checks every put of an atomic batch as a write of its own. The batch as a whole is checked
    /// when it commits.
    pub(super) fn atomic(
        &mut self,
        called: &Called,
        pieces: &[AtomicPiece],
        answer: Option<&(Tick, Answer)>,
    ) {
        for (place, piece) in pieces.iter().enumerate() {
            // Deletes have no number. They are checked with the removals.
            let Some(write) = piece.write else { continue };
            let demand = if piece.if_absent {
                Demand::Absent
            } else {
                Demand::Nothing
            };
            let put = ClientPut {
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
}
