//! Decisions: pure functions from the state of the index to a [`Plan`].
//!
//! ```text
//! write                     decider        state it reads
//! ------------------------- -------------- ---------------------------------------------------
//! put, delete, amend, ..    Swap           row or last version, change of a large put
//! rename                    Rename         both rows
//! step of an upload         UploadStep     upload record, its parts, row, change of a part
//! repair of an object       Repair           row or last version, one more entry
//! repair of an upload       UploadRepair   upload record, its parts, one more entry
//! settlement by recovery    fence          change, row
//! drop of last versions     prune          rows or last versions, base version
//! ```
//!
//! Where an object has neither, its versions follow the base version of the store, which is then
//! read, too.
//!
//! A request may carry the answer of the fallback about its object, which is then part of the state
//! (`row_state.rs`).
//!
//! Shards, recovery, the simulator's checkers and property tests call the same functions. Guards I3
//! (one batch holds everything that a decision changes), I6, and the idempotence of swaps.

mod fence;
mod mutation;
mod parts;
mod plan;
mod precondition;
mod prune;
mod rename;
mod repair;
mod results;
mod row_state;
mod swap;
mod transition;
mod upload_repair;
mod upload_step;

pub use fence::{fence, fence_orphans, not_fenced, record, revision_key};
pub use mutation::Mutation;
pub use parts::{PartRules, Selection};
pub use plan::{DecisionEvent, Effect, Plan, ReadEntry, ReadSet, ReadValue, conflict};
pub use precondition::UnmetState;
pub use prune::{is_due, prune};
pub use rename::Rename;
pub(crate) use repair::is_as_written;
pub use repair::{Lost, Repair, SeenObject, SeenRow, remove_row, unreached};
pub use results::{Deleted, SwapReply};
pub use row_state::{ExpectedRow, FallbackAnswer, RowState};
pub use swap::{Swap, SwapView};
pub use upload_repair::{SeenEntry, SeenUpload, UploadRepair};
pub use upload_step::{UploadMutation, UploadStep, UploadView};

pub use crate::types::{Precondition, PutResult, WriteOutcome};

#[cfg(test)]
mod tests;
