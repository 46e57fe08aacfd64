//! Removals at the end of a run. The commit of a delete does not name its call. So each removal of
//! a row must match a call that may have made it, or the expirer if the row had expired. Each call
//! that reports a removal must match one removal.

use bytes::Bytes;
use cenotaph::ErrorKind;

use super::call::{Answer, Call, Called, Demand};
use super::format::Row;
use super::history::{Checker, matching, row_state, states_in};
use crate::plan::Fate;
use crate::trace::Tick;

/// Call that may have removed an object.
struct Deleter {
    /// First tick at which it may have.
    from: Tick,
    /// Tick before which it must have.
    until: Tick,
    /// True if its answer reports the removal.
    is_sure: bool,
    demand: Demand,
}

impl Checker<'_> {
    /// Checks all removals of every object, and every answer that reports an absent object.
    pub(super) fn deletes(&mut self) {
        let model = self.model;
        for (object, states) in &model.states {
            // A rename also removes a row, but it is checked as a metadata commit.
            let removals: Vec<Tick> = states
                .iter()
                .filter(|(tick, row)| {
                    row.is_none() && !model.renamed_away.contains(&(object.clone(), *tick))
                })
                .map(|(tick, _)| *tick)
                .collect();
            let deleters: Vec<Deleter> = model
                .calls
                .iter()
                .filter_map(|called| self.deleter(called, object))
                .collect();
            self.removals_of(object, &removals, &deleters);
        }
        for called in &model.calls {
            self.nothing_to_delete(called);
        }
    }

    /// Returns the removal of this object that this call may have made.
    fn deleter(&self, called: &Called, object: &Bytes) -> Option<Deleter> {
        let answer = called.answer.as_ref().map(|(at, answer)| (*at, answer));
        let (demand, answer) = match &called.call {
            Call::Delete { object: of, demand } if of == object => (demand.clone(), answer),
            Call::Update {
                object: of,
                fate: Fate::Delete,
                ..
            } if of == object => (Demand::Nothing, answer),
            Call::Atomic { pieces } => {
                let place = pieces
                    .iter()
                    .position(|piece| piece.object == *object && piece.write.is_none())?;
                let own = answer.map(|(at, answer)| match answer {
                    Answer::Together(answers) => (at, answers.get(place).unwrap_or(answer)),
                    other => (at, other),
                });
                (Demand::Nothing, own)
            }
            Call::DeletePrefix { prefix } if object.starts_with(prefix) => {
                // The answer contains the number of removed objects, not their names. A call that
                // failed may have removed some.
                let until = match answer {
                    Some((at, Answer::Done)) => at,
                    Some(_) | None => self.model.sealed(called.at),
                };
                return Some(Deleter {
                    from: called.at,
                    until,
                    is_sure: false,
                    demand: Demand::Nothing,
                });
            }
            _ => return None,
        };
        let (until, is_sure) = match answer {
            Some((at, Answer::Deleted { existed: true })) => (at, true),
            // The call was dropped, lost in a crash, or has an unknown outcome. The removal may
            // have become durable during the call or later.
            None | Some((_, Answer::Cancelled | Answer::Failed(ErrorKind::Indeterminate))) => {
                (self.model.sealed(called.at), false)
            }
            // The delete found no live object, but it may have removed an expired row.
            Some((at, Answer::Deleted { existed: false })) => (at, false),
            Some(_) => return None,
        };
        Some(Deleter {
            from: called.at,
            until,
            is_sure,
            demand,
        })
    }

    /// Matches the removals of an object with the calls that may have made them, both ways.
    fn removals_of(&mut self, object: &Bytes, removals: &[Tick], deleters: &[Deleter]) {
        let model = self.model;
        let may = |deleter: &Deleter, removal: Tick| {
            let removed = row_state(model, object, removal);
            (deleter.from..deleter.until).contains(&removal) && deleter.demand.is_met(removed)
        };
        // An expired row may be removed by the expirer, without a call.
        let was_live = |&removal: &Tick| {
            row_state(model, object, removal).is_none_or(|row| row.is_live(model.time_at(removal)))
        };
        let edges: Vec<Vec<usize>> = removals
            .iter()
            .filter(|removal| was_live(removal))
            .map(|&removal| {
                (0..deleters.len())
                    .filter(|&at| may(&deleters[at], removal))
                    .collect()
            })
            .collect();
        if matching(&edges, deleters.len()) < edges.len() {
            let message =
                format!("removals without a delete: object={object:?} ticks={removals:?}");
            self.found.push(("linearizability", message));
        }
        // The other direction: an acknowledged removal must exist, live or expired.
        let sure: Vec<Vec<usize>> = deleters
            .iter()
            .filter(|deleter| deleter.is_sure)
            .map(|deleter| {
                (0..removals.len())
                    .filter(|&at| may(deleter, removals[at]))
                    .collect()
            })
            .collect();
        if matching(&sure, removals.len()) < sure.len() {
            let message = format!(
                "more deletes were acknowledged than removed something: object={object:?} \
                 ticks={removals:?}"
            );
            self.found.push(("I9", message));
        }
    }

    /// Checks an answer that reports an absent object: the object was absent at some moment of the
    /// call.
    fn nothing_to_delete(&mut self, called: &Called) {
        let Some((at, answer)) = &called.answer else {
            return;
        };
        let absent: Vec<&Bytes> = match (&called.call, answer) {
            (
                Call::Delete { object, .. } | Call::Update { object, .. },
                Answer::Deleted { existed: false },
            ) => {
                vec![object]
            }
            (Call::Atomic { pieces }, Answer::Together(answers)) => pieces
                .iter()
                .zip(answers)
                .filter(|(_, answer)| matches!(answer, Answer::Deleted { existed: false }))
                .map(|(piece, _)| &piece.object)
                .collect(),
            (Call::Change { object, .. } | Call::Move { from: object, .. }, Answer::Absent) => {
                vec![object]
            }
            _ => Vec::new(),
        };
        for object in absent {
            if !self.was_absent(object, called.at, *at) {
                self.violated(
                    "linearizability",
                    called,
                    "at no moment of the call the object was absent",
                );
            }
        }
        if let (Call::Delete { object, .. }, Answer::Deleted { existed: true }) =
            (&called.call, answer)
            && !self.model.states.contains_key(object)
        {
            self.violated("linearizability", called, "the object never existed");
        }
    }

    /// Returns true if an object that could be absent only by expiry is extended afterwards, as if
    /// it had not expired.
    pub(super) fn comes_back(&self, object: &Bytes, from: Tick, to: Tick) -> bool {
        let Some(expired) = states_in(self.model, object, from, to)
            .last()
            .and_then(|(_, row)| row)
        else {
            return false;
        };
        let was_removed = states_in(self.model, object, from, to).any(|(_, row)| row.is_none());
        let next = self
            .model
            .states
            .get(object)
            .and_then(|states| states.iter().find(|(tick, _)| *tick >= to));
        // An extension keeps the write and the time of creation.
        let is_same = |row: &Row| {
            (row.write, row.created) == (expired.write, expired.created)
                && row.write.is_some()
                // A move changes no deadline.
                && !(expired.is_of_source() && row.expires_at == expired.expires_at)
        };
        !was_removed && next.is_some_and(|(_, row)| row.as_ref().is_some_and(is_same))
    }

    /// Returns true if the object was absent, or had expired, at some moment of the window.
    pub(super) fn was_absent(&self, object: &Bytes, from: Tick, to: Tick) -> bool {
        let states: Vec<_> = states_in(self.model, object, from, to).collect();
        let was_hidden = self.model.was_hidden(Some(object), from, to);
        states.iter().enumerate().any(|(at, (_, row))| {
            if was_hidden && row.is_some_and(Row::is_of_source) {
                return true;
            }
            // Expiry is monotonic while a row lasts, so the end of each state decides.
            let end = states.get(at + 1).map_or(to, |(next, _)| *next);
            row.is_none_or(|row| !row.is_live(self.model.time_at(end)))
        })
    }
}
