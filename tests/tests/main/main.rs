//! The tests that need a whole engine: one binary, one link.

mod chaos;
mod counter;
mod crash;
mod expiry;
mod faults;
mod kills;
mod memory;
mod moves;
mod races;
mod reads;
mod tiers;
mod together;
mod updates;
