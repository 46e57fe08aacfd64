//! Test kit: a store that tests can open, break and inspect, a test environment that pauses actors
//! at sync points, and real object storage servers.

pub mod counting;
pub mod faulty;
pub mod links;
pub mod rooms;
pub mod servers;
pub mod small_disk;
pub mod source;
pub mod stage;
pub mod store;
pub mod style;
pub mod tables;
