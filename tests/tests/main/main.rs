//! The tests that need a whole engine: one binary, one link.

mod bitrot;
mod bulk;
mod chaos;
mod counter;
mod crash;
mod damage;
mod expiry;
mod faults;
mod full_disk;
mod idle;
mod kills;
mod memory;
mod missing;
mod moves;
mod multipart;
mod namespaces;
mod older;
mod overwrites;
mod ownership;
mod races;
mod reads;
mod scrub;
mod servers;
mod tiers;
mod together;
mod updates;
