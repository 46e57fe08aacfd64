//! The commands of `cenotaph-sim`, one file each.

pub(crate) mod args;
#[cfg(feature = "planted")]
mod bugs;
mod hunt;
mod meta;
mod output;
mod pool;
mod replay;
mod runs;
mod sweeps;
