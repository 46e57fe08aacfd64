//! The checkers: what must be true of any run, whatever went wrong in it. They share no code with
//! the engine.
//!
//! ```text
//! witness (sync points, blob effects) ──> Monitor ──mid-flight──> I1 I2 I3 I4 I6 I8, versions
//! clients (calls, answers) ─────────────> history ──at the end──> I7 I9 I10, linearizability
//! both tiers at rest ───────────────────> settled ──at the end──> I5
//! ```
//!
//! The witness makes linearizability cheap: the disk says in which order batches became durable, so
//! that each operation is checked against that one order instead of searching for one. Where there
//! is no witness (a real disk, real threads), `search` looks for an order, within bounds.

mod call;
mod changes;
mod derived;
mod ending;
mod format;
mod history;
mod listings;
mod monitor;
mod ownership;
mod provoked;
mod removals;
mod search;
mod sessions;
mod settled;
mod trailers;
mod uploads;
mod witness;
mod words;

pub(crate) use call::{
    About, Answer, Asked, AtomicPiece, Call, Change, Content, Demand, Found, Listed, Moving,
    Reading,
};
pub(crate) use format::{AMEND, SAW, WRITE};
pub(crate) use history::check_history;
pub(crate) use monitor::Monitor;
pub use search::{Operation, Search, linearize};
pub(crate) use settled::check_settled;

/// Something that must never be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which checker found it: an invariant of DESIGN by its number, or another claim by its name.
    pub checker: &'static str,
    /// What it found.
    pub message: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.checker, self.message)
    }
}
