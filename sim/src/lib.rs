//! Deterministic simulator for Cenotaph and for services that embed it.
//!
//! The real engine (the same actors, decisions and public API) runs over a simulated index and a
//! simulated blob tier, under a virtual clock. Interleavings and failures are drawn from one seed,
//! so a run is replayed byte for byte by its seed. The simulator is Cenotaph's strongest test. It
//! can test your own service, too: run the service over a simulated Cenotaph, crash the world at
//! any step, and replay the failure.
//!
//! Begin with [`Sim`] for a service of your own, or with [`RunPlan`] and [`run`] for the workload
//! that tests Cenotaph itself. The binary `cenotaph-sim` runs that workload from a shell.
//! `docs/simulation.md` lists the parts that are simulated, the checks, and the gaps.
//!
//! # A service and its test
//!
//! ```
//! use cenotaph::{Engine, Result};
//! use cenotaph_sim::{Faults, Incarnation, Odds, Sim};
//!
//! /// A guest book. Each entry is a row of its own, so signing never reads other entries.
//! #[derive(Clone)]
//! struct GuestBook(Engine);
//!
//! impl GuestBook {
//!     async fn sign(&self, guest: &str, words: &str) -> Result<()> {
//!         self.0.put(format!("guests/{guest}"), words.to_owned()).await.map(drop)
//!     }
//!
//!     async fn guests(&self) -> Result<usize> {
//!         Ok(self.0.list("guests/").await?.entries.len())
//!     }
//! }
//!
//! for seed in 0..20 {
//!     let faults = Faults {
//!         kill: Odds::in_ten_thousand(100),
//!         crash: Odds::in_ten_thousand(50),
//!         ..Faults::default()
//!     };
//!     let mut sim = Sim::new(seed).faults(faults);
//!     let mut signed = 0;
//!     while signed < 10 {
//!         // Each incarnation ends with a crash, a failed engine, or all the work done.
//!         sim.run(async |world| {
//!             let book = GuestBook(world.open_patiently().await.unwrap());
//!             while signed < 10 && book.0.health().is_ok() {
//!                 // An actor may die during the call, but an acknowledged write is durable.
//!                 if book.sign(&format!("{signed:02}"), "lovely").await.is_ok() {
//!                     signed += 1;
//!                 }
//!             }
//!         });
//!     }
//!     sim.quieten();
//!     let guests = sim.run(async |world| {
//!         GuestBook(world.open().await.unwrap()).guests().await.unwrap()
//!     });
//!     assert_eq!(guests, Incarnation::Ended(10), "seed {seed}:\n{}", sim.timeline());
//!     sim.settle().unwrap_or_else(|found| panic!("seed {seed}: {found:?}"));
//! }
//! ```

mod buffers;
mod check;
mod client;
mod disks;
mod faults;
#[cfg(feature = "planted")]
mod mutants;
mod plan;
mod report;
mod rng;
mod run;
mod sim;
mod sweep;
mod tiers;
mod trace;
mod world;

pub use check::{ClientOperation, Search, Violation, linearize};
pub use faults::{Fault, Faults, Schedule, ScriptedFault};
pub use plan::{
    BatchPiece, BlobCut, Choice, Declared, Fate, LastVersionRules, Lifetime, MembersPlan, Op,
    PlanTree, Plans, RunPlan, Setting, Shape, SourcePlan, Span, UploadAction, UploadRules, When,
    Which,
};
pub use report::expected_coverage::wanted;
pub use rng::{Odds, Rng};
pub use run::{Options, RunReport, run};
pub use sim::{Controls, Incarnation, Sim};
pub use sweep::{Sweep, Swept, shrink, sweep};
pub use trace::coverage::Coverage;
pub use trace::{EventKind, Lane, Tick, Trace, TraceEvent};

#[cfg(feature = "planted")]
pub use cenotaph_storage::planted::Bug;
