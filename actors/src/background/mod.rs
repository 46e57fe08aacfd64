//! Background work: recovery of changes, deletion of orphans, expiry of objects and uploads.

pub(crate) mod expirer;
pub(crate) mod pruner;
pub(crate) mod recovery;
pub(crate) mod sweeper;
pub(crate) mod worker;
