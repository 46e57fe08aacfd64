//! State of both tiers that survives a crash. The tiers of an incarnation are in `tiers`.

pub(crate) mod blobs;
pub(crate) mod disk;
pub(crate) mod shared_store;
pub(crate) mod source;
