//! The tests that need a whole engine: one binary, one link.

mod kills;
mod tiers;
