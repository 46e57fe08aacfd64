//! Who may touch what, in which order.
//!
//! ```text
//! Supervisor ── restart intensity, backoff; over the limit: fail closed
//! ├─ Recovery         settles changes of dead owners, before traffic starts and after any upload's death
//! ├─ Shard × N        sole decider for its objects, sole submitter of their swaps (I3)
//! ├─ Uploads ── Upload × M   one per large put; bounded; a killed one leaves its change to recovery
//! ├─ Sweeper          deletes orphans, honours pins, backs off per orphan
//! └─ Expirer          removes what is due
//! ```
//!
//! Reading order: [`Limits`], `reply` (how an outcome finds its caller), `messages`, `shared` (what
//! every actor holds), `shard`, `lease` and `atomic` (one commit for several shards), `upload`,
//! `recovery`, `sweeper`, `expirer`, `supervisor`, and last [`Tiered`] with its `writes` and its
//! `mending` (the scrub), the handle that the engine holds. Guards the order of I1, I3, I6, I8 and
//! I10. Deliberately not here: decisions (`cenotaph_storage::decide` is pure) and reads, which need
//! no actor.

mod admission;
mod aftermath;
mod alarm;
mod atomic;
mod backlog;
mod bucket;
mod expirer;
mod health;
mod horizon;
mod intensity;
mod lease;
mod limits;
mod mending;
mod messages;
mod multipart;
mod namespaces;
mod overlay;
mod owners;
mod recovery;
mod reply;
mod room;
mod routes;
mod shard;
mod shared;
mod supervisor;
mod sweeper;
mod tiered;
mod touches;
mod upload;
mod watched;
mod writes;

pub use admission::{BudgetUse, Permit};
pub use atomic::WriteReply;
pub use limits::{
    ExpiryLimits, Limits, MultipartLimits, QueueLimits, RestartLimits, SplitLimits, SweepLimits,
};
pub use mending::Repair;
pub use messages::{PayloadStream, Source, UploadedPart};
pub use multipart::PartIntent;
pub use namespaces::{NamespaceLimits, NamespacePermit, Namespaces};
pub use routes::ActorKind;
pub use tiered::{ActorStats, Tiered};
pub use writes::Intent;
