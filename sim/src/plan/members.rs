//! The members of a plan: the engines that share an index.

use std::time::Duration;

use cenotaph::MemberLimits;
use serde::{Deserialize, Serialize};

/// Engines that share an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersPlan {
    /// Number of members that are open at once.
    pub count: usize,
    /// Largest difference of the wall clock of a member from that of the index, in milliseconds.
    pub skew_ms_max: u64,
    /// Time without a heartbeat after which a member is declared dead, in milliseconds.
    pub lease_ms: u64,
    /// Time for which an orphan is kept for readers, in milliseconds.
    pub reader_grace_ms: u64,
}

impl MembersPlan {
    /// Returns the limits of each member.
    pub(crate) fn limits(&self) -> MemberLimits {
        MemberLimits {
            lease: Duration::from_millis(self.lease_ms),
            reader_grace: Duration::from_millis(self.reader_grace_ms),
            ..MemberLimits::default()
        }
    }
}
