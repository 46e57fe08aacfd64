//! The tests that need a whole engine: one binary, one link.

mod chaos;
mod crash;
mod expiry;
mod faults;
mod kills;
mod memory;
mod moves;
mod reads;
mod tiers;
mod together;
