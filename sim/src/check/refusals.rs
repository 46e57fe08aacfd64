//! Checks of refused and failed calls at the end of a run: each conflict and each error must have a
//! cause.
//!
//! Named checkers: `conflict`, `unprovoked`, `namespaces`, `scrub`, I10.

use bytes::Bytes;
use cenotaph::ErrorKind;

use super::call::{About, Asked, Call, Called, Demand};
use super::format::Row;
use super::history::{Checker, states_in};
use crate::faults::COMMIT_FAULTS;
use crate::plan::Fate;
use crate::trace::Tick;

impl Checker<'_> {
    /// Checks a conflict: the reported state was that of the object at some moment of the call, and
    /// it did not meet the precondition.
    pub(super) fn conflict(
        &mut self,
        called: &Called,
        of: Option<&Bytes>,
        current: Option<&(u64, String)>,
        at: Tick,
    ) {
        if let Call::Update { object, .. } = &called.call {
            // The precondition of an update is the state that it read. Only a write by another call
            // can break it.
            let changes = states_in(self.model, object, called.at, at).count() - 1;
            if changes == 0 && !self.was_absent(object, called.at, at) {
                self.violated("conflict", called, "conflict without another write");
            }
            return;
        }
        let (object, demands) = match self.demands(&called.call, of) {
            Ok(demands) => demands,
            Err(why) => return self.violated("conflict", called, why),
        };
        let is_met = |row: Option<&Row>| demands.iter().all(|demand| demand.is_met(row));
        let fits = match current {
            None => {
                self.was_absent(object, called.at, at) && !is_met(None)
                    || self.was_in_source(object, called.at, at, |row| is_met(Some(row)))
            }
            Some((version, etag)) => {
                let asked_ms = self.model.time_at(called.at);
                let is_current = |row: &Row| {
                    (row.version, row.etag()) == (*version, etag.clone()) && row.is_live(asked_ms)
                };
                states_in(self.model, object, called.at, at)
                    .any(|(_, row)| row.is_some_and(|row| is_current(row) && !is_met(Some(row))))
            }
        };
        if !fits {
            self.violated(
                "conflict",
                called,
                "at no moment of the call the object was in conflict in this state",
            );
        }
    }

    /// Returns the object of a conflict and the preconditions of the call on it, or the reason why
    /// the call can't be in conflict.
    fn demands<'a>(
        &self,
        call: &'a Call,
        of: Option<&Bytes>,
    ) -> Result<(&'a Bytes, Vec<Demand>), &'static str> {
        let absent = |if_absent: bool| {
            if if_absent {
                Demand::Absent
            } else {
                Demand::Nothing
            }
        };
        match call {
            Call::Put { object, demand, .. }
            | Call::Delete { object, demand }
            | Call::Change { object, demand, .. }
            | Call::Multipart(Asked {
                object,
                what: About::Begin { demand },
                ..
            }) => Ok((object, vec![demand.clone()])),
            Call::Multipart(Asked {
                object,
                of,
                what: About::Complete { demand, .. },
            }) => {
                let begun = self.model.demand_of(Some(*of));
                Ok((object, vec![demand.clone(), begun]))
            }
            Call::Move { to, if_absent, .. } => Ok((to, vec![absent(*if_absent)])),
            // A conflict names the object that failed. The other pieces are not checked.
            Call::Atomic { pieces } => pieces
                .iter()
                .find(|piece| Some(&piece.object) == of)
                .map(|piece| (&piece.object, vec![absent(piece.if_absent)]))
                .ok_or("conflict with an object that is not in the batch"),
            _ => Err("conflict of a call without a precondition"),
        }
    }

    /// Checks a call that failed with an error of this kind.
    pub(super) fn failed(&mut self, called: &Called, at: Tick, kind: ErrorKind) {
        let model = self.model;
        let engine = model.engine_of(called.at);
        match kind {
            ErrorKind::Indeterminate => self.check_indeterminate(called, at),
            ErrorKind::Source if !may_fail(&called.call) => {
                self.violated(
                    "unprovoked",
                    called,
                    "source error without a failing stream",
                );
            }
            ErrorKind::Disabled if !model.was_switched(true, called.at, at) => {
                self.violated("namespaces", called, "the namespace was not disabled");
            }
            ErrorKind::Closed if !model.closed_between(engine, at) => {
                self.violated("unprovoked", called, "the engine was not closed");
            }
            ErrorKind::Unavailable | ErrorKind::Corrupt => {
                // A scrub must report damage and continue.
                if kind == ErrorKind::Corrupt && matches!(called.call, Call::Other) {
                    self.violated("scrub", called, "ended by damage");
                }
                if !self.was_provoked(called, at) && !self.was_busy(called, at) {
                    self.violated("unprovoked", called, "failed without a fault");
                }
            }
            _ => {}
        }
    }

    /// Checks that an unknown outcome has a failed commit as its cause. For a small put that commit
    /// must be its own.
    fn check_indeterminate(&mut self, called: &Called, at: Tick) {
        let model = self.model;
        let engine = model.engine_of(called.at);
        if !model.struck_between(&COMMIT_FAULTS, engine, at) {
            self.violated("I10", called, "unknown outcome without a failed commit");
        }
        // A large put has several commits, and the failed one need not hold its row.
        if let Call::Put {
            large: false,
            write,
            ..
        } = &called.call
            && !model.unknown.contains(write)
        {
            self.violated("I10", called, "unknown outcome of a write never submitted");
        }
    }
}

/// Returns true if the client made the stream or the function of this call fail.
fn may_fail(call: &Call) -> bool {
    matches!(
        call,
        Call::Put { fails: true, .. }
            | Call::Update {
                fate: Fate::Fail,
                ..
            }
            | Call::Multipart(Asked {
                what: About::Part { fails: true, .. },
                ..
            })
    )
}
