//! Parts of all actors that name no message: replies, locks, tickets, timers, health.

pub(crate) mod health;
pub(crate) mod live_writes;
pub(crate) mod reply;
pub(crate) mod restart_policy;
pub(crate) mod shard_lock;
pub(crate) mod ticket;
pub(crate) mod timer;
