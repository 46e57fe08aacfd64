//! Claims of disk space by writers whose blobs share a disk with the index: [`RoomClaim`].
//!
//! Without claims, concurrent uploads would each find room for their next write, and together use
//! the space that the index needs. So each writer claims the bytes of its next write, until the
//! file system counts them as used. The amount that the index needs is defined in `index`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::types::Result;

/// Free-space check of a disk: returns an error if the disk has no room for this many more bytes.
pub type Room = Box<dyn Fn(u64) -> Result<()> + Send + Sync>;

/// Free-space check and claims that all writers of a tier share.
pub(super) struct SharedRoom {
    room: Room,
    /// Sum of the claims that are held, in bytes.
    claimed: Arc<AtomicU64>,
}

/// Claim of bytes that are about to be written. Dropping it ends the claim.
pub(super) struct RoomClaim {
    bytes: u64,
    claimed: Arc<AtomicU64>,
}

impl SharedRoom {
    pub(super) fn new(room: Room) -> Self {
        Self {
            room,
            claimed: Arc::default(),
        }
    }

    /// Claims this many bytes in addition to the claims that are held.
    ///
    /// # Errors
    /// The error of [`Room`] if the disk has no room for all claims.
    pub(super) fn claim(&self, bytes: u64) -> Result<RoomClaim> {
        // The bytes are added before the check, so that concurrent claims count each other. On an
        // error, dropping the claim subtracts them.
        let before = self.claimed.fetch_add(bytes, Ordering::AcqRel);
        let claim = RoomClaim {
            bytes,
            claimed: Arc::clone(&self.claimed),
        };
        (self.room)(before.saturating_add(bytes)).map(|()| claim)
    }
}

impl Drop for RoomClaim {
    fn drop(&mut self) {
        self.claimed.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::no_space;
    use crate::types::ErrorKind;

    #[test]
    fn claims_add_up_until_they_are_dropped() {
        let room = SharedRoom::new(Box::new(|bytes| {
            if bytes <= 10 {
                Ok(())
            } else {
                Err(no_space("write", 10, bytes))
            }
        }));
        let first = room.claim(6).unwrap();
        assert_eq!(room.claim(6).err().unwrap().kind(), ErrorKind::Unavailable);
        let second = room.claim(4).unwrap();
        drop(first);
        room.claim(6).unwrap();
        drop(second);
        room.claim(10).unwrap();
    }
}
