//! A claim of a member of a shared index on background work that a single member does, in the meta
//! table.
//!
//! ```text
//! key "claim" 0x00 name of the work
//! value: version=1 | postcard: epoch of the member (u64), count (u64)
//! ```
//!
//! The count rises as long as the member does the work. A claim only saves work: everything that is
//! claimed may be done by several members at once.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::codec;
use crate::types::{Epoch, Result};

const FORMAT: u8 = 1;
const PREFIX: &[u8] = b"claim\0";

/// A claim on background work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Epoch of the member that does the work.
    pub epoch: Epoch,
    /// Number of times that the claim was renewed.
    pub count: u64,
}

impl Claim {
    /// Encodes the claim for storage.
    pub fn encode(&self) -> Bytes {
        codec::encode(FORMAT, self).into()
    }

    /// Decodes a stored claim.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) or [`UnknownFormat`](crate::ErrorKind::UnknownFormat).
    pub fn decode(value: &Bytes) -> Result<Self> {
        codec::decode("claim", FORMAT, value)
    }
}

/// Returns the key of the claim on the work of this name.
pub fn claim_key(work: &str) -> Bytes {
    [PREFIX, work.as_bytes()].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::codec::fixture::{
        assert_golden, assert_later_format_refused, assert_robust,
    };

    const CLAIM: Claim = Claim {
        epoch: Epoch::new(300),
        count: 7,
    };

    #[test]
    fn the_stored_form_of_a_claim_is_stable() {
        let encoded = CLAIM.encode();
        assert_golden(&encoded, "01 ac02 07");
        assert_golden(&claim_key("expiry"), "636c61696d 00 657870697279");
        assert_eq!(Claim::decode(&encoded).unwrap(), CLAIM);
        assert_later_format_refused(&encoded, Claim::decode);
        assert_robust(&encoded, Claim::decode);
    }
}
