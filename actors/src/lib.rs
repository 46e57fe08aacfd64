//! The actors of an engine: every write, and the background work that follows writes.
//!
//! ```text
//! Supervisor ── restarts actors with a backoff; fails closed after too many restarts
//! ├─ Recovery                  settles changes of dead owners, at open and after uploads die
//! ├─ Shard × N                 sole decider for its objects, sole submitter of their swaps (I3)
//! ├─ Uploads ── Upload × M     one per large put or part; recovery settles a killed upload
//! ├─ Sweeper                   deletes orphans, honours pins, backs off per orphan
//! └─ Expirer                   removes expired objects and uploads
//! ```
//!
//! ```text
//! handle      requests of the engine: start and close, writes, atomic batches, multipart, scrub
//!   ├─> shard, upload, background   the actors
//!   └─> context                     shared state, messages, registry
//!         ├─> admission             permits for operations, bytes and uploads
//!         └─> runtime               replies, locks, tickets, timers, health
//! ```
//!
//! Guards the order of I1, I3, I6, I8 and I10. Decisions are in `cenotaph_storage::decide`. The
//! path of a large put to its answer is drawn in `runtime/reply.rs`.

mod admission;
mod background;
mod context;
mod handle;
mod limits;
mod runtime;
mod shard;
mod upload;

pub use admission::namespaces::{NamespaceLimits, NamespacePermit, Namespaces};
pub use admission::payload::{PayloadSource, PayloadStream};
pub use admission::permits::{BudgetUse, Permit};
pub use context::fallback::FallbackOptions;
pub use context::messages::UploadedPart;
pub use context::registry::ActorKind;
pub use handle::Tiered;
pub use handle::adoption::AdoptionOutcome;
pub use handle::atomic::WriteReply;
pub use handle::migration::RunningMigration;
pub use handle::multipart::PartIntent;
pub use handle::scrub::RepairLevel;
pub use handle::start::StartOptions;
pub use handle::stats::ActorStats;
pub use handle::writes::WriteIntent;
pub use limits::{
    ExpiryLimits, LastVersionLimits, Limits, MemberLimits, MultipartLimits, QueueLimits,
    RestartLimits, SplitLimits, SweepLimits,
};
