//! Shared pieces of the tests: a store that can be opened, broken and inspected, and a stage on which actors can be
//! stopped at any await boundary. Deliberately not here: the tests themselves (`tests/`).

pub mod counting;
pub mod faulty;
pub mod stage;
pub mod store;
pub mod tables;
