//! The simulated index and blob tier, and a real index in a simulated world.

mod commit_queue;
pub(crate) mod fallback;
pub(crate) mod index;
pub(crate) mod network;
pub(crate) mod real;
pub(crate) mod shared_index;
