//! Admission: permits that limit the operations, bytes and uploads under way.

pub(crate) mod namespaces;
pub(crate) mod payload;
pub(crate) mod permits;
pub(crate) mod token_bucket;
