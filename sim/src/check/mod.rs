//! Checkers: claims that hold for every run, whichever faults strike. They share no code with the
//! engine.
//!
//! ```text
//! sync points, blob effects ──> commit observer ──> Model ──mid-flight──> I1 I2 I3 I4 I6 I8
//! clients (calls, answers) ────> history ──at the end──> I7 I9 I10, linearizability
//! both tiers at rest ──────────> quiescence ──at the end──> I5
//! ```
//!
//! The commit observer makes the check of linearizability cheap. The disk defines the order in
//! which batches became durable, so each operation is checked against that order, and no order has
//! to be searched for. On a real disk with real threads there is no observer. There, `search` looks
//! for an order, within bounds.

mod blob_events;
mod call;
mod changes;
mod commit_observer;
mod fallback;
mod format;
mod history;
mod last_versions;
mod listings;
mod members;
mod metadata_commits;
mod model;
mod ownership;
mod parts;
mod provoked;
mod quiescence;
mod reads;
mod refusals;
mod relocations;
mod removals;
mod row_commits;
mod search;
mod sessions;
mod trailers;
mod upload_end;
mod upload_pages;
mod uploads;
mod words;
mod writes;

pub(crate) use call::{
    About, Answer, Asked, AtomicPiece, Call, Demand, FoundObject, Listed, MetadataChange, Moving,
    ReadContent, Reading,
};
pub(crate) use fallback::SAW_IN_SOURCE;
#[cfg(feature = "planted")]
pub(crate) use format::PINS;
pub(crate) use format::{AMEND, SAW, WRITE, revision_of_path};
pub(crate) use history::check_history;
pub(crate) use model::Model;
pub(crate) use quiescence::check_settled;
pub use search::{ClientOperation, Search, linearize};
pub(crate) use words::Words;

/// A violated claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Checker that found the violation: the number of an invariant in DESIGN, or the name of
    /// another claim.
    pub checker: &'static str,
    /// Description of the violation.
    pub message: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.checker, self.message)
    }
}
