//! Permits: limits on the operations, bytes and uploads that are under way.

pub(crate) mod namespaces;
pub(crate) mod payload;
pub(crate) mod permits;
pub(crate) mod token_bucket;
