//! The simulator, tested: its index keeps the contract of any index, its worlds are functions of
//! their seeds, its workload finds what is planted, and nothing where nothing is.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failure is what a test is for, and it may speak"
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
