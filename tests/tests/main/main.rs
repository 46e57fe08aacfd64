//! The tests that need a whole engine: one binary, one link.

mod chaos;
mod crash;
mod faults;
mod kills;
mod memory;
mod reads;
mod scrub;
mod tiers;
