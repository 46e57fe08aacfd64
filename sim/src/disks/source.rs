//! The objects of the simulated fallback, which outlive every incarnation. The fallback that an
//! incarnation sees is in `tiers/fallback.rs`.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use cenotaph::{Expiration, ObjectId};

/// Objects of a source, by their row keys.
#[derive(Default)]
pub(crate) struct Source {
    pub(crate) objects: BTreeMap<Bytes, SourceObject>,
    /// Number of payloads so far. The numbers of clients are larger.
    pub(crate) writes: u64,
    /// End of the time for which an object is hidden, in virtual time.
    pub(crate) hidden_until: BTreeMap<Bytes, Duration>,
}

/// Object of a source.
#[derive(Clone)]
pub(crate) struct SourceObject {
    pub(crate) id: ObjectId,
    pub(crate) write: u64,
    pub(crate) payload: Bytes,
    pub(crate) modified_ms: u64,
    pub(crate) expires_at: Option<u64>,
    pub(crate) expiration: Expiration,
}
