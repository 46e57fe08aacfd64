//! Tests of the simulator: its index keeps the contract of every index, its worlds are functions of
//! their seeds, and its workload finds every planted bug and nothing else.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may panic, and its output explains a failure"
)]

mod binary;
mod bugs;
mod contract;
mod seeds;
mod shared;
mod worlds;
