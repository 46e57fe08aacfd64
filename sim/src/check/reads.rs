//! Checks of reads at the end of a run: each answer against the states of the object during the
//! call.
//!
//! Named checkers: `linearizability`, `expiry`, I7 (a read shows only durable states), I8 (bytes of
//! the same version from beginning to end).

use bytes::Bytes;
use cenotaph::ErrorKind;

use super::call::{Answer, Called, FoundObject, ReadContent};
use super::format::Row;
use super::history::{Checker, states_in};
use crate::faults::{BLOB_READ_FAULTS, COMMIT_FAULTS, PROVOKING, ROT, SOURCE_FAULTS};
use crate::plan::Span;
use crate::trace::Tick;

impl Checker<'_> {
    /// Checks the answer of a read.
    pub(super) fn read(
        &mut self,
        called: &Called,
        asked: (&Bytes, Span),
        at: Tick,
        answer: &Answer,
    ) {
        let (object, span) = asked;
        match answer {
            Answer::Found(found) => self.check_found(called, object, found, at),
            Answer::Absent => self.check_absent(called, object, at),
            Answer::NotSatisfiable { size } => {
                let fits = |row: Option<&Row>| {
                    row.is_some_and(|row| row.size == *size && !span.fits(row.size))
                };
                if !states_in(self.model, object, called.at, at).any(|(_, row)| fits(row)) {
                    self.violated(
                        "linearizability",
                        called,
                        "at no moment of the call the object was too short for the range",
                    );
                }
            }
            Answer::Failed(ErrorKind::Corrupt)
                if !self.model.struck_between(&ROT, called.at, at) =>
            {
                self.violated("I8", called, "damage reported without a fault");
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

    /// Checks an object that a read has found: its head against the states of the call, its bytes
    /// against those that were put.
    fn check_found(&mut self, called: &Called, object: &Bytes, found: &FoundObject, at: Tick) {
        let model = self.model;
        // An object that had expired before the call was absent throughout.
        let asked_ms = model.time_at(called.at);
        let is_it = |row: &Row| {
            (row.version, row.etag(), row.size, row.write)
                == (found.version, found.etag.clone(), found.size, found.write)
                && row.is_live(asked_ms)
        };
        let mut during = states_in(model, object, called.at, found.opened);
        if !during.any(|(_, row)| row.is_some_and(is_it)) {
            // A state that became durable only after it was read violates I7. Any other state was
            // never true in the window.
            let is_later = states_in(model, object, found.opened, Tick::MAX)
                .any(|(_, row)| row.is_some_and(is_it));
            self.violated(
                if is_later { "I7" } else { "linearizability" },
                called,
                "at no moment of the call the object was in this state",
            );
        }
        match found.content {
            ReadContent::NotAsked | ReadContent::AsPut | ReadContent::Left => {}
            ReadContent::Wrong => self.violated("I8", called, "read other bytes than were put"),
            ReadContent::Failed(ErrorKind::Corrupt)
                if !model.struck_between(&ROT, called.at, at) =>
            {
                self.violated("I8", called, "damage reported without a fault");
            }
            // A close ends the reads that are still open.
            ReadContent::Failed(ErrorKind::Closed)
                if model.closed_between(model.life_of(called.at), at) => {}
            // The pin of the read could not be stored in time, or its member was declared dead.
            ReadContent::Failed(ErrorKind::Unavailable)
                if model.is_shared()
                    && model.struck_between(&PROVOKING, model.engine_of(called.at), at) => {}
            ReadContent::Failed(_) => {
                if !model.struck_between(&BLOB_READ_FAULTS, called.at, at)
                    && !model.struck_between(&SOURCE_FAULTS, called.at, at)
                {
                    self.violated("I8", called, "the read ended before the last byte");
                }
            }
        }
    }

    /// Checks that an object reported as absent was absent at some moment of the call, and that it
    /// does not come back without a write.
    fn check_absent(&mut self, called: &Called, object: &Bytes, at: Tick) {
        if !self.was_absent(object, called.at, at) {
            self.violated(
                "linearizability",
                called,
                "at no moment of the call the object was absent",
            );
        }
        // A commit that hung in a failed index may become durable later, without an answer.
        let engine = self.model.engine_of(called.at);
        let has_failed = self.model.struck_between(&COMMIT_FAULTS, engine, Tick::MAX);
        if !has_failed && self.comes_back(object, called.at, at) {
            self.violated(
                "expiry",
                called,
                "reported as absent, and extended afterwards without a write",
            );
        }
    }
}
