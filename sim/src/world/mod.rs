//! The world of a run: its durable state, and the scheduler of an incarnation.

pub(crate) mod durable_state;
pub(crate) mod process;
pub(crate) mod scheduler;
