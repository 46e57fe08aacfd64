//! State and messages that all actors share: context, registry, messages, replies, locks, timers.

pub(crate) mod backlog;
pub(crate) mod context;
pub(crate) mod health;
pub(crate) mod live_writes;
pub(crate) mod messages;
pub(crate) mod post_commit;
pub(crate) mod registry;
pub(crate) mod reply;
pub(crate) mod restart_policy;
pub(crate) mod shard_lock;
pub(crate) mod timer;
