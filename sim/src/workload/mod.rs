//! Plans of calls, the clients that carry them out, and their payloads.

pub(crate) mod client;
pub(crate) mod payload;
pub(crate) mod plan;
