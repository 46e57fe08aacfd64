//! Excuses of a failed call: faults before its answer, and objects that were replaced too often.
//!
//! An error without an excuse is a violation of `unprovoked` (`refusals.rs`).

use super::call::{About, Asked, Call, Called, Reading};
use super::history::{Checker, states_in};
use crate::faults::{
    BLOB_READ_FAULTS, BLOB_WRITE_FAULTS, COMMIT_FAULTS, Fault, PROVOKING, SOURCE_FAULTS,
};
use crate::trace::Tick;

/// Number of times that a read may find its object replaced before it gives up.
const READ_ATTEMPTS: usize = 16;

impl Checker<'_> {
    /// Returns true if a fault before `at` excuses a failure of this call.
    pub(super) fn was_provoked(&self, called: &Called, at: Tick) -> bool {
        let model = self.model;
        let engine = model.engine_of(called.at);
        // A fault of one member concerns all others, for as long as its work is not taken over.
        if model.is_shared() && model.struck_between(&PROVOKING, engine, at) {
            return true;
        }
        let read_failed = model.struck_between(&[Fault::IndexReadFails], called.at, at);
        if model.struck_between(&SOURCE_FAULTS, called.at, at) {
            return true;
        }
        // The change of an object of the fallback uploads it first.
        let uploads = model.source.is_some() && matches!(called.call, Call::Change { .. });
        if uploads
            && (model.struck_between(&BLOB_WRITE_FAULTS, called.at, at)
                || self.upload_failed(engine, at))
        {
            return true;
        }
        // A full disk refuses calls that store something. It refuses no delete and no abort.
        let was_low = model.struck_between(&[Fault::IndexLow], engine, at);
        match &called.call {
            // These calls read the index without an actor, so nothing else can fail them.
            Call::List { .. }
            | Call::ListGroups { .. }
            | Call::ListAll { .. }
            | Call::Multipart(Asked {
                what:
                    About::Resume | About::ResumeOther | About::Parts { .. } | About::Uploads { .. },
                ..
            })
            | Call::Read {
                kind: Reading::Head,
                ..
            } => read_failed,
            Call::Read {
                kind: Reading::Bytes,
                ..
            } => read_failed || model.struck_between(&BLOB_READ_FAULTS, called.at, at),
            // The blob tier is not involved here.
            Call::Delete { .. }
            | Call::Multipart(Asked {
                what: About::Abort, ..
            }) => read_failed || self.shard_failed(engine, at),
            Call::Put { large: false, .. }
            | Call::Change { .. }
            | Call::Multipart(Asked {
                what: About::Begin { .. } | About::Complete { .. },
                ..
            }) => read_failed || was_low || self.shard_failed(engine, at),
            Call::Put { .. }
            | Call::Multipart(Asked {
                what: About::Part { .. },
                ..
            }) => {
                read_failed
                    || was_low
                    || model.struck_between(&BLOB_WRITE_FAULTS, called.at, at)
                    || self.upload_failed(engine, at)
            }
            // These calls take several steps or involve several shards.
            Call::Update { .. }
            | Call::Move { .. }
            | Call::Atomic { .. }
            | Call::DeletePrefix { .. }
            | Call::Multipart(Asked {
                what: About::PartOf { .. },
                ..
            })
            | Call::Other => model.struck_between(&PROVOKING, engine, at),
        }
    }

    /// Returns true if a commit failed in this engine before `at`, or actors died that a call to a
    /// shard needs. The engine makes up for a single death, except that of the supervisor.
    fn shard_failed(&self, engine: Tick, at: Tick) -> bool {
        let mut beheaded = self.model.beheaded.iter();
        self.model.struck_between(&COMMIT_FAULTS, engine, at)
            || self.model.deaths_between(engine, at) > 1
            || beheaded.any(|tick| (engine..at).contains(tick))
    }

    /// Returns true if a commit failed in this engine before `at`, or actors died that an upload
    /// needs. The engine makes up for a single death, except those recorded in `uploads_died`.
    fn upload_failed(&self, engine: Tick, at: Tick) -> bool {
        let mut died = self.model.uploads_died.iter();
        self.model.struck_between(&COMMIT_FAULTS, engine, at)
            || self.model.deaths_between(engine, at) > 1
            || died.any(|tick| (engine..at).contains(tick))
    }

    /// Returns true if its object was replaced so often that a read may give up.
    pub(super) fn was_busy(&self, called: &Called, at: Tick) -> bool {
        match &called.call {
            Call::Read { object, .. }
            | Call::Update { object, .. }
            | Call::Move { from: object, .. }
            | Call::Multipart(Asked {
                what: About::PartOf { from: object, .. },
                ..
            }) => states_in(self.model, object, called.at, at).count() > READ_ATTEMPTS,
            Call::Put { .. }
            | Call::Delete { .. }
            | Call::DeletePrefix { .. }
            | Call::Change { .. }
            | Call::Atomic { .. }
            | Call::Multipart(_)
            | Call::List { .. }
            | Call::ListGroups { .. }
            | Call::ListAll { .. }
            | Call::Other => false,
        }
    }
}
