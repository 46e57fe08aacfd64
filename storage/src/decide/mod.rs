//! Decisions: pure functions from the state of the index to a [`Plan`].
//!
//! ```text
//! write                     decider        state it reads
//! ------------------------- -------------- ---------------------------------------------------
//! put, delete, amend, ..    Swap           row or last version, change of a large put
//! rename                    Rename         both rows
//! step of an upload         SessionSwap    upload record, its parts, row, change of a part
//! repair of an object       Mend           row or last version, one more entry
//! repair of an upload       UploadMend     upload record, its parts, one more entry
//! settlement by recovery    fence          change, row
//! ```
//!
//! Shards, recovery, the simulator's checkers and property tests call the same functions. Guards I3
//! (one batch holds everything that a decision changes), I6, and the idempotence of swaps.

mod fence;
mod mend;
mod parts;
mod plan;
mod precondition;
mod rename;
mod results;
mod row_state;
mod session;
mod swap;
mod transition;
mod upload_mend;

pub use fence::{fence, fence_orphans, not_fenced, record, revision_key};
pub(crate) use mend::is_as_written;
pub use mend::{Lost, Mend, Seen, Sight, excise, unreached};
pub use parts::{PartRules, Selection};
pub use plan::{Effect, Event, Plan, ReadEntry, ReadSet, ReadValue, conflict};
pub use precondition::Precondition;
pub use rename::Rename;
pub use results::{Deleted, Outcome, SwapReply, Written};
pub use row_state::{Expected, Standing};
pub use session::{SessionMutation, SessionSwap, SessionView};
pub use swap::{Mutation, Swap, SwapView};
pub use upload_mend::{SeenEntry, SeenUpload, UploadMend};

#[cfg(test)]
mod tests;
