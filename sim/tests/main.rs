//! Tests of the simulator: its index keeps the contract of every index, its worlds are functions of
//! their seeds, and its workload finds every planted bug and nothing else.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may panic, and its output explains a failure"
)]

#[path = "main/binary.rs"]
mod binary;
#[path = "main/bugs.rs"]
mod bugs;
#[path = "main/contract.rs"]
mod contract;
#[path = "main/seeds.rs"]
mod seeds;
#[path = "main/worlds.rs"]
mod worlds;
