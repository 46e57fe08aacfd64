//! Excuses of a failed call: faults that had struck, and objects that were replaced too often.
//!
//! An error without an excuse is a violation of `unprovoked` (`history.rs`).

use super::call::{About, Asked, Call, Called, Reading};
use super::history::{Checker, states_in};
use crate::faults::{BLOB_READ_FAULTS, BLOB_WRITE_FAULTS, COMMIT_FAULTS, Fault, PROVOKING};
use crate::trace::Tick;

/// Number of times that a read may find its object replaced before it gives up.
const READ_ATTEMPTS: usize = 16;

impl Checker<'_> {
    /// Returns true if a fault before `at` excuses a failure of this call.
    pub(super) fn was_provoked(&self, called: &Called, at: Tick) -> bool {
        let monitor = self.monitor;
        let life = monitor.engine_of(called.at);
        let read_failed = monitor.struck_between(&[Fault::IndexReadFails], called.at, at);
        let commit_failed = monitor.struck_between(&COMMIT_FAULTS, life, at);
        // It refuses what stores something, and nothing else: no delete, no abort.
        let was_low = monitor.struck_between(&[Fault::IndexLow], life, at);
        match &called.call {
            // No actor stands between a reader and the tiers, and nothing that is over.
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
            } => read_failed || monitor.struck_between(&BLOB_READ_FAULTS, called.at, at),
            // What the blob tier does is no matter here, and one death is made good.
            Call::Delete { .. }
            | Call::Multipart(Asked {
                what: About::Abort, ..
            }) => {
                read_failed
                    || commit_failed
                    || monitor.deaths_between(life, at) > 1
                    || monitor
                        .beheaded
                        .iter()
                        .any(|tick| (life..at).contains(tick))
            }
            Call::Put { large: false, .. }
            | Call::Change { .. }
            | Call::Multipart(Asked {
                what: About::Begin { .. } | About::Complete { .. },
                ..
            }) => {
                read_failed
                    || was_low
                    || commit_failed
                    || monitor.deaths_between(life, at) > 1
                    || monitor
                        .beheaded
                        .iter()
                        .any(|tick| (life..at).contains(tick))
            }
            // It needs both tiers and its own actors; one death of another is made good.
            Call::Put { .. }
            | Call::Multipart(Asked {
                what: About::Part { .. },
                ..
            }) => {
                read_failed
                    || was_low
                    || commit_failed
                    || monitor.struck_between(&BLOB_WRITE_FAULTS, called.at, at)
                    || monitor.deaths_between(life, at) > 1
                    || monitor
                        .uploads_died
                        .iter()
                        .any(|tick| (life..at).contains(tick))
            }
            // Of several steps, or of several shards.
            Call::Update { .. }
            | Call::Move { .. }
            | Call::Atomic { .. }
            | Call::DeletePrefix { .. }
            | Call::Multipart(Asked {
                what: About::PartOf { .. },
                ..
            })
            | Call::Other => monitor.struck_between(&PROVOKING, life, at),
        }
    }

    /// Returns true if its object was replaced so often that a read may give up.
    pub(super) fn was_busy(&self, called: &Called, at: Tick) -> bool {
        match &called.call {
            Call::Read { object, .. } => {
                states_in(self.monitor, object, called.at, at).count() > READ_ATTEMPTS
            }
            Call::Update { object, .. }
            | Call::Move { from: object, .. }
            | Call::Multipart(Asked {
                what: About::PartOf { from: object, .. },
                ..
            }) => states_in(self.monitor, object, called.at, at).count() > READ_ATTEMPTS,
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
