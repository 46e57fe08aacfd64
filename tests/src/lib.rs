//! Shared pieces of the tests: a store that can be opened, broken and inspected, a stage on which
//! actors can be stopped at any await boundary, and servers of object storage. Deliberately not
//! here: the tests themselves (`tests/`).

pub mod counting;
pub mod faulty;
pub mod servers;
pub mod stage;
pub mod store;
pub mod tables;
